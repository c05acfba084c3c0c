# SPDX-License-Identifier: GPL-2.0-only
"""The drill of one relay: to bypass, rest there, back inline, the first frame. Pure.

The link is joined by the relay or carried by the appliance in every phase: a drill that fails or is aborted ends by not
asking for bypass any more, and the segment then does what it always does. Only the keeper's report of the position
counts as a move. Times are nanoseconds of CLOCK_MONOTONIC.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple

MS: Final = 1_000_000
SECOND: Final = 1000 * MS
MOVE: Final = 3 * SECOND  # from the order until the keeper reports bypass
REST: Final = 5 * SECOND  # in bypass: neighbours renegotiate their links meanwhile
RETURN: Final = 120 * SECOND  # from the end of the rest until the keeper reports inline, with the re-arm delay
FRAME: Final = 10 * SECOND  # for a first frame; a quiet link is no failure


class Phase(StrEnum):
    """Where the drill is."""

    LEAVING = "leaving"  # bypass was asked for
    RESTING = "resting"  # in bypass
    RETURNING = "returning"  # bypass is not asked for any more
    LISTENING = "listening"  # inline; waits for a frame
    DONE = "done"


class Seen(NamedTuple):
    """What is observed. `relay`: the position that the keeper reports; `frames`: received by both ports so far."""

    relay: str
    cause: str = ""  # of the segment
    frames: int | None = None
    asked: str = ""  # the operator's order for the segment


class Measured(NamedTuple):
    """The result. Times in ns; None: not measured. `rest_frames`: received by our ports while in bypass."""

    passed: bool = False
    said: str = ""
    to_bypass: int | None = None
    to_inline: int | None = None
    first_frame: int | None = None
    rest_frames: int | None = None


class RelayDrill:
    """One drill; `step` it whenever something may have changed, at least at `deadline`."""

    def __init__(self, now: int, seen: Seen) -> None:
        """`seen`: before anything is asked for; the segment is inline."""
        self.phase = Phase.LEAVING
        self.result = Measured()
        self._since, self._asked, self._frames = now, seen.asked, seen.frames

    @property
    def bypass(self) -> bool:
        """Whether the segment is to be in bypass for the drill."""
        return self.phase in (Phase.LEAVING, Phase.RESTING)

    def deadline(self) -> int | None:
        """When a limit of the present phase passes; None: it is over."""
        wait = {Phase.LEAVING: MOVE, Phase.RESTING: REST, Phase.RETURNING: RETURN, Phase.LISTENING: FRAME}
        return None if self.phase is Phase.DONE else self._since + wait[self.phase]

    def step(self, now: int, seen: Seen) -> None:
        """Take what is seen at `now`."""
        if self.phase is not Phase.DONE and seen.asked != self._asked:
            self.abort(f"an operator asked for {seen.asked or 'the configured mode'} meanwhile")
        due = self.deadline()
        late = due is not None and now >= due
        match self.phase:
            case Phase.LEAVING:
                if seen.relay == "bypass":
                    self.result = self.result._replace(to_bypass=now - self._since)
                    self._enter(Phase.RESTING, now, seen)
                elif late:
                    self._fail(f"the relay was not reported in bypass within {MOVE // SECOND} s")
            case Phase.RESTING:
                if seen.relay != "bypass":
                    self._fail(f"the relay left bypass by itself: it is reported in {seen.relay or 'no position'}")
                elif late:
                    if seen.frames is not None and self._frames is not None:
                        self.result = self.result._replace(rest_frames=max(0, seen.frames - self._frames))
                    self._enter(Phase.RETURNING, now, seen)
            case Phase.RETURNING:
                if seen.relay == "inline":
                    self.result = self.result._replace(to_inline=now - self._since)
                    self._enter(Phase.LISTENING, now, seen)
                elif late:
                    self._fail(f"the segment did not go inline again within {RETURN // SECOND} s: {seen.cause}")
            case Phase.LISTENING:
                if seen.relay != "inline":
                    self._fail(f"the segment left inline again at once: {seen.cause}")
                elif seen.frames is not None and self._frames is not None and seen.frames > self._frames:
                    self.result = self.result._replace(first_frame=now - self._since)
                    self._pass("the relay moved to bypass and back")
                elif late:
                    self._pass("the relay moved to bypass and back; no frame came, so it is not known that one passes")

    def abort(self, why: str) -> None:
        """End it; no result counts."""
        self._fail(f"aborted: {why}")

    def _enter(self, phase: Phase, now: int, seen: Seen) -> None:
        self.phase, self._since, self._frames = phase, now, seen.frames

    def _fail(self, why: str) -> None:
        self.phase, self.result = Phase.DONE, self.result._replace(passed=False, said=why)

    def _pass(self, said: str) -> None:
        if self.result.rest_frames:
            said += f"; our ports received {self.result.rest_frames} frames in bypass, which is right only on a board "
            said += "whose ports stay connected then"
        self.phase, self.result = Phase.DONE, self.result._replace(passed=True, said=said)
