# SPDX-License-Identifier: GPL-2.0-only
"""The keeper's rules, step by step: when the relay moves, when bypassd is killed, when the watchdog is fed."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from appliance.causes import Cause
from appliance.keeper import core as kc
from appliance.keeper.core import (
    MS,
    SECOND,
    Ask,
    CheckIn,
    CloseRelay,
    CloseWatchdog,
    Drive,
    Exit,
    Exited,
    Feed,
    KeeperCore,
    Kill,
    Led,
    LinkLost,
    Log,
    Look,
    OpenRelay,
    OpenWatchdog,
    ReadRelay,
    RelayReport,
    Send,
    SetWatchdog,
    Spawn,
    Started,
    Stop,
    Tick,
    WatchdogReport,
)
from appliance.keeper.silence import Looked

RELAY = "relay-inline"


class Bench:
    """A core with a perfect board round it; `relay_error`, `stuck` and `watchdog_error` make it less so."""

    def __init__(self, settle: int = 0) -> None:
        self.core = KeeperCore()
        self.now = 100 * SECOND
        self.log: list[tuple[int, kc.Action]] = []
        self.line = kc.BYPASS
        self.relay_error = ""
        self.stuck = False
        self.lags = False  # moves later than it is told: the test moves it
        self.watchdog_error = ""
        self.told: list[str] = []  # positions in the states that bypassd was sent
        self.state = "S"  # what the kernel says of bypassd
        self.ran = self.waited = 0.0  # its share of a processor, and of the queue for one
        self.threads = 1  # 0: the kernel keeps no account
        self.feed(Started((RELAY,), settle={RELAY: settle}))

    def feed(self, event: kc.Event) -> list[kc.Action]:
        """One event, and the reports that its actions bring, as the shell does it."""
        done: list[kc.Action] = []
        if isinstance(event, RelayReport) and event.error:
            self.line = kc.BYPASS  # the shell gives the line up before it reports
        events = [event]
        while events:
            for action in self.core.step(self.now, events.pop(0)):
                done.append(action)
                self.log.append((self.now, action))
                events += self.perform(action)
        return done

    def perform(self, action: kc.Action) -> list[kc.Event]:
        match action:
            case OpenWatchdog(timeout) | SetWatchdog(timeout):
                return [WatchdogReport(timeout_ms=0 if self.watchdog_error else timeout, error=self.watchdog_error)]
            case Feed() if self.watchdog_error:
                return [WatchdogReport(error=self.watchdog_error)]
            case OpenRelay(name) | ReadRelay(name, _) | Drive(name, _) if self.relay_error:
                return [RelayReport(name, error=self.relay_error)]
            case OpenRelay(name):
                return [RelayReport(name, self.line)]
            case ReadRelay(name, expected):
                return [RelayReport(name, self.line, expected=expected)]
            case Drive(name, position):
                if not self.stuck and not self.lags:
                    self.line = position
                return [RelayReport(name, self.line, expected=position)]
            case Send():
                self.told.append(self.core.relays[RELAY].position)
            case CloseRelay():
                self.line = kc.BYPASS
            case Look():
                times = int(self.now * self.ran), int(self.now * self.waited)
                return [Looked(dict.fromkeys(range(self.threads), times), self.state)]
        return []

    def run(self, until: int, every: int | None = None, want: str = kc.INLINE) -> list[kc.Action]:
        """Let time pass, tick by deadline; with `every` bypassd checks in that often."""
        done = []
        checkin = self.now
        while True:
            step = self.core.deadline()
            if every:
                step = min(step, checkin)
            if step > until:
                break
            self.now = max(self.now, step)
            if every and self.now >= checkin:
                checkin += every
                done += self.feed(CheckIn({RELAY: Ask(want, "healthy")}))
            else:
                done += self.feed(Tick())
        self.now = until
        return done

    def serve(self, seconds: float = 1, want: str = kc.INLINE) -> list[kc.Action]:
        return self.run(self.now + int(seconds * SECOND), every=100 * MS, want=want)

    def start_again(self, how: str = "killed by signal 9") -> None:
        """bypassd ends, and is started again when its time has come."""
        self.feed(Exited(how))
        while self.core.phase is kc.Phase.DOWN:
            self.run(self.core.deadline())

    def check_in(self, want: str = kc.INLINE) -> list[kc.Action]:
        return self.feed(CheckIn({RELAY: Ask(want, "healthy")}))


@pytest.fixture
def bench() -> Bench:
    return Bench()


def of(actions: list[kc.Action], kind: type) -> list[kc.Action]:
    return [action for action in actions if isinstance(action, kind)]


def test_start_opens_the_watchdog_first_then_the_relay_then_starts_bypassd(bench: Bench) -> None:
    order = [type(action) for _, action in bench.log if isinstance(action, OpenWatchdog | OpenRelay | Spawn)]
    assert order == [OpenWatchdog, OpenRelay, Spawn]
    assert bench.line == kc.BYPASS


def test_inline_only_when_asked(bench: Bench) -> None:
    assert not of(bench.check_in(kc.HOLD), Drive)
    assert not of(bench.check_in(kc.BYPASS), Drive)
    assert of(bench.check_in(kc.INLINE), Drive) == [Drive(RELAY, kc.INLINE)]
    assert bench.line == kc.INLINE
    assert of(bench.check_in(kc.BYPASS), Drive) == [Drive(RELAY, kc.BYPASS)]


def test_bypassd_is_told_each_confirmed_position(bench: Bench) -> None:
    bench.check_in(kc.INLINE)
    assert bench.told[-1] == kc.INLINE
    bench.check_in(kc.BYPASS)
    assert bench.told[-1] == kc.BYPASS


def test_a_relay_that_is_not_named_goes_to_bypass(bench: Bench) -> None:
    bench.check_in()
    bench.feed(CheckIn({}))
    assert bench.line == kc.BYPASS


def test_checking_in_keeps_inline_for_ever(bench: Bench) -> None:
    done = bench.serve(120)
    assert bench.line == kc.INLINE
    assert not of(done, Kill)
    assert len(of(done, Drive)) == 1


def test_missed_check_ins_kill_bypassd_and_hold_the_relay(bench: Bench) -> None:
    bench.serve()
    done = bench.run(bench.now + 1200 * MS)
    assert of(done, Kill) == [Kill(orderly=False)]
    bench.feed(Exited("killed by signal 9"))
    done = bench.run(bench.now + 150 * MS)
    assert of(done, Spawn) == [Spawn()]
    assert bench.line == kc.INLINE


def test_a_machine_that_stood_still_blames_nobody_and_the_grace_still_ends(bench: Bench) -> None:
    """A late step of ours gives bypassd its time again; one that is on time does not, and neither holds the relay."""
    bench.serve()
    start = bench.now
    bench.now += 2 * SECOND
    assert not of(bench.feed(Tick()), Kill)
    assert of(bench.run(bench.now + 1100 * MS), Kill), "silent although we ran on time"
    while bench.now < start + 31 * SECOND:
        bench.now += 2 * SECOND
        bench.feed(Tick())
    assert bench.line == kc.BYPASS


def silent(bench: Bench, most: float = 20) -> tuple[float, str]:
    """Seconds from now, a check-in, until bypassd is killed, and what is said of it."""
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
        ("S", (0.0, 0.0), 1.0, "sleeps"),  # deadlocked, or it keeps its check-in back because a part is late
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
    """Each late step gives bypassd its time again, but not for ever."""
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
        bench.check_in(kc.HOLD)
        bench.run(bench.now + 100 * MS)
    bench.serve(5)
    assert len(of([action for _, action in bench.log], Drive)) == drives
    assert bench.core.restarts == 1


def test_without_a_supervisor_the_relay_is_in_bypass_after_the_grace(bench: Bench) -> None:
    bench.serve()
    bench.feed(Exited("killed by signal 9"))
    start = bench.now
    while bench.now < start + 60 * SECOND and bench.line == kc.INLINE:
        bench.run(bench.now + 100 * MS)
        if bench.core.phase is kc.Phase.STARTING:
            bench.feed(Exited("ended with status 1"))
    assert 28 * SECOND < bench.now - start <= 31 * SECOND
    assert bench.core.relays[RELAY].cause == "supervisor_lost"


def test_a_crash_loop_that_only_holds_does_not_prolong_the_grace(bench: Bench) -> None:
    bench.serve()
    bench.feed(Exited("ended with status 1"))
    start = bench.now
    while bench.now < start + 40 * SECOND:
        bench.run(bench.now + 500 * MS)
        if bench.core.phase is kc.Phase.STARTING:
            bench.check_in(kc.HOLD)
            bench.feed(Exited("ended with status 1"))
    assert bench.line == kc.BYPASS


def test_the_grace_comes_from_the_configuration(bench: Bench) -> None:
    bench.feed(CheckIn({RELAY: Ask(kc.INLINE)}, grace_ns=3 * SECOND))
    bench.feed(Exited("killed by signal 9"))
    bench.run(bench.now + 2900 * MS)
    assert bench.line == kc.INLINE
    bench.run(bench.now + 200 * MS)
    assert bench.line == kc.BYPASS


def test_a_grace_of_zero_holds_while_bypassd_serves_and_not_a_moment_longer(bench: Bench) -> None:
    """Healthy check-ins keep the link inline; the end of bypassd, or its silence beyond the limit, bypasses at once."""
    bench.feed(CheckIn({RELAY: Ask(kc.INLINE)}, grace_ns=0))
    done = bench.serve(60)
    assert bench.line == kc.INLINE
    assert not of(done, Drive)
    bench.run(bench.now + bench.core.limits.checkin)
    assert bench.line == kc.BYPASS, "silent"
    bench = Bench()
    bench.feed(CheckIn({RELAY: Ask(kc.INLINE)}, grace_ns=0))
    bench.serve()
    assert of(bench.feed(Exited("killed by signal 9")), Drive) == [Drive(RELAY, kc.BYPASS)]
    assert bench.core.relays[RELAY].cause == "supervisor_lost"


def test_what_could_not_be_used_of_a_check_in_is_logged_once(bench: Bench) -> None:
    for _ in range(3):
        bench.feed(CheckIn({RELAY: Ask(kc.INLINE)}, notes=("grace_ms -1 is outside 0 to 5: 0 is used",)))
    logged = [action.text for _, action in bench.log if isinstance(action, Log)]
    assert len([text for text in logged if "grace_ms -1" in text]) == 1


def test_back_off_grows_and_is_forgotten_after_a_healthy_time(bench: Bench) -> None:
    gaps = []
    for _ in range(10):
        bench.feed(Exited("ended with status 1"))
        began = bench.now
        while bench.core.phase is kc.Phase.DOWN:
            bench.run(bench.core.deadline())
        gaps.append((bench.now - began) // MS)
    assert gaps[:3] == [100, 200, 400]
    assert max(gaps) == gaps[-1] == 30_000
    bench.serve(11)
    bench.feed(Exited("ended with status 1"))
    assert bench.core.deadline() <= bench.now + 100 * MS


def starting(bench: Bench, progress: Callable[[int], str] = lambda number: "", every: float = 0.5) -> float:
    """Let bypassd start, saying hold with a progress; seconds until it is given up, or 2 hours."""
    began, number = bench.now, 0
    while bench.now - began < 7200 * SECOND:
        number += 1
        done = bench.feed(CheckIn({RELAY: Ask(kc.HOLD, "starting")}, progress=progress(number)))
        done += bench.run(bench.now + int(every * SECOND))
        if of(done, Kill):
            break
    return (bench.now - began) / SECOND


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


def test_the_watchdog_is_fed_on_time_through_hours_of_failing_starts(bench: Bench) -> None:
    """Starts that hang, loop, exit and close their link, for two hours: every feed comes in time, none is withheld."""
    bench.feed(CheckIn({RELAY: Ask(kc.INLINE)}, watchdog_ms=2000))
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


def test_a_closed_link_waits_for_the_exit_and_kills_only_when_none_comes(bench: Bench) -> None:
    bench.serve()
    assert not of(bench.feed(LinkLost("closed its keeper link")), Kill)
    assert of(bench.run(bench.now + 1100 * MS), Kill)
    assert bench.line == kc.INLINE


def test_check_ins_of_a_bypassd_that_was_given_up_count_for_nothing(bench: Bench) -> None:
    bench.serve(want=kc.BYPASS)
    bench.run(bench.now + 1200 * MS)
    assert not of(bench.check_in(kc.INLINE), Drive)


# -- the watchdog


def test_the_watchdog_is_fed_eight_times_in_its_timeout(bench: Bench) -> None:
    bench.feed(CheckIn({RELAY: Ask(kc.INLINE)}, watchdog_ms=2000))
    began = bench.now
    bench.serve(10)
    fed = [when for when, action in bench.log if isinstance(action, Feed) and when >= began]
    assert max(b - a for a, b in itertools.pairwise(fed)) <= 250 * MS


def test_the_timeout_of_the_configuration_is_set_once(bench: Bench) -> None:
    actions = [a for _ in range(5) for a in bench.feed(CheckIn({RELAY: Ask(kc.INLINE)}, watchdog_ms=2000))]
    assert of(actions, SetWatchdog) == [SetWatchdog(2000)]
    assert bench.core.watchdog_ms == 2000


def test_a_late_loop_does_not_feed_and_says_so(bench: Bench) -> None:
    bench.feed(CheckIn({RELAY: Ask(kc.INLINE)}, watchdog_ms=2000))
    bench.now += 1700 * MS
    done = bench.feed(Tick())
    assert not of(done, Feed)
    assert any("late" in action.text for action in done if isinstance(action, Log))
    assert of(bench.run(bench.now + 50 * MS), Feed)


def test_a_missing_watchdog_is_said_once_and_tried_again() -> None:
    bench = Bench()
    bench.watchdog_error = 'watchdog "x" not found: load its driver'
    bench.feed(WatchdogReport(error=bench.watchdog_error))
    done = bench.serve(5, kc.BYPASS)
    assert len(of(done, OpenWatchdog)) >= 4
    assert not [a for a in done if isinstance(a, Log) and "watchdog" in a.text]
    assert bench.core.state()["watchdog"] == {"present": True, "timeout_ms": 0, "error": bench.watchdog_error}
    bench.watchdog_error = ""
    bench.serve(2, kc.BYPASS)
    assert bench.core.watchdog_ms


def test_a_watchdog_that_fails_once_is_open_again_before_it_expires(bench: Bench) -> None:
    """One call that fails closes it, and it goes on counting: with a timeout of 1 s there is no second to wait."""
    bench.feed(CheckIn({RELAY: Ask(kc.INLINE)}, watchdog_ms=1000))
    bench.feed(WatchdogReport(error="cannot be fed"))
    assert of(bench.run(bench.now + 250 * MS), OpenWatchdog)


# -- the relay line


def test_a_missing_line_stays_in_bypass_is_said_once_and_is_taken_when_it_appears() -> None:
    bench = Bench()
    bench.relay_error = 'GPIO line "relay-inline" not found'
    bench.feed(RelayReport(RELAY, error=bench.relay_error))
    done = bench.serve(5)
    assert not of(done, Drive)
    assert len(of(done, OpenRelay)) >= 4
    assert not [a for a in done if isinstance(a, Log) and "GPIO" in a.text]
    assert bench.core.relays[RELAY].cause == "relay_missing"
    bench.relay_error = ""
    bench.serve(2)
    assert bench.line == kc.INLINE


def test_a_line_that_does_not_follow_is_a_fault(bench: Bench) -> None:
    bench.stuck = True
    done = bench.check_in()
    assert of(done, CloseRelay)
    assert bench.core.relays[RELAY].cause == "relay_fault"
    assert not bench.core.relays[RELAY].usable


def test_a_relay_that_cannot_be_driven_has_the_cause_that_its_report_names(bench: Bench) -> None:
    bench.feed(RelayReport(RELAY, error="kind", cause=Cause.RELAY_UNSUPPORTED))
    assert bench.core.relays[RELAY].cause == "relay_unsupported"


def test_a_slow_relay_is_read_back_when_it_has_settled() -> None:
    """Until then its old position is told and is no fault; a relay that has not moved by then is one."""
    for stuck, cause in ((False, "healthy"), (True, "relay_fault")):
        bench = Bench(settle=50 * MS)
        bench.lags = True
        bench.check_in(kc.INLINE)
        assert (bench.line, bench.told[-1]) == (kc.BYPASS, kc.BYPASS)
        bench.run(bench.now + 49 * MS)
        assert bench.core.relays[RELAY].usable
        bench.line = kc.BYPASS if stuck else kc.INLINE
        bench.run(bench.now + MS)
        assert bench.core.relays[RELAY].cause == cause
        assert bench.told[-1] == bench.line


def test_a_line_that_falls_by_itself_is_noticed(bench: Bench) -> None:
    bench.serve()
    bench.line = kc.BYPASS
    bench.serve(1.2, kc.INLINE)
    assert any(isinstance(a, Log) and "reads bypass" in a.text for _, a in bench.log)


def test_a_kept_line_is_taken_over_driven_and_held_for_the_grace() -> None:
    bench = Bench()
    bench.core = KeeperCore()
    bench.line = kc.INLINE
    done = bench.feed(Started((RELAY,)))
    assert not of(done, Drive)
    bench.run(bench.now + 29 * SECOND)
    assert bench.line == kc.INLINE
    bench.run(bench.now + 2 * SECOND)
    assert bench.line == kc.BYPASS


def test_the_led_follows_the_relay(bench: Bench) -> None:
    bench.check_in()
    bench.check_in(kc.BYPASS)
    assert [a.on for _, a in bench.log if isinstance(a, Led)] == [False, True, False]


# -- orderly stop


def test_stop_moves_the_relay_at_once_and_ends_when_bypassd_did(bench: Bench) -> None:
    bench.serve()
    done = bench.feed(Stop())
    assert Drive(RELAY, kc.BYPASS) in done
    assert Kill(orderly=True) in done
    assert not of(done, Exit)
    assert not of(bench.serve(1), Drive), "nobody moves it again"
    done = bench.feed(Exited("ended with status 0"))
    assert [a for a in done if isinstance(a, CloseWatchdog | Exit)] == [CloseWatchdog(60_000), Exit()]
    assert bench.line == kc.BYPASS


def test_stop_kills_a_bypassd_that_does_not_end_and_feeds_meanwhile(bench: Bench) -> None:
    bench.serve()
    bench.feed(Stop())
    done = bench.run(bench.now + 5100 * MS)
    assert Kill(orderly=False) in done
    assert of(done, Feed)


EVENTS: list[kc.Event] = [
    Tick(),
    CheckIn({RELAY: Ask(kc.INLINE, "healthy")}, watchdog_ms=2000, grace_ns=5 * SECOND),
    CheckIn({RELAY: Ask(kc.BYPASS, "operator")}),
    CheckIn({RELAY: Ask(kc.HOLD, "starting")}),
    CheckIn({}),
    Exited("ended with status 1"),
    LinkLost("closed its keeper link"),
    RelayReport(RELAY, kc.BYPASS, expected=kc.BYPASS),
    RelayReport(RELAY, error="gone"),
    WatchdogReport(timeout_ms=2000),
    WatchdogReport(error="gone"),
    Stop(),
]


@pytest.mark.parametrize("length", [1, 2, 3])
def test_every_order_of_events_keeps_the_promises(length: int) -> None:
    """After any events: inline only when somebody asked, a deadline in the future, no loop that spins."""
    for events in itertools.product(EVENTS, repeat=length):
        bench = Bench()
        for event in events:
            bench.now += 300 * MS
            bench.feed(event)
            if bench.core.phase is kc.Phase.DOWN and bench.core.stopping:
                break
            relay = bench.core.relays[RELAY]
            if bench.core.stopping or not relay.usable:
                assert relay.target == kc.BYPASS, events
            if not any(isinstance(e, CheckIn) and e.relays and e.relays[RELAY].want == kc.INLINE for e in events):
                assert bench.line == kc.BYPASS, events
            assert bench.core.deadline() > bench.now, events
        steps = 0
        end = bench.now + 40 * SECOND
        while bench.core.deadline() <= end and not any(isinstance(a, Exit) for _, a in bench.log):
            bench.now = max(bench.now, bench.core.deadline())
            bench.feed(Tick())
            steps += 1
            assert steps < 2000, f"spins after {events}"
        assert bench.line == kc.BYPASS, f"silence must end in bypass: {events}"
