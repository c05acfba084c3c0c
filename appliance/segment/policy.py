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
Asked = Literal["auto", "bypass", "disconnect"]

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


@dataclass(frozen=True)
class Facts:
    """What a segment's mode depends on. `faults` maps each reason to bypass to one line of detail."""

    asked: Asked = "auto"  # by operator or configuration
    asked_cause: Cause = Cause.CONFIGURED
    faults: Mapping[Cause, str] = field(default_factory=dict)


def mode(facts: Facts) -> tuple[Mode, Cause, str]:
    """The mode, its cause and detail. An operator's or configured request comes before every fault."""
    if facts.asked != "auto":
        return facts.asked, facts.asked_cause, ""
    for cause in PRECEDENCE:
        if cause in facts.faults:
            return "bypass", cause, facts.faults[cause]
    for cause, detail in facts.faults.items():
        return "bypass", cause, detail
    return "inline", Cause.HEALTHY, ""
