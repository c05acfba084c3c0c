# SPDX-License-Identifier: GPL-2.0-only
"""When the keeper kills bypassd and restarts it."""

from __future__ import annotations

import pytest

from appliance.keeper.lifecycle import Phase
from appliance.keeper.limits import MS, SECOND
from appliance.keeper.messages import (
    BYPASS,
    HOLD,
    INLINE,
    Drive,
    Exited,
    Kill,
    LinkLost,
    Log,
    Look,
    Send,
    Spawn,
    Stop,
    Tick,
)
from tests.support.keeper_bench import Bench, of, starting


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_missed_check_ins_kill_bypassd_and_hold_the_relay(bench: Bench) -> None:
    bench.serve()
    done = bench.run(bench.now + 1200 * MS)
    assert of(done, Kill) == [Kill(orderly=False)]
    bench.feed(Exited("killed by signal 9"))
    done = bench.run(bench.now + 150 * MS)
    assert of(done, Spawn) == [Spawn()]
    assert bench.line == INLINE


def test_a_machine_that_stood_still_blames_nobody_and_the_grace_still_ends(bench: Bench) -> None:
    """After a late step of ours bypassd's time starts anew, after one on time it does not; neither holds the relay."""
    bench.serve()
    start = bench.now
    bench.now += 2 * SECOND
    assert not of(bench.feed(Tick()), Kill)
    assert not of(bench.run(bench.now + 980 * MS), Kill), "it has all its time again"
    assert of(bench.run(bench.now + 120 * MS), Kill), "silent although we ran on time"
    while bench.now < start + 31 * SECOND:
        bench.now += 2 * SECOND
        bench.feed(Tick())
    assert bench.line == BYPASS


def test_a_machine_that_stood_still_for_longer_than_every_limit_kills_nobody(bench: Bench) -> None:
    bench.serve()
    bench.now += 20 * SECOND
    assert not of(bench.feed(Tick()), Kill)
    assert not of(bench.run(bench.now + 980 * MS), Kill)


@pytest.mark.parametrize(("late", "again"), [(200 * MS, False), (200 * MS + 1, True)])
def test_a_step_that_is_more_than_200_ms_late_gives_bypassd_its_time_again(
    bench: Bench, late: int, again: bool
) -> None:
    bench.serve()
    bench.check_in()
    heard = bench.now
    bench.now = bench.core.deadline() + late
    assert not of(bench.feed(Tick()), Kill)
    stepped = bench.now
    while not of(bench.run(bench.core.deadline()), Kill):
        assert bench.now < heard + 3 * SECOND
    assert bench.now == (stepped if again else heard) + SECOND


def test_a_machine_that_stood_still_while_bypassd_was_down_starts_it(bench: Bench) -> None:
    bench.feed(Exited("ended with status 1"))
    bench.now += 20 * SECOND
    assert of(bench.feed(Tick()), Spawn) == [Spawn()]


def silent(bench: Bench, most: float = 20) -> tuple[float, str]:
    """Seconds from a check-in now until bypassd is killed, and what is logged."""
    bench.check_in()
    start = bench.now
    while not (killed := of(bench.run(bench.core.deadline()), Kill)):
        assert bench.now < start + most * SECOND, "never killed"
    assert killed == [Kill(orderly=False)]
    said = next(action.text for _, action in reversed(bench.log) if isinstance(action, Log) and action.severe)
    return (bench.now - start) / SECOND, said


@pytest.mark.parametrize(
    ("state", "shares", "seconds", "says"),
    [
        ("T", (0.0, 0.0), 1.0, "is stopped"),
        ("S", (0.0, 0.0), 1.0, "sleeps"),  # deadlocked, or it withholds its check-in because a part is late
        ("D", (0.0, 0.0), 1.0, "waits in the kernel"),
        ("S", (0.0, 0.5), 1.5, "sleeps"),
        ("R", (1.0, 0.0), 5.5, "runs (ran 5000 ms, waited 0 ms for a processor)"),
        ("R", (0.5, 0.5), 10.5, "runs (ran 5000 ms, waited 5000 ms for a processor)"),
        ("R", (0.0, 1.0), 15.0, "has not checked in for 15000 ms"),
    ],
)
def test_silence_counts_while_bypassd_could_have_run(
    bench: Bench, state: str, shares: tuple[float, float], seconds: float, says: str
) -> None:
    """Stopped, asleep or in the kernel: one second. Looping: 5 s of processor time. Without a processor: 15 s."""
    bench.serve()
    bench.state, (bench.ran, bench.waited) = state, shares
    took, said = silent(bench)
    assert took == pytest.approx(seconds, abs=0.05)
    assert says in said


def test_without_the_kernels_account_silence_is_plain_time(bench: Bench) -> None:
    bench.serve()
    bench.threads, bench.state, bench.waited = 0, "", 1.0
    assert silent(bench)[0] == pytest.approx(1.0, abs=0.05)


def test_bypassd_that_got_no_processor_and_then_checks_in_is_left_alone(bench: Bench) -> None:
    """Runnable for four seconds without a turn, again and again; then it hangs, and has one second as ever."""
    bench.serve()
    bench.state, bench.waited = "R", 1.0
    for _ in range(10):
        assert not of(bench.run(bench.now + 4 * SECOND), Kill)
        bench.check_in()
    bench.waited = 0.0
    assert silent(bench)[0] == pytest.approx(1.0, abs=0.05)


def test_a_silent_bypassd_is_woken_once_before_it_is_judged(bench: Bench) -> None:
    """It is sent the state when half of its time is over: a loop whose timer was late has something to wake up for."""
    bench.serve()
    bench.check_in()
    done = bench.run(bench.now + 990 * MS)
    kinds = [type(action) for action in done if isinstance(action, Send | Look)]
    assert kinds[:2] == [Send, Look]
    assert kinds.count(Send) == 1


def test_a_bypassd_that_hangs_is_ended_although_the_keeper_runs_late_again_and_again(bench: Bench) -> None:
    """After each late step bypassd's time starts anew, but not for ever."""
    bench.serve()
    bench.check_in()
    spent = 0
    while not of(bench.feed(Tick()), Kill):
        spent += bench.core.deadline() - bench.now
        assert spent < 16 * SECOND
        bench.now = bench.core.deadline() + 300 * MS


def test_a_restart_with_hold_and_then_inline_moves_no_relay(bench: Bench) -> None:
    bench.serve()
    drives = len(of([action for _, action in bench.log], Drive))
    bench.feed(Exited("killed by signal 9"))
    bench.run(bench.now + SECOND)
    for _ in range(50):
        bench.check_in(HOLD)
        bench.run(bench.now + 100 * MS)
    bench.serve(5)
    assert len(of([action for _, action in bench.log], Drive)) == drives
    assert bench.core.bypassd.restarts == 1


def test_back_off_grows_and_is_forgotten_after_a_healthy_time(bench: Bench) -> None:
    gaps = []
    for _ in range(10):
        bench.feed(Exited("ended with status 1"))
        began = bench.now
        while bench.core.bypassd.phase is Phase.DOWN:
            bench.run(bench.core.deadline())
        gaps.append((bench.now - began) // MS)
    assert gaps[:3] == [100, 200, 400]
    assert max(gaps) == gaps[-1] == 30_000
    bench.serve(11)
    bench.feed(Exited("ended with status 1"))
    assert bench.core.deadline() <= bench.now + 100 * MS


def wait_before_the_next_start(bench: Bench) -> int:
    """In milliseconds, when bypassd ends now; then it is started."""
    bench.feed(Exited("ended with status 1"))
    ended = bench.now
    while bench.core.bypassd.phase is Phase.DOWN:
        bench.run(bench.core.deadline())
    return (bench.now - ended) // MS


@pytest.mark.parametrize(("served", "wait"), [(SECOND, 400), (10 * SECOND - 1, 400), (10 * SECOND, 100)])
def test_the_back_off_is_forgotten_after_ten_seconds_of_service(bench: Bench, served: int, wait: int) -> None:
    assert [wait_before_the_next_start(bench) for _ in range(2)] == [100, 200]
    bench.run(bench.now + 15 * SECOND)  # the start itself does not count
    bench.run(bench.now + served, every=100 * MS)
    assert wait_before_the_next_start(bench) == wait


def test_a_long_start_that_never_served_keeps_the_back_off(bench: Bench) -> None:
    assert [wait_before_the_next_start(bench) for _ in range(2)] == [100, 200]
    bench.run(bench.now + 30 * SECOND)
    assert wait_before_the_next_start(bench) == 400


def test_each_start_but_the_first_is_a_restart(bench: Bench) -> None:
    restarts = [bench.core.bypassd.restarts]
    for _ in range(2):
        bench.start_again()
        restarts.append(bench.core.bypassd.restarts)
    assert restarts == [0, 1, 2]


@pytest.mark.parametrize(
    ("state", "shares", "seconds"),
    [
        ("S", (0.0, 0.0), 60),  # waits for something that never comes
        ("R", (1.0, 0.0), 150),  # loops: 120 s of processor time behind the first look
        ("R", (0.25, 0.75), 510),  # loops, with a quarter of a processor
        ("R", (0.0, 1.0), 900),  # gets no processor at all
    ],
)
def test_a_start_without_progress_ends(bench: Bench, state: str, shares: tuple[float, float], seconds: float) -> None:
    """Whatever it does; "hold" alone is no progress."""
    bench.state, (bench.ran, bench.waited) = state, shares
    assert starting(bench) == pytest.approx(seconds, abs=2)


def test_a_start_with_progress_never_ends(bench: Bench) -> None:
    """Two hours, on a machine that is slower than every limit, with a step once in 100 s."""
    bench.state, bench.ran, bench.waited = "R", 0.5, 0.5
    assert starting(bench, lambda number: str(number // 200)) == pytest.approx(7200, abs=1)


def test_a_start_that_was_ended_has_twice_the_time_next_until_one_serves(bench: Bench) -> None:
    times = []
    for _ in range(6):
        times.append(round(starting(bench)))
        bench.start_again()
    assert times == pytest.approx([60, 120, 240, 480, 480, 480], abs=2)
    bench.serve()
    bench.start_again()
    assert starting(bench) == pytest.approx(60, abs=2)


def test_the_progress_of_one_start_is_none_of_the_next(bench: Bench) -> None:
    """Every start counts from 1."""
    assert starting(bench, lambda number: "1") == pytest.approx(60, abs=2)
    bench.start_again()
    bench.run(bench.now + 50 * SECOND)
    assert starting(bench, lambda number: "1") == pytest.approx(120, abs=2)


def test_a_closed_link_waits_for_the_exit_and_kills_only_when_none_comes(bench: Bench) -> None:
    bench.serve()
    assert not of(bench.feed(LinkLost("closed its keeper link")), Kill)
    assert of(bench.run(bench.now + 1100 * MS), Kill)
    assert bench.line == INLINE


def test_a_bypassd_without_a_link_has_a_second_whatever_it_does_and_what_it_sends_counts_for_nothing(
    bench: Bench,
) -> None:
    """It may have sent a malformed packet and go on: the link to it is closed."""
    bench.serve(want=BYPASS)
    bench.state, bench.ran = "R", 1.0
    bench.feed(LinkLost("sent a malformed check-in"))
    assert not of(bench.check_in(INLINE), Drive)
    assert not of(bench.run(bench.now + SECOND - 1), Kill)
    assert of(bench.run(bench.now + 1), Kill) == [Kill(orderly=False)]


def test_a_bypassd_that_survives_its_kill_is_killed_again_and_started_once_it_is_gone(bench: Bench) -> None:
    """A process in an uninterruptible wait dies when that ends: no second one is started beside it."""
    bench.serve()
    bench.feed(LinkLost("closed its keeper link"))
    killed = bench.now + SECOND
    done = bench.run(bench.now + 12 * SECOND)
    assert not of(done, Spawn)
    kills = [when for when, action in bench.log if isinstance(action, Kill)]
    assert kills == [killed, killed + 5 * SECOND, killed + 10 * SECOND]
    bench.feed(Exited("killed by signal 9"))
    assert of(bench.run(bench.now + 100 * MS), Spawn) == [Spawn()]


def test_an_orderly_stop_gives_bypassd_five_seconds_although_it_is_silent(bench: Bench) -> None:
    bench.serve()
    assert of(bench.feed(Stop()), Kill) == [Kill(orderly=True)]
    assert not of(bench.run(bench.now + 5 * SECOND - 1), Kill)
    assert of(bench.run(bench.now + 1), Kill) == [Kill(orderly=False)]


def test_check_ins_of_a_bypassd_that_was_given_up_count_for_nothing(bench: Bench) -> None:
    bench.serve(want=BYPASS)
    bench.run(bench.now + 1200 * MS)
    assert not of(bench.check_in(INLINE), Drive)
