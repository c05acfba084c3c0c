# SPDX-License-Identifier: GPL-2.0-only
"""What QEMU, the guest and the kernel tell of a guest: vetoes, stalled processors, and how quickly it was noticed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from appliance.api.schema.guests import Bypassed, Check
from appliance.causes import Cause
from appliance.health.bypass_latency import BypassLatency, Fault
from appliance.health.cpu_stall import CpuStall, Thread, look
from appliance.health.detector import Bad, Detector, Good, Limits
from appliance.health.qemu_events import TROUBLE_NS, lifted_by, veto_of
from appliance.health.verdict import Available, History, Unavailable, Verdict, hold_down

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


@pytest.mark.parametrize(
    ("event", "data", "veto", "cause", "words"),
    [
        ("GUEST_PANICKED", {"action": "pause"}, "panic", Cause.GUEST_PANICKED, "action: pause"),
        ("GUEST_CRASHLOADED", {}, "panic", Cause.GUEST_PANICKED, "crash kernel"),
        ("WATCHDOG", {"action": "reset"}, "watchdog", Cause.GUEST_WATCHDOG, "watchdog expired"),
        ("STOP", {}, "paused", Cause.GUEST_PAUSED, "paused"),
        ("SHUTDOWN", {"guest": True}, "shutdown", Cause.GUEST_EXITED, "shuts down"),
        ("BLOCK_IO_ERROR", {"operation": "write", "reason": "No space"}, "disk", Cause.GUEST_DISK, "write: No space"),
    ],
)
def test_events_of_qemu(event: str, data: dict[str, object], veto: str, cause: Cause, words: str) -> None:
    found = veto_of(event, data)
    assert found is not None
    assert (found.veto, found.cause) == (veto, cause)
    assert words in found.why


def test_events_that_say_nothing_or_take_back() -> None:
    assert veto_of("RTC_CHANGE", {}) is None
    assert lifted_by("RESUME") == "paused"
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
