# SPDX-License-Identifier: GPL-2.0-only
"""Which notification tells a change."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from appliance.snmp import mib, notify
from appliance.snmp.agentx import Oid
from appliance.snmp.facts import Facts, Port, Relay
from appliance.telemetry.subject import Change, Kind, Severity, Subject
from appliance.telemetry.transitions import Entry

LAN = Port(1, "lan0", "lan0", "data", "main/lan", up=True, link=True)
FACTS = Facts(ports=(LAN,), relays=(Relay(2, "r", ("lan0", "wan0"), "main", "inline"),))


def entry(kind: Kind, name: str, old: str, new: str, cause: str) -> Entry:
    return Entry("2026-11-30T13:00:00Z", 1, Subject(kind, name), old, new, cause, "words")


def rows(found: notify.Notification | None) -> dict[Oid, object]:
    assert found is not None
    return {row.name: row.value.value for row in found.rows}


def test_a_relay_that_goes_to_bypass_says_so_with_its_cause() -> None:
    order = entry(Kind.SEGMENT, "main", "inline", "bypass", "operator")
    told = notify.of_entry(order, Change.SEGMENT_BYPASSED.severity("operator"), FACTS)
    said = rows(told)
    assert next(iter(said.values())) == (*mib.STATE, 0, 2)
    assert said[*mib.STATE_ADMIN, 102] == 2, "locked: somebody wants it"
    assert said[*mib.STATE_ALARM, 102] == b"\x04", "a warning"
    assert said[*mib.LINE, *mib.token("segment main")] == b"bypass: operator: words"
    fault = entry(Kind.SEGMENT, "main", "inline", "rearming", "datapath_fault")
    said = rows(notify.of_entry(fault, Change.SEGMENT_BYPASSED.severity("datapath_fault"), FACTS))
    assert said[*mib.STATE_ADMIN, 102] == 4
    assert said[*mib.STATE_ALARM, 102] == b"\x20", "critical"
    back = entry(Kind.SEGMENT, "main", "engaging", "inline", "healthy")
    said = rows(notify.of_entry(back, Severity.NOTICE, FACTS))
    assert next(iter(said.values())) == (*mib.STATE, 0, 1)
    assert said[*mib.STATE_ALARM, 102] == b"\0"


STATES = ("starting", "bypass", "rearming", "engaging", "inline", "disconnect")


@pytest.mark.parametrize(("old", "new"), list(itertools.product(STATES, STATES)))
def test_only_what_moves_the_relay_is_told(old: str, new: str) -> None:
    told = notify.of_entry(entry(Kind.SEGMENT, "main", old, new, "x"), Severity.ERROR, FACTS)
    first = old == "starting" and new in ("bypass", "disconnect")
    moved = (old == "inline") != (new == "inline")
    assert (told is not None) == (moved or first)


@pytest.mark.parametrize(
    ("kind", "name", "severity", "token", "result"),
    [
        (Kind.GUEST, "ips1", Severity.ERROR, "guest ips1", 2),
        (Kind.GUEST, "ips1", Severity.WARNING, "guest ips1", 1),
        (Kind.REMOTE, "far", Severity.NOTICE, "remote far", 0),
        (Kind.SYSTEM, "", Severity.CRITICAL, "system", 2),
        (Kind.SUPERVISOR, "", Severity.ERROR, "supervisor", 2),
    ],
)
def test_a_guest_is_told_by_its_words(kind: Kind, name: str, severity: Severity, token: str, result: int) -> None:
    token = token if name else "appliance"
    said = rows(notify.of_entry(entry(kind, name, "a", "failed", "why"), severity, FACTS))
    assert list(said.values())[:2] == [notify.FIRED, token.encode()]
    index = mib.token(token)
    assert (*mib.EXTEND, 1, 4, *index) in said.values()
    assert list(said.values())[5] == result
    assert said[*mib.LINE, *index] == b"failed: why: words"


def test_what_changes_no_traffic_is_not_told() -> None:
    assert notify.of_entry(entry(Kind.GUEST, "ips1", "a", "b", "x"), Severity.INFO, FACTS) is None
    assert notify.of_entry(entry(Kind.CONFIGURATION, "", "", "b", "x"), Severity.NOTICE, FACTS) is None
    assert notify.of_entry(entry(Kind.SEGMENT, "other", "inline", "bypass", "x"), Severity.ERROR, FACTS) is None


def test_links_that_come_and_go() -> None:
    assert notify.of_links({}, (LAN,)) == [], "the first look is no change"
    assert notify.of_links({"lan0": True}, (LAN,)) == []
    (down,) = notify.of_links({"lan0": True}, (replace(LAN, link=False),))
    assert (down.name, down.subject) == ("linkDown", "port lan0")
    assert [row.value.value for row in down.rows] == [notify.LINK_DOWN, 1, 1, 2, b"lan0"]
    (held,) = notify.of_links({"lan0": True}, (replace(LAN, held=True),))
    assert [row.value.value for row in held.rows] == [notify.LINK_DOWN, 1, 2, 2, b"lan0"]
    (up,) = notify.of_links({"lan0": False}, (LAN,))
    assert [row.value.value for row in up.rows] == [notify.LINK_UP, 1, 1, 1, b"lan0"]
