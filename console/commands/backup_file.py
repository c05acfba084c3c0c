# SPDX-License-Identifier: GPL-2.0-only
"""The file that `backup` writes and `restore` reads: a tar archive that GnuPG encrypted (sealed.py).

`gpg -d FILE | tar -xz` reads it anywhere. First come the small files: about.json, config.toml, ssh/ with the host keys;
then the images, in images/, with size and SHA-256 in about.json. Everything streams, so an image may be of any size.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from appliance.errors import RefusedError
from appliance.paths import Paths
from console.commands import sealed
from console.terminal.prompt import Asker

FORMAT: Final = 1
FOLDER: Final = Paths().images
MOST: Final = 8 << 20  # bytes of all files but the images
CHUNK: Final = 1 << 20
CONFIG, ABOUT, KEYS, IMAGES = "config.toml", "about.json", "ssh/", "images/"
_FAULTS: Final = (tarfile.TarError, EOFError, OSError, KeyError, ValueError, TypeError, AttributeError)
Progress = Callable[[str, int, int], None]  # a stage, bytes done, bytes in all


class Image(msgspec.Struct, frozen=True):
    """An image in a backup. `kind` is that of `guest import`."""

    name: str
    size: int
    sha256: str
    kind: str


def digest(path: Path, progress: Progress) -> tuple[int, str]:
    """Size and SHA-256 of a file. OSError: it cannot be read."""
    found, done, total = hashlib.sha256(), 0, path.stat().st_size
    with path.open("rb") as file:
        while data := file.read(CHUNK):
            found.update(data)
            done += len(data)
            progress("read", done, total)
    return done, found.hexdigest()


def write(
    out: IO[bytes], files: Mapping[str, bytes], images: Sequence[Image], folder: Path, progress: Progress
) -> None:
    """Write the archive. RefusedError: an image is not what it was when its checksum was made."""
    with (
        gzip.GzipFile(fileobj=out, mode="wb", compresslevel=1) as packed,  # images are mostly packed already
        tarfile.open(fileobj=packed, mode="w|") as archive,
    ):
        for path, data in files.items():
            archive.addfile(_member(path, len(data)), io.BytesIO(data))
        for image in images:
            with (folder / image.name).open("rb") as file:
                source = _Checked(file, image, progress)
                archive.addfile(_member(f"{IMAGES}{image.name}", image.size), source)
                source.check()


def _member(path: str, size: int) -> tarfile.TarInfo:
    about = tarfile.TarInfo(path)
    about.size, about.mode, about.mtime = size, 0o600, int(time.time())
    return about


class _Checked(io.RawIOBase):
    """The file of an image, whose checksum is made on the way. RefusedError: it changed since its first one."""

    def __init__(self, file: IO[bytes], image: Image, progress: Progress) -> None:
        self._file, self._image, self._progress = file, image, progress
        self._found, self._done = hashlib.sha256(), 0

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        if len(data) < size:
            raise self._changed()
        self._found.update(data)
        self._done += len(data)
        self._progress("copy", self._done, self._image.size)
        return data

    def check(self) -> None:
        """To be called at the end."""
        if self._found.hexdigest() != self._image.sha256:
            raise self._changed()

    def _changed(self) -> RefusedError:
        what = f"image {self._image.name} changed while it was copied"
        return RefusedError(f"{what}: stop the guests that write to it (`guest NAME stop`)")


class Reader:
    """Reads the archive from `opened`. Nothing that it returns can be trusted before `finish`."""

    def __init__(self, opened: sealed.Opened) -> None:
        self._opened = opened
        self.files: dict[str, bytes] = {}
        try:
            self._archive = tarfile.TarFile.open(fileobj=opened.stream, mode="r|gz")
            self._next = self._small()
            self.about: dict[str, Any] = json.loads(self.files[ABOUT])
            self.images = msgspec.convert(self.about.get("included", []), list[Image])
            known = int(self.about["format"]) <= FORMAT
            self.config = self.files[CONFIG].decode()
        except _FAULTS as error:
            raise self._none() from error
        if not known or not self.config:
            raise RefusedError(f"this backup has format {self.about['format']}: this firmware reads up to {FORMAT}")

    def _small(self) -> tarfile.TarInfo | None:
        """Read all files before the first image, which is returned."""
        for about in self._archive:
            if about.name.startswith(IMAGES):
                return about
            file = self._archive.extractfile(about)
            if file is not None and about.size + sum(map(len, self.files.values())) <= MOST:
                self.files[about.name] = file.read()
        return None

    def _none(self) -> RefusedError:
        """The reason why it cannot be read: gpg's if it has one."""
        try:
            self._opened.finish()
        except RefusedError as error:
            return error
        return RefusedError("this is not a backup of an appliance")

    def contents(self) -> Iterator[tuple[Image, Iterator[bytes]]]:
        """Each image with its content, to be read in this order. RefusedError: the archive is damaged."""
        known = {image.name: image for image in self.images}
        try:
            while self._next is not None:
                image = known.get(self._next.name.removeprefix(IMAGES))
                file = self._archive.extractfile(self._next)
                if image is not None and file is not None:
                    yield image, self._chunks(file)
                self._next = self._archive.next()
        except _FAULTS as error:
            raise self._none() from error

    def _chunks(self, file: IO[bytes]) -> Iterator[bytes]:
        try:
            while data := file.read(CHUNK):
                yield data
        except _FAULTS as error:
            raise self._none() from error

    def finish(self) -> None:
        """Read what is left. RefusedError: it was changed, or its end is missing."""
        self._opened.finish()


def passphrase(*, again: bool) -> str:
    """Typed, and a new one typed `again`; or the first line of standard input. RefusedError: none, too short."""
    if not sys.stdin.isatty():
        return _good(_first_line(sys.stdin.fileno()), new=again)
    asker = Asker()
    with asker.unseen():
        phrase = _good(asker.secret("Passphrase of the backup"), new=again)
        if again and asker.secret("Confirm passphrase") != phrase:
            raise RefusedError("the passphrases do not match; nothing was written")
    return phrase


def _first_line(fd: int) -> str:
    """Not a byte more: what follows is the backup, for gpg."""
    line = b""
    with open(fd, "rb", buffering=0, closefd=False) as source:
        while len(line) <= 4 * sealed.MOST and (byte := source.read(1)) not in (b"", b"\n", None):
            line += byte
    return line.decode("utf-8", "replace").rstrip("\r")


def _good(phrase: str, *, new: bool) -> str:
    if not phrase:
        raise RefusedError("no passphrase was given; without a terminal it is the first line of standard input")
    if len(phrase) > sealed.MOST or (new and len(phrase) < sealed.LEAST):
        raise RefusedError(f"a passphrase has {sealed.LEAST} to {sealed.MOST} characters")
    return phrase
