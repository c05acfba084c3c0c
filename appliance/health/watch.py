# SPDX-License-Identifier: GPL-2.0-only
"""Watches one running guest: sends heartbeats, asks its probes, takes evidence in, and hands out decisions.

The I/O around the pure verdict (combine.py): packet sockets on the guest's taps, one timer, one task for each probe
that asks, and the time. It renews no lease itself; it says until when the evidence holds. It lives as long as the
guest's process.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from appliance.api.schema.guests import Heartbeats
from appliance.causes import Cause
from appliance.config.schema import model
from appliance.errors import GuestError
from appliance.health import cpu_stall
from appliance.health import probe as probing
from appliance.health.detector import Bad, Detector, Event, Good, Limits, Tick
from appliance.health.inband_streams import Evidence, Stream, TapPair, streams
from appliance.health.latency_limit import percentile
from appliance.health.packet_socket import PacketSocket
from appliance.health.qemu_events import lifted_by, veto_of
from appliance.health.verdict import Decision, History, Verdict
from appliance.system.namespace import Namespace
from appliance.telemetry.histogram import LATENCY, Histogram

PROCESS_CHECK = "process"
HEARTBEAT_CHECK = "heartbeat"
CPU_CHECK = "processors"
AGENT_VETO = "agent"
PROCESS_LIMITS = Limits(interval=100_000_000, misses=3, rises=10)
"""For a guest without any check: its process runs. That proves little, which `show guests` says."""

_LATENCIES = 512


class Subject(Protocol):
    """The guest's process as the watch sees it, and who is told of decisions."""

    def on_decision(self, decision: Decision) -> None:
        """The checks say that the guest may, or may not, have traffic."""

    def process_alive(self) -> bool:
        """Whether its process runs; asks the kernel."""

    def threads(self) -> tuple[int, Sequence[int]]:
        """QEMU's process id and the thread ids of the virtual processors."""

    async def ask_agent(self, word: str) -> str:
        """Have the agent carry out the check `word`: "ok", or what is wrong."""


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
        subject: Subject,
        folder: Path,
        space: Namespace | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """`folder` holds the capture files that probes name; `space` is that of the management port.

        GuestError when a file cannot be read.
        """
        self._subject, self._space, self._clock = subject, space, clock
        self._streams = streams(guest.probes, hop, pairs, nonce, folder)
        self._links: dict[tuple[str, int], PacketSocket] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._running = False
        self.latencies: deque[int] = deque(maxlen=_LATENCIES)
        self.histogram = Histogram(LATENCY)  # of all heartbeats of this run, in seconds
        detectors = [detector for stream in self._streams for detector in stream.detectors()]
        self._asked: dict[str, model.Probe] = {}
        for probe in guest.probes:
            if probe.kind in probing.ASKED:
                name = probing.label(probe)
                name = name if name not in self._asked else f"{name} ({len(self._asked) + 1})"
                self._asked[name] = probe
                detectors.append(Detector(name, _limits(probe), Cause.PROBE_FAILED))
        cpu = next((probe for probe in guest.probes if probe.kind == "cpu"), None)
        self._stall = cpu_stall.CpuStall() if cpu is not None else None
        if cpu is not None:
            detectors.append(Detector(CPU_CHECK, _limits(cpu), Cause.CPU_STALLED))
        if guest.heartbeat is not None:
            beat = guest.heartbeat
            detectors.append(Detector(HEARTBEAT_CHECK, Limits(beat.interval, beat.misses, rises=2)))
        self.only_process = not detectors
        if self.only_process:
            detectors.append(Detector(PROCESS_CHECK, PROCESS_LIMITS))
        self.verdict = Verdict(detectors, history, guest.hold)
        # What is looked at on a grid of its own: the process, or its threads.
        self._look_interval = cpu.interval if cpu is not None else PROCESS_LIMITS.interval
        self._look_due = 0

    def shorten_proof(self) -> None:
        """The guest was proved before bypassd restarted: one good answer a check is enough."""
        self.verdict.shorten_proof()

    def start(self) -> None:
        """Open the sockets and begin. GuestError when a tap is not there."""
        loop = asyncio.get_running_loop()
        try:
            for stream in self._streams:
                stream.entry = self._link(stream.enters, stream)
                self._link(stream.leaves, stream)
        except GuestError:
            self.stop()
            raise
        for (leaves, _), link in self._links.items():
            mine = [stream for stream in self._streams if stream.leaves == leaves]
            loop.add_reader(link.fileno(), self._read, link, mine)
        self._running = True
        self._look_due = self._clock()
        for stream in self._streams:
            stream.due = self._look_due
        for name, probe in self._asked.items():
            put = probing.question(probe, self._subject.ask_agent, self._space)
            asking = probing.ask_forever(probe, put, partial(self._say, name), self._clock)
            self._tasks.append(loop.create_task(asking, name=f"probe {name}"))
        self._tick()

    @property
    def running(self) -> bool:
        """Between `start` and `stop`."""
        return self._running

    def _link(self, device: str, stream: Stream) -> PacketSocket:
        key = (device, stream.lane.ethertype)
        if key not in self._links:
            self._links[key] = PacketSocket(device, stream.lane.ethertype, stream.lane.source[:4])
        return self._links[key]

    def stop(self) -> None:
        """Close everything. Idempotent."""
        self._running = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for task in self._tasks:
            task.cancel()
        self._tasks.clear()
        for link in self._links.values():
            asyncio.get_running_loop().remove_reader(link.fileno())
            link.close()
        self._links.clear()

    # What others tell

    def heartbeat(self, status: str) -> None:
        """A heartbeat came over the agent channel; counts only where the configuration asks for heartbeats."""
        if HEARTBEAT_CHECK in self.verdict.detectors:
            now = self._clock()
            self._say(HEARTBEAT_CHECK, Good(now) if status == "ok" else Bad(f'the guest says "{status}"'))

    def event(self, name: str, data: Mapping[str, object]) -> None:
        """A QMP event: some speak against the guest."""
        if veto := lifted_by(name):
            self.verdict.lift(self._clock(), veto)
        if found := veto_of(name, data):
            self._hand_out(self.verdict.veto(self._clock(), found.veto, found.why, found.cause, found.hold))

    def ask_bypass(self, on: bool, why: str = "") -> None:
        """The guest's agent wants to be bypassed, or no longer."""
        if on:
            why = f"it asked to be bypassed{f': {why}' if why else ''}"
            self._hand_out(self.verdict.veto(self._clock(), AGENT_VETO, why, Cause.GUEST_ASKED))
        else:
            self.verdict.lift(self._clock(), AGENT_VETO)

    def reset(self) -> None:
        """The guest started over: what was proved before counts no more."""
        self.verdict.forget()
        self.latencies.clear()
        for stream in self._streams:
            stream.forget()

    # In motion

    def _hand_out(self, decisions: Sequence[Decision]) -> None:
        for decision in decisions:
            self._subject.on_decision(decision)

    def _say(self, check: str, event: Event) -> None:
        if self._running:  # what a probe says while it is being cancelled counts no more
            self._hand_out(self.verdict.step(self._clock(), check, event))

    def _say_all(self, evidence: Iterable[Evidence]) -> None:
        for check, event in list(evidence):  # all of it first: a decision may end the watch and its streams
            self._say(check, event)

    def _tick(self) -> None:
        """Send what is due, notice what is overdue, and come again in time for whichever is next."""
        now = self._clock()
        for stream in self._streams:
            self._say_all(stream.send(now))
        if (self.only_process or self._stall is not None) and now >= self._look_due:
            self._look_due += ((now - self._look_due) // self._look_interval + 1) * self._look_interval
            self._look(now)
        for check in list(self.verdict.detectors):
            self._say(check, Tick())
        if not self._running:  # a decision may have ended the watch
            return
        dues = [stream.due for stream in self._streams]
        if self.only_process or self._stall is not None:
            dues.append(self._look_due)
        # The end of the evidence is noticed as it comes; without a grid of our own that is still looked for.
        until = self.verdict.until
        dues.append(until if self.verdict.available and until > now else now + PROCESS_LIMITS.interval)
        self._timer = asyncio.get_running_loop().call_later(max(min(dues) - self._clock(), 0) / 1e9, self._tick)

    def _look(self, now: int) -> None:
        if self.only_process and self._subject.process_alive():
            self._say(PROCESS_CHECK, Good(now))
        if self._stall is not None:
            event = self._stall.step(now, cpu_stall.look(*self._subject.threads()))
            if event is not None:
                self._say(CPU_CHECK, event)

    def _read(self, link: PacketSocket, mine: Sequence[Stream]) -> None:
        frames = link.receive()
        now = self._clock()
        for frame in frames:
            for stream in mine:
                if stream.lane.claims(frame):
                    self._say_all(self._noted(stream, now, frame))
                    break

    def _noted(self, stream: Stream, now: int, frame: bytes) -> Iterable[Evidence]:
        for check, event in stream.take(now, frame):
            if check == stream.check and isinstance(event, Good) and event.latency is not None:
                self.latencies.append(event.latency)
                self.histogram.add(event.latency / 1e9)
            yield check, event

    def latency_ms(self, share: float) -> float | None:
        """A percentile of the in-band heartbeats' time through the guest (ms); None before the first."""
        value = percentile(self.latencies, share)
        return None if value is None else round(value / 1e6, 3)

    def heartbeats(self) -> list[Heartbeats]:
        """Frames sent through the guest so far, as the API shows them."""
        return [
            Heartbeats(
                lane=stream.check,
                sent=stream.lane.sent,
                received=stream.lane.received,
                foreign=stream.lane.foreign,
                refused=stream.entry.refused if stream.entry is not None else 0,
            )
            for stream in self._streams
        ]


def _limits(probe: model.Probe) -> Limits:
    return Limits(probe.interval, probe.misses, probe.rises)


__all__ = ["TapPair", "Watch"]
