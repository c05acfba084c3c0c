# SPDX-License-Identifier: GPL-2.0-only
"""Control groups (v2) of the guests, so that no guest can starve the supervisor or another guest.

All guests together are one group beside bypassd's. When processor time is short, that group gets half the share of a
single process; within it, each guest has its configured share, ceiling and memory. The kernel kills a guest that uses
more memory than configured, and no other. A group lives as long as its guest's process.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from appliance.config.schema import model
from appliance.guest.qemu.command import MAX_GUEST_SEGMENTS

log = logging.getLogger(__name__)

PARENT = "bypass-guests"
WEIGHT = 50  # of all guests together; a process outside of a group, such as bypassd, has 100
PERIOD_US = 20_000  # short, so that a guest at its ceiling pauses for milliseconds, not for a tenth of a second
PIDS = 64  # QEMU's own threads, besides those of the vCPUs and of vhost, one a queue


def settings(guest: model.Guest, *, huge: int = 0, page: int = 2 << 20) -> dict[str, str]:
    """File -> content for one guest (pure) that has `huge` bytes in huge pages of `page` bytes.

    Huge pages are not charged as memory, and have a limit of their own.
    """
    quota = "max" if not guest.limits.cpu else str(guest.limits.cpu * PERIOD_US // 100)
    unit = f"{page >> 30}GB" if page >> 30 else f"{page >> 20}MB"
    return {
        "cpu.weight": str(guest.limits.weight),
        "cpu.max": f"{quota} {PERIOD_US}",
        "memory.max": str((0 if huge else guest.memory) + guest.limits.overhead),
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        "pids.max": str(PIDS + 4 * guest.cpus + 2 * MAX_GUEST_SEGMENTS * (guest.queues - 1)),
        **({f"hugetlb.{unit}.max": str(huge)} if huge else {}),
    }


@dataclass
class Cgroups:
    """The groups below one mount of cgroup2."""

    root: Path

    @property
    def parent(self) -> Path:
        """The group of all guests."""
        return self.root / PARENT

    def make(self, name: str, wanted: dict[str, str]) -> tuple[Path | None, str]:
        """Create the guest's group with these settings; the group, and which limits the kernel lacks ("" = none)."""
        try:
            self.parent.mkdir(exist_ok=True)
            controllers = dict.fromkeys(file.partition(".")[0] for file in wanted)
            lacking = [each for each in controllers if not self._offer(each)]
            self._set(self.parent, "cpu.weight", str(WEIGHT))
            group = self.parent / name
            group.mkdir(exist_ok=True)
        except OSError as error:
            return None, f"no limits: control groups (v2): {error.strerror}"
        for file, value in wanted.items():
            if file.partition(".")[0] not in lacking:
                self._set(group, file, value)
        return group, f"no limits on {', '.join(lacking)}: the kernel does not offer them here" if lacking else ""

    def _offer(self, controller: str) -> bool:
        """Enable a controller for the groups below the parent; returns whether that worked."""
        for group in (self.root, self.parent):
            try:
                (group / "cgroup.subtree_control").write_text(f"+{controller}")
            except OSError:
                return False
        return True

    @staticmethod
    def _set(group: Path, file: str, value: str) -> None:
        """Write a setting. If its file is missing, the kernel was built without that option, such as swap."""
        try:
            if (group / file).exists():
                (group / file).write_text(value)
        except OSError as error:
            log.warning("%s/%s: %s: %s", group, file, value, error.strerror)

    def remove(self, name: str) -> None:
        """Remove the group after the guest has ended. A group that still has a process stays."""
        try:
            (self.parent / name).rmdir()
        except OSError:
            pass  # never made, or not empty yet: the next start uses it again
