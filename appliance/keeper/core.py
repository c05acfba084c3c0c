# SPDX-License-Identifier: GPL-2.0-only
"""What the keeper decides. Pure: `step(now, event) -> actions`; loop.py performs the actions.

It holds the rules of ring 3 and nothing else:

- a relay leaves bypass only while bypassd asks for it and checks in, or within the grace time after;
- bypassd that exits is started again with back-off, and bypassd that misses its check-ins is killed first, unless
  the kernel says that it would run but gets no processor (silence.py);
- a start of bypassd is ended only when it makes no progress, and the next one is then given twice the time;
- the watchdog is fed only from a step that ran on time, and goes on counting after an orderly stop;
- a missing watchdog or relay line is logged once with its cause, tried again, and leaves the relay in bypass.

Times are nanoseconds of CLOCK_MONOTONIC. The object lives as long as the keeper.
Imports next to nothing (test_the_keeper_imports_little): relay and watchdog wait for it at every boot.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from appliance.causes import Cause
from appliance.keeper.silence import Looked, Silence
from appliance.transition import Table

MS = 1_000_000
SECOND = 1000 * MS
FAR = 1 << 62
BYPASS, INLINE, DISCONNECT, HOLD = "bypass", "inline", "disconnect", "hold"
WANTS = (BYPASS, INLINE, DISCONNECT, HOLD)


class Limits(NamedTuple):
    """The keeper's times in nanoseconds."""

    checkin: int = SECOND  # bypassd may be silent this long, time in which it got no processor not counted
    looping: int = 5 * SECOND  # processor time that a silent bypassd may use before it is given up
    silent: int = 15 * SECOND  # it is given up at the latest, time in which the keeper stood still not counted
    # A start, up to the first check-in that is not "hold", is ended when it has made no progress while bypassd neither
    # ran nor waited for a processor for `starting_idle`, or used `starting` of processor time, or in any case for
    # `starting_longest`. All three double after a start that was ended so, up to `starting_most` times: a fixed limit
    # ended every start on a machine that was slower than the limit, again and again.
    starting_idle: int = 60 * SECOND
    starting: int = 120 * SECOND
    starting_longest: int = 900 * SECOND
    starting_most: int = 8
    grace: int = 30 * SECOND  # the relay is held this long after the last check-in that asked for a position
    # (at least `checkin` while bypassd serves: check-ins are not continuous)
    ending: int = 5 * SECOND  # an orderly end of bypassd
    backoff_first: int = 100 * MS  # before bypassd is started again; doubles
    backoff_last: int = 30 * SECOND
    healthy: int = 10 * SECOND  # served this long: the back-off starts again from its first value
    retry: int = SECOND  # a missing watchdog or relay line is tried again
    stall: int = 200 * MS  # our own step is later than this: nobody else is blamed for being late
    verify: int = SECOND  # the relay line is read back
    watchdog_start_ms: int = 10_000  # until bypassd has told the configured timeout
    watchdog_stop_ms: int = 60_000  # an orderly stop or reboot of the machine may take this long from the keeper's end


# Events
class Started(NamedTuple):
    """The keeper's loop begins; `relays` names the board's relays."""

    relays: tuple[str, ...]
    watchdog: bool = True  # the board has one
    settle: dict[str, int] | None = None  # how long each relay's contacts take to move (0 where it is not named)


class Tick(NamedTuple):
    """The deadline that `KeeperCore.deadline` named is reached."""


class Ask(NamedTuple):
    """What bypassd wants of one relay."""

    want: str
    cause: str = ""


class CheckIn(NamedTuple):
    """A check-in of bypassd."""

    relays: dict[str, Ask]
    watchdog_ms: int | None = None
    grace_ns: int | None = None
    notes: tuple[str, ...] = ()  # what of it could not be used as sent
    progress: str = ""  # of its start: how far it is; another text than before is progress


class Exited(NamedTuple):
    """bypassd ended, or could not be started; `how` is text for a person."""

    how: str


class LinkLost(NamedTuple):
    """bypassd closed its end of the keeper link but has not ended, or sent a malformed packet."""

    why: str


class RelayReport(NamedTuple):
    """Result of OpenRelay, Drive or ReadRelay: the position found, or why there is none.

    `expected` is what the action expected: reports may arrive after the next order was given.
    """

    relay: str
    position: str = ""
    error: str = ""
    expected: str = ""
    cause: Cause = Cause.RELAY_MISSING  # of the error


class WatchdogReport(NamedTuple):
    """Result of OpenWatchdog, SetWatchdog or Feed: the device's timeout, or why there is none."""

    timeout_ms: int = 0
    error: str = ""


class Stop(NamedTuple):
    """SIGTERM: an orderly stop."""


Event = Started | Tick | CheckIn | Looked | Exited | LinkLost | RelayReport | WatchdogReport | Stop


# Actions
class Spawn(NamedTuple):
    """Start bypassd."""


class Kill(NamedTuple):
    """Send bypassd a signal: orderly is SIGTERM, else SIGKILL."""

    orderly: bool


class Look(NamedTuple):
    """Read what the kernel says of bypassd and report it as Looked."""


class OpenRelay(NamedTuple):
    """Request the relay's lines and report."""

    relay: str


class ReadRelay(NamedTuple):
    """Read the relay's position back and report."""

    relay: str
    expected: str


class Drive(NamedTuple):
    """Move the relay and report."""

    relay: str
    position: str


class CloseRelay(NamedTuple):
    """Release the relay."""

    relay: str


class OpenWatchdog(NamedTuple):
    """Open the watchdog, set its timeout and report."""

    timeout_ms: int


class SetWatchdog(NamedTuple):
    """Set the open watchdog's timeout and report."""

    timeout_ms: int


class Feed(NamedTuple):
    """Feed the watchdog; report only a failure."""


class CloseWatchdog(NamedTuple):
    """Set the open watchdog's timeout for the last time and let go of it: it goes on counting."""

    timeout_ms: int


class Led(NamedTuple):
    """Switch the status LED; on means that every relay is inline."""

    on: bool


class Send(NamedTuple):
    """Send the state to bypassd."""


class Log(NamedTuple):
    """One log line."""

    text: str
    severe: bool = True


class Exit(NamedTuple):
    """Exit with status 0."""


Action = (
    Spawn | Kill | Look | OpenRelay | ReadRelay | Drive | CloseRelay | OpenWatchdog | SetWatchdog | Feed | CloseWatchdog
    | Led | Send | Log | Exit
)  # fmt: skip


class Phase(StrEnum):
    """Where bypassd is in its life, as the keeper knows it."""

    DOWN = "down"  # no process
    STARTING = "starting"  # started, has not asked for a position yet
    SERVING = "serving"  # checks in
    ENDING = "ending"  # was told or is about to end, and is killed when it takes too long


class Turn(StrEnum):
    """What moves bypassd from one phase to the next."""

    SPAWN = "spawn"
    READY = "ready"  # its first check-in that asks for a position
    END = "end"  # it was signalled, or closed its link
    EXIT = "exit"  # its process is gone


PHASES: Table[Phase, Turn] = Table(
    "bypassd",
    {
        (Phase.DOWN, Turn.SPAWN): Phase.STARTING,
        (Phase.STARTING, Turn.READY): Phase.SERVING,
        (Phase.STARTING, Turn.END): Phase.ENDING,
        (Phase.STARTING, Turn.EXIT): Phase.DOWN,
        (Phase.SERVING, Turn.END): Phase.ENDING,
        (Phase.SERVING, Turn.EXIT): Phase.DOWN,
        (Phase.ENDING, Turn.END): Phase.ENDING,  # signalled again: it takes too long
        (Phase.ENDING, Turn.EXIT): Phase.DOWN,
    },
)


class RelayState:
    """What is known about one relay."""

    __slots__ = ("cause", "error", "moving_until", "position", "settle", "target", "usable", "want", "want_cause")

    def __init__(self, settle: int) -> None:
        self.settle = settle
        self.moving_until = 0  # what is read back before then says nothing
        self.usable = False
        self.position = BYPASS  # as last driven or read
        self.target = BYPASS
        self.cause: str = Cause.STARTING
        self.want = BYPASS
        self.want_cause: str = Cause.STARTING
        self.error = ""


class KeeperCore:
    """State and rules; see the module."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits = limits or Limits()
        self.relays: dict[str, RelayState] = {}
        self.phase = Phase.DOWN
        self.restarts = 0
        self.last_exit = ""
        self.stopping = False
        self.watchdog_ms = 0  # as the device has it; 0 = not open
        self.watchdog_error = ""
        self.started = 0
        self._has_watchdog = False
        self._watchdog_wanted = limits.watchdog_start_ms
        self._grace = limits.grace
        self._phase_since = 0
        self._silence = Silence(limits.checkin, limits.looping, limits.silent)
        self._start_times = 1  # the limits of a start times this
        self._startup = self._new_start()
        self._progress = ""
        self._kill_at = 0
        self._position_asked: int | None = None  # last check-in that asked for a position
        self._backoff = limits.backoff_first
        self._due: dict[str, int] = {}  # what is to happen when: spawn, watchdog, feed, verify, relay NAME, settle NAME
        self._led: bool | None = None
        self._was_late = False
        self._notes: tuple[str, ...] = ()  # of the last check-in: each is logged once
        self._actions: list[Action] = []

    # -- the interface

    def step(self, now: int, event: Event) -> list[Action]:
        """Take one event and return what to do, in this order. Results come back as events of later steps."""
        self._actions = []
        if self.relays and (late := now - self.deadline()) > self.limits.stall:
            # The whole machine stood still, bypassd with us: it gets its time again. The grace goes on counting.
            self._patience.stood_still(now, late)
        match event:
            case Started():
                self._start(now, event)
            case CheckIn():
                self._check_in(now, event)
            case Looked():
                self._looked(now, event)
            case Exited(how):
                self._exited(now, how)
            case LinkLost(why):
                self._link_lost(now, why)
            case RelayReport():
                self._relay_report(now, event)
            case WatchdogReport():
                self._watchdog_report(now, event)
            case Stop():
                self._stop(now)
            case Tick():
                pass
        self._run_due(now)
        self._judge_bypassd(now)
        self._move_relays(now)
        return self._actions

    def deadline(self) -> int:
        """When the next Tick is due."""
        times = list(self._due.values())
        if self.phase in (Phase.STARTING, Phase.SERVING):
            times.append(self._patience.deadline())
        elif self.phase is Phase.ENDING:
            times.append(self._kill_at)
        held = any(relay.usable and relay.want != BYPASS for relay in self.relays.values())
        if self._position_asked is not None and held and not self.stopping:
            times.append(self._position_asked + self._held_for())
        return min(times, default=self.started + FAR)

    def state(self) -> dict[str, object]:
        """The state as it is sent to bypassd."""
        return {
            "type": "state",
            "relays": {
                name: {"relay": relay.position, "cause": str(relay.cause), "usable": relay.usable, "error": relay.error}
                for name, relay in self.relays.items()
            },
            "bypassd_restarts": self.restarts,
            "last_exit": self.last_exit,
            "watchdog": {"present": self._has_watchdog, "timeout_ms": self.watchdog_ms, "error": self.watchdog_error},
            "keeper_started_ns": self.started,
        }

    # -- start and stop

    def _start(self, now: int, event: Started) -> None:
        self.started = self._phase_since = now
        self._has_watchdog = event.watchdog
        self.relays = {name: RelayState((event.settle or {}).get(name, 0)) for name in event.relays}
        if event.watchdog:
            self._due["watchdog"] = now
        for name in event.relays:
            self._due[f"relay {name}"] = now
        self._due["spawn"] = now
        self._due["verify"] = now + self.limits.verify

    def _stop(self, now: int) -> None:
        if self.stopping:
            return
        self.stopping = True
        said = f"the watchdog resets the machine in {self.limits.watchdog_stop_ms // 1000} s if it is still up"
        self._do(Log(f"orderly stop: relay to bypass, then bypassd is ended; {said}", severe=False))
        for name in [key for key in self._due if key == "spawn" or key.startswith("relay ")]:
            del self._due[name]
        if self.phase in (Phase.STARTING, Phase.SERVING):
            self._enter(now, Turn.END)
            self._kill_at = now + self.limits.ending
            self._do(Kill(orderly=True))
        elif self.phase is Phase.DOWN:
            self._finish(now)

    def _finish(self, now: int) -> None:
        for name, relay in self.relays.items():
            if relay.position != BYPASS:
                self._drive(now, name, relay, BYPASS, Cause.STOPPING)
        self._due.clear()
        self._do(CloseWatchdog(self.limits.watchdog_stop_ms))
        self._do(Exit())

    # -- bypassd

    def _check_in(self, now: int, event: CheckIn) -> None:
        if self.phase not in (Phase.STARTING, Phase.SERVING):
            return
        if self.phase is Phase.SERVING:
            self._silence.heard(now)
        elif event.progress != self._progress:
            self._progress = event.progress
            self._startup.heard(now)
        if event.notes != self._notes:
            self._notes = event.notes
            for note in event.notes:
                self._do(Log(f"check-in of bypassd: {note}"))
        if event.grace_ns is not None:
            self._grace = event.grace_ns
        if event.watchdog_ms is not None and event.watchdog_ms != self._watchdog_wanted:
            self._watchdog_wanted = event.watchdog_ms
            if self.watchdog_ms:
                self._do(SetWatchdog(event.watchdog_ms))
        if any(ask.want == HOLD for ask in event.relays.values()):
            return  # still starting: keep what is, and do not prolong the grace either (a crash loop must end)
        if self.phase is Phase.STARTING:
            self._enter(now, Turn.READY)
            self._start_times = 1
            self._silence.heard(now)
        self._position_asked = now
        for name, relay in self.relays.items():
            ask = event.relays.get(name)
            relay.want, relay.want_cause = (ask.want, ask.cause) if ask else (BYPASS, Cause.CONFIGURED)

    def _exited(self, now: int, how: str) -> None:
        if self.phase is Phase.DOWN:
            return
        served = self.phase is Phase.SERVING and now - self._phase_since >= self.limits.healthy
        self.last_exit = how
        self._enter(now, Turn.EXIT)
        if self.stopping:
            self._finish(now)
            return
        if served:
            self._backoff = self.limits.backoff_first
        self._due["spawn"] = now + self._backoff
        self._do(Log(f"bypassd {how}: starting it again in {self._backoff // MS} ms, relay held meanwhile"))
        self._backoff = min(self._backoff * 2, self.limits.backoff_last)

    def _end_bypassd(self, now: int, why: str) -> None:
        if self.phase in (Phase.STARTING, Phase.SERVING):
            self._do(Log(f"bypassd {why}: killed, relay held meanwhile"))
            self._kill(now)

    def _link_lost(self, now: int, why: str) -> None:
        """Most likely it is about to exit, and its own exit status says more than a kill would."""
        if self.phase in (Phase.STARTING, Phase.SERVING):
            self._do(Log(f"bypassd {why}: waiting for it to exit, relay held meanwhile", severe=False))
            self._enter(now, Turn.END)
            self._kill_at = now + self.limits.checkin

    def _kill(self, now: int) -> None:
        self._do(Kill(orderly=False))
        self._enter(now, Turn.END)
        self._kill_at = now + self.limits.ending

    @property
    def _patience(self) -> Silence:
        """What judges bypassd in its present phase."""
        return self._startup if self.phase is Phase.STARTING else self._silence

    def _new_start(self) -> Silence:
        limits, times = self.limits, self._start_times
        return Silence(
            times * limits.starting_idle,
            times * limits.starting,
            times * limits.starting_longest,
            "is starting and has made no progress",
        )

    def _looked(self, now: int, look: Looked) -> None:
        if self.phase in (Phase.STARTING, Phase.SERVING):
            self._give_up(now, self._patience.looked(now, look))

    def _judge_bypassd(self, now: int) -> None:
        if self.phase in (Phase.STARTING, Phase.SERVING):
            if why := self._patience.over(now):
                self._give_up(now, why)
            elif self._patience.look_due(now):
                if self._patience.first:
                    self._do(Send())  # whoever sleeps over a timer that never fired wakes up and checks in
                self._do(Look())
        elif self.phase is Phase.ENDING and now >= self._kill_at:
            self._kill(now)

    def _give_up(self, now: int, why: str) -> None:
        if why:
            if self.phase is Phase.STARTING:
                self._start_times = min(2 * self._start_times, self.limits.starting_most)
            self._end_bypassd(now, why)

    def _enter(self, now: int, turn: Turn) -> None:
        self.phase, self._phase_since = PHASES.after(self.phase, turn), now

    # -- what is due

    def _run_due(self, now: int) -> None:
        for what in [key for key, when in self._due.items() if when <= now]:
            when = self._due.pop(what)
            if what == "spawn":
                if self.last_exit:
                    self.restarts += 1
                self._enter(now, Turn.SPAWN)
                self._startup, self._progress = self._new_start(), ""
                self._startup.heard(now)
                self._do(Spawn())
            elif what == "watchdog":
                self._do(OpenWatchdog(self._watchdog_wanted))
            elif what == "feed":
                self._feed(now, when)
            elif what == "verify":
                for name, relay in self.relays.items():
                    if relay.usable:
                        self._do(ReadRelay(name, relay.target))
                self._due["verify"] = now + self.limits.verify
            elif what.startswith("settle "):
                name = what.removeprefix("settle ")
                if self.relays[name].usable:
                    self._do(ReadRelay(name, self.relays[name].target))
            else:
                self._do(OpenRelay(what.removeprefix("relay ")))

    def _feed(self, now: int, when: int) -> None:
        """Only a step that runs on time feeds: one that is half a timeout late does not, and the next is soon.

        Eight times in a timeout, so that a keeper that dies leaves most of it to its successor.
        """
        interval = self.watchdog_ms * MS // 8
        late = now - when > 4 * interval
        if late and not self._was_late:
            self._do(Log(f"the keeper's loop is {(now - when) // MS} ms late: skipping this feed of the watchdog"))
        self._was_late = late
        if late:
            self._due["feed"] = now + 20 * MS
        else:
            self._do(Feed())
            self._due["feed"] = now + interval

    # -- hardware

    def _watchdog_report(self, now: int, event: WatchdogReport) -> None:
        if event.error:
            # one that was open still counts: the first try comes when a feed would
            wait = self.watchdog_ms * MS // 8 or self.limits.retry
            self.watchdog_ms = 0
            self._due.pop("feed", None)
            if not self.stopping:
                self._due["watchdog"] = now + wait
            if event.error != self.watchdog_error:
                self._do(Log(event.error))
        else:
            if event.timeout_ms != self.watchdog_ms:
                self._do(Log(f"watchdog armed, {event.timeout_ms} ms", severe=False))
            self.watchdog_ms = event.timeout_ms
            self._do(Feed())
            self._due["feed"] = now + event.timeout_ms * MS // 8
        self.watchdog_error = event.error
        self._do(Send())

    def _relay_report(self, now: int, event: RelayReport) -> None:
        relay = self.relays[event.relay]
        if event.error:
            self._relay_lost(now, event.relay, relay, event.cause, event.error)
        elif not relay.usable:
            relay.usable, relay.error = True, ""
            relay.position = relay.target = event.position
            if event.position != BYPASS:  # taken over from an earlier keeper: as if its bypassd had asked just now
                relay.want, relay.want_cause = event.position, Cause.HEALTHY
                self._position_asked = now
            self._do(Log(f"relay {event.relay}: line taken, in {event.position}", severe=False))
            self._do(Send())
        elif now < relay.moving_until:
            pass  # read again when the contacts have settled
        elif event.position != event.expected:
            said = f"relay {event.relay}: told {event.expected}, reads {event.position}: check coil and GPIO controller"
            relay.position = event.position
            self._do(CloseRelay(event.relay))
            self._relay_lost(now, event.relay, relay, Cause.RELAY_FAULT, said)
        elif event.position != relay.position:
            relay.position = event.position
            self._do(Send())  # after the move: bypassd waits for the confirmed position

    def _relay_lost(self, now: int, name: str, relay: RelayState, cause: Cause, error: str) -> None:
        relay.usable, relay.cause = False, cause
        relay.target = relay.position = BYPASS
        relay.want, relay.want_cause = BYPASS, cause
        if not self.stopping:
            self._due[f"relay {name}"] = now + self.limits.retry
        if error != relay.error:
            self._do(Log(error))
            relay.error = error
            self._do(Send())

    def _move_relays(self, now: int) -> None:
        silent = FAR if self._position_asked is None else now - self._position_asked
        lost = silent >= self._held_for()
        for name, relay in self.relays.items():
            if not relay.usable:
                continue
            position, cause = relay.want, relay.want_cause
            if self.stopping:
                position, cause = BYPASS, Cause.STOPPING
            elif lost and relay.want != BYPASS:
                relay.want = position = BYPASS
                relay.want_cause = cause = Cause.SUPERVISOR_LOST
                self._do(Log(f"relay {name}: no supervisor for {silent // MS} ms: to bypass"))
            relay.cause = cause
            if position != relay.target:
                self._drive(now, name, relay, position, cause)
        on = bool(self.relays) and all(relay.target == INLINE for relay in self.relays.values())
        if on != self._led:
            self._led = on
            self._do(Led(on))

    def _held_for(self) -> int:
        """How long after the last check-in that asked for a position the relays are held in it."""
        return max(self._grace, self.limits.checkin) if self.phase is Phase.SERVING else self._grace

    def _drive(self, now: int, name: str, relay: RelayState, position: str, cause: str) -> None:
        relay.target = position
        relay.cause = cause
        if relay.settle:
            relay.moving_until = self._due[f"settle {name}"] = now + relay.settle
        self._do(Drive(name, position))
        self._do(Log(f"relay {name}: to {position} ({cause})", severe=False))
        self._do(Send())

    def _do(self, action: Action) -> None:
        self._actions.append(action)
