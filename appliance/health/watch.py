# SPDX-License-Identifier: GPL-2.0-only
"""Watches one running guest: sends in-band heartbeats, takes evidence in, and hands out decisions.

The I/O around the pure verdict (combine.py): packet sockets on the guest's taps, one timer, and the time. It renews
no lease itself; it says until when the evidence holds. It lives as long as the guest's process.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from appliance.config import model
from appliance.errors import GuestError
from appliance.health.combine import Decision, History, Verdict
from appliance.health.detector import Bad, Detector, Event, Good, Limits, Tick, milliseconds
from appliance.health.inband import Direction, Lane
from appliance.health.taplink import TapLink
from appliance.histogram import LATENCY, Histogram

PROCESS_CHECK = "process"
HEARTBEAT_CHECK = "heartbeat"
PROCESS_LIMITS = Limits(interval=100_000_000, misses=3, rises=10)
"""For a guest without any check: its process runs. That proves little, which `show guests` says."""

SUPPORTED_PROBES = ("inband",)
_LATENCIES = 512


@dataclass(frozen=True)
class TapPair:
    """The two taps of a guest on one segment. `label` tells segments apart; "" where there is one only."""

    lan: str
    wan: str
    label: str = ""


@dataclass
class _Stream:
    """One lane in motion: what is sent into `entry` must come out at `exit`."""

    check: str
    lane: Lane
    entry: TapLink
    exit: TapLink


def percentile(values: Sequence[int], share: float) -> int | None:
    """The smallest value that `share` of the values do not exceed; None without values."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Watch:
    """All checks of one guest in motion."""

    def __init__(
        self,
        guest: model.Guest,
        hop: int,
        pairs: Sequence[TapPair],
        nonce: int,
        *,
        history: History,
        decide: Callable[[Decision], None],
        process_alive: Callable[[], bool],
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        unsupported = [probe.kind for probe in guest.probes if probe.kind not in SUPPORTED_PROBES]
        if unsupported:
            raise GuestError(f"guest {guest.name}: probe kind {unsupported[0]} is not supported by this version")
        self._decide, self._process_alive, self._clock = decide, process_alive, clock
        self._guest, self._hop, self._pairs, self._nonce = guest, hop, pairs, nonce
        self._links: list[TapLink] = []
        self._streams: list[_Stream] = []
        self._timer: asyncio.TimerHandle | None = None
        self._next_send = 0
        self._running = False
        self.latencies: deque[int] = deque(maxlen=_LATENCIES)
        self.histogram = Histogram(LATENCY)  # of all heartbeats of this run, in seconds
        # Several in-band probes would send the same frames: the most demanding one is all of them.
        inband = [probe for probe in guest.probes if probe.kind == "inband"]
        self._inband = min(inband, key=lambda probe: probe.interval * probe.misses) if inband else None
        detectors = [Detector(self._label(pair, way), _limits(self._inband)) for pair, way in self._lanes()]
        if guest.heartbeat is not None:
            beat = guest.heartbeat
            detectors.append(Detector(HEARTBEAT_CHECK, Limits(beat.interval, beat.misses, rises=2)))
        self.only_process = not detectors
        if self.only_process:
            detectors.append(Detector(PROCESS_CHECK, PROCESS_LIMITS))
        self.verdict = Verdict(detectors, history)
        self._interval = self._inband.interval if self._inband else min(each.limits.interval for each in detectors)

    def _lanes(self) -> list[tuple[TapPair, Direction]]:
        if self._inband is None:
            return []
        return [(pair, way) for pair in self._pairs for way in Direction]

    @staticmethod
    def _label(pair: TapPair, way: Direction) -> str:
        return f"in-band {pair.label} {way.arrow}" if pair.label else f"in-band {way.arrow}"

    def shorten_proof(self) -> None:
        """The guest was proved before bypassd restarted: one good answer a check is enough."""
        for detector in self.verdict.detectors.values():
            detector.shorten_proof()

    def start(self) -> None:
        """Open the sockets and begin. GuestError when a tap is not there."""
        loop = asyncio.get_running_loop()
        try:
            if self._inband is not None:
                for pair in self._pairs:
                    lan, wan = TapLink(pair.lan), TapLink(pair.wan)
                    self._links += [lan, wan]
                    for way in Direction:
                        entry, leaves = (lan, wan) if way is Direction.LAN_TO_WAN else (wan, lan)
                        stream = _Stream(self._label(pair, way), Lane(self._hop, way, self._nonce), entry, leaves)
                        self._streams.append(stream)
                        loop.add_reader(leaves.fileno(), self._read, stream)
        except GuestError:
            self.stop()
            raise
        self._running = True
        self._next_send = self._clock()
        self._tick()

    @property
    def running(self) -> bool:
        """Between `start` and `stop`."""
        return self._running

    def stop(self) -> None:
        """Close everything. Idempotent."""
        self._running = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._streams:
            loop = asyncio.get_running_loop()
            for stream in self._streams:
                loop.remove_reader(stream.exit.fileno())
        self._streams.clear()
        for link in self._links:
            link.close()
        self._links.clear()

    def heartbeat(self, status: str) -> None:
        """A heartbeat came over the agent channel; counts only where the configuration asks for heartbeats."""
        if HEARTBEAT_CHECK in self.verdict.detectors:
            now = self._clock()
            event = Good(now) if status == "ok" else Bad(f'the guest says "{status}"')
            self._step(now, HEARTBEAT_CHECK, event)

    def reset(self) -> None:
        """The guest started over: what was proved before counts no more."""
        self.verdict.forget()
        self.latencies.clear()

    def _step(self, now: int, check: str, event: Event) -> None:
        for decision in self.verdict.step(now, check, event):
            self._decide(decision)

    def _tick(self) -> None:
        """Send what is due, notice what is overdue, and come again in time for whichever is next."""
        now = self._clock()
        if now >= self._next_send:
            # On a grid, so that lateness does not add up; ticks that were missed altogether are left out.
            missed = (now - self._next_send) // self._interval
            self._next_send += (missed + 1) * self._interval
            for stream in self._streams:
                stream.entry.send(stream.lane.send(now))
            if self.only_process and self._process_alive():
                self._step(now, PROCESS_CHECK, Good(now))
        for check in list(self.verdict.detectors):
            self._step(now, check, Tick())
        if not self._running:  # a decision may have ended the watch
            return
        until = self.verdict.until
        due = min(self._next_send, until) if self.verdict.available and until > now else self._next_send
        self._timer = asyncio.get_running_loop().call_later(max(due - self._clock(), 0) / 1e9, self._tick)

    def _read(self, stream: _Stream) -> None:
        frames = stream.exit.receive()
        now = self._clock()
        for frame in frames:
            proof = stream.lane.receive(now, frame)
            if proof is not None:
                self.latencies.append(proof.latency)
                self.histogram.add(proof.latency / 1e9)
                self._step(now, stream.check, Good(proof.sent, proof.latency))

    def summary(self, now: int) -> dict[str, object]:
        """What `show guest NAME` says of the checks."""
        p50, p99 = percentile(self.latencies, 0.5), percentile(self.latencies, 0.99)
        return {
            "checks": self.verdict.evidence(now),
            "latency_p50_ms": None if p50 is None else round(p50 / 1e6, 3),
            "latency_p99_ms": None if p99 is None else round(p99 / 1e6, 3),
            "heartbeats": [
                {
                    "lane": stream.check,
                    "sent": stream.lane.sent,
                    "received": stream.lane.received,
                    "foreign": stream.lane.foreign,
                    "refused": stream.entry.refused,
                }
                for stream in self._streams
            ],
            "flips": [
                {"ago": milliseconds(now - flip.at), "check": flip.check, "to": flip.to, "why": flip.why}
                for flip in self.verdict.history.flips
            ],
        }


def _limits(probe: model.Probe | None) -> Limits:
    assert probe is not None
    return Limits(probe.interval, probe.misses, probe.rises)
