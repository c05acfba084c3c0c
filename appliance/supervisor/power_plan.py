# SPDX-License-Identifier: GPL-2.0-only
"""What a reboot or poweroff means for the traffic of each segment, for who decides on it. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from appliance.api.schema.machine import LinkPlan
from appliance.api.schema.state import Segment
from appliance.config.schema.model import Rule
from appliance.supervisor.power_order import Action

_END: dict[Action, str] = {
    "reboot": "until the appliance has started and is verified",
    "poweroff": "until the appliance is powered on again",
}


def link(segment: Segment, action: Action, trouble: str) -> LinkPlan:
    """The traffic of one segment. `trouble`: why its relay cannot be driven; empty when it can."""
    end = _END[action]
    if trouble:
        said = f"the relay may not close ({trouble}): expect that the link is interrupted {end}"
    elif segment.relay == "bypass":
        said = f"stays in bypass: traffic crosses the closed relay, uninspected, {end}"
    elif segment.relay == "disconnect":
        said = f"the link that is cut now is joined by the relay: traffic crosses it, uninspected, {end}"
    else:
        said = f"the relay closes first: traffic crosses it, uninspected, {end}"
    return LinkPlan(segment.name, segment.relay, said)


def blocked(rules: Iterable[Rule]) -> list[str]:
    """That a closed relay blocks nothing, where rules do."""
    names = [rule.name for rule in rules if rule.fails_closed]
    if not names:
        return []
    said = f"rule {names[0]} blocks" if len(names) == 1 else f"rules {', '.join(names)} block"
    return [f"{said} frames when guests are unavailable; a closed relay does not: these frames pass"]
