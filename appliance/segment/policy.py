# SPDX-License-Identifier: GPL-2.0-only
"""Policy: the mode that a segment should have, from the facts. Pure.

`mode` says where the relay should be, and why, if nothing had to wait; the state machine (machine.py) adds time:
hold-down, confirmation, back-off. What a lost link means depends on time and is decided in carrier.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from appliance.causes import Cause

Mode = Literal["inline", "bypass", "disconnect"]
Asked = Literal["auto", "inline", "bypass", "disconnect"]

PRECEDENCE = (
    Cause.STOPPING,
    Cause.CONFIG_INVALID,
    Cause.SAFE_MODE,
    Cause.CRASH_HOLD,
    Cause.PORT_MISSING,
    Cause.PORT_SET_DOWN,
    Cause.LINKS_UNREADABLE,
    Cause.RELAY_MISSING,
    Cause.RELAY_FAULT,
    Cause.RELAY_BUS_ERROR,
    Cause.RELAY_NO_ANSWER,
    Cause.RELAY_UNSUPPORTED,
    Cause.WATCHDOG_MISSING,
    Cause.DATAPATH_FAULT,
    Cause.FOREIGN_PROGRAM,
    Cause.SUPERVISOR_LOST,
    Cause.STARTING,
)
"""If there are several reasons to bypass, the first in this order is shown as the cause; the others are details. Ports
come before relays, because with a wrong port name no relay is found either."""


OVERRIDABLE = frozenset((Cause.CRASH_HOLD, Cause.WATCHDOG_MISSING))
"""Reasons to bypass that an operator may override for a time. The others mean that frames would not cross."""


@dataclass(frozen=True)
class Facts:
    """What a segment's mode depends on. `faults` maps each reason to bypass to one line of detail."""

    asked: Asked = "auto"  # by operator or configuration
    asked_cause: Cause = Cause.CONFIGURED
    faults: Mapping[Cause, str] = field(default_factory=dict)

    @property
    def against(self) -> Mapping[Cause, str]:
        """The faults that keep it from being inline."""
        if self.asked != "inline":
            return self.faults
        return {cause: detail for cause, detail in self.faults.items() if cause not in OVERRIDABLE}


def mode(facts: Facts) -> tuple[Mode, Cause, str]:
    """The mode, its cause and detail. A request for bypass or disconnect comes before every fault, one for inline
    after those that it cannot override."""
    if facts.asked in ("bypass", "disconnect"):
        return facts.asked, facts.asked_cause, ""
    faults = facts.against
    for cause in PRECEDENCE:
        if cause in faults:
            return "bypass", cause, faults[cause]
    for cause, detail in faults.items():
        return "bypass", cause, detail
    return "inline", Cause.HEALTHY, ""
