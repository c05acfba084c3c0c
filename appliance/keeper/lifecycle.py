# SPDX-License-Identifier: GPL-2.0-only
"""bypassd's life as the keeper decides it: when it is started, killed and restarted. Pure.

- A bypassd that exits is restarted with back-off.
- A bypassd that misses its check-ins is killed first, unless the kernel says that it would run but gets no processor
  (silence.py).
- A start is killed only if it makes no progress, and the next one then gets twice the time.
"""

from __future__ import annotations

from enum import StrEnum

from appliance.keeper.agenda import Agenda
from appliance.keeper.limits import MS, Limits
from appliance.keeper.messages import Kill, Log, Look, Send, Spawn
from appliance.keeper.sequence import MOST_WRONG, Proof, Sequence
from appliance.keeper.silence import Looked, Silence
from appliance.transition import Table


class Phase(StrEnum):
    """Where bypassd is in its life, as the keeper knows it."""

    DOWN = "down"  # no process
    STARTING = "starting"  # started, has not asked for a position yet
    SERVING = "serving"  # checks in
    ENDING = "ending"  # was signalled or is about to exit, and is killed if it takes too long


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


class Lifecycle:
    """The phase that bypassd is in, how long it has been silent in it, and when it is restarted."""

    def __init__(self, limits: Limits) -> None:
        self.phase = Phase.DOWN
        self.restarts = 0
        self.last_exit = ""
        self._limits = limits
        self._silence = Silence(limits.checkin, limits.looping, limits.silent)
        self._start_times = 1  # the limits of a start are multiplied by this
        self._backoff = limits.backoff_first
        # each is set on entering the phase that reads it
        self._since: int  # in this phase
        self._startup: Silence
        self._sequence: Sequence
        self._progress: str
        self._kill_at: int
        self._late = ""  # the parts that keep it from checking in
        self._why = ""  # it was killed

    @property
    def running(self) -> bool:
        """It exists and was not told to stop: what it sends counts, and so does its silence."""
        return self.phase in (Phase.STARTING, Phase.SERVING)

    @property
    def serving(self) -> bool:
        """It has asked for a position since its start."""
        return self.phase is Phase.SERVING

    def begin(self, agenda: Agenda) -> None:
        """Start it in this step."""
        agenda.due["spawn"] = agenda.now

    def deadline(self) -> int | None:
        """When to check on it, or to kill it; None while it is down."""
        if self.running:
            return self._patience.deadline()
        return self._kill_at if self.phase is Phase.ENDING else None

    # -- what happens to it

    def spawn(self, agenda: Agenda) -> None:
        """Start it now."""
        if self.last_exit:
            self.restarts += 1
        self._enter(agenda.now, Turn.SPAWN)
        self._startup, self._progress = self._new_start(), ""
        self._startup.heard(agenda.now)
        self._sequence = Sequence()
        self._late = self._why = ""
        agenda.do(Spawn())

    def proves(self, agenda: Agenda, proof: Proof | None) -> bool:
        """Whether a check-in proves that its work was done before. For several in a row that do not, it is killed."""
        said = self._sequence.judge(agenda.now, proof)
        if said and self._sequence.wrong == 1:
            agenda.do(Log(f"check-in of bypassd does not count: {said}"))
        if self._sequence.wrong >= MOST_WRONG:
            self._give_up(agenda, f"has checked in wrongly {MOST_WRONG} times: {said}")
        return not said

    def blame(self, agenda: Agenda, parts: str) -> None:
        """It is alive and says which parts keep it from checking in: this ends no silence."""
        if self.running and parts != self._late:
            self._late = parts

    def heard(self, now: int, progress: str) -> None:
        """It checked in; `progress` as in CheckIn."""
        self._late = ""
        if self.serving:
            self._silence.heard(now)
        elif progress != self._progress:
            self._progress = progress
            self._startup.heard(now)

    def ready(self, now: int) -> None:
        """It asked for a position."""
        if self.phase is Phase.STARTING:
            self._enter(now, Turn.READY)
            self._start_times = 1
            self._silence.heard(now)

    def exited(self, agenda: Agenda, how: str) -> None:
        """Its process has ended, or could not be started."""
        served = self.serving and agenda.now - self._since >= self._limits.healthy
        self.last_exit = f"{how} by the keeper: it {self._why}" if self._why else how
        self._enter(agenda.now, Turn.EXIT)
        if agenda.stopping:
            return
        if served:
            self._backoff = self._limits.backoff_first
        agenda.due["spawn"] = agenda.now + self._backoff
        agenda.do(Log(f"bypassd {how}: restarting it in {self._backoff // MS} ms, relay held meanwhile"))
        self._backoff = min(self._backoff * 2, self._limits.backoff_last)

    def link_lost(self, agenda: Agenda, why: str) -> None:
        """Its end of the link is gone: most likely it is about to exit, and its exit status says more than a kill."""
        if self.running:
            agenda.do(Log(f"bypassd {why}: waiting for it to exit, relay held meanwhile", severe=False))
            self._enter(agenda.now, Turn.END)
            self._kill_at = agenda.now + self._limits.checkin

    def stop(self, agenda: Agenda) -> None:
        """Tell it to exit in good order."""
        self._enter(agenda.now, Turn.END)
        self._kill_at = agenda.now + self._limits.ending
        agenda.do(Kill(orderly=True))

    # -- its silence

    def stood_still(self, now: int, late: int) -> None:
        """The whole machine stood still for `late` ns, and bypassd with us: its time starts anew."""
        self._patience.stood_still(now, late)

    def looked(self, agenda: Agenda, look: Looked) -> None:
        """The kernel's account of it has been read."""
        if self.running:
            self._give_up(agenda, self._patience.looked(agenda.now, look))

    def judge(self, agenda: Agenda) -> None:
        """Check on it or kill it, if that is due."""
        if self.running:
            if why := self._patience.over(agenda.now):
                self._give_up(agenda, why)
            elif self._patience.look_due(agenda.now):
                if self._patience.first:
                    agenda.do(Send())  # wakes a loop whose timer did not fire, so that it checks in
                agenda.do(Look())
        elif self.phase is Phase.ENDING and agenda.now >= self._kill_at:
            self._kill(agenda)

    @property
    def _patience(self) -> Silence:
        """The rule that applies in the current phase."""
        return self._startup if self.phase is Phase.STARTING else self._silence

    def _new_start(self) -> Silence:
        limits, times = self._limits, self._start_times
        return Silence(
            times * limits.starting_idle,
            times * limits.starting,
            times * limits.starting_longest,
            "is starting and has made no progress",
        )

    def _give_up(self, agenda: Agenda, why: str) -> None:
        if why:
            if self.phase is Phase.STARTING:
                self._start_times = min(2 * self._start_times, self._limits.starting_most)
            self._why = f"{why}: {self._late}" if self._late else why
            agenda.do(Log(f"bypassd {self._why}: killed, relay held meanwhile"))
            self._kill(agenda)

    def _kill(self, agenda: Agenda) -> None:
        agenda.do(Kill(orderly=False))
        self._enter(agenda.now, Turn.END)
        self._kill_at = agenda.now + self._limits.ending

    def _enter(self, now: int, turn: Turn) -> None:
        self.phase, self._since = PHASES.after(self.phase, turn), now
