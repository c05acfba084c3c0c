# SPDX-License-Identifier: GPL-2.0-only
"""Reports about a guest by QEMU, the guest and the kernel: vetoes, stalled vCPUs, and how quickly it was bypassed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from msgspec import UNSET

from appliance.api.schema.guests import Bypassed, Check
from appliance.causes import Cause
from appliance.health.bypass_latency import BypassLatency, Fault
from appliance.health.cpu_stall import CpuStall, Thread, look
from appliance.health.detector import Bad, Detector, Good, Limits, Tick
from appliance.health.qemu_events import TROUBLE_NS, lifted_by, veto_of
from appliance.health.verdict import Available, History, Unavailable, Verdict, WouldFall, hold_down

MS = 1_000_000
SECOND = 1000 * MS
LIMITS = Limits(interval=20 * MS, misses=2, rises=1)


def proved(now: int = 0) -> Verdict:
    verdict = Verdict([Detector("there", LIMITS)], History())
    assert verdict.step(now, "there", Good(now)) == [Available(now + LIMITS.window)]
    return verdict


def good(verdict: Verdict, now: int) -> list[object]:
    return list(verdict.step(now, "there", Good(now)))


def test_a_veto_counts_whatever_the_checks_say() -> None:
    verdict = proved()
    assert verdict.veto(MS, "panic", "it panicked", Cause.GUEST_PANICKED) == [
        Unavailable("panic", "it panicked", Cause.GUEST_PANICKED)
    ]
    assert good(verdict, 2 * MS) == []
    assert verdict.reason(2 * MS) == "it panicked"
    panic = Check(check="panic", state="failing", why="it panicked", changed_ms=1.0)
    assert verdict.evidence(2 * MS)[-1] == panic
    verdict.lift(3 * MS, "panic")
    assert good(verdict, 4 * MS) == [Available(4 * MS + LIMITS.window)]
    assert [flip.to for flip in verdict.history.flips] == ["passing", "failing", "passing"]


def dry(now: int = 0) -> Verdict:
    """The process decides; two checks only tell."""
    detectors = [Detector(name, LIMITS, Cause.PROBE_FAILED) for name in ("there", "one", "two")]
    verdict = Verdict(detectors, History(), told=("one", "two"))
    for check in ("one", "two"):
        assert verdict.step(now, check, Good(now)) == []
    assert verdict.step(now, "there", Good(now)) == [Available(now + LIMITS.window)]
    return verdict


def test_checks_of_a_dry_run_tell_and_decide_nothing() -> None:
    """Each time that they would have bypassed the guest counts once, however many of them fail."""
    verdict = dry()
    fallen = verdict.step(MS, "one", Bad("no"))
    fallen += verdict.step(2 * MS, "one", Bad("no"))
    assert fallen == [WouldFall("one: no", Cause.PROBE_FAILED)]
    assert verdict.step(3 * MS, "two", Bad("no")) + verdict.step(4 * MS, "two", Bad("no")) == []
    assert (verdict.available, verdict.would_falls, verdict.reason(4 * MS)) == (True, 1, "")
    assert good(verdict, 5 * MS) == [Available(5 * MS + LIMITS.window)]
    assert verdict.step(6 * MS, "one", Good(6 * MS)) == []
    assert verdict.step(7 * MS, "two", Good(7 * MS)) == [WouldFall("")]
    assert [row.dry_run for row in verdict.evidence(7 * MS)] == [UNSET, True, True]
    assert list(verdict.history.falls) == []


def test_silent_checks_of_a_dry_run_do_not_shorten_the_lease() -> None:
    """Their evidence expires; the lease is as long as that of the check that decides."""
    verdict = dry()
    now = LIMITS.window + MS
    assert good(verdict, LIMITS.window - MS) == [Available(2 * LIMITS.window - MS)]
    assert [type(one) for one in verdict.step(now, "one", Tick())] == [WouldFall]
    assert verdict.until == 2 * LIMITS.window - MS


def test_what_is_no_check_still_decides_in_a_dry_run() -> None:
    verdict = dry()
    assert verdict.veto(MS, "panic", "it panicked", Cause.GUEST_PANICKED) != []
    assert not verdict.available
    with pytest.raises(ValueError, match="at least one"):
        Verdict([Detector("there", LIMITS)], History(), told=("there",))


def test_a_timed_veto_ends_by_itself() -> None:
    verdict = proved()
    verdict.veto(0, "disk", "it failed", Cause.GUEST_DISK, hold=30 * MS)
    assert good(verdict, 20 * MS) == []
    assert len(good(verdict, 31 * MS)) == 1


def test_starting_over_forgets_vetoes_too() -> None:
    verdict = proved()
    verdict.veto(0, "watchdog", "it expired", Cause.GUEST_WATCHDOG)
    verdict.forget()
    assert good(verdict, MS) == [Available(MS + LIMITS.window)]


def test_what_it_asked_for_is_no_flapping() -> None:
    """A guest that bypasses itself for each update of its rules is back at once; one that panics is held down."""
    for cause, held in ((Cause.GUEST_ASKED, False), (Cause.GUEST_PANICKED, True)):
        verdict = proved()
        for step in range(5):
            now = step * 20 * MS
            verdict.veto(now, "x", "why", cause)
            verdict.lift(now + MS, "x")
            good(verdict, now + 2 * MS)
        assert verdict.available is not held
        assert (hold_down(verdict.history.recent_falls(now)) > 0) is held


def both() -> Verdict:
    """Two checks; "there" and "back" both pass since time 0, at which the verdict became available."""
    verdict = Verdict([Detector("there", LIMITS), Detector("back", LIMITS)], History())
    assert verdict.step(0, "there", Good(0)) == []
    assert verdict.step(0, "back", Good(0)) == [Available(LIMITS.window)]
    return verdict


def test_one_check_that_fails_is_enough() -> None:
    """Bad answers end it although its last good one still holds, and the other check's evidence changes nothing."""
    verdict = both()
    for at in (1, 2):
        decisions = verdict.step(at * MS, "back", Bad("refused"))
    assert decisions == [Unavailable("back", "back: refused", Cause.HEARTBEAT_LOST, 0)]
    assert verdict.step(3 * MS, "there", Good(3 * MS)) == []
    assert verdict.step(4 * MS, "back", Good(4 * MS)) == [Available(3 * MS + LIMITS.window)]


def test_time_alone_renews_nothing() -> None:
    """A tick in the middle of good evidence leads to no decision."""
    verdict = both()
    assert verdict.step(5 * MS, "there", Tick()) == []
    assert verdict.step(5 * MS, "back", Bad("refused, once")) == []


def test_a_proof_from_before_a_restart_shortens_each_check() -> None:
    """One good answer a check is enough, and no hold is waited for; after a fall both count again."""
    limits = Limits(interval=20 * MS, misses=2, rises=3)
    verdict = Verdict([Detector("there", limits)], History(), hold=SECOND)
    verdict.shorten_proof()
    assert good(verdict, 0) == [Available(limits.window)]
    assert len(verdict.step(limits.window, "there", Tick())) == 1
    for at in range(100, 100 + 1000, 20):
        assert good(verdict, at * MS) == []


@pytest.mark.parametrize(
    ("event", "data", "veto", "cause", "words"),
    [
        ("GUEST_PANICKED", {"action": "pause"}, "panic", Cause.GUEST_PANICKED, "action: pause"),
        ("GUEST_CRASHLOADED", {}, "panic", Cause.GUEST_PANICKED, "crash kernel"),
        ("WATCHDOG", {"action": "reset"}, "watchdog", Cause.GUEST_WATCHDOG, "watchdog expired"),
        ("STOP", {}, "paused", Cause.GUEST_PAUSED, "paused"),
        ("SHUTDOWN", {"guest": True}, "shutdown", Cause.GUEST_EXITED, "shuts down"),
        ("BLOCK_IO_ERROR", {"operation": "read", "reason": "Input"}, "disk", Cause.GUEST_DISK, "read: Input"),
        ("BLOCK_IO_ERROR", {"nospace": True, "reason": "No space"}, "disk full", Cause.GUEST_DISK_FULL, "No space"),
    ],
)
def test_events_of_qemu(event: str, data: dict[str, object], veto: str, cause: Cause, words: str) -> None:
    found = veto_of(event, data)
    assert found is not None
    assert (found.veto, found.cause) == (veto, cause)
    assert words in found.why


def test_events_that_say_nothing_or_take_back() -> None:
    assert veto_of("RTC_CHANGE", {}) is None
    assert lifted_by("RESUME") == ("paused", "disk full")
    assert lifted_by("STOP") == ()
    assert veto_of("WATCHDOG", {}).hold == TROUBLE_NS  # type: ignore[union-attr]


# -- processors


def thread(state: str = "S", ran: int = 0, waited: int = 0) -> dict[int, Thread]:
    return {7: Thread("virtual processor 0", state, ran, waited)}


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (thread(), thread(ran=900 * MS), None),  # busy is healthy
        (thread(), thread(), None),  # so is idle
        (thread(), thread(waited=500 * MS), None),
        (thread(), thread(ran=50 * MS, waited=900 * MS), "waited 900.0 ms of 1000.0 ms for a processor"),
        (thread("T", 5), thread("T", 5), "is stopped"),
        (thread("D", 5), thread("D", 5), "hangs in the kernel"),
        (thread("D", 5), thread("D", 9), None),  # it got its answers in between
        ({}, thread(waited=10**10), None),  # a thread that was not there before
    ],
)
def test_stalled_processors(before: dict[int, Thread], after: dict[int, Thread], words: str | None) -> None:
    stall = CpuStall()
    assert stall.step(0, before) is None
    verdict = stall.step(SECOND, after)
    if words is None:
        assert verdict == Good(SECOND)
    else:
        assert isinstance(verdict, Bad)
        assert words in verdict.why


def test_looking_at_real_threads_and_at_none() -> None:
    found = look(os.getpid(), [os.getpid(), 2**22 + 1])
    assert found[os.getpid()].ran > 0
    assert len(found) == 1
    assert look(1, [1], Path("/nowhere")) == {}


# -- how quickly the traffic was led around


def test_from_the_fault_to_the_first_frame() -> None:
    reaction = BypassLatency()
    reaction.fell(Fault(Cause.HEARTBEAT_LOST, 100 * MS, 140 * MS))
    assert reaction.first_frame(0) is None
    assert reaction.first_frame(90 * MS) is None  # of before the fault: skipped for another reason
    found = reaction.first_frame(145 * MS)
    assert found is not None
    assert (found.at_most, found.detected) == (45 * MS, 5 * MS)
    assert reaction.first_frame(150 * MS) is None  # once for each fall
    assert reaction.summary() == [
        Bypassed(
            cause="heartbeat_lost",
            runs=1,
            at_most_p50_ms=45.0,
            at_most_p99_ms=45.0,
            at_most_max_ms=45.0,
            detected_p50_ms=5.0,
            detected_p99_ms=5.0,
            detected_max_ms=5.0,
        )
    ]


def test_the_kernel_may_be_first_and_a_quiet_wire_measures_nothing() -> None:
    reaction = BypassLatency()
    reaction.fell(Fault(Cause.HEARTBEAT_LOST, 100 * MS, 140 * MS))
    reaction.back()
    assert reaction.first_frame(145 * MS) is None
    reaction.fell(Fault(Cause.GUEST_EXITED, None, 200 * MS))
    found = reaction.first_frame(199 * MS)
    assert found is not None
    assert (found.at_most, found.detected) == (None, 0)


def test_measurements_outlive_bypassd() -> None:
    reaction, fresh = BypassLatency(), BypassLatency()
    for number in range(600):
        reaction.fell(Fault(Cause.GUEST_EXITED, number, number + 1))
        reaction.first_frame(number + 2)
    fresh.restore(reaction.dump())
    assert len(fresh.kept) == 512
    assert fresh.summary() == reaction.summary()


# -- all checks as one verdict


def test_a_verdict_needs_a_check() -> None:
    with pytest.raises(ValueError, match="at least one check"):
        Verdict([], History())


@pytest.mark.parametrize(
    ("falls", "held"),
    [(0, 0), (1, 0), (2, SECOND), (3, 2 * SECOND), (7, 32 * SECOND), (8, 60 * SECOND), (10_000, 60 * SECOND)],
)
def test_hold_down(falls: int, held: int) -> None:
    assert hold_down(falls) == held


def test_a_fall_counts_for_a_minute() -> None:
    history = History()
    history.falls.extend([0, SECOND])
    assert [history.recent_falls(now) for now in (60 * SECOND - 1, 60 * SECOND, 61 * SECOND)] == [2, 1, 0]


def two() -> Verdict:
    return Verdict([Detector("there", LIMITS), Detector("back", LIMITS, Cause.TOO_SLOW)], History())


def test_the_evidence_of_all_checks_ends_with_the_first_and_the_proof_with_the_last() -> None:
    verdict = two()
    assert (verdict.until, verdict.proof) == (0, None)
    verdict.step(0, "there", Good(0))
    assert (verdict.until, verdict.proof) == (0, 0)
    assert verdict.step(10 * MS, "back", Good(9 * MS)) == [Available(LIMITS.window)]
    assert (verdict.until, verdict.proof) == (LIMITS.window, 9 * MS)


def test_evidence_that_has_just_run_out_is_none() -> None:
    """The other check's evidence runs out at the very moment in which this one's comes."""
    for now, said in ((LIMITS.window - 1, True), (LIMITS.window, False)):
        verdict = two()
        verdict.step(0, "there", Good(0))
        assert bool(verdict.step(now, "back", Good(now))) is said


def test_a_fall_is_told_once_with_its_check_its_cause_and_its_proof() -> None:
    verdict = two()
    verdict.step(0, "there", Good(0))
    verdict.step(MS, "back", Good(MS))
    first = verdict.step(LIMITS.window, "there", Tick())
    assert first == [Unavailable("there", "there: nothing for 45.0 ms", Cause.HEARTBEAT_LOST, 0)]
    assert verdict.step(MS + LIMITS.window, "back", Tick()) == []
    assert list(verdict.history.falls) == [LIMITS.window]
    assert (verdict.history.count, len(verdict.history.flips)) == (4, 4)
    assert [(flip.at, flip.check, flip.to, flip.why) for flip in verdict.history.flips][2:] == [
        (LIMITS.window, "there", "failing", "there: nothing for 45.0 ms"),
        (MS + LIMITS.window, "back", "failing", "back: nothing for 45.0 ms"),
    ]


def test_the_other_checks_cause_is_its_own() -> None:
    verdict = two()
    verdict.step(0, "back", Good(0))
    verdict.step(MS, "there", Good(MS))
    (fallen,) = verdict.step(LIMITS.window, "back", Tick())
    assert isinstance(fallen, Unavailable)
    assert (fallen.check, fallen.cause) == ("back", Cause.TOO_SLOW)


def held(hold: int = 0, falls: int = 0, known: bool = False) -> int:
    """How long a guest must pass its check before it is available (ns), on a grid of 10 ms."""
    verdict = Verdict([Detector("there", LIMITS)], History(), hold)
    verdict.history.falls.extend([0] * falls)
    if known:
        verdict.shorten_proof()
    now = 0
    while not verdict.available:
        now += 10 * MS
        verdict.step(now, "there", Good(now))
    return now - 10 * MS


@pytest.mark.parametrize(
    ("hold", "falls", "known", "expected"),
    [
        (0, 0, False, 0),
        (50 * MS, 0, False, 50 * MS),
        (50 * MS, 2, False, SECOND),
        (3 * SECOND, 2, False, 3 * SECOND),
        (50 * MS, 3, True, 0),
    ],
)
def test_the_longer_of_hold_and_hold_down_counts(hold: int, falls: int, known: bool, expected: int) -> None:
    assert held(hold, falls, known) == expected


def test_the_hold_counts_from_when_all_checks_pass_without_a_break() -> None:
    """A check that falls on the way starts it anew, and one that was known from before is known no more."""
    verdict = Verdict([Detector("there", LIMITS)], History(), hold=50 * MS)
    verdict.step(0, "there", Good(0))
    verdict.step(LIMITS.window, "there", Tick())
    assert list(verdict.history.falls) == []  # it had no traffic to lose
    for now in range(50 * MS, 100 * MS, 10 * MS):
        assert verdict.step(now, "there", Good(now)) == []
    assert len(verdict.step(100 * MS, "there", Good(100 * MS))) == 1
    verdict.shorten_proof()
    verdict.step(100 * MS + LIMITS.window, "there", Tick())
    assert verdict.step(150 * MS, "there", Good(150 * MS)) == []


def test_starting_over_asks_for_everything_again_and_keeps_the_falls_of_a_check() -> None:
    verdict = Verdict([Detector("there", LIMITS, Cause.PROBE_FAILED)], History(), hold=50 * MS)
    verdict.shorten_proof()
    verdict.step(0, "there", Good(0))
    verdict.step(LIMITS.window, "there", Tick())
    verdict.shorten_proof()
    assert len(verdict.step(50 * MS, "there", Good(50 * MS))) == 1
    verdict.forget()
    detector = verdict.detectors["there"]
    assert (verdict.available, verdict.until, detector.falls, detector.cause) == (False, 0, 1, Cause.PROBE_FAILED)
    assert detector.limits is LIMITS
    for now in (60 * MS, 80 * MS, 109 * MS):
        assert verdict.step(now, "there", Good(now)) == []  # the hold, too, starts anew
    assert len(verdict.step(110 * MS, "there", Good(110 * MS))) == 1


def test_a_veto_again_is_the_same_veto_with_its_newest_reason_and_time() -> None:
    verdict = proved()
    assert len(verdict.veto(10 * MS, "disk", "a read failed", Cause.GUEST_DISK, hold=10 * MS)) == 1
    assert verdict.veto(15 * MS, "disk", "a write failed", Cause.GUEST_DISK, hold=10 * MS) == []
    assert verdict.history.count == 2  # the check rose, the veto began
    assert verdict.reason(16 * MS) == "a write failed"
    assert good(verdict, 25 * MS - 1) == []
    assert len(good(verdict, 25 * MS)) == 1  # exactly when its time is over
    assert [flip.to for flip in verdict.history.flips] == ["passing", "failing", "passing"]
    verdict.lift(26 * MS, "disk")  # it is not there any more
    assert verdict.history.count == 3


def test_a_veto_ends_the_hold_that_was_waited_for() -> None:
    verdict = Verdict([Detector("there", LIMITS)], History(), hold=50 * MS)
    for now in (0, 20 * MS, 40 * MS):
        good(verdict, now)
    assert verdict.veto(45 * MS, "x", "why", Cause.GUEST_PANICKED) == []
    verdict.lift(46 * MS, "x")
    assert list(verdict.history.falls) == []
    assert [bool(good(verdict, now)) for now in (50 * MS, 70 * MS, 90 * MS, 99 * MS, 100 * MS)] == [False] * 4 + [True]


def test_the_reason_for_a_person() -> None:
    verdict = two()
    assert verdict.reason(0) == "no evidence yet; no evidence yet"
    verdict.step(0, "there", Good(0))
    assert verdict.reason(0) == "no evidence yet"
    verdict.step(0, "back", Good(0))
    assert verdict.reason(0) == ""
    verdict.veto(0, "x", "it panicked", Cause.GUEST_PANICKED)
    assert verdict.reason(0) == "it panicked"
    held_down = Verdict([Detector("there", LIMITS)], History(), hold=50 * MS)
    good(held_down, 10 * MS)
    assert held_down.reason(20 * MS) == "passing, held down for another 40.0 ms"
    assert held_down.reason(90 * MS) == "passing, held down for another 0.0 ms"
    held_down.history.falls.extend([0, 0])
    assert held_down.reason(20 * MS) == "passing, held down for another 990.0 ms after 2 falls within a minute"


def test_the_rows_that_are_shown() -> None:
    verdict = Verdict([Detector("there", LIMITS)], History())
    row = verdict.evidence(0)[0]
    assert (row.state, row.last_good_ms, row.latency_ms, row.changed_ms) == ("unknown", None, None, None)
    verdict.step(10 * MS, "there", Good(8 * MS, latency=1234567))
    verdict.step(11 * MS, "there", Good(11 * MS - LIMITS.window))
    shown = Check(
        check="there", state="passing", why="", last_good_ms=5.0, latency_ms=1.235, changed_ms=3.0, falls=0, late=1
    )
    assert verdict.evidence(13 * MS) == [shown]
