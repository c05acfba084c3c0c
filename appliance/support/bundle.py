# SPDX-License-Identifier: GPL-2.0-only
"""Collects a support bundle into one tar.gz, without secrets and with a manifest of what is included and missing.

Runs in a separate process (`python -m appliance.support`) at low priority, so that a command that hangs or a huge log
does not affect bypassd; the console runs it in its own process when bypassd does not answer. The manifest names
whatever cannot be read; the bundle itself is always complete. The output stream need not be seekable.
"""

from __future__ import annotations

import glob
import hashlib
import io
import json
import os
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Final, Protocol, cast

from appliance import __version__
from appliance.config.schema.secrets import HIDDEN, hide, redact
from appliance.support.items import ITEMS, Item

MAX_BYTES: Final = 1 << 20  # of one entry; of a longer one, beginning and end are kept
COMMAND_S: Final = 10.0  # time limit of a command
README: Final = f"""\
Support bundle of a Throughwire bypass appliance.

manifest.json  contents with checksums; what could not be read, and why
api/           answers of the control socket: status, segments, guests, counters, events, transitions ...
config/        configuration, board          logs/     bypassd, SSH, DHCP, ledger of transitions
guests/        output of QEMU and guests     crash/    kernel crash records
kernel/ hardware/ network/ storage/          processes.txt

Passwords, password hashes and keys are replaced by {HIDDEN}.
"""


class Out(Protocol):
    """The output of a bundle."""

    def write(self, data: bytes, /) -> int:
        """Like a file's `write`."""
        ...


@dataclass
class Bundle:
    """One archive being written. `secrets` are texts that must not occur in it."""

    archive: tarfile.TarFile
    top: str
    secrets: frozenset[str] = frozenset()
    entries: list[dict[str, object]] = field(default_factory=list)

    def add(self, path: str, data: bytes, error: str = "") -> None:
        """Add one text without secrets; `error` is recorded in the manifest."""
        if len(data) > MAX_BYTES:
            half = MAX_BYTES // 2
            cut = f"\n... {len(data) - MAX_BYTES} bytes left out ...\n".encode()
            data = data[:half] + cut + data[-half:]
        text = redact(data.decode("utf-8", "replace"))
        for secret in self.secrets:
            text = text.replace(secret, HIDDEN)
        self._write(path, text.encode())
        entry: dict[str, object] = {
            "path": path,
            "bytes": len(data),
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
        }
        self.entries.append({**entry, "error": error} if error else entry)

    def fail(self, path: str, error: str) -> None:
        """Record a missing entry in the manifest."""
        self.entries.append({"path": path, "error": error})

    def finish(self, about: Mapping[str, object]) -> None:
        """Write the manifest, which is the last entry."""
        manifest = {"version": __version__, **about, "entries": self.entries}
        self._write("manifest.json", json.dumps(manifest, indent=1).encode())

    def _write(self, path: str, data: bytes) -> None:
        info = tarfile.TarInfo(f"{self.top}/{path}")
        info.size, info.mtime, info.mode = len(data), int(time.time()), 0o600
        self.archive.addfile(info, io.BytesIO(data))


def make(
    out: Out,
    root: Path,
    api: Mapping[str, object],
    secrets: Iterable[str] = (),
    *,
    progress: Callable[[str], None] = lambda _: None,
    items: Iterable[Item] = ITEMS,
) -> None:
    """Collect everything into `out`. OSError if it cannot be written; no other error ends it."""
    began = time.monotonic()
    hostname = os.uname().nodename
    stamp = datetime.now(UTC)
    top = f"{hostname}-{stamp:%Y%m%dT%H%M%SZ}"
    known = frozenset(secret for secret in (*secrets, *_shadow(root)) if len(secret) > 5)
    with tarfile.open(fileobj=cast(BinaryIO, out), mode="w|gz") as archive:
        bundle = Bundle(archive, top, known)
        bundle.add("README.txt", README.encode())
        for name, data in api.items():
            bundle.add(f"api/{name}.json", json.dumps(hide(data), indent=1, default=str).encode())
        folder = ""
        for item in items:
            if item.folder.partition("/")[0] != folder:
                folder = item.folder.partition("/")[0]
                progress(folder)
            _item(bundle, root, item)
        progress("processes")
        bundle.add("processes.txt", _processes(root).encode())
        took = round(time.monotonic() - began, 1)
        bundle.finish({"hostname": hostname, "when": stamp.isoformat(), "uid": os.getuid(), "took_s": took})


def _shadow(root: Path) -> list[str]:
    try:
        lines = (root / "etc/shadow").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [word for line in lines if len(word := line.partition(":")[2].partition(":")[0]) > 5]


def _item(bundle: Bundle, root: Path, item: Item) -> None:
    if item.files:
        found = sorted(glob.glob(str(root / item.files)))
        for path in found:
            _file(bundle, root, item.folder, Path(path))
        if not found:
            bundle.fail(f"{item.folder}/{item.files}", "no such file")
    elif item.each:
        for port in sorted(path.parent.name for path in (root / "sys/class/net").glob("*/device")):  # taps have none
            _command(bundle, f"{item.folder}/{port}-{item.each}.txt", (*item.command, port))
    else:
        _command(bundle, f"{item.folder}/{item.name}.txt", item.command)


def _file(bundle: Bundle, root: Path, folder: str, path: Path) -> None:
    inside = str(path.relative_to(root))
    name = f"{folder}/{inside.replace('/', '_')}"
    try:
        if not path.is_file():
            return
        with path.open("rb") as file:
            data = file.read(MAX_BYTES)
            size = path.stat().st_size
            if size > 2 * MAX_BYTES:
                file.seek(size - MAX_BYTES)
            if size > MAX_BYTES:
                data += file.read(MAX_BYTES)
    except OSError as error:
        bundle.fail(name, error.strerror or str(error))
        return
    bundle.add(name, data)


def _command(bundle: Bundle, name: str, words: tuple[str, ...]) -> None:
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=COMMAND_S,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        bundle.add(name, error.stdout or b"", f"did not end within {COMMAND_S:g} s")
    except OSError as error:
        bundle.fail(name, error.strerror or str(error))
    else:
        trouble = f"ended with status {done.returncode}" if done.returncode else ""
        bundle.add(name, f"$ {' '.join(words)}\n".encode() + done.stdout, trouble)


def _processes(root: Path) -> str:
    """Every process: number, parent, state, nice, threads, resident KiB, command line. No environment."""
    lines = [f"{'PID':>7} {'PPID':>7} S {'NI':>3} {'THR':>4} {'RSS':>8} COMMAND"]
    page = os.sysconf("SC_PAGE_SIZE") // 1024
    for pid in sorted(int(path.name) for path in (root / "proc").glob("[0-9]*")):
        try:
            head, _, rest = (root / f"proc/{pid}/stat").read_text(errors="replace").rpartition(")")
            words = (root / f"proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            state, parent, *more = rest.split()
            command = words or f"[{head.partition('(')[2]}]"
            numbers = f"{parent:>7} {state} {more[14]:>3} {more[15]:>4} {int(more[19]) * page:>8}"
            lines.append(f"{pid:>7} {numbers} {command}")
        except (OSError, ValueError, IndexError):
            continue  # the process has ended
    return "\n".join(lines) + "\n"
