# SPDX-License-Identifier: GPL-2.0-only
"""What the kernel says of the machine: load, memory, disks, temperatures, fans, model. Blocks: call it in a thread.

`root` stands before every path, so that tests bring their own /proc and /sys. What a kernel or board does not have is
left out, and nothing here fails.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

_MEMORY = {"MemTotal": "total", "MemAvailable": "available", "HugePages_Total": "hugepages", "HugePages_Free":
           "hugepages_free"}  # fmt: skip
_DMI = {"vendor": "sys_vendor", "model": "product_name", "serial": "product_serial", "firmware": "bios_version"}
_TREE = {"model": "model", "serial": "serial-number"}
_UNSET = re.compile(r"(?i)^(|none|0+|default string|not specified|to be filled by o\.?e\.?m\.?|system \w+ ?\w*)$")


class Disk(NamedTuple):
    """A file system. `available`: for all but root, in bytes."""

    place: str
    kind: str
    total: int
    available: int


def text(path: Path) -> str:
    """A file's text without its end; empty where it cannot be read."""
    try:
        return path.read_bytes().rstrip(b"\0\n").decode("utf-8", "replace").strip()
    except OSError:
        return ""


def load(root: Path) -> list[float]:
    """Processes that run or wait for a disk: the mean of 1, 5 and 15 minutes."""
    try:
        return [float(word) for word in text(root / "proc/loadavg").split()[:3]]
    except ValueError:
        return []


def memory(root: Path) -> dict[str, int]:
    """Bytes in total and available, and huge pages."""
    found = {}
    for line in text(root / "proc/meminfo").splitlines():
        key, _, value = line.partition(":")
        words = value.split()
        if key in _MEMORY and words and words[0].isdigit():
            found[_MEMORY[key]] = int(words[0]) * (1024 if words[-1] == "kB" else 1)
    return found


def disks(places: Iterable[tuple[str, Path]]) -> list[Disk]:
    """File systems by the name that each is given."""
    found = []
    for name, path in places:
        try:
            seen = os.statvfs(path)
        except OSError:
            continue
        found.append(Disk(name, _kind(path), seen.f_blocks * seen.f_frsize, seen.f_bavail * seen.f_frsize))
    return found


def _kind(path: Path) -> str:
    best, kind = "", ""
    for line in text(Path("/proc/mounts")).splitlines():
        words = line.split()
        if len(words) > 2 and len(words[1]) >= len(best) and path.resolve().is_relative_to(words[1]):
            best, kind = words[1], words[2]
    return kind


def sensors(root: Path) -> tuple[dict[str, float], dict[str, int]]:
    """(temperatures in degrees Celsius, fans in turns a minute), by chip and label."""
    warm: dict[str, float] = {}
    fans: dict[str, int] = {}
    for chip in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        name = text(chip / "name") or chip.name
        for value in sorted(chip.glob("*_input")):
            kind = value.name.removesuffix("_input")
            label = f"{name} {text(chip / f'{kind}_label') or kind}"
            number = text(value)
            if kind.startswith("temp") and re.fullmatch(r"-?\d+", number):
                warm[label] = int(number) / 1000
            elif kind.startswith("fan") and number.isdigit():
                fans[label] = int(number)
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")) if not warm else ():
        number = text(zone / "temp")
        if re.fullmatch(r"-?\d+", number):
            warm[text(zone / "type") or zone.name] = int(number) / 1000
    return warm, fans


def identity(root: Path) -> dict[str, str]:
    """Vendor, model, serial number and firmware, from DMI or the device tree. What a maker left unset is left out."""
    found = {}
    for folder, names in (("sys/class/dmi/id", _DMI), ("sys/firmware/devicetree/base", _TREE)):
        for key, name in names.items():
            value = text(root / folder / name)
            if key not in found and not _UNSET.match(value):
                found[key] = value[:100]
    return found
