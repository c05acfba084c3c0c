# SPDX-License-Identifier: GPL-2.0-only
"""Events in memory: in order, bounded, and a share for everybody."""

from __future__ import annotations

from appliance.telemetry.events import Events
from appliance.telemetry.subject import Kind, Notice, Subject


def test_guesses_of_passwords_push_nothing_else_out() -> None:
    """Whoever guesses tries a thousand names: all of them share one source's room."""
    events = Events(ring=50)
    events.record(Notice.MANAGEMENT_FAILED, Subject(Kind.MANAGEMENT), "no link")
    events.record(Notice.EVENTS_LOST, Subject(Kind.SYSLOG), "away")
    for number in range(1000):
        events.record(Notice.LOGIN_FAILED, Subject(Kind.USER, f"name{number}"), "wrong")
    kept = events.newest()
    assert len(kept) == 50
    assert [event.text for event in kept[:2]] == ["no link", "away"]
    assert kept[-1].subject.name == "name999"
    assert [event.subject.name for event in events.newest(2)] == ["name998", "name999"]
