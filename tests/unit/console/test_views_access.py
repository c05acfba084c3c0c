# SPDX-License-Identifier: GPL-2.0-only
"""The views of management, events and sessions; failures come first; unexpected data does no harm."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from console.views import render
from console.views.common import fact

STATE: dict[str, Any] = {
    "state": "up",
    "detail": "",
    "port": "mgmt0",
    "mac": "02:00:00:00:00:01",
    "link": "up",
    "configured": "192.0.2.10/24",
    "addresses": ["192.0.2.10/24"],
    "gateways": [],
    "dhcp": {},
    "ssh": {
        "state": "listening",
        "detail": "",
        "port": 22,
        "host_keys": [{"kind": "ed25519", "fingerprint": "SHA256:x"}],
        "failed_logins": 6,
        "shut_out": [{"network": "192.0.2.7/32", "seconds_left": 50}],
    },
    "users": [{"name": "admin", "role": "admin", "password": "set", "keys": 0}],
    "metrics": {"state": "off", "port": 0},
    "syslog": [],
}
SHOWN = """\
port mgmt0: up, link up, configured 192.0.2.10/24, mac 02:00:00:00:00:01
addresses: 192.0.2.10/24
gateways: none
ssh: listening, port 22, failed logins 6
  ed25519 SHA256:x
metrics: off, port 0

BLOCKED       SECONDS LEFT
192.0.2.7/32            50

USER   ROLE   PASSWORD  KEYS
admin  admin  set          0"""


def test_management() -> None:
    assert render("management", STATE) == SHOWN


def test_what_does_not_work_comes_first() -> None:
    shown = render("management", {**STATE, "state": "failed", "detail": "mgmt0 is not there"})
    assert shown.startswith("*** MANAGEMENT *** mgmt0 is not there\n")


def test_events_and_sessions() -> None:
    event = {
        "when": "2026-01-02T03:04:05.678+00:00",
        "severity": "warning",
        "source": "ssh",
        "cause": "",
        "text": "x\x1b",
    }
    assert render("events", [event]).splitlines()[1] == "2026-01-02 03:04:05.678Z  warning   ssh     x?"
    session = {"user": "admin", "address": "192.0.2.7", "by": "key", "seconds": 61, "pid": 5}
    assert render("sessions", [session]).splitlines()[1].endswith("admin  192.0.2.7  key  1 min 1 s ago")
    assert render("sessions", []) == "no user is logged in over SSH or on the console"
    assert render("events", []) == "no events yet"


_DATA = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*STATE, *STATE["ssh"], "x"]), inner),
    max_leaves=12,
)


@given(st.sampled_from(["management", "events", "sessions"]), _DATA)
def test_data_of_any_shape_is_shown(view: str, data: Any) -> None:
    assert "\x1b" not in render(view, data)


def test_facts_have_units() -> None:
    assert fact("available_bytes", 300 << 20) == "available 300 MiB"
    assert fact("timeout_ms", 2000) == "timeout 2000 ms"


AAA: dict[str, Any] = {
    "order": ["radius", "local"], "state": "on", "detail": "", "accounting": "sessions", "waiting": 2, "lost": 1,
    "servers": [{
        "name": "r1", "method": "radius", "address": "192.0.2.1", "port": 1812, "state": "no answer within 2s",
        "seconds_ago": 5.0, "skipped_s": 55.0, "latency_ms": None, "accepted": 1, "refused": 2, "failed": 3,
        "reported": 4, "unreported": 5,
    }],
}  # fmt: skip
SHOWN_AAA = """\
passwords are decided by: radius, then local
accounting: sessions, 2 waiting, 1 lost

SERVER ADDRESS ACCEPTED REFUSED FAILED SEEN STATE REPORTED/NOT
radius r1 192.0.2.1 1 2 3 5 s ago no answer within 2s; skipped for 55 s 4/5"""


def test_aaa() -> None:
    assert " ".join(render("aaa", AAA).split()) == " ".join(SHOWN_AAA.split())
    assert "set radius NAME address ADDRESS" in render("aaa", {**AAA, "servers": []})
    assert render("aaa", {**AAA, "state": "failed", "detail": "no room"}).startswith("*** LOGINS *** no room\n")


def test_a_tried_login() -> None:
    steps = [{"server": "radius server r1", "result": "refused", "seconds": 0.1}]
    shown = render("aaa-test", {"decision": "refuse", "role": "", "why": "radius server r1: refused", "steps": steps})
    assert shown.startswith("refused: radius server r1: refused\n\nSERVER")
    assert render("aaa-test", {"decision": "accept", "role": "admin", "why": "", "steps": []}) == "accepted, role admin"
