# SPDX-License-Identifier: GPL-2.0-only
"""All checks of one guest, decided: what is due when, and what each piece of evidence means for the verdict.

The part of the watch (watch.py) that needs no socket, timer or task. Times are passed in, in nanoseconds of
CLOCK_MONOTONIC; what is sent and limited goes through the ports and loads that the streams are given. Reads a probe's
capture file when it is configured. Lives as long as the guest's process.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from appliance.api.schema.guests import Heartbeats
from appliance.causes import Cause
from appliance.config.schema import model
from appliance.health import probe as probing
from appliance.health.cpu_stall import CpuStall, Thread
from appliance.health.detector import Bad, Detector, Event, Good, Limits, Tick
from appliance.health.inband_streams import Evidence, Stream, TapPair, streams
from appliance.health.latency_limit import percentile
from appliance.health.one_way import one_ways
from appliance.health.overload import Load
from appliance.health.qemu_events import lifted_by, veto_of
from appliance.health.receipt import Receipt
from appliance.health.verdict import Decision, History, Verdict
from appliance.telemetry.histogram import LATENCY, Histogram

PROCESS_CHECK = "process"
HEARTBEAT_CHECK = "heartbeat"
CPU_CHECK = "processors"
AGENT_VETO = "agent"
PROCESS_LIMITS = Limits(interval=100_000_000, misses=3, rises=10)
"""For a guest without any check: its process runs. That proves little, and `show guests` says so."""

NO_LOADS: Mapping[str, Load] = MappingProxyType({})

_LATENCIES = 512


class Checked(Protocol):
    """What is checked, of a guest or a remote: the keys of its table (config/schema/model.py)."""

    @property
    def probes(self) -> Sequence[model.Probe]: ...

    @property
    def heartbeat(self) -> model.Heartbeat | None: ...

    @property
    def hold(self) -> int: ...

    @property
    def dry_run(self) -> bool: ...


class Checks:
    """See the module. `folder` holds the capture files that probes name; GuestError when one cannot be read.

    `loads`: by tap, the traffic that enters there; where it is unknown, overload looks like any other failure.
    `queues`: of each tap.
    """

    def __init__(
        self,
        guest: Checked,
        hop: int,
        pairs: Sequence[TapPair],
        nonce: int,
        *,
        history: History,
        folder: Path,
        loads: Mapping[str, Load] = NO_LOADS,
        queues: int = 1,
    ) -> None:
        self.streams = streams(guest.probes, hop, pairs, nonce, folder, queues=queues)
        dry_run = guest.dry_run
        self.ways = one_ways(self.streams, NO_LOADS if dry_run else loads)  # a limit would hold frames back
        self.latencies: deque[int] = deque(maxlen=_LATENCIES)
        self.histogram = Histogram(LATENCY)  # of all heartbeats of this run, in seconds
        detectors = [detector for stream in self.streams for detector in stream.detectors()]
        self.asked: dict[str, model.Probe] = {}  # by check: the probes that ask a question
        for probe in guest.probes:
            if probe.kind in probing.ASKED:
                name = probing.label(probe)
                name = name if name not in self.asked else f"{name} ({len(self.asked) + 1})"
                self.asked[name] = probe
                detectors.append(Detector(name, _limits(probe), Cause.PROBE_FAILED))
        cpu = next((probe for probe in guest.probes if probe.kind == "cpu"), None)
        self._stall = CpuStall() if cpu is not None else None
        if cpu is not None:
            detectors.append(Detector(CPU_CHECK, _limits(cpu), Cause.CPU_STALLED))
        self._receipt = Receipt(int(guest.heartbeat.interval) if guest.heartbeat is not None else 0)
        if guest.heartbeat is not None:
            beat = guest.heartbeat
            detectors.append(Detector(HEARTBEAT_CHECK, Limits(beat.interval, beat.misses, rises=2)))
        told = [detector.label for detector in detectors] if dry_run else []
        self.only_process = not detectors or dry_run
        if self.only_process:
            detectors.append(Detector(PROCESS_CHECK, PROCESS_LIMITS))
        self.verdict = Verdict(detectors, history, guest.hold, told)
        # The process and its threads are checked on a grid of their own.
        self._look_interval = cpu.interval if cpu is not None else PROCESS_LIMITS.interval
        self._look_due = 0

    @property
    def _looks(self) -> bool:
        return self.only_process or self._stall is not None

    def begin(self, now: int) -> None:
        """Make everything due now."""
        self._look_due = now
        for stream in self.streams:
            stream.due = now

    def take(self, now: int, check: str, event: Event) -> list[Decision]:
        """Evidence for one check."""
        return self.verdict.step(now, check, event)

    def frame(self, now: int, stream: Stream, frame: bytes) -> Iterator[Evidence]:
        """The evidence from a frame of this stream that came out of the guest."""
        for check, event in stream.take(now, frame):
            if check == stream.check and isinstance(event, Good) and event.latency is not None:
                self.latencies.append(event.latency)
                self.histogram.add(event.latency / 1e9)
            yield check, event

    def heartbeat(self, now: int, status: str) -> list[Decision]:
        """A heartbeat from the agent; it counts only if the configuration asks for heartbeats."""
        if HEARTBEAT_CHECK not in self.verdict.detectors:
            return []
        event = Good(self._receipt.sent(now)) if status == "ok" else Bad(f'the guest says "{status}"')
        return self.take(now, HEARTBEAT_CHECK, event)

    def qemu_event(self, now: int, name: str, data: Mapping[str, object]) -> list[Decision]:
        """A QMP event: some are vetoes, some lift one."""
        for veto in lifted_by(name):
            self.verdict.lift(now, veto)
        if found := veto_of(name, data):
            return self.verdict.veto(now, found.veto, found.why, found.cause, found.hold)
        return []

    def veto(self, now: int, name: str, why: str, cause: Cause, hold: int | None = None) -> list[Decision]:
        """Keep traffic from it for `hold` ns (None: until it is lifted), whatever the checks say; "" lifts it."""
        if not why:
            self.verdict.lift(now, name)
            return []
        return self.verdict.veto(now, name, why, cause, hold)

    def ask_bypass(self, now: int, on: bool, why: str = "") -> list[Decision]:
        """The guest's agent asks to be bypassed, or no longer."""
        if not on:
            self.verdict.lift(now, AGENT_VETO)
            return []
        why = f"it asked to be bypassed{f': {why}' if why else ''}"
        return self.verdict.veto(now, AGENT_VETO, why, Cause.GUEST_ASKED)

    def reset(self) -> None:
        """The guest restarted: earlier evidence no longer counts."""
        self.verdict.forget()
        self.latencies.clear()
        self.relieve()
        for stream in self.streams:
            stream.forget()

    def tick(
        self, now: int, alive: Callable[[], bool], threads: Callable[[], Mapping[int, Thread]]
    ) -> Iterator[Evidence]:
        """Send the heartbeats that are due; returns the evidence found meanwhile, then a `Tick` per expired check.

        `alive` says whether the process runs, `threads` the state of QEMU's threads; each is called when it is due.
        """
        for way in self.ways:
            yield from list(way.look(now))
        for stream in self.streams:
            yield from list(stream.send(now))
        if self._looks and now >= self._look_due:
            self._look_due += ((now - self._look_due) // self._look_interval + 1) * self._look_interval
            if self.only_process and alive():
                yield PROCESS_CHECK, Good(now)
            if self._stall is not None:
                event = self._stall.step(now, threads())
                if event is not None:
                    yield CPU_CHECK, event
        for check in [check for check, detector in self.verdict.detectors.items() if detector.overdue(now)]:
            yield check, Tick()
        if HEARTBEAT_CHECK in self.verdict.detectors:
            self._receipt.tick(now, self.next_due(now))

    @property
    def overloaded(self) -> str:
        """Where the guest gets more frames than it can handle, for display; "" nowhere."""
        where = ", ".join(way.shown().way for way in self.ways if way.overloaded)
        return f"it gets more frames than it can handle, {where}" if where else ""

    def relieve(self) -> None:
        """Lift the limits: the guest gets no frames any more, and begins without a limit next time."""
        for way in self.ways:
            way.relieve()

    def next_due(self, now: int) -> int:
        """When `tick` must be called again: at the next heartbeat or look, and when the evidence expires.

        If no evidence can expire, one interval of the process check later at most.
        """
        dues = [stream.due for stream in self.streams] + [way.due for way in self.ways]
        if self._looks:
            dues.append(self._look_due)
        if HEARTBEAT_CHECK in self.verdict.detectors:
            dues.append(now + self._receipt.interval)
        until = self.verdict.until
        dues.append(until if self.verdict.available and until > now else now + PROCESS_LIMITS.interval)
        return min(dues)

    def latency_ms(self, share: float) -> float | None:
        """A percentile of the in-band heartbeats' latency through the guest (ms); None before the first."""
        value = percentile(self.latencies, share)
        return None if value is None else round(value / 1e6, 3)

    def heartbeats(self) -> list[Heartbeats]:
        """Heartbeats sent through the guest so far, as the API shows them."""
        return [
            Heartbeats(
                lane=stream.check,
                sent=stream.lane.sent,
                received=stream.lane.received,
                foreign=stream.lane.foreign,
                refused=stream.entry.refused if stream.entry is not None else 0,
            )
            for stream in self.streams
        ]


def _limits(probe: model.Probe) -> Limits:
    return Limits(probe.interval, probe.misses, probe.rises)
