# SPDX-License-Identifier: GPL-2.0-only
"""The keeper link: a SOCK_SEQPACKET pair, its number in BYPASS_KEEPER_FD, one JSON object a packet.

bypassd -> keeper  {"type": "checkin", "relays": {"relay-inline": {"want": "inline", "cause": "healthy"}},
                    "watchdog_timeout_ms": 2000, "grace_ms": 30000, "unfed": false, "locate": false, "progress": "",
                    "sequence": {"number": 7, "at_ns": 1, "steps": ["parts", "frames", "segments", "lease"]}}
                   want: inline | bypass | disconnect | hold (still starting: keep the position). A relay that is not
                   named goes to bypass. The last six are optional; a number outside its range (ranges.py) is
                   clamped, and a value that is not a number is ignored. The keeper logs both. A progress that
                   differs from the previous one shows that the start advances. While "unfed" is true, the
                   keeper does not feed the watchdog: a drill, which the next check-in without it ends. The
                   sequence proves that the check-in comes after its work (sequence.py).
                   {"type": "late", "parts": "steering has been silent for 1200 ms"}
                   instead of a check-in: why there is none.
keeper -> bypassd  {"type": "state", "relays": {"relay-inline": {"relay": "inline", "cause": "healthy",
                    "usable": true, "error": ""}}, "bypassd_restarts": 0, "last_exit": "",
                    "watchdog": {"present": true, "timeout_ms": 2000, "error": "", "unfed": false,
                                 "devices": [{"name": "watchdog0", "identity": "i6300ESB timer",
                                              "timeout_ms": 2000, "pretimeout_ms": 0, "nowayout": false,
                                              "note": ""}]},
                    "keeper_started_ns": 1}
"""

from __future__ import annotations

import json

from appliance.keeper.limits import MS
from appliance.keeper.messages import WANTS, Ask, CheckIn, Late
from appliance.keeper.sequence import Proof
from appliance.ranges import SUPERVISOR_GRACE_MS, WATCHDOG_TIMEOUT_MS, Range

LINK_VARIABLE = "BYPASS_KEEPER_FD"
PACKET_BYTES = 65536


def parse_packet(packet: bytes) -> CheckIn | Late:
    """Parse one packet from bypassd; ValueError says why it is not a check-in. A bad number does not invalidate it."""
    data = json.loads(packet)
    if isinstance(data, dict) and data.get("type") == "late":
        return Late(str(data.get("parts", ""))[:400])
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
    grace_ns = None if grace is None else grace * MS
    locate, proof = data.get("locate") is True, _proof(data.get("sequence"))
    return CheckIn(relays, watchdog, grace_ns, tuple(notes), unfed, locate, progress, proof)


def _proof(data: object) -> Proof | None:
    """A sequence that cannot be read proves nothing: it is one without steps."""
    if data is None:
        return None
    try:
        assert isinstance(data, dict)
        return Proof(int(data["number"]), int(data["at_ns"]), tuple(str(step) for step in data["steps"]))
    except (AssertionError, KeyError, TypeError, ValueError, OverflowError):
        return Proof(0, 0, ())


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
