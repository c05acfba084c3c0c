# SPDX-License-Identifier: GPL-2.0-only
"""The relay state machine of one segment: one table (see transition.py). Pure: `now` is passed in.

    starting    bypassd has just started; the keeper gets "hold", so the relay stays where it is
    bypass      fail to wire, with a cause
    rearming    there is no reason for bypass any more; this must last for the re-arm delay
    engaging    inline was requested from the keeper, which has not confirmed it yet
    inline      the keeper confirmed it
    disconnect  the link is cut on request

Leaving inline for a fault soon after it was reached doubles the re-arm delay, up to an hour (each move of the relay
makes both neighbours renegotiate their links); every ten minutes inline halve it again. So a relay moves some twenty
times in the first hour of trouble and a few times an hour from then on, whatever happens to links, ports and frames.

Faults that only show inline (a missing link, frames that a port does not send) leave no lasting fact in bypass, where
the board joins its connectors and its ports see nothing, or each other. Such a fault is a *trip*: the machine waits for
the delay under the trip's cause and then tries again; the watch on links and frames ends the attempt if the fault is
still there.

An adopted segment (bypassd restarted, relay held inline by the keeper, datapath intact) goes from starting to inline at
once, without a move of the relay.

Times are nanoseconds of CLOCK_MONOTONIC. The object lives as long as bypassd has the segment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from appliance.causes import Cause
from appliance.segment.policy import Facts, mode
from appliance.transition import Table

SECOND = 1_000_000_000


class State(StrEnum):
    """See the module."""

    STARTING = "starting"
    BYPASS = "bypass"
    REARMING = "rearming"
    ENGAGING = "engaging"
    INLINE = "inline"
    DISCONNECT = "disconnect"


class Stimulus(StrEnum):
    """The machine's events, after policy has evaluated the facts."""

    ADOPT = "adopt"  # started, relay found inline, no reason against it
    UNFIT = "unfit"  # policy says bypass
    FIT = "fit"  # policy says inline
    DUE = "due"  # fit for the re-arm delay
    CONFIRMED = "confirmed"  # keeper: relay is inline
    LOST = "lost"  # keeper: relay is not inline although we request it
    CUT = "cut"  # policy says disconnect


TABLE: Table[State, Stimulus] = Table(
    "a segment",
    {
        (State.STARTING, Stimulus.ADOPT): State.INLINE,
        (State.STARTING, Stimulus.UNFIT): State.BYPASS,
        (State.STARTING, Stimulus.FIT): State.REARMING,
        (State.STARTING, Stimulus.CUT): State.DISCONNECT,
        (State.BYPASS, Stimulus.FIT): State.REARMING,
        (State.BYPASS, Stimulus.CUT): State.DISCONNECT,
        (State.REARMING, Stimulus.UNFIT): State.BYPASS,
        (State.REARMING, Stimulus.DUE): State.ENGAGING,
        (State.REARMING, Stimulus.CUT): State.DISCONNECT,
        (State.ENGAGING, Stimulus.CONFIRMED): State.INLINE,
        (State.ENGAGING, Stimulus.LOST): State.BYPASS,
        (State.ENGAGING, Stimulus.UNFIT): State.BYPASS,
        (State.ENGAGING, Stimulus.CUT): State.DISCONNECT,
        (State.INLINE, Stimulus.LOST): State.BYPASS,
        (State.INLINE, Stimulus.UNFIT): State.BYPASS,
        (State.INLINE, Stimulus.CUT): State.DISCONNECT,
        (State.DISCONNECT, Stimulus.UNFIT): State.BYPASS,
        (State.DISCONNECT, Stimulus.FIT): State.REARMING,
    },
)

WANT: dict[State, str] = {
    State.STARTING: "hold",
    State.BYPASS: "bypass",
    State.REARMING: "bypass",
    State.ENGAGING: "inline",
    State.INLINE: "inline",
    State.DISCONNECT: "disconnect",
}
"""What is requested from the keeper in each state."""


TRIPS = (Cause.LINK_DOWN, Cause.LINKS_DOWN, Cause.NOT_SENT)
"""Causes that can only be observed inline."""


@dataclass(frozen=True)
class Times:
    """The machine's times in nanoseconds."""

    rearm_delay: int = 2 * SECOND
    rearm_max: int = 3600 * SECOND  # the back-off does not grow beyond this (or beyond rearm_delay, if that is longer)
    rearm_step: int = SECOND  # nor does it start below this, because doubling 0 has no effect
    flap_window: int = (
        600 * SECOND
    )  # leaving inline for a fault sooner than this doubles the delay; each such period inline halves it
    early: int = 900 * SECOND  # a hint that a lost link is back cuts the wait short, once in this time
    confirm: int = 3 * SECOND  # the keeper has this long to confirm inline


@dataclass(frozen=True)
class Move:
    """One change of state, for the ledger."""

    old: State
    new: State
    cause: Cause
    detail: str


class Machine:
    """One segment: events go in, moves come out. `want` and `deadline` follow from the state."""

    def __init__(self, times: Times | None = None) -> None:
        self.times = times or Times()
        self.state = State.STARTING
        self.cause = Cause.STARTING
        self.detail = ""
        self.since = 0  # when this state was reached
        self.relay = ""  # as reported by the keeper
        self.delay = self.times.rearm_delay  # the current one, with back-off
        self._due: int  # when a wait ends; set on entering it
        self._fit_since: int | None = None
        self._tripped: tuple[Cause, str] | None = None  # the last trip, until something else leads to bypass
        self._hastened: int | None = None  # when a wait was last cut short
        self._moves: list[Move] = []

    @property
    def want(self) -> str:
        """What to request from the keeper."""
        return WANT[self.state]

    @property
    def tripped(self) -> Cause | None:
        """The last trip's cause: the machine waits for the next attempt, makes it, or has succeeded with it."""
        return self._tripped[0] if self._tripped else None

    def remember(self) -> dict[str, int | str]:
        """The back-off, for the machine of the next bypassd: a crash must not reset it."""
        if self.delay <= self.times.rearm_delay:
            return {}
        cause, detail = self._tripped or (Cause.REARMING, "")
        since = self.since if self._fit_since is None else self._fit_since
        return {"delay": self.delay, "since": since, "cause": cause, "detail": detail}

    def recall(self, remembered: Mapping[str, object]) -> None:
        """Continue with the back-off of an earlier bypassd of this boot. Malformed values are ignored."""
        match remembered:
            case {"delay": int(delay), "since": int(since), "cause": str(cause), "detail": str(detail)}:
                self.delay = max(self.times.rearm_delay, min(delay, self.times.rearm_max))
                self._fit_since = since
                if cause in TRIPS:
                    self._tripped = Cause(cause), detail

    def deadline(self) -> int | None:
        """When to call `tick`; None = nothing to wait for."""
        if self.state is State.REARMING:
            return self._due
        if self.state is State.ENGAGING:
            return self.since + self.times.confirm
        return None

    def retime(self, times: Times) -> None:
        """Use other times from now on. A delay that back-off has lengthened stays as it is."""
        if self.delay <= self.times.rearm_delay:
            self.delay = times.rearm_delay
        self.delay = max(times.rearm_delay, min(self.delay, times.rearm_max))
        self.times = times

    def begin(self, now: int, facts: Facts, relay: str, intact: bool, first: bool = False) -> list[Move]:
        """End of the start: the facts and the relay's position are known; `intact` = datapath adopted.

        `first`: the machine has just booted, and not after a crash. The re-arm delay is for going inline *again*, so
        there is none then; after a panic or a watchdog reset there is, or the relay would flap in a crash loop.
        """
        self._moves = []
        self.relay = relay
        if first and not facts.against:
            self._fit_since = now - self.delay
        if mode(facts)[0] == "inline" and relay == "inline" and intact:
            self._fit_since = now
            self._move(now, Stimulus.ADOPT, Cause.HEALTHY, "adopted, the relay did not move")
        else:
            self._follow(now, facts)
        return self._moves

    def facts(self, now: int, facts: Facts) -> list[Move]:
        """The facts changed, or were checked again."""
        self._moves = []
        if self.state is not State.STARTING:
            self._follow(now, facts)
        return self._moves

    def trip(self, now: int, cause: Cause, detail: str) -> list[Move]:
        """Go to bypass for something that leaves no lasting fault (a lost link)."""
        self._moves = []
        if self.state in (State.INLINE, State.ENGAGING):
            self._back_off(now)
            self._fit_since = now
            self._tripped = (cause, detail)
            self._move(now, Stimulus.UNFIT, cause, detail)
        return self._moves

    def remark(self, cause: Cause, detail: str) -> list[Move]:
        """Report a fault that is no reason to leave inline (yet); Cause.HEALTHY when it is over."""
        self._moves = []
        if self.state is State.INLINE:
            if cause is not self.cause:
                self._moves.append(Move(self.state, self.state, cause, detail))
            if cause is not self.cause or cause is not Cause.HEALTHY:
                self.cause, self.detail = cause, detail
        return self._moves

    def hasten(self, now: int) -> None:
        """There is a hint that the trip's cause is over: try soon. Heeded rarely, because hints flap like links."""
        rare = self._hastened is None or now - self._hastened >= self.times.early
        due = now + self.times.rearm_delay
        if self.state is State.REARMING and self._tripped and rare and due < self._due:
            self._due, self._hastened = due, now

    def forgive(self) -> None:
        """An operator says "try now": reset the back-off and end a wait with the next `tick`."""
        self.delay = self.times.rearm_delay
        if self.state is State.REARMING:
            self._due = self.since

    def keeper(self, now: int, relay: str, cause: str) -> list[Move]:
        """The keeper reported the relay's position."""
        self._moves = []
        self.relay = relay
        if self.state is State.ENGAGING and relay == "inline":
            self._move(now, Stimulus.CONFIRMED, Cause.HEALTHY, "")
        elif self.state is State.INLINE and relay != "inline":
            self._lost(now, f"the keeper reports the relay in {relay} ({cause})")
        return self._moves

    def tick(self, now: int) -> list[Move]:
        """A deadline may have passed."""
        self._moves = []
        due = self.deadline()
        if due is not None and now >= due:
            if self.state is State.REARMING:
                self._move(now, Stimulus.DUE, Cause.HEALTHY, "")
            else:
                self._lost(now, "the keeper did not confirm inline in time")
        return self._moves

    def _lost(self, now: int, detail: str) -> None:
        self._back_off(now)
        self._fit_since, self._tripped = now, None
        self._move(now, Stimulus.LOST, Cause.RELAY_FAULT, detail)

    def _follow(self, now: int, facts: Facts) -> None:
        """Move towards what policy says. A requested bypass does not count as flapping; a fault does."""
        wanted, cause, detail = mode(facts)
        if facts.against:
            self._fit_since = None
        elif self._fit_since is None:
            self._fit_since = now
        if wanted == "inline":
            if self.state in (State.STARTING, State.BYPASS, State.DISCONNECT):
                since = now if self._fit_since is None else self._fit_since
                self._due = max(now, since + self.delay)
                wait = f"{(self._due - now) / 1e9:.1f} s"
                if self._tripped and self.state is not State.DISCONNECT:
                    cause, detail = self._tripped[0], f"{self._tripped[1]}: next attempt after {wait}"
                else:
                    after = "" if self.state is State.STARTING else f", after {self.cause}"
                    cause, detail = Cause.REARMING, f"inline in {wait}{after}"
                self._move(now, Stimulus.FIT, cause, detail)
            return
        if (
            self.state in (State.INLINE, State.ENGAGING)
            and facts.asked in ("auto", "inline")
            and cause is not Cause.STOPPING
        ):
            self._back_off(now)
        self._tripped = None
        target = State.DISCONNECT if wanted == "disconnect" else State.BYPASS
        if self.state is not target:
            self._move(now, Stimulus.CUT if wanted == "disconnect" else Stimulus.UNFIT, cause, detail)
        elif (cause, detail) != (self.cause, self.detail):
            self._moves.append(Move(self.state, self.state, cause, detail))
            self.cause, self.detail = cause, detail

    def _back_off(self, now: int) -> None:
        steady = (now - self.since) // self.times.flap_window if self.state is State.INLINE else 0
        if steady:
            delay = self.delay >> steady
        else:
            delay = min(max(2 * self.delay, self.times.rearm_step), self.times.rearm_max)
        self.delay = max(self.times.rearm_delay, delay)

    def _move(self, now: int, stimulus: Stimulus, cause: Cause, detail: str) -> None:
        new = TABLE.after(self.state, stimulus)
        self._moves.append(Move(self.state, new, cause, detail))
        self.state, self.cause, self.detail, self.since = new, cause, detail, now
