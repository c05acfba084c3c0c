# SPDX-License-Identifier: GPL-2.0-only
"""The keeper link: a SOCK_SEQPACKET pair, its number in BYPASS_KEEPER_FD, one JSON object a packet.

bypassd -> keeper  {"type": "checkin", "relays": {"relay-inline": {"want": "inline", "cause": "healthy"}},
                    "watchdog_timeout_ms": 2000, "grace_ms": 30000}
                   want: inline | bypass | disconnect | hold (still starting: keep what is). A relay that is not
                   named goes to bypass. The last two are optional.
keeper -> bypassd  {"type": "state", "relays": {"relay-inline": {"relay": "inline", "cause": "healthy",
                    "usable": true, "error": ""}}, "bypassd_restarts": 0, "last_exit": "",
                    "watchdog": {"present": true, "timeout_ms": 2000, "error": ""}, "keeper_started_ns": 1}
"""

from __future__ import annotations

import json

from appliance.keeper.core import MS, WANTS, Ask, CheckIn

LINK_VARIABLE = "BYPASS_KEEPER_FD"
PACKET_BYTES = 65536


def parse_packet(packet: bytes) -> CheckIn:
    """Read one packet of bypassd; ValueError says what is wrong with it."""
    data = json.loads(packet)
    if not isinstance(data, dict) or data.get("type") != "checkin" or not isinstance(data.get("relays"), dict):
        raise ValueError("not a check-in")
    relays = {}
    for name, ask in data["relays"].items():
        if not isinstance(ask, dict) or ask.get("want") not in WANTS:
            raise ValueError(f"relay {name}: unknown want")
        relays[str(name)] = Ask(ask["want"], str(ask.get("cause", "")))
    numbers = [data.get("watchdog_timeout_ms"), data.get("grace_ms")]
    if not all(number is None or (isinstance(number, int) and number > 0) for number in numbers):
        raise ValueError("times must be positive whole milliseconds")
    return CheckIn(relays, numbers[0], None if numbers[1] is None else numbers[1] * MS)
