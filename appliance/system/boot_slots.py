# SPDX-License-Identifier: GPL-2.0-only
"""The slots of the disk that the appliance boots from: which one it runs from, and which ones the boot loader takes.

The boot loader says on the kernel command line what it booted and what it found damaged; its variables, RAUC's, say how
often a slot was tried. boot-ok (rootfs/usr/libexec/bypass) leaves a copy of them once this start counts as good.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

COPY: Final = "run/bypass/boot-slots"
NAMES: Final = ("a", "b")
TRIES: Final = 3  # without success, then the boot loader takes the other slot (board/disk/grub.cfg)


class Slot(NamedTuple):
    """One slot. `next`: the next boot begins with it."""

    name: str
    booted: bool
    state: str
    next: bool


def slots(command_line: str, variables: str | None) -> list[Slot]:
    """The slots; none if the appliance did not boot from one. `variables` None: boot-ok has not written them. Pure."""
    words = command_line.split()
    booted = next((word.partition("=")[2] for word in words if word.startswith("bypass.slot=")), "")
    if booted not in NAMES:
        return []
    found = {} if variables is None else dict(line.split("=", 1) for line in variables.splitlines() if "=" in line)
    states = {}
    for name in NAMES:
        good, tried = found.get(f"{name.upper()}_OK", "1"), found.get(f"{name.upper()}_TRY", "0")
        if f"bypass.damaged={name}" in words:
            states[name] = "damaged: its checksums do not match"
        elif good != "1":
            states[name] = "bad"
        elif tried == str(TRIES):
            states[name] = f"given up after {TRIES} starts that failed"
        elif variables is None:
            states[name] = "started, not yet good" if name == booted else "not known yet"
        elif tried in ("1", "2"):
            states[name] = f"tried {tried} of {TRIES} times without success"
        else:
            states[name] = "good"
    order = ("b", "a") if found.get("ORDER") == "B A" else NAMES
    first = next((name for name in order if states[name] == "good"), "")
    return [Slot(name, name == booted, states[name], name == first) for name in NAMES]


def read(root: Path) -> list[Slot]:
    """The same of this machine. OSError: the kernel does not say how it was booted."""
    try:
        variables = (root / COPY).read_text(encoding="ascii", errors="replace")
    except FileNotFoundError:
        variables = None
    return slots((root / "proc/cmdline").read_text(errors="replace"), variables)
