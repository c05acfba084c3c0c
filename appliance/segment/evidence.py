# SPDX-License-Identifier: GPL-2.0-only
"""Checks that frames that the datapath sends by a port leave it. Pure: samples are passed in, about one a second.

The datapath counts its decision when a frame arrives; the port's driver counts the frames sent. A driver may update its
counters only every other second, so the decisions of a window are compared with the frames sent in that window and the
seconds after it.

A port that sends none of its frames cannot carry the link: the relay goes to bypass. One that sends some of them is
reported but stays inline; otherwise anyone who sends more than line rate could switch the inspection off.

Not every driver counts what XDP sends. A port is judged only if its driver has been seen to count, or if frames are
sent by tc, where every driver counts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import Final, NamedTuple

from appliance.causes import Cause
from appliance.counted import counted

SPAN: Final = 3  # samples in which frames are decided
LAG: Final = 3  # further samples within which they must have been sent
ENOUGH: Final = 20  # fewer frames in a window prove nothing
BUSY: Final = 4  # nor do frames in fewer of its samples: some drivers count a frame when the next one is sent
NONE_OF: Final = 256  # less than one sent of this many counts as none: the counters include frames that are not ours
SHARE: Final = 0.9  # less than this share sent is a shortfall
LASTING: Final = 10  # samples in a row with a shortfall make it a lasting one
UNCOUNTED: Final = 1000  # frames given while the driver counted none: it does not count


class Kept(StrEnum):
    """What is known about a port, by the API's names."""

    UNKNOWN = "unknown"  # too few frames so far
    SENT = "sent"
    PARTLY = "partly"
    NONE = "none"
    UNCOUNTED = "uncounted"


class PortSample(NamedTuple):
    """One port's counters at one moment, each since some starting point.

    `given`: frames that the datapath sent out of it, by the slot of the device they came from; slots may come and go.
    `sent`, `dropped`: as reported by its driver. `identity`: changes with the port or its way to send.
    `surely`: every driver counts frames that are sent this way.
    """

    name: str
    given: Mapping[int, int]
    sent: int
    dropped: int
    identity: tuple[int, str]
    surely: bool


Sample = Mapping[str, PortSample]
"""By side, "lan" and "wan"."""


@dataclass(frozen=True)
class Found:
    """What the samples mean for the segment."""

    cause: Cause = Cause.HEALTHY
    detail: str = ""
    bypass: bool = False


@dataclass
class PortEvidence:
    """One port. Lives as long as its segment."""

    kept: Kept = Kept.UNKNOWN
    detail: str = ""
    failed: str = ""  # it led to bypass, and has not been seen to send since
    given_in_all: int = 0  # given while the driver has not been seen to count
    _counts: bool = False
    _identity: tuple[int, str] = (0, "")
    _short: int = 0  # samples in a row
    _window: deque[PortSample] = field(default_factory=lambda: deque(maxlen=SPAN + LAG + 1))

    def forget(self) -> None:
        """Discard the counts so far: the relay or a link moved."""
        self._window.clear()
        self._short = 0
        if self.kept in (Kept.PARTLY, Kept.NONE):
            self.kept, self.detail = Kept.UNKNOWN, ""

    def add(self, sample: PortSample) -> None:
        """Take one more sample."""
        if sample.identity != self._identity:
            self.forget()
            self._identity, self._counts, self.given_in_all = sample.identity, False, 0
            self.failed = ""
            self.kept, self.detail = Kept.UNKNOWN, ""
        if self._window and _began_anew(self._window[-1], sample):
            self._window.clear()
        self._window.append(sample)
        if len(self._window) == self._window.maxlen:
            self._judge()

    def _judge(self) -> None:
        first, middle, last = self._window[0], self._window[SPAN], self._window[-1]
        given = _given(first, middle)
        sent, dropped = last.sent - first.sent, last.dropped - first.dropped
        busy = sum(1 for before, after in pairwise(self._window) if _given(before, after))
        if given < ENOUGH or busy < BUSY:
            return
        said = f"{last.name} sent {sent} of {counted(given, 'frame')} in {SPAN} s"
        said += f" and dropped {dropped}" if dropped else ""
        self._counts |= 2 * sent >= given
        if not (self._counts or last.surely):
            self.given_in_all += given
            if self.given_in_all >= UNCOUNTED:
                self.kept, self.detail = Kept.UNCOUNTED, f"the driver of {last.name} does not count what XDP sends"
        elif sent * NONE_OF < given:
            self.kept, self.detail, self.failed = Kept.NONE, said, said
        elif sent < given * SHARE:
            self._short += 1
            lasting = self._short >= LASTING
            self.kept, self.detail = (Kept.PARTLY if lasting else Kept.SENT), said
        else:
            self._short = 0
            self.kept, self.detail = Kept.SENT, ""
        if self.kept in (Kept.SENT, Kept.PARTLY):
            self.failed = ""


class Evidence:
    """Both ports of one segment."""

    def __init__(self) -> None:
        self.ports: dict[str, PortEvidence] = {"lan": PortEvidence(), "wan": PortEvidence()}

    def forget(self) -> None:
        """The relay or a link moved, or is not in place: counts meanwhile say nothing about the ports."""
        for port in self.ports.values():
            port.forget()

    def add(self, sample: Sample) -> None:
        """Take one more sample."""
        for side, port in self.ports.items():
            if side in sample:
                port.add(sample[side])

    def verdict(self) -> Found:
        """The conclusion from the samples so far."""
        for kept, cause in ((Kept.NONE, Cause.NOT_SENT), (Kept.PARTLY, Cause.PARTLY_SENT)):
            said = "; ".join(port.detail for port in self.ports.values() if port.kept is kept)
            if said:
                return Found(cause, said, bypass=kept is Kept.NONE)
        failed = "; ".join(
            f"{port.failed}, and too few frames since to tell" for port in self.ports.values() if port.failed
        )
        return Found(Cause.NOT_SENT, failed) if failed else Found()


def _given(before: PortSample, after: PortSample) -> int:
    """Frames given in between, by devices that were there at both moments."""
    return sum(now - before.given[slot] for slot, now in after.given.items() if slot in before.given)


def _began_anew(before: PortSample, after: PortSample) -> bool:
    """Whether a counter went backwards: it wrapped, the port was reset, or the datapath was replaced."""
    fell = after.sent < before.sent or after.dropped < before.dropped
    return fell or any(now < before.given[slot] for slot, now in after.given.items() if slot in before.given)
