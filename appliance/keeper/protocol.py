# SPDX-License-Identifier: GPL-2.0-only
"""The keeper link: a SOCK_SEQPACKET pair, its number in BYPASS_KEEPER_FD, one JSON object a packet.

bypassd -> keeper  {"type": "checkin", "relays": {"relay-inline": {"want": "inline", "cause": "healthy"}},
                    "watchdog_timeout_ms": 2000, "grace_ms": 30000, "unfed": false, "progress": ""}
                   want: inline | bypass | disconnect | hold (still starting: keep the position). A relay that is not
                   named goes to bypass. The last four are optional; a number outside its range (ranges.py) is
                   clamped, and a value that is not a number is ignored. The keeper logs both. A progress that
                   differs from the previous one shows that the start advances. While "unfed" is true, the
                   keeper does not feed the watchdog: a drill, which the next check-in without it ends.
keeper -> bypassd  {"type": "state", "relays": {"relay-inline": {"relay": "inline", "cause": "healthy",
                    "usable": true, "error": ""}}, "bypassd_restarts": 0, "last_exit": "",
                    "watchdog": {"present": true, "timeout_ms": 2000, "error": "", "unfed": false},
                    "keeper_started_ns": 1}
"""

from __future__ import annotations

import json

from appliance.keeper.limits import MS
from appliance.keeper.messages import WANTS, Ask, CheckIn
from appliance.ranges import SUPERVISOR_GRACE_MS, WATCHDOG_TIMEOUT_MS, Range

LINK_VARIABLE = "BYPASS_KEEPER_FD"
PACKET_BYTES = 65536


def parse_packet(packet: bytes) -> CheckIn:
    """Parse one packet from bypassd; ValueError says why it is not a check-in. A bad number does not invalidate it."""
    data = json.loads(packet)
    if not isinstance(data, dict) or data.get("type") != "checkin" or not isinstance(data.get("relays"), dict):
        raise ValueError("not a check-in")
    relays = {}
    for name, ask in data["relays"].items():
        if not isinstance(ask, dict) or ask.get("want") not in WANTS:
            raise ValueError(f"relay {name}: unknown want")
        relays[str(name)] = Ask(ask["want"], str(ask.get("cause", "")))
    notes: list[str] = []
    watchdog = _milliseconds(data, "watchdog_timeout_ms", WATCHDOG_TIMEOUT_MS, notes)
    grace = _milliseconds(data, "grace_ms", SUPERVISOR_GRACE_MS, notes)
    progress = str(data.get("progress", ""))
    unfed = data.get("unfed") is True
    return CheckIn(relays, watchdog, None if grace is None else grace * MS, tuple(notes), unfed, progress)


def _milliseconds(data: dict[str, object], key: str, allowed: Range, notes: list[str]) -> int | None:
    value = data.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not (value >= 0 or value < 0):  # NaN: neither
        notes.append(f"{key}: {str(value)[:40]} is not a number and is ignored")
        return None
    used = allowed.clamp(value)
    if used != value:
        notes.append(f"{key} {value:.20g} is outside {allowed.least} to {allowed.most}: {used} is used")
    return used
