# SPDX-License-Identifier: GPL-2.0-only
"""When the keeper feeds the watchdog, and what it does with one that is missing or fails."""

from __future__ import annotations

import itertools

import pytest

from appliance.keeper.core import KeeperCore
from appliance.keeper.feeding import UNFED
from appliance.keeper.limits import MS, SECOND
from appliance.keeper.messages import (
    BYPASS,
    INLINE,
    Ask,
    CheckIn,
    Event,
    Exited,
    Feed,
    LinkLost,
    Log,
    OpenWatchdog,
    Send,
    SetWatchdog,
    Started,
    Stop,
    Tick,
    WatchdogReport,
)
from tests.support.keeper_bench import RELAY, Bench, of, starting


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_the_watchdog_is_fed_eight_times_in_its_timeout(bench: Bench) -> None:
    bench.feed(CheckIn({RELAY: Ask(INLINE)}, watchdog_ms=2000))
    began = bench.now
    bench.serve(10)
    fed = [when for when, action in bench.log if isinstance(action, Feed) and when >= began]
    assert max(b - a for a, b in itertools.pairwise(fed)) <= 250 * MS


def test_the_timeout_of_the_configuration_is_set_once(bench: Bench) -> None:
    actions = [a for _ in range(5) for a in bench.feed(CheckIn({RELAY: Ask(INLINE)}, watchdog_ms=2000))]
    assert of(actions, SetWatchdog) == [SetWatchdog(2000)]
    assert bench.core.watchdog.timeout_ms == 2000


def test_a_late_loop_does_not_feed_and_says_so(bench: Bench) -> None:
    bench.feed(CheckIn({RELAY: Ask(INLINE)}, watchdog_ms=2000))
    bench.now += 1700 * MS
    done = bench.feed(Tick())
    assert not of(done, Feed)
    assert any("late" in action.text for action in done if isinstance(action, Log))
    assert of(bench.run(bench.now + 50 * MS), Feed)


def test_a_loop_that_stays_late_says_so_once_until_it_was_on_time(bench: Bench) -> None:
    bench.feed(CheckIn({RELAY: Ask(INLINE)}, watchdog_ms=2000))

    def late_steps(count: int) -> list[str]:
        done = []
        for _ in range(count):
            bench.now = bench.core.deadline() + 1700 * MS
            done += bench.feed(Tick())
        return [action.text for action in done if isinstance(action, Log) and "skipping this feed" in action.text]

    assert late_steps(3) == ["the keeper's loop is 1700 ms late: skipping this feed of the watchdog"]
    bench.serve()
    assert len(late_steps(3)) == 1


def test_the_very_first_feed_may_be_the_late_one() -> None:
    core = KeeperCore()
    core.step(0, Started(()))
    core.step(0, WatchdogReport(timeout_ms=2000))
    done = core.step(250 * MS + 1700 * MS, Tick())
    assert not of(done, Feed)
    assert [action.text for action in done if isinstance(action, Log) and "1700 ms late" in action.text]


def test_a_watchdog_that_was_just_set_is_fed_at_once_and_once(bench: Bench) -> None:
    """What was left of the old timeout may be less than the new one's first interval."""
    done = bench.feed(CheckIn({RELAY: Ask(INLINE)}, watchdog_ms=2000))
    assert [action for action in done if isinstance(action, SetWatchdog | Feed)] == [SetWatchdog(2000), Feed()]


def test_a_new_timeout_is_logged_once(bench: Bench) -> None:
    def armed(event: WatchdogReport) -> list[Log]:
        return [a for a in bench.feed(event) if isinstance(a, Log) and "armed" in a.text]

    assert armed(WatchdogReport(timeout_ms=2000)) == [Log("watchdog armed, 2000 ms", severe=False)]
    assert armed(WatchdogReport(timeout_ms=2000)) == []


def test_bypassd_is_told_when_the_watchdog_fails_and_when_it_is_back(bench: Bench) -> None:
    for report in (WatchdogReport(error="cannot be fed"), WatchdogReport(timeout_ms=2000)):
        assert Send() in bench.core.step(bench.now, report), report


def test_a_timeout_that_is_configured_while_the_watchdog_is_missing_is_that_of_the_next_try() -> None:
    bench = Bench()
    bench.watchdog_error = "gone"
    bench.feed(WatchdogReport(error="gone"))
    assert not of(bench.feed(CheckIn({RELAY: Ask(BYPASS)}, watchdog_ms=2000)), SetWatchdog)
    assert set(of(bench.serve(3, BYPASS), OpenWatchdog)) == {OpenWatchdog(2000)}


def test_the_first_feed_comes_an_eighth_of_the_timeout_after_it_was_set(bench: Bench) -> None:
    bench.feed(CheckIn({RELAY: Ask(INLINE)}, watchdog_ms=2000))
    began = bench.now
    bench.run(began + 300 * MS)
    assert next(when for when, action in bench.log if isinstance(action, Feed) and when > began) == began + 250 * MS


@pytest.mark.parametrize(("late", "fed"), [(1000 * MS, True), (1000 * MS + 1, False)])
def test_half_a_timeout_late_is_late_and_the_next_feed_is_soon(bench: Bench, late: int, fed: bool) -> None:
    bench.feed(CheckIn({RELAY: Ask(INLINE)}, watchdog_ms=2000))
    bench.now += 250 * MS + late
    assert bool(of(bench.feed(Tick()), Feed)) == fed
    began = bench.now
    bench.run(began + 300 * MS)
    after = next(when for when, action in bench.log if isinstance(action, Feed) and when > began)
    assert after == began + (250 if fed else 20) * MS


def test_a_missing_watchdog_is_said_once_and_tried_again() -> None:
    bench = Bench()
    bench.watchdog_error = 'watchdog "x" not found: load its driver'
    bench.feed(WatchdogReport(error=bench.watchdog_error))
    done = bench.serve(5, BYPASS)
    assert len(of(done, OpenWatchdog)) >= 4
    assert not [a for a in done if isinstance(a, Log) and "watchdog" in a.text]
    assert bench.core.state()["watchdog"] == {
        "present": True,
        "timeout_ms": 0,
        "error": bench.watchdog_error,
        "unfed": False,
        "devices": [],
    }
    bench.watchdog_error = ""
    bench.serve(2, BYPASS)
    assert bench.core.watchdog.timeout_ms


def test_a_watchdog_that_fails_once_is_open_again_before_it_expires(bench: Bench) -> None:
    """One call that fails closes it, and it goes on counting: with a timeout of 1 s there is no second to wait."""
    bench.feed(CheckIn({RELAY: Ask(INLINE)}, watchdog_ms=1000))
    bench.feed(WatchdogReport(error="cannot be fed"))
    failed = bench.now
    bench.run(failed + 250 * MS)
    tried = [when for when, action in bench.log if isinstance(action, OpenWatchdog) and when > failed]
    assert tried == [failed + 125 * MS], "when the next feed would have come"


def test_the_watchdog_is_fed_on_time_through_hours_of_failing_starts(bench: Bench) -> None:
    """Starts that hang, loop, exit and close their link, for two hours: every feed comes in time, none is withheld."""
    bench.feed(CheckIn({RELAY: Ask(INLINE)}, watchdog_ms=2000))
    began = bench.now
    for number in itertools.count():
        if bench.now - began > 2 * 3600 * SECOND:
            break
        bench.state, bench.ran = ("R", 1.0) if number % 2 else ("S", 0.0)
        match number % 4:
            case 0 | 1:
                starting(bench)
            case 2:
                bench.feed(LinkLost("closed its keeper link"))
                bench.run(bench.now + SECOND)
        bench.start_again()
    fed = [when for when, action in bench.log if isinstance(action, Feed) and when >= began]
    assert max(b - a for a, b in itertools.pairwise(fed)) <= 250 * MS


# -- a drill


def starve(bench: Bench, seconds: float, *, unfed: bool = True) -> list[int]:
    """Check in five times a second; returns when the watchdog was fed meanwhile, from the first check-in on."""
    began, turns = bench.now, int(seconds * 5)
    for _ in range(turns):
        bench.feed(CheckIn({RELAY: Ask(INLINE)}, watchdog_ms=2000, unfed=unfed))
        bench.run(bench.now + SECOND // 5)
    return sorted({when - began for when, action in bench.log if isinstance(action, Feed) and when >= began})


def said(bench: Bench) -> list[str]:
    return [action.text for _, action in bench.log if isinstance(action, Log) and "drill" in action.text]


def test_a_drill_feeds_once_more_and_then_not_although_all_is_well(bench: Bench) -> None:
    bench.feed(CheckIn({RELAY: Ask(INLINE)}, watchdog_ms=2000))
    bench.serve(1)
    assert starve(bench, 4) == [0]
    assert said(bench) == [UNFED]
    assert bench.core.state()["watchdog"]["unfed"] is True  # type: ignore[index]
    assert bench.line == INLINE, "the link is carried until the reset"


def test_the_last_feed_of_a_drill_and_the_first_after_it_are_at_once_and_told(bench: Bench) -> None:
    """Between two feeds that were due anyway; and the very first check-in may be the order."""
    bench.run(bench.now + 10 * MS)
    ordered = [type(one) for one in bench.feed(CheckIn({RELAY: Ask(BYPASS)}, unfed=True)) if type(one) in (Feed, Send)]
    assert ordered == [Feed, Send]
    bench.run(bench.now + 10 * MS)
    ordered = [type(one) for one in bench.feed(CheckIn({RELAY: Ask(BYPASS)})) if type(one) in (Feed, Send)]
    assert ordered == [Feed, Send]


@pytest.mark.parametrize("end", [CheckIn({RELAY: Ask(INLINE)}), LinkLost("is gone"), Exited("killed"), Stop()])
def test_a_drill_ends_with_the_order_and_with_whoever_gave_it(bench: Bench, end: Event) -> None:
    bench.feed(CheckIn({RELAY: Ask(INLINE)}, watchdog_ms=2000))
    starve(bench, 1)
    assert of(bench.feed(end), Feed)
    assert said(bench)[-1] == "drill: the watchdog is fed again"
    assert not bench.core.watchdog.unfed


def test_a_watchdog_that_resets_nothing_is_fed_again_until_the_next_drill(bench: Bench) -> None:
    bench.feed(CheckIn({RELAY: Ask(INLINE)}, watchdog_ms=2000))
    fed = starve(bench, 12)
    assert fed[0] == 0
    assert 8 * SECOND <= fed[1] <= 8.5 * SECOND
    assert max(b - a for a, b in itertools.pairwise(fed[1:])) <= 250 * MS
    assert said(bench)[1:] == ["drill: the watchdog did not reset the machine: it is fed again"]
    starve(bench, 1, unfed=False)
    assert starve(bench, 1) == [0], "a new order is a new drill"


def test_without_an_armed_watchdog_there_is_nothing_to_starve(bench: Bench) -> None:
    bench.watchdog_error = "gone"
    bench.run(bench.now + 2 * SECOND)
    starve(bench, 2)
    assert said(bench) == []


def test_a_watchdog_that_is_lost_in_a_drill_is_armed_and_fed_as_ever(bench: Bench) -> None:
    bench.feed(CheckIn({RELAY: Ask(INLINE)}, watchdog_ms=2000))
    starve(bench, 1)
    bench.feed(WatchdogReport(error="gone"))
    assert not bench.core.watchdog.unfed
