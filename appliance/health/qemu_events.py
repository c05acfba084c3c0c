# SPDX-License-Identifier: GPL-2.0-only
"""The QMP events that are vetoes against a guest: one table. Pure.

Source: QEMU's QMP reference (run-state, block-core). Other events say nothing about the guest's health.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from appliance.causes import Cause

PANIC = "panic"
TROUBLE_NS = 10_000_000_000
"""A veto that no event lifts (an I/O error, a watchdog that expired without a reset) lasts this long."""


class QemuVeto(NamedTuple):
    """What an event means: name, cause and reason of the veto, and how long it lasts (ns; None: until lifted)."""

    veto: str
    cause: Cause
    why: str
    hold: int | None = None


_TABLE: dict[str, QemuVeto] = {
    "GUEST_PANICKED": QemuVeto(PANIC, Cause.GUEST_PANICKED, "the guest's kernel panicked"),
    "GUEST_CRASHLOADED": QemuVeto(
        PANIC, Cause.GUEST_PANICKED, "the guest's kernel panicked, and its crash kernel is running"
    ),
    "SHUTDOWN": QemuVeto("shutdown", Cause.GUEST_EXITED, "the guest shuts down"),
    "STOP": QemuVeto("paused", Cause.GUEST_PAUSED, "the guest is paused"),
    "WATCHDOG": QemuVeto("watchdog", Cause.GUEST_WATCHDOG, "the guest's own watchdog expired", TROUBLE_NS),
    "BLOCK_IO_ERROR": QemuVeto("disk", Cause.GUEST_DISK, "the guest's disk failed", TROUBLE_NS),
}
_FULL = QemuVeto("disk full", Cause.GUEST_DISK_FULL, "no disk space left for what the guest writes")
_LIFTS = {"RESUME": ("paused", _FULL.veto)}


def veto_of(event: str, data: Mapping[str, object]) -> QemuVeto | None:
    """The veto that follows from an event, if any."""
    found = _TABLE.get(event)
    if found is None:
        return None
    if is_disk_full(event, data):
        return _FULL._replace(why=f"{_FULL.why}: {data.get('reason', 'the disk is full')}")
    if event == "BLOCK_IO_ERROR":
        reason = f": {data['reason']}" if "reason" in data else ""
        return found._replace(why=f"{found.why} at a {data.get('operation', 'request')}{reason}")
    if event in ("WATCHDOG", "GUEST_PANICKED") and "action" in data:
        return found._replace(why=f"{found.why} (QEMU's action: {data['action']})")
    return found


def is_disk_full(event: str, data: Mapping[str, object]) -> bool:
    """Whether the event says that QEMU paused the guest because the host's disk is full."""
    return event == "BLOCK_IO_ERROR" and data.get("nospace") is True


def lifted_by(event: str) -> tuple[str, ...]:
    """The names of the vetoes that an event lifts."""
    return _LIFTS.get(event, ())
