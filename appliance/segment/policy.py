# SPDX-License-Identifier: GPL-2.0-only
"""Policy: from what is known to the mode a segment should have. Pure.

`mode` answers "if nothing had to wait, where should the relay be, and why"; the state machine (machine.py) adds time:
hold-down, confirmation, back-off. `link_loss` answers what a lost link means for the other port.
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
    Cause.PORT_MISSING,
    Cause.RELAY_MISSING,
    Cause.RELAY_FAULT,
    Cause.RELAY_UNSUPPORTED,
    Cause.WATCHDOG_MISSING,
    Cause.DATAPATH_FAULT,
    Cause.SUPERVISOR_LOST,
    Cause.STARTING,
)
"""When several reasons to bypass hold, the first in this order is shown as the cause; the others are details. Ports
come before relays, because a wrong port's name leads to no relay either."""


@dataclass(frozen=True)
class Facts:
    """What a segment's mode depends on. `faults` maps each reason to bypass to one line of detail."""

    asked: Asked = "auto"  # by operator or configuration
    asked_cause: Cause = Cause.CONFIGURED
    faults: Mapping[Cause, str] = field(default_factory=dict)


def mode(facts: Facts) -> tuple[Mode, Cause, str]:
    """The mode, its cause and detail. What somebody asked for comes before every fault."""
    if facts.asked != "auto":
        return facts.asked, facts.asked_cause, ""
    for cause in PRECEDENCE:
        if cause in facts.faults:
            return "bypass", cause, facts.faults[cause]
    for cause, detail in facts.faults.items():
        return "bypass", cause, detail
    return "inline", Cause.HEALTHY, ""


@dataclass(frozen=True)
class LinkLoss:
    """What a lost link asks for: ports ("lan", "wan") that are to be administratively down; or the relay to bypass."""

    down: frozenset[str] = frozenset()
    bypass: str = ""  # detail; "" = no


def link_loss(
    policy: Literal["propagate", "bypass", "ignore"],
    inline: bool,
    lan_link: bool,
    wan_link: bool,
    down: frozenset[str],
) -> LinkLoss:
    """Decide on the links of a segment; `down` names the ports that we took down ourselves.

    While the relay is in bypass the neighbours see each other and nothing is propagated. A port that we took down has
    no link because of us, so only the other one counts; when that one returns, both are up again.
    """
    if not inline or policy == "ignore":
        return LinkLoss()
    lost = {side for side, link in (("lan", lan_link), ("wan", wan_link)) if not link and side not in down}
    if policy == "bypass":
        names = " and ".join(sorted(lost))
        return LinkLoss(bypass=f"{names} lost its link" if lost else "")
    if lost == {"lan"}:
        return LinkLoss(frozenset({"wan"}))
    if lost == {"wan"}:
        return LinkLoss(frozenset({"lan"}))
    return LinkLoss()  # none lost, or both: nothing to tell anybody
