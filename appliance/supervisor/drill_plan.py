# SPDX-License-Identifier: GPL-2.0-only
"""What a drill means, for who decides on it. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from appliance.counted import counted
from appliance.drill import relay


def meaning(kind: str, segments: Sequence[str], guests: Sequence[str], watchdog_ms: int, outside: str) -> list[str]:
    """One sentence each. `guests`: those that run; `outside`: the maintenance window, if now is not in it."""
    said = []
    if kind == "relay":
        rest = relay.REST // relay.SECOND
        said.append(
            f"the relay of segment {', '.join(segments)} closes for {rest} s, then stays closed for the re-arm delay"
        )
        said.append("meanwhile traffic crosses the closed relay and is not inspected")
        said.append("both neighbours may see their link go down twice, for as long as it takes to negotiate")
    elif kind == "watchdog":
        said.append(f"the watchdog is not fed: it resets the machine after {watchdog_ms / 1000:g} s")
        said.append("the relays open with the reset; traffic is not inspected until the appliance is verified again")
        said.append("`drill abort` before that feeds it again; the result is there after the start")
    else:
        said.append("somebody beside the appliance cuts its power, all of its supplies, within 15 min")
        said.append("meanwhile somebody watches whether traffic crosses the link, with a ping for example")
        said.append("after the power is back, `drill answer passed` or `drill answer failed` keeps what was seen")
    if guests and kind != "relay":
        said.append(f"{counted(len(guests), 'guest')} ({', '.join(guests)}) lose what they have not written, "
                    "as in a power cut: stop them first if that matters")  # fmt: skip
    if outside:
        said.append(f"now is outside the maintenance window ({outside})")
    return said
