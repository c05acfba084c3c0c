# SPDX-License-Identifier: GPL-2.0-only
"""Models of guests, from QEMU inwards. bypassd's side is the real code, from `GuestManager` to the lease.

A `Qemu` is one process; it outlives bypassd. It forwards heartbeat frames between its taps, has an agent that reports
the application's state, and sends events over its monitor. `truth` is what a lease may be based on.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from appliance.errors import UnreachableError
from appliance.guest.agent.channel import Heartbeat, Message
from appliance.guest.qemu.record import Record
from appliance.health.cpu_stall import Thread
from appliance.hop.lifecycle import HopState
from appliance.steering.kernel.leases import _UNTIL
from tests.simulate.clock import MS, SECOND, Clock, Loop, Scope
from tests.simulate.traffic import Way

if TYPE_CHECKING:
    from appliance.guest.guest import Guest
    from tests.simulate.kernel import KernelModel

BEAT_NS = 100 * MS
MOVING = frozenset(HopState) - {HopState.AVAILABLE, HopState.STOPPED, HopState.FAILED}
_numbers = itertools.count(2_000_000)


class Row(NamedTuple):
    """A kind of guest: its keys in the configuration; how long each proof of its health holds (0: no such check)."""

    keys: str
    frames: int = 0
    agent: int = 0


GUESTS: dict[str, Row] = {
    "inline": Row('probes = [{ kind = "inband", interval = "100ms", misses = 3 }]', frames=325 * MS),
    "quick": Row('probes = [{ kind = "inband", interval = "20ms", misses = 2 }]', frames=45 * MS),
    "agent": Row('heartbeat = { interval = "100ms", misses = 3 }', agent=325 * MS),
    "both": Row(
        'heartbeat = { interval = "100ms", misses = 3 }\n'
        'probes = [{ kind = "inband", interval = "100ms", misses = 2 }, { kind = "cpu", interval = "300ms" }]',
        frames=225 * MS,
        agent=325 * MS,
    ),
    "plain": Row('restart = { policy = "on-failure" }'),
}
LENT_NS = 1500 * MS
PROCESS_NS = 325 * MS  # a guest without checks: it was alive at the last look


def guest_tables(names: Sequence[str], *, link_down: bool = False) -> str:
    """The guests of a configuration, in line one after the other."""
    if not names:
        return ""
    tables = [
        f'[[guest]]\nname = "{name}"\nkernel = "vmlinuz"\nmemory = "64M"\n{GUESTS[name].keys}\n' for name in names
    ]
    path = ", ".join(f'"{name}"' for name in names)
    then = "link-down" if link_down else "bypass"
    return "".join(tables) + f'[[rule]]\nname = "all"\npath = [{path}]\non_unavailable = "{then}"\n'


class Qemu:
    """One process."""

    def __init__(self, guests: Guests, name: str, taps: Sequence[str], boot: int) -> None:
        self.guests, self.name, self.taps = guests, name, tuple(taps)
        self.pid, self.pidfd, self.child = next(_numbers), next(_numbers), True
        self.started, self.threads = self.pid, (self.pid + 500_000,)
        self.running = True  # its threads are there
        self.ended = False  # its parent can know
        self.how = "ended"
        self.hung = self.paused = self.app_failed = False
        self.deaf: int | None = None  # it forwards nothing that enters at this tap
        self.full = False  # QEMU paused it because the disk is full
        self.monitor: MonitorModel | None = None
        self.channel: ChannelModel | None = None
        self.forwarded = [0, 0]  # by the tap at which it entered: for when it was last seen that it forwards
        self.told = 0  # when bypassd last read an "ok" of the agent
        self.ill_until = 0  # something was wrong with it until then
        self.up_at = guests.clock.now + boot
        if GUESTS[name].agent:
            guests.clock.at(self.up_at, self._beat, guests.scope)

    @property
    def works(self) -> bool:
        return self.running and not self.hung and not self.paused and self.guests.clock.now >= self.up_at

    def ill(self) -> None:
        """Something is, or was, wrong with it."""
        self.ill_until = self.guests.clock.now + 2 * SECOND

    def _beat(self) -> None:
        if not self.running:
            return
        self.guests.clock.after(BEAT_NS, self._beat, self.guests.scope)
        if self.works and self.channel is not None:
            self.channel.say(Heartbeat(status="failing" if self.app_failed else "ok"))

    def truth(self) -> int:
        """The latest end of a lease that the guest's real behaviour justifies now."""
        row = GUESTS[self.name]
        proofs = [self.guests.clock.now + PROCESS_NS]
        if row.frames:
            proofs = [min(self.forwarded) + row.frames]
            if any(way.flood or way.waiting for way in self.guests.ways_of(self.name)):
                # what is seen of one direction explains for a moment why nothing comes in the other one
                proofs = [max(proofs[0], min(max(self.forwarded), min(self.forwarded) + LENT_NS) + row.frames)]
        if row.agent:
            proofs.append(self.told + row.agent)
        return min(proofs) if self.running else 0

    def event(self, name: str, **data: object) -> None:
        if self.monitor is not None:
            self.monitor.tell(name, data)

    def reset(self, boot: int = SECOND) -> None:
        """It restarts. One that is paused stays so: QEMU starts no machine by resetting it."""
        self.ill()
        self.hung = self.app_failed = False
        self.up_at = self.guests.clock.now + boot
        self.event("RESET", reason="guest-reset")

    def die(self, how: str) -> None:
        """Its threads end at once, its memory is given back some milliseconds later."""
        if not self.running:
            return
        self.running, self.how = False, how
        for thread in (self.pid, *self.threads):
            self.guests.kernel.thread_ended(thread)
        if self.monitor is not None:
            self.monitor.hang_up()
        self.guests.clock.after(self.guests.some(MS, 5 * MS), self._gone, self.guests.scope)

    def _gone(self) -> None:
        self.ended = True
        for way in self.guests.ways_of(self.name):
            way.waiting = way.flood = 0.0
        self.guests.forget(self)
        self.guests.readable(self.pidfd)

    # -- as appliance/system/process.py has it

    @property
    def alive(self) -> bool:
        return not self.ended

    def kill(self) -> None:
        self.die("killed by SIGKILL")

    def wait(self, limit: float = 5.0) -> None:
        """Blocks until it has ended, which takes no simulated time."""
        if not self.running:
            self.ended = True
            self.guests.forget(self)

    def let_go(self) -> None:
        pass

    def reap(self) -> str:
        return self.how


class Guests:
    """All QEMU processes of one boot, and the sockets on their taps."""

    def __init__(self, clock: Clock, scope: Scope, kernel: KernelModel, rng: random.Random) -> None:
        self.clock, self.scope, self.kernel, self._rng = clock, scope, kernel, rng
        self.running: dict[str, Qemu] = {}
        self.refused: set[str] = set()  # QEMU exits before it answers
        self.doomed: set[str] = set()  # they die soon after each start
        self.boot_delay = 0
        self.over: set[int] = set()  # the pidfds of those that ended
        self.readable: Callable[[int], object] = lambda pidfd: None  # tells whoever watches it
        self.disk_full = False
        self._sockets: dict[str, list[TapSocket]] = {}
        self._ways: dict[tuple[str, int], Way] = {}
        self._skipped = 0  # by jumps of the clock, in ns

    def ways_of(self, name: str) -> tuple[Way, Way]:
        """Both directions through a guest, by the side at which they enter."""
        return self.way(name, 0), self.way(name, 1)

    def way(self, name: str, side: int) -> Way:
        """One direction through a guest, as it is now."""
        now = self.clock.now
        way = self._ways.get((name, side))
        if way is None:
            way = self._ways[name, side] = Way(now)
        if way.at == now:
            return way
        qemu = self.running.get(name)
        lease = self.kernel.leases.read(self.kernel.number(name), _UNTIL)
        passes = qemu is not None and qemu.works and qemu.deaf != side
        came = way.advance(
            now,
            offered=lease > now and self.kernel.offers,
            takes=qemu is not None and qemu.running and not qemu.paused and not qemu.hung,
            passes=passes,
        )
        if came and qemu is not None:
            qemu.forwarded[side] = now
        return way

    def some(self, least: int, most: int) -> int:
        return self._rng.randint(least, most)

    def spawn(self, name: str, taps: Sequence[str], note: Callable[[Any], None]) -> Qemu:
        made = Qemu(self, name, taps, self.some(SECOND // 2, 2 * SECOND) + self.boot_delay)
        note(made)
        self.running[name] = made
        if name in self.refused:
            self.clock.after(20 * MS, lambda: made.die("exited with status 1"), self.scope)
        elif name in self.doomed:
            at = self.clock.now + self.some(SECOND, 5 * SECOND)
            self.clock.at(at, lambda: made.die("killed by SIGSEGV"), self.scope, fixed=True)
        return made

    def forget(self, process: Qemu) -> None:
        self.over.add(process.pidfd)
        if self.running.get(process.name) is process:
            del self.running[process.name]

    def adopt(self, record: Record) -> Qemu | None:
        found = next((one for one in self.running.values() if one.pid == record.pid and not one.ended), None)
        if found is not None:
            found.child = False
        return found

    def thread_alive(self, thread: int) -> bool:
        return any(one.running and thread in (one.pid, *one.threads) for one in self.running.values())

    def look(self, pid: int, processors: Sequence[int]) -> dict[int, Thread]:
        """The kernel's account of its threads."""
        return {pid: Thread("QEMU", "S", self.clock.now // 10, 0)}

    # -- frames

    def bind(self, tap: str, socket: TapSocket) -> None:
        self._sockets.setdefault(tap, []).append(socket)

    def unbind(self, tap: str, socket: TapSocket) -> None:
        if socket in self._sockets.get(tap, []):
            self._sockets[tap].remove(socket)

    def enter(self, tap: str, frame: bytes) -> bool:
        """A frame enters a guest by this tap. It comes out of the other one, if the guest works. False: refused."""
        qemu = next((one for one in self.running.values() if tap in one.taps), None)
        if qemu is None or not qemu.running:
            return False
        side = qemu.taps.index(tap)
        way = self.way(qemu.name, side)
        if not way.admits(self._rng):
            return False
        if qemu.deaf == side or not qemu.works:
            return True
        went_in, skipped = self.clock.now, self._skipped
        out = qemu.taps[1 - side]

        def comes_out() -> None:
            if not qemu.works:
                return
            qemu.forwarded[side] = max(qemu.forwarded[side], went_in + self._skipped - skipped)
            for socket in self._sockets.get(out, ()):
                socket.put(frame)

        self.clock.after(way.delay + self.some(MS // 10, 2 * MS), comes_out, self.scope)
        return True

    def skip(self, by: int) -> None:
        """The clock jumped over time in which all of them continued as before."""
        self._skipped += by
        for way in self._ways.values():
            way.at += by
        for qemu in self.running.values():
            qemu.forwarded = [at + by for at in qemu.forwarded]
            qemu.told += by


class TapSocket:
    """Replaces health/packet_socket.py."""

    def __init__(self, guests: Guests, loop: Loop, tap: str, ethertype: int) -> None:
        self._guests, self._loop, self._tap, self._ethertype = guests, loop, tap, ethertype.to_bytes(2, "big")
        self._number, self.refused = next(_numbers), 0
        self._waiting: deque[bytes] = deque()
        guests.bind(tap, self)

    def fileno(self) -> int:
        return self._number

    def send(self, frame: bytes, queue: int | None = None) -> None:
        self.refused += not self._guests.enter(self._tap, frame)

    def put(self, frame: bytes) -> None:
        if frame[12:14] == self._ethertype and not self._loop.is_closed():
            self._waiting.append(frame)
            self._loop.readable(self._number)

    def receive(self) -> list[bytes]:
        frames = list(self._waiting)
        self._waiting.clear()
        return frames

    def close(self) -> None:
        self._guests.unbind(self._tap, self)


class MonitorModel:
    """Replaces guest/qemu/qmp.py."""

    def __init__(
        self, guests: Guests, loop: Loop, name: str, on_event: Callable[[str, Mapping[str, object]], None]
    ) -> None:
        self._guests, self._loop, self._name, self._on_event = guests, loop, name, on_event
        self._closed = asyncio.Event()
        self._qemu: Qemu | None = None
        self.dropped = 0  # events that came too fast

    async def connect(self) -> str:
        await asyncio.sleep(self._guests.some(10 * MS, 100 * MS) / 1e9)
        qemu = self._guests.running.get(self._name)
        if qemu is None or not qemu.running:
            raise UnreachableError(f"guest {self._name}: QEMU does not answer")
        self._qemu, qemu.monitor = qemu, self
        return "kvm"

    async def processors(self) -> list[int]:
        return list(self._qemu.threads) if self._qemu is not None else []

    async def watch(self) -> None:
        await self._closed.wait()

    async def status(self) -> str:
        await self.ask("query-status")
        assert self._qemu is not None
        return "io-error" if self._qemu.full else "paused" if self._qemu.paused else "running"

    async def ask(self, command: str) -> object:
        await asyncio.sleep(0.001)
        qemu = self._qemu
        if qemu is None or not qemu.running:
            raise UnreachableError(f"guest {self._name}: {command}: QEMU does not answer")
        match command:
            case "system_powerdown":
                if qemu.works:
                    qemu.ill()
                    qemu.event("SHUTDOWN", reason="guest-shutdown")
                    self._guests.clock.after(SECOND, lambda: qemu.die("exited with status 0"), self._guests.scope)
            case "stop" if not qemu.paused:
                qemu.paused = True
                qemu.event("STOP")
            case "cont" if qemu.paused:
                qemu.paused = qemu.full = False
                qemu.event("RESUME")
            case "quit":
                qemu.die("exited with status 0")
        return {}

    def tell(self, name: str, data: Mapping[str, object]) -> None:
        self._loop.inside(lambda: self._on_event(name, data), MS // 10)

    def hang_up(self) -> None:
        self._loop.inside(self._closed.set, MS // 10)

    async def close(self) -> None:
        if self._qemu is not None and self._qemu.monitor is self:
            self._qemu.monitor = None


class ChannelModel:
    """Replaces guest/agent/channel.py."""

    def __init__(self, guests: Guests, loop: Loop, name: str) -> None:
        self._guests, self._loop, self._name = guests, loop, name
        self._qemu: Qemu | None = None
        self._on_message: Callable[[Message], None] | None = None

    async def connect(self) -> None:
        self._qemu = self._guests.running.get(self._name)
        if self._qemu is not None:
            self._qemu.channel = self

    async def run(self, on_message: Callable[[Message], None]) -> None:
        self._on_message = on_message
        await asyncio.Event().wait()

    def say(self, message: Heartbeat) -> None:
        """A line of the agent. It bears no time, so it counts from when it is read."""
        if self._on_message is not None:
            self._loop.inside(lambda: self._read(message), MS // 10)

    def _read(self, message: Heartbeat) -> None:
        if self._qemu is not None and self._on_message is not None:
            if message.status == "ok":
                self._qemu.told = self._guests.clock.now
            self._on_message(message)

    def send(self, message: dict[str, object]) -> None:
        if self._qemu is None or not self._qemu.works:
            raise UnreachableError(f"guest {self._name}: no agent")

    def close(self) -> None:
        self._on_message = None
        if self._qemu is not None and self._qemu.channel is self:
            self._qemu.channel = None


# -- bypassd's side


def moving(guest: Guest) -> bool:
    """Whether something is under way with it."""
    return guest.state in MOVING or guest.hop.stopping


def unhealthy(guest: Guest, now: int) -> str:
    """Why it has no traffic; "" = it has."""
    if guest.state is not HopState.AVAILABLE:
        return f"guest {guest.name} is {guest.state.value} ({guest.hop.cause}: {guest.hop.detail})"
    return "" if guest.hop.lease.remaining(now) else f"guest {guest.name} has no lease"


def skip(guest: Guest, now: int, by: int) -> None:
    """The clock jumped over time in which it passed its checks: its evidence is as old as it was before, and so is each
    heartbeat that is under way."""
    run = guest.current_run
    if run is None or not run.watch.running:
        return
    if guest.hop.lease.expiry > now - by:
        guest.hop.lease.expiry += by
    for detector in run.watch.verdict.detectors.values():
        if detector.last_good is not None and detector.last_good + detector.limits.window > now - by:
            detector.last_good += by
    checks = run.watch._checks
    checks._look_due += by
    for way in checks.ways:
        way._looked += by
    for stream in checks.streams:
        stream.due += by
        for key in stream.lane._outstanding:
            stream.lane._outstanding[key] += by
        if stream._sent >= 0:
            stream._sent += by
        if stream._answered >= 0:
            stream._answered += by
