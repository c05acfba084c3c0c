# SPDX-License-Identifier: GPL-2.0-only
"""Detectors and verdict: their decisions for any sequence of events, and single cases."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.health.detector import (
    Bad,
    Carried,
    CheckState,
    Detector,
    Event,
    Extended,
    Fell,
    Good,
    Limits,
    Rose,
    Tick,
)
from appliance.health.lease import Lease
from appliance.health.verdict import Available, History, Unavailable, Verdict, hold_down

MS = 1_000_000
LIMITS = Limits(interval=20 * MS, misses=2, rises=2)

# (time to the next event, what it is, age of the evidence)
steps = st.lists(
    st.tuples(st.integers(0, 60 * MS), st.sampled_from(["good", "bad", "tick"]), st.integers(0, 80 * MS)), max_size=80
)


def event_of(kind: str, now: int, age: int) -> Event:
    match kind:
        case "good":
            return Good(max(now - age, 0))
        case "bad":
            return Bad("said no")
    return Tick()


def beat(detector: Detector, now: int, count: int, interval: int = 20 * MS) -> int:
    """`count` good answers, one an interval; the time after the last one."""
    for _ in range(count):
        detector.step(now, Good(now))
        now += interval
    return now - interval


def test_short_intervals_allow_for_the_timers_of_the_event_loop() -> None:
    """3.3 ms x 2: a timer is up to a millisecond late, and one lost heartbeat must not be a fall. Others as ever."""
    fast = Limits(interval=3_300_000, misses=2, rises=2)
    detector = Detector("in-band", fast)
    beat(detector, 0, 2, fast.interval)
    last = fast.interval
    late = last + 2 * fast.interval + MS  # the next one was lost, and this one was sent late
    assert not [action for action in detector.step(late + MS // 4, Tick()) if isinstance(action, Fell)]
    assert detector.step(late + MS // 4, Good(late))[-1] == Extended(late + fast.window)
    assert fast.window < 9 * MS, "with a tick of the datapath's clock, a hung guest is bypassed within 10 ms"
    assert LIMITS.window == 45 * MS


@given(steps)
def test_passing_only_with_fresh_evidence(story: list[tuple[int, str, int]]) -> None:
    """Whatever happens, a check that passes has good evidence within its window, and `rises` pieces of it."""
    detector, now, goods = Detector("probe", LIMITS), 0, 0
    for wait, kind, age in story:
        now += wait
        actions = detector.step(now, event_of(kind, now, age))
        goods += kind == "good"
        if detector.state is CheckState.PASSING:
            assert detector.last_good is not None
            assert now - detector.last_good < LIMITS.window
            assert goods >= LIMITS.rises
        for action in actions:
            if isinstance(action, Extended):
                assert now < action.until <= now + LIMITS.window
                assert kind == "good"


@given(steps)
def test_rises_and_falls_alternate(story: list[tuple[int, str, int]]) -> None:
    detector, now, said = Detector("probe", LIMITS), 0, []
    for wait, kind, age in story:
        now += wait
        said += [type(a) for a in detector.step(now, event_of(kind, now, age)) if isinstance(a, Rose | Fell)]
    assert all(one is not other for one, other in itertools.pairwise(said))
    assert not said or said[0] is Rose


@given(st.lists(st.tuples(st.integers(0, 60 * MS), st.integers(0, 1), st.sampled_from(["good", "bad", "tick"]),
                          st.integers(0, 80 * MS)), max_size=80))  # fmt: skip
def test_no_lease_beyond_the_evidence(story: list[tuple[int, int, str, int]]) -> None:
    """With two checks the lease never reaches further than the older one's last evidence holds."""
    kernel = Kernel()
    lease = Lease(kernel, "ips1")
    verdict = Verdict([Detector("there", LIMITS), Detector("back", LIMITS)], History())
    now = 0
    best: dict[str, int] = {}
    for wait, which, kind, age in story:
        now += wait
        check = ("there", "back")[which]
        event = event_of(kind, now, age)
        if isinstance(event, Good):
            best[check] = max(best.get(check, 0), event.at)
        for decision in verdict.step(now, check, event):
            if isinstance(decision, Available):
                lease.renew(now, decision.until)
            else:
                lease.revoke()
        if kernel.until > now:
            assert len(best) == 2
            assert kernel.until <= min(best.values()) + LIMITS.window


class Kernel:
    """The map of leases, for one hop."""

    until = 0

    def renew(self, hop: str, until_ns: int) -> None:
        self.until = until_ns

    def revoke(self, hop: str) -> None:
        self.until = 0


def test_rises_after_as_many_answers_as_asked() -> None:
    detector = Detector("probe", LIMITS)
    assert detector.step(0, Good(0)) == []
    assert detector.step(20 * MS, Good(20 * MS)) == [Rose(), Extended(65 * MS)]


@pytest.mark.parametrize("spread", [0, 1], ids=["all at once", "sent one by one, read at once"])
def test_a_burst_is_one_answer(spread: int) -> None:
    """Frames queued in a hung guest come out in a burst when it continues: that proves little."""
    detector = Detector("probe", LIMITS)
    for number in range(2):
        detector.step(40 * MS, Good(number * 20 * MS * spread))
    assert detector.state is CheckState.UNKNOWN


def test_falls_when_the_window_is_over_and_not_before() -> None:
    detector = Detector("probe", LIMITS)
    now = beat(detector, 0, 2)
    assert detector.step(now + LIMITS.window - 1, Tick()) == []
    (fell,) = detector.step(now + LIMITS.window, Tick())
    assert isinstance(fell, Fell)
    assert "45.0 ms" in fell.why


def test_evidence_counts_from_when_it_was_sent() -> None:
    """A reader that comes late must not make old evidence look fresh."""
    detector = Detector("probe", LIMITS)
    now = beat(detector, 0, 2)
    assert detector.step(now + 30 * MS, Good(now + 5 * MS)) == [Extended(now + 5 * MS + LIMITS.window)]


def test_slow_is_failed() -> None:
    """Answers that arrive after they have expired are no evidence, and the reason says so."""
    detector = Detector("probe", LIMITS)
    now = beat(detector, 0, 2)
    (fell,) = detector.step(now + LIMITS.window + 50 * MS, Good(now + 20 * MS))
    assert isinstance(fell, Fell)
    assert "late" in fell.why
    assert detector.stale == 1


def test_refusals_in_a_row() -> None:
    detector = Detector("probe", LIMITS)
    now = beat(detector, 0, 2)
    assert detector.step(now + 1, Bad("503")) == []
    assert detector.step(now + 2, Good(now + 2)) != []
    assert detector.step(now + 3, Bad("503")) == []
    assert detector.step(now + 4, Bad("503")) == [Fell("probe: 503")]


def test_short_proof_after_a_restart_of_the_supervisor() -> None:
    detector = Detector("probe", Limits(20 * MS, 2, rises=5))
    detector.shorten_proof()
    assert Rose() in detector.step(0, Good(0))


def test_every_check_must_pass() -> None:
    verdict = Verdict([Detector("there", LIMITS), Detector("back", LIMITS)], History())
    for now in (0, 20 * MS, 40 * MS):
        assert verdict.step(now, "there", Good(now)) == []
    assert "back" in verdict.reason(40 * MS) or "no evidence" in verdict.reason(40 * MS)
    verdict.step(40 * MS, "back", Good(40 * MS))
    assert verdict.step(60 * MS, "back", Good(60 * MS)) == [Available(40 * MS + LIMITS.window)]


def test_one_failing_check_is_named() -> None:
    verdict = Verdict([Detector("there", LIMITS), Detector("back", LIMITS)], History())
    for now in (0, 20 * MS):
        verdict.step(now, "there", Good(now))
        verdict.step(now, "back", Good(now))
    (gone,) = verdict.step(20 * MS + LIMITS.window, "back", Tick())
    assert isinstance(gone, Unavailable)
    assert gone.check == "back"
    rows = {row.check: row.state for row in verdict.evidence(100 * MS)}
    assert rows == {"there": "passing", "back": "failing"}


def test_flapping_is_held_down_longer_each_time() -> None:
    """The first fall costs nothing extra; then a second, doubling, up to a minute."""
    waits, history, now = [], History(), 0
    for _ in range(5):
        verdict = Verdict([Detector("probe", LIMITS)], history)
        began = now
        while not verdict.available:
            now += 20 * MS
            verdict.step(now, "probe", Good(now))
        waits.append(now - began)
        now += 100 * MS
        verdict.step(now, "probe", Tick())
    assert waits[0] == waits[1] < 1_000 * MS <= waits[2]
    assert waits[2] * 1.8 < waits[3] < waits[4] / 1.8
    assert hold_down(100) == 60_000 * MS


def test_lease_never_goes_back_and_never_into_the_past() -> None:
    kernel = Kernel()
    lease = Lease(kernel, "ips1")
    lease.renew(now=10, until=50)
    lease.renew(now=20, until=40)
    lease.renew(now=60, until=55)
    assert kernel.until == 50
    lease.revoke()
    assert kernel.until == 0
    assert lease.remaining(20) == 0


def test_a_guest_is_held_before_its_first_traffic() -> None:
    """Every check passes at once, and counts when it has passed for the hold time; a guest known from before is let."""
    for known, needed in ((False, 100 * MS), (True, 0)):
        verdict, now = Verdict([Detector("there", LIMITS)], History(), hold=100 * MS), 0
        if known:
            verdict.shorten_proof()
        rose = None
        while not verdict.available:
            now += LIMITS.interval
            verdict.step(now, "there", Good(now))
            if rose is None and verdict.detectors["there"].state is CheckState.PASSING:
                rose = now
        assert rose is not None
        assert needed <= now - rose < needed + 2 * LIMITS.interval


def test_a_guest_known_from_before_is_not_held_for_its_old_falls_but_for_the_next() -> None:
    """A restart of bypassd takes nothing from a guest that is available; the falls before it count at its next one."""
    history = History()
    history.falls.extend([0, MS])
    verdict = Verdict([Detector("there", LIMITS)], history)
    verdict.shorten_proof()
    assert any(isinstance(said, Available) for said in verdict.step(20 * MS, "there", Good(20 * MS)))
    now = 200 * MS
    verdict.step(now, "there", Tick())
    fell = now
    while not verdict.available:
        now += 20 * MS
        verdict.step(now, "there", Good(now))
    assert now - fell >= hold_down(3)


# -- one rule of the detector a row: what happened when, and what follows from the last event

Row = tuple[int, Event]
RISEN: tuple[Row, ...] = ((0, Good(0)), (20 * MS, Good(20 * MS)))
WINDOW = LIMITS.window


@pytest.mark.parametrize(
    ("before", "last", "said"),
    [
        # Rising takes `rises` good answers an interval (less the margin) apart, with nothing in between.
        (((0, Good(0)),), (15 * MS, Good(15 * MS)), [Rose(), Extended(15 * MS + WINDOW)]),
        (((0, Good(0)),), (15 * MS - 1, Good(15 * MS - 1)), []),
        (((0, Good(0)), (10 * MS, Bad("no"))), (20 * MS, Good(20 * MS)), []),
        (((0, Good(0)), (WINDOW, Tick())), (WINDOW + 1, Good(WINDOW + 1)), []),
        (((0, Good(0)), (WINDOW - 1, Tick())), (WINDOW - 1, Good(WINDOW - 1)), [Rose(), Extended(2 * WINDOW - 1)]),
        # Evidence counts once: what is as old as the newest proves nothing.
        (RISEN, (30 * MS, Good(20 * MS)), []),
        (RISEN, (30 * MS, Good(19 * MS)), []),
        (RISEN, (30 * MS, Good(20 * MS + 1)), [Extended(20 * MS + 1 + WINDOW)]),
        # What arrives exactly when it runs out has run out.
        (
            RISEN,
            (20 * MS + WINDOW, Good(20 * MS)),
            [Fell("probe: answers arrive 45.0 ms late, after their evidence has expired")],
        ),
        (RISEN, (20 * MS + WINDOW - 1, Good(20 * MS + 2)), [Extended(20 * MS + 2 + WINDOW)]),
        (RISEN, (20 * MS + WINDOW, Tick()), [Fell("probe: nothing for 45.0 ms")]),
        (RISEN, (20 * MS + WINDOW, Bad("no")), [Fell("probe: nothing for 45.0 ms")]),
        (RISEN, (20 * MS + WINDOW - 1, Tick()), []),
        # Refusals fall in a row of `misses`; a good answer between them starts the row anew.
        ((*RISEN, (21 * MS, Bad("a"))), (22 * MS, Bad("b")), [Fell("probe: b")]),
        ((*RISEN, (21 * MS, Bad("a")), (22 * MS, Good(22 * MS))), (23 * MS, Bad("b")), []),
        ((*RISEN, (21 * MS, Bad("a")), (22 * MS, Good(20 * MS))), (23 * MS, Bad("b")), [Fell("probe: b")]),
        # After a fall it must rise as the first time, and the first good answer counts at once.
        ((*RISEN, (21 * MS, Bad("a")), (22 * MS, Bad("b"))), (23 * MS, Bad("c")), []),
        ((*RISEN, (21 * MS, Bad("a")), (22 * MS, Bad("b"))), (23 * MS, Good(23 * MS)), []),
        (
            (*RISEN, (21 * MS, Bad("a")), (22 * MS, Bad("b")), (23 * MS, Good(23 * MS))),
            (38 * MS, Good(38 * MS)),
            [Rose(), Extended(38 * MS + WINDOW)],
        ),
        ((*RISEN, (20 * MS + WINDOW, Tick())), (70 * MS, Good(70 * MS)), []),
        ((*RISEN, (20 * MS + WINDOW, Tick())), (70 * MS, Tick()), []),
    ],
)
def test_rules(before: tuple[Row, ...], last: Row, said: list[object]) -> None:
    detector = Detector("probe", LIMITS)
    for now, event in before:
        detector.step(now, event)
    assert detector.step(*last) == said


def test_what_is_shown_of_a_check() -> None:
    """Why it is as it is, since when, how often it fell, and how long its last answer took."""
    detector = Detector("probe", LIMITS)
    assert (detector.expires, detector.why, detector.changed, detector.falls) == (None, "no evidence yet", None, 0)
    detector.step(0, Bad("refused"))
    assert detector.why == "probe: refused"
    detector.step(MS, Good(MS, latency=7))
    detector.step(21 * MS, Good(21 * MS, latency=8))
    assert (detector.why, detector.changed, detector.last_latency) == ("", 21 * MS, 8)
    detector.step(22 * MS, Bad("once"))
    assert detector.why == ""  # one refusal of two is no reason yet
    for now in (23 * MS, 24 * MS):
        detector.step(now, Bad(f"at {now}"))
    assert (detector.why, detector.changed, detector.falls) == (f"probe: at {24 * MS}", 23 * MS, 1)
    for now in (30 * MS, 50 * MS):
        detector.step(now, Good(now))
    detector.step(50 * MS + WINDOW, Tick())
    assert (detector.falls, detector.state) == (2, CheckState.FAILING)


def test_a_short_proof_is_one_answer_and_not_none() -> None:
    detector = Detector("probe", Limits(20 * MS, 2, rises=3))
    detector.shorten_proof()
    assert detector.step(0, Bad("no")) == []
    assert detector.step(1, Good(1)) == []  # a refusal ends what was known from before
    fresh = Detector("probe", Limits(20 * MS, 2, rises=3))
    fresh.shorten_proof()
    assert fresh.step(0, Tick()) == []
    assert fresh.state is CheckState.UNKNOWN
    assert fresh.step(0, Good(0)) == [Rose(), Extended(WINDOW)]


def test_the_lease_is_renewed_only_into_the_future_and_counts_what_it_wrote() -> None:
    kernel = Kernel()
    lease = Lease(kernel, "ips1")
    for now, until, written in ((10, 10, 0), (10, 11, 11), (10, 11, 11), (10, 12, 12), (11, 12, 12)):
        lease.renew(now, until)
        assert kernel.until == written
    assert (lease.renewals, lease.remaining(11), lease.remaining(12), lease.remaining(13)) == (2, 1, 0, 0)
    lease.revoke()
    lease.renew(11, 12)  # what was revoked may come back with evidence that reaches no further than before
    assert (kernel.until, lease.expiry) == (12, 12)


# -- frames of the traffic that went through


def passing() -> Detector:
    """It passes; its last good evidence is of 20 ms, and holds until 65 ms."""
    detector = Detector("probe", LIMITS)
    beat(detector, 0, 2)
    assert (detector.state, detector.expires) == (CheckState.PASSING, 65 * MS)
    return detector


def test_traffic_that_went_through_extends_what_passes() -> None:
    detector = passing()
    assert detector.step(60 * MS, Carried(50 * MS)) == [Extended(95 * MS)]
    assert (detector.last_good, detector.expires) == (50 * MS, 95 * MS)
    assert detector.step(94 * MS, Tick()) == []


@pytest.mark.parametrize("at", [20 * MS, 10 * MS])
def test_traffic_that_is_not_newer_than_the_last_evidence_extends_nothing(at: int) -> None:
    detector = passing()
    assert detector.step(60 * MS, Carried(at)) == []
    assert detector.expires == 65 * MS


def test_traffic_comes_too_late_for_what_has_expired() -> None:
    """The check falls first; what was carried since then does not make it pass."""
    detector = passing()
    fell = detector.step(66 * MS, Carried(65 * MS))
    assert [type(action) for action in fell] == [Fell]
    assert (detector.state, detector.last_good) == (CheckState.FAILING, 20 * MS)


def test_traffic_makes_nothing_pass() -> None:
    detector = Detector("probe", LIMITS)
    assert detector.step(10 * MS, Carried(10 * MS)) == []
    assert (detector.state, detector.last_good) == (CheckState.UNKNOWN, None)
    detector.step(20 * MS, Good(20 * MS))
    assert detector.step(30 * MS, Carried(30 * MS)) == []
    assert (detector.state, detector.last_good) == (CheckState.UNKNOWN, 20 * MS)


def test_a_shortened_proof_takes_one_good_answer_and_not_none() -> None:
    detector = Detector("probe", Limits(interval=20 * MS, misses=2, rises=5))
    detector.shorten_proof()
    assert detector.step(0, Tick()) == []
    assert detector.step(1 * MS, Good(1 * MS)) == [Rose(), Extended(1 * MS + LIMITS.window)]


def test_a_shortened_proof_takes_a_good_answer_of_another_interval_than_the_last() -> None:
    detector = Detector("probe", Limits(interval=20 * MS, misses=2, rises=3))
    assert detector.step(0, Good(0)) == []
    detector.shorten_proof()
    assert detector.step(1 * MS, Good(1 * MS)) == [], "a second answer of the same interval proves nothing new"
    assert detector.step(20 * MS, Good(20 * MS)) == [Rose(), Extended(20 * MS + WINDOW)]
