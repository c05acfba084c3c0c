# SPDX-License-Identifier: GPL-2.0-only
"""`python -m imagebuild.disk.flash IMAGE DEVICE`: write a disk image to a disk, and read it back.

Whoever mistypes a device loses what it holds. So it must be a whole disk, large enough, of which nothing is in use
(mounted, swap, part of another device), and its name is asked for a second time before anything is written.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from imagebuild.errors import BuildError

CHUNK = 4 << 20
_BLKRRPART, _BLKFLSBUF = 0x125F, 0x1261
Report = Callable[[int, int], None]


@dataclass(frozen=True)
class Disk:
    """What is known of the device before anything is written to it. `size` in bytes; `used` says by what, if at all."""

    path: Path
    size: int
    model: str = ""
    removable: bool = False
    partition: bool = False
    readonly: bool = False
    used: list[str] = field(default_factory=list)

    def refused(self, image_size: int) -> str:
        """Why the image must not be written to it, "" when it may (pure)."""
        if self.partition:
            return f"{self.path} is a partition: give the whole disk"
        if self.readonly:
            return f"{self.path} is read-only"
        if self.used:
            return f"{self.path} is in use: {', '.join(self.used)}"
        if self.size < image_size:
            return f"{self.path} has {_mib(self.size)}, the image {_mib(image_size)}"
        return ""


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.0f} MiB"


def _line(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def uses(numbers: dict[str, str], mountinfo: str, swaps: str) -> list[str]:
    """Which of these devices (major:minor -> name) are mounted or swap (pure)."""
    found = []
    for line in mountinfo.splitlines():
        words = line.split()
        if len(words) > 4 and words[2] in numbers:
            found.append(f"{numbers[words[2]]} is mounted at {words[4]}")
    names = {f"/dev/{name}" for name in numbers.values()}
    found += [f"{line.split()[0]} is swap" for line in swaps.splitlines()[1:] if line.split()[0] in names]
    return found


def examine(device: Path, root: Path = Path("/")) -> Disk:
    """Look at a device, below `root` (a test has its own). BuildError: it is no block device."""
    path = device.resolve()
    block = root / "sys/class/block" / path.name
    if not block.exists():
        raise BuildError(f"{device} is no disk")
    parts = [part for part in (block, *sorted(block.glob(f"{path.name}*"))) if (part / "dev").exists()]
    numbers = {_line(part / "dev"): part.name for part in parts}
    used = uses(numbers, _line(root / "proc/self/mountinfo"), _line(root / "proc/swaps"))
    for part in parts:
        holders = part / "holders"
        used += [f"{part.name} is part of {holder.name}" for holder in holders.iterdir()] if holders.is_dir() else []
    return Disk(
        path,
        int(_line(block / "size") or 0) * 512,
        model=f"{_line(block / 'device/vendor')} {_line(block / 'device/model')}".strip(),
        removable=_line(block / "removable") == "1",
        partition=(block / "partition").exists(),
        readonly=_line(block / "ro") == "1",
        used=used,
    )


def _chunks(file: BinaryIO, size: int) -> Iterator[bytes]:
    left = size
    while left:
        data = file.read(min(CHUNK, left))
        if not data:
            raise BuildError(f"{file.name} ends {left} bytes early")
        left -= len(data)
        yield data


def copy(image: BinaryIO, device: BinaryIO, size: int, report: Report) -> str:
    """Write the whole image; the SHA-256 of what was read of it."""
    digest, done = hashlib.sha256(), 0
    for data in _chunks(image, size):
        digest.update(data)
        view = memoryview(data)
        while view:
            view = view[device.write(view) :]
        done += len(data)
        report(done, size)
    os.fsync(device.fileno())
    return digest.hexdigest()


def read_back(device: BinaryIO, size: int, report: Report) -> str:
    """The SHA-256 of the first `size` bytes of the device: of the disk itself, the caches are dropped before."""
    os.posix_fadvise(device.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    device.seek(0)
    digest, done = hashlib.sha256(), 0
    for data in _chunks(device, size):
        digest.update(data)
        done += len(data)
        report(done, size)
    return digest.hexdigest()


class Progress:
    """A line that is written over on a terminal, and nothing elsewhere."""

    def __init__(self, what: str) -> None:
        self._what, self._began = what, time.monotonic()

    def __call__(self, done: int, size: int) -> None:
        if sys.stderr.isatty():
            speed = done / (1 << 20) / max(time.monotonic() - self._began, 0.001)
            end = "\n" if done == size else "\r"
            text = f"{self._what}: {100 * done // size:3} % of {_mib(size)}, {speed:.0f} MiB/s"
            print(text.ljust(60), end=end, file=sys.stderr, flush=True)


def flash(image: Path, device: Path, ask: Callable[[str], str]) -> str:
    """Write `image` to `device` and verify it; what to tell the user. BuildError says why not."""
    try:
        size = image.stat().st_size
        found = examine(device)
        if reason := found.refused(size):
            raise BuildError(reason)
        kind = "removable disk" if found.removable else "fixed disk"
        print(f"{found.path}: {kind}, {found.model or 'no model'}, {_mib(found.size)}. All it holds will be lost.")
        if ask(f"Type the name of the device ({found.path}) to write the image to it: ").strip() != str(found.path):
            raise BuildError("cancelled: nothing was written")
        # O_EXCL: the kernel refuses a disk that somebody has taken since
        number = os.open(found.path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
        with image.open("rb") as source, os.fdopen(number, "r+b", buffering=0) as target:
            written = copy(source, target, size, Progress("writing"))
            if stat.S_ISBLK(os.fstat(number).st_mode):
                fcntl.ioctl(number, _BLKFLSBUF)
            if read_back(target, size, Progress("verifying")) != written:
                raise BuildError(f"{found.path} does not hold what was written to it: the disk is faulty")
            with contextlib.suppress(OSError):  # a disk without partitions for the kernel, as loop devices may be
                fcntl.ioctl(number, _BLKRRPART)
    except OSError as error:
        raise BuildError(f"{error.filename or device}: {error.strerror}") from error
    return f"{found.path} holds {image.name}, verified (SHA-256 {written})"


def main() -> int:
    """Exit code 0, or 1 with one clear line on standard error."""
    parser = argparse.ArgumentParser(prog="flash", description="Write a disk image to a disk and verify it.")
    parser.add_argument("image", type=Path)
    parser.add_argument("device", type=Path)
    options = parser.parse_args()
    try:
        print(flash(options.image, options.device, input))
    except BuildError as error:
        print(f"flash: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, EOFError):
        print("\nflash: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
