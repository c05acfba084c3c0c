# SPDX-License-Identifier: GPL-2.0-only
"""What the kernel kept over a reset (Documentation/admin-guide/ramoops.rst and ABI/testing/pstore of the kernel).

Three kinds of record matter: the kernel log of a crash (`dmesg-*`), the last lines that user space left there through
/dev/pmsg0 (`pmsg-*`) and the tail of the kernel's console (`console-*`). ERST and EFI variables have the first kind
only; memory that a reset does not clear has all, and the last two after every reset, an orderly one included.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

_HEAD = re.compile(r"(\w+)#(\d+) Part(\d+)\n")
_PACKED = ".enc.z"  # the kernel could not decompress it
_CONTROL = re.compile(r"[^\n\t\x20-\x7e\u00a0-\uffff]")  # a torn record has anything in it
LOG_BYTES = 512 << 10  # of one crash; the newest
TAIL_BYTES = 64 << 10  # of the lines of user space, and of the console; the newest


class File(NamedTuple):
    """One file of the store. `number` of the crash and `part` of its text, 0 if it does not say so."""

    path: Path
    text: str
    number: int = 0
    part: int = 0


class Crash(NamedTuple):
    """The kernel log of one boot that crashed: its files, oldest text first."""

    files: tuple[File, ...]

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(file.text for file in self.files)


class Store(NamedTuple):
    """Everything that was found. `crashes`: oldest boot first."""

    crashes: tuple[Crash, ...] = ()
    messages: tuple[File, ...] = ()
    console: tuple[File, ...] = ()

    @property
    def paths(self) -> list[Path]:
        """Every file of it."""
        kept = [file for crash in self.crashes for file in crash.files]
        return [file.path for file in (*kept, *self.messages, *self.console)]


def read(folder: Path | None) -> Store:
    """All records. A file that cannot be read is left alone. OSError if the folder itself cannot be read."""
    if folder is None or not folder.is_dir():
        return Store()
    found: list[File] = []
    for path in sorted(folder.iterdir()):
        try:
            if path.is_file():
                found.append(_file(path))
        except OSError:
            continue
    tails = {kind: tuple(file for file in found if file.path.name.startswith(kind)) for kind in ("pmsg-", "console-")}
    others = [file for file in found if not file.path.name.startswith(tuple(tails))]
    return Store(tuple(crashes(others)), tails["pmsg-"], tails["console-"])


def crashes(found: Iterable[File]) -> list[Crash]:
    """The kernel logs of `found`, which is in the order of the store, by boot; the oldest first.

    ERST has one file for each part and numbers the files by the storage; the first line of each gives the number of the
    record, which restarts at every boot, and of its part; part 1 has the newest text. So a repeated part begins another
    boot, and a record with the next number (an oops, and then its panic) belongs to the same one.
    """
    boots: list[dict[int, list[File]]] = []
    latest: dict[int, dict[int, list[File]]] = {}  # by record number: the boot that has it last
    for file in found:
        if not file.number:
            boots.append({0: [file]})
            continue
        boot = latest.get(file.number)
        if boot is None or any(other.part == file.part for other in boot[file.number]):
            before = latest.get(file.number - 1)
            boot = before if before is not None and file.number not in before else {}
            if not boot:
                boots.append(boot)
            boot[file.number] = []
        boot[file.number].append(file)
        latest[file.number] = boot
    return [
        Crash(tuple(file for number in sorted(boot) for file in sorted(boot[number], key=lambda file: -file.part)))
        for boot in boots
    ]


def tail(text: str, room: int) -> str:
    """The newest `room` characters of it, from the beginning of a line; says what was left out."""
    if len(text) <= room:
        return text
    kept = text[-room:].partition("\n")[2]
    return f"... {len(text) - len(kept)} characters left out ...\n{kept}"


def _file(path: Path) -> File:
    if path.name.endswith(_PACKED):
        return File(path, f"({path.stat().st_size} bytes that the kernel could not decompress)\n")
    text = _CONTROL.sub("?", path.read_text(encoding="utf-8", errors="replace"))
    head = _HEAD.match(text)
    if head is None:
        return File(path, text)
    return File(path, text, int(head[2]), int(head[3]))
