# SPDX-License-Identifier: GPL-2.0-only
"""A cache of built folders, keyed by the content of what they were built from.

Lives in `${XDG_CACHE_HOME:-~/.cache}/throughwire`, outside any checkout, so a fresh clone finds what another one built.
An entry is a folder `STAGE-KEY`; it appears by one rename when it is complete, so an interrupted build leaves nothing
that could be mistaken for a result. Two builds of the same stage wait for each other on a lock file.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from imagebuild.errors import BuildError

KEEP = 6  # entries kept per stage; older ones are removed when a new one is made
IN_USE_S = 3600  # an entry used this recently may be part of another build and is kept
_SKIP = {"__pycache__"}

Input = str | bytes | Path


def _feed_path(digest: hashlib._Hash, path: Path) -> None:
    """Hash a file, or a folder's names, executable bits, links and contents, in a stable order."""
    if path.is_symlink():
        digest.update(b"link " + os.fsencode(path.readlink()) + b"\0")
    elif path.is_dir():
        for child in sorted(path.iterdir(), key=lambda c: c.name):
            if child.name in _SKIP or child.suffix == ".pyc":
                continue
            digest.update(b"entry " + os.fsencode(child.name) + b"\0")
            _feed_path(digest, child)
        digest.update(b"end\0")
    elif path.is_file():
        runs = bool(path.stat().st_mode & stat.S_IXUSR)
        content = path.read_bytes()
        digest.update(b"file %d %d\0" % (runs, len(content)))
        digest.update(content)
    else:
        digest.update(b"absent\0")


def key_of(inputs: Mapping[str, Input]) -> str:
    """The key of an artefact; it changes with the name, content, kind or executable bit of any input."""
    digest = hashlib.sha256()
    for name in sorted(inputs):
        value = inputs[name]
        digest.update(b"input " + name.encode() + b"\0")
        if isinstance(value, Path):
            _feed_path(digest, value)
        else:
            content = value.encode() if isinstance(value, str) else value
            digest.update(b"value %d\0" % len(content))
            digest.update(content)
    return digest.hexdigest()[:20]


def default_root() -> Path:
    """Where the cache is on this machine."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "throughwire"


class Cache:
    """The folder of entries. The object only holds its path."""

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BuildError(f"cannot create the cache folder {root}: {error.strerror}") from error

    def entry(self, stage: str, key: str) -> Path:
        """The artefact's folder, whether it exists or not."""
        return self.root / f"{stage}-{key}"

    def get(self, stage: str, key: str, make: Callable[[Path], None]) -> Path:
        """The artefact's folder; `make(folder)` fills a new one if it does not exist."""
        entry = self.entry(stage, key)
        if entry.is_dir():
            os.utime(entry)
            return entry
        with self._lock(stage):
            if entry.is_dir():
                return entry
            self._sweep(stage)
            work = Path(tempfile.mkdtemp(prefix=f".{stage}-", dir=self.root))
            work.chmod(0o755)
            try:
                make(work)
                work.rename(entry)
            except OSError as error:
                if error.errno == errno.ENOSPC:
                    raise BuildError(f"{stage}: disk full (cache {self.root})") from error
                raise
            finally:
                shutil.rmtree(work, ignore_errors=True)
            self._prune(stage, keep=entry)
            return entry

    @contextmanager
    def _lock(self, stage: str) -> Iterator[None]:
        with (self.root / f".{stage}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _sweep(self, stage: str) -> None:
        """Remove the leftovers of an interrupted build of this stage; the caller holds the stage's lock."""
        for left in self.root.glob(f".{stage}-*"):
            shutil.rmtree(left, ignore_errors=True)

    def _prune(self, stage: str, keep: Path) -> None:
        """Remove the least recently used entries of this stage, but none used recently: other builds may run."""
        size = len(keep.name)
        entries = [e for e in self.root.glob(f"{stage}-*") if len(e.name) == size and e != keep]
        entries.sort(key=lambda e: e.stat().st_mtime, reverse=True)
        lately = time.time() - IN_USE_S
        for old in entries[KEEP - 1 :]:
            if old.stat().st_mtime < lately:
                shutil.rmtree(old, ignore_errors=True)


def publish(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`: a hard link if the file system allows, otherwise a copy; in one step."""
    if target.exists() and (target.samefile(source) or _same_copy(source, target)):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}")
    part.unlink(missing_ok=True)
    try:
        os.link(source, part)
    except OSError:
        try:
            shutil.copy2(source, part)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise BuildError(f"{target} cannot be written: {error.strerror}") from error
    part.rename(target)


def _same_copy(source: Path, target: Path) -> bool:
    one, other = source.stat(), target.stat()
    return one.st_size == other.st_size and one.st_mtime_ns == other.st_mtime_ns
