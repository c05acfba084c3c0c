# SPDX-License-Identifier: GPL-2.0-only
"""Watches one running guest: sends heartbeats, runs its probes, collects evidence, and reports decisions.

The I/O around the checks (checks.py): packet sockets on the guest's taps, one timer, one task for each active
probe, and the clock. It renews no lease itself; it reports when the evidence expires. It lives as long as the guest's
process.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from appliance.api.schema.guests import Heartbeats, Overload
from appliance.causes import Cause
from appliance.errors import GuestError
from appliance.health import cpu_stall
from appliance.health import probe as probing
from appliance.health.checks import NO_LOADS, Checked, Checks
from appliance.health.detector import Event
from appliance.health.inband_streams import Evidence, Stream, TapPair
from appliance.health.overload import Load
from appliance.health.packet_socket import PacketSocket
from appliance.health.verdict import Decision, History, Overloaded, Relieved, Unavailable, Verdict
from appliance.system.namespace import Namespace
from appliance.telemetry.histogram import Histogram


class Subject(Protocol):
    """The guest's process as the watch sees it; it receives the decisions."""

    def on_decision(self, decision: Decision) -> None:
        """The checks say that the guest may, or may not, have traffic."""

    def process_alive(self) -> bool:
        """Whether its process is running, according to the kernel."""

    def threads(self) -> tuple[int, Sequence[int]]:
        """QEMU's process id and the thread ids of the vCPUs."""

    async def ask_agent(self, word: str) -> str:
        """Have the agent run the check `word`; returns "ok", or what is wrong."""


class Watch:
    """All checks of one guest in motion."""

    def __init__(
        self,
        guest: Checked,
        hop: int,
        pairs: Sequence[TapPair],
        nonce: int,
        *,
        history: History,
        subject: Subject,
        folder: Path,
        space: Namespace | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
        loads: Mapping[str, Load] = NO_LOADS,
        queues: int = 1,
    ) -> None:
        """`folder` holds the probes' capture files; `space` is the management port's namespace; `loads`: by tap;
        `queues`: of each tap.

        GuestError when a file cannot be read.
        """
        self._subject, self._space, self._clock = subject, space, clock
        self._checks = Checks(guest, hop, pairs, nonce, history=history, folder=folder, loads=loads, queues=queues)
        self._sockets: dict[tuple[str, int], PacketSocket] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._running = False
        self._overloaded = False  # as last reported to the subject

    @property
    def verdict(self) -> Verdict:
        """The verdict of all checks and vetoes."""
        return self._checks.verdict

    @property
    def only_process(self) -> bool:
        """Whether the guest's only check is that its process runs."""
        return self._checks.only_process

    @property
    def dry_run(self) -> bool:
        """Whether the guest has checks that only tell what they would decide."""
        return self.verdict.dry_run

    @property
    def histogram(self) -> Histogram:
        """The latencies of all in-band heartbeats of this run, in seconds."""
        return self._checks.histogram

    @property
    def running(self) -> bool:
        """True between `start` and `stop`."""
        return self._running

    def shorten_proof(self) -> None:
        """The guest had passed its checks before bypassd restarted: one good answer per check is enough."""
        self.verdict.shorten_proof()

    def start(self) -> None:
        """Open the sockets and begin. GuestError when a tap does not exist."""
        loop, checks = asyncio.get_running_loop(), self._checks
        try:
            for stream in checks.streams:
                stream.entry = self._socket(stream.enters, stream)
                self._socket(stream.leaves, stream)
        except GuestError:
            self.stop()
            raise
        for (leaves, _), sock in self._sockets.items():
            mine = [stream for stream in checks.streams if stream.leaves == leaves]
            loop.add_reader(sock.fileno(), self._read, sock, mine)
        self._running = True
        checks.relieve()  # from limits that an earlier bypassd left
        checks.begin(self._clock())
        for name, probe in checks.asked.items():
            put = probing.question(probe, self._subject.ask_agent, self._space)
            asking = probing.ask_forever(probe, put, partial(self._take, name), self._clock)
            self._tasks.append(loop.create_task(asking, name=f"probe {name}"))
        self._tick()

    def _socket(self, device: str, stream: Stream) -> PacketSocket:
        key = (device, stream.lane.ethertype)
        if key not in self._sockets:
            self._sockets[key] = PacketSocket(device, stream.lane.ethertype, stream.lane.key)
        return self._sockets[key]

    def stop(self) -> None:
        """Close everything. Idempotent."""
        self._running = False
        self._checks.relieve()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for task in self._tasks:
            task.cancel()
        self._tasks.clear()
        for sock in self._sockets.values():
            asyncio.get_running_loop().remove_reader(sock.fileno())
            sock.close()
        self._sockets.clear()

    # Reports from elsewhere

    def heartbeat(self, status: str) -> None:
        """Process a heartbeat from the agent channel."""
        if self._running:
            self._hand_out(self._checks.heartbeat(self._clock(), status))

    def event(self, name: str, data: Mapping[str, object]) -> None:
        """Process a QMP event."""
        self._hand_out(self._checks.qemu_event(self._clock(), name, data))

    def veto(self, name: str, why: str, cause: Cause = Cause.NONE, hold: int | None = None) -> None:
        """Keep traffic from it for `hold` ns (None: until it is lifted), whatever the checks say; `why` "" lifts it."""
        self._hand_out(self._checks.veto(self._clock(), name, why, cause, hold))

    def ask_bypass(self, on: bool, why: str = "") -> None:
        """The guest's agent asks to be bypassed, or no longer to be."""
        self._hand_out(self._checks.ask_bypass(self._clock(), on, why))

    def reset(self) -> None:
        """The guest restarted: earlier evidence no longer counts."""
        self._checks.reset()

    # While running

    def _hand_out(self, decisions: Sequence[Decision]) -> None:
        for decision in decisions:
            if isinstance(decision, Unavailable):
                self._checks.relieve()
                self._overloaded = False
            self._subject.on_decision(decision)

    def _report_overload(self) -> None:
        why = self._checks.overloaded
        if self.verdict.available and bool(why) is not self._overloaded:
            self._overloaded = bool(why)
            self._subject.on_decision(Overloaded(why) if why else Relieved())

    def _take(self, check: str, event: Event) -> None:
        if self._running:  # the result of a probe that is being cancelled no longer counts
            self._hand_out(self._checks.take(self._clock(), check, event))

    def _take_all(self, evidence: Iterable[Evidence]) -> None:
        for check, event in evidence:
            if not self._running:  # a decision may have ended the watch and its streams
                return
            self._take(check, event)

    def _tick(self) -> None:
        """Send what is due, detect what is overdue, and set the timer for the next of either."""
        now = self._clock()
        self._take_all(self._checks.tick(now, self._subject.process_alive, self._threads))
        if not self._running:
            return
        self._report_overload()
        wait = max(self._checks.next_due(now) - self._clock(), 0) / 1e9
        self._timer = asyncio.get_running_loop().call_later(wait, self._tick)

    def _threads(self) -> Mapping[int, cpu_stall.Thread]:
        return cpu_stall.look(*self._subject.threads())

    def _read(self, sock: PacketSocket, mine: Sequence[Stream]) -> None:
        frames = sock.receive()
        now = self._clock()
        for frame in frames:
            for stream in mine:
                if stream.lane.claims(frame):
                    self._take_all(list(self._checks.frame(now, stream, frame)))
                    break

    def latency_ms(self, share: float) -> float | None:
        """A percentile of the in-band heartbeats' latency through the guest (ms); None before the first."""
        return self._checks.latency_ms(share)

    def overload(self) -> list[Overload]:
        """The guest's capacity and limit, by direction, as the API shows them."""
        return [way.shown() for way in self._checks.ways]

    def heartbeats(self) -> list[Heartbeats]:
        """Heartbeats sent through the guest so far, as the API shows them."""
        return self._checks.heartbeats()


__all__ = ["TapPair", "Watch"]
