# SPDX-License-Identifier: GPL-2.0-only
"""Where the appliance calls the system: each such call is redirected to the world of the calling process.

All replacements are listed in `installed`. A call that is missing there would reach the real system and must be added.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol
from unittest import mock
from weakref import WeakValueDictionary

from appliance.config.schema import model
from appliance.guest import disk_space, process_start, run
from appliance.guest.console import Console
from appliance.guest.port import management_port, tap
from appliance.guest.qemu import command, resources, spawn
from appliance.guest.qemu.record import Record
from appliance.hardware import crashlog, links
from appliance.hardware.crash_loop import Limits
from appliance.hardware.crashlog import CrashLog
from appliance.health import cpu_stall, watch
from appliance.health.cpu_stall import Thread
from appliance.steering import attachment_watch
from appliance.steering.datapath import Datapath
from appliance.steering.kernel.links import View
from appliance.supervisor import supervisor, system, table
from appliance.supervisor.safe_mode import NOTES, SafeMode
from appliance.system import netdev
from appliance.system.loop_watch import LoopWatch
from appliance.system.netlink import LinkMessage
from appliance.telemetry.transitions import Transitions
from tests.simulate.clock import KilledError, Loop, Scope
from tests.simulate.guests import ChannelModel, Guests, MonitorModel, Qemu, TapSocket
from tests.simulate.kernel import DatapathModel, KernelModel

_numbers = itertools.count(1_000_000)
_sockets: WeakValueDictionary[int, PacketSocket] = WeakValueDictionary()


class PacketSocket:
    """One end of a socket: data sent to it waits here, and its owner is notified."""

    def __init__(self, send: Callable[[bytes], object] = lambda data: None) -> None:
        self._send, self._number = send, next(_numbers)
        self._waiting: deque[bytes] = deque()
        self.loop: Loop | None = None
        self.closed = False
        _sockets[self._number] = self

    @property
    def waiting(self) -> bool:
        return bool(self._waiting)

    def fileno(self) -> int:
        return self._number

    def put(self, data: bytes) -> None:
        """The other end sent this; empty: it closed."""
        self._waiting.append(data)
        if self.loop is not None:
            self.loop.readable(self._number)

    def recv(self, size: int) -> bytes:
        if not self._waiting:
            raise BlockingIOError
        return self._waiting.popleft()

    def send(self, data: bytes) -> int:
        if self.closed:
            raise BrokenPipeError
        self._send(data)
        return len(data)

    def close(self) -> None:
        self.closed = True


def readable(number: int) -> bool:
    """Whether there is something to read for whoever begins to watch this descriptor."""
    opened = _sockets.get(number)
    return opened.waiting if opened is not None else number in _process().guests.over


class Process(Protocol):
    """The bypassd that makes the calls."""

    kernel: KernelModel
    guests: Guests
    loop: Loop
    scope: Scope
    boot: str

    def uptime(self) -> int:
        """Nanoseconds since the machine started."""

    def open_datapath(self) -> DatapathModel:
        """DatapathError: the kernel refuses it."""


class _Now:
    """The process whose code runs."""

    process: Process | None = None


def enter(process: Process | None) -> None:
    """From here on calls belong to this process."""
    _Now.process = process


def _process() -> Process:
    assert _Now.process is not None, "no simulated process runs"
    if not _Now.process.scope.alive:
        raise KilledError  # whatever its coroutines do while they are ended
    return _Now.process


def _watch_links() -> PacketSocket:
    opened, process = PacketSocket(), _process()
    opened.loop = process.loop
    process.kernel.listen(id(process), opened.put)
    return opened


def _set_up(name: str, up: bool) -> None:
    _process().kernel.set_up(name, up)


def _flags(name: str) -> int:
    return _process().kernel.flags(name)


def _prepare(name: str) -> list[str]:
    _process().kernel.prepare(name)
    return []


def _devices() -> list[links.Device]:
    return _process().kernel.devices()


def _netdev() -> Any:
    return SimpleNamespace(
        TRANSPARENT=netdev.TRANSPARENT,
        IFF_UP=netdev.IFF_UP,
        flags=_flags,
        set_up=_set_up,
        rename=lambda name, wanted: wanted,
        prepare=_prepare,
    )


def _netlink() -> Any:
    return SimpleNamespace(
        watch_links=_watch_links,
        ask_links=lambda _: _process().kernel.ask(id(_process())),
        read_links=_read_links,
    )


def _read_links(indexes: Iterable[int]) -> dict[int, LinkMessage | None]:
    return _process().kernel.read_links(indexes)


def _view(ifindex: int, mode: str, program: int) -> View:
    return _process().kernel.view(ifindex)


class _SafeMode(SafeMode):
    """With the time since the machine started. It has nothing to note while all is well, and looks for that often, so
    that its long sleep is no event in a world at rest."""

    def __init__(self, crash_log: CrashLog, limits: Limits) -> None:
        super().__init__(crash_log, limits, _process().uptime)

    async def run(self) -> None:
        while True:
            while self._history.idle:
                await asyncio.sleep(5)
            await asyncio.sleep(max(1, self.limits.window // NOTES))
            await self.note()


def _room(folder: Path) -> disk_space.Room:
    return disk_space.Room(0 if _process().guests.disk_full else 1 << 40, 1 << 41)


def _monitor(name: str, path: Path, on_event: Callable[[str, Mapping[str, object]], None]) -> MonitorModel:
    return MonitorModel(_process().guests, _process().loop, name, on_event)


def _machine_of(guest: model.Guest, *_: object, **__: object) -> tuple[command.Machine, tuple[str, ...]]:
    return command.Machine(guest.name, 0, int(guest.memory), guest.cpus, "kvm"), ()


def _adopt(record: Record) -> Qemu | None:
    return _process().guests.adopt(record)


def _look(pid: int, processors: Sequence[int]) -> dict[int, Thread]:
    return _process().guests.look(pid, processors)


def _make_tap(name: str, queues: int) -> None:
    _process().kernel.taps.add(name)


def _remove_tap(name: str) -> None:
    _process().kernel.taps.discard(name)


async def _no_console(self: Console) -> None:
    pass


ROLE = "simulated"
PARTS = ("links", "steering", "segments", "guests", "unclaimed")


@contextmanager
def installed() -> Iterator[None]:
    """The list. Parts that only serve people (control socket, users, metrics) are left out of the role."""
    replaced: list[tuple[Any, str, Any]] = [
        (links, "devices", _devices),
        (links, "netdev", _netdev()),
        (links, "netlink", _netlink()),
        (Datapath, "open", lambda *files: _process().open_datapath()),
        (attachment_watch, "netlink", _netlink()),
        (attachment_watch, "read_view", _view),
        (disk_space, "room", _room),
        (disk_space, "used_by", lambda pid, device: 0),
        (system, "SafeMode", _SafeMode),
        (system, "Transitions", lambda paths: Transitions(paths, clock=time.monotonic_ns)),
        (system, "boot_id", lambda: _process().boot),
        (LoopWatch, "__enter__", lambda self: self),
        (LoopWatch, "__exit__", lambda *_: None),
        (LoopWatch, "note_account", lambda self: None),
        (crashlog, "boot_id", lambda: _process().boot),
        (supervisor, "boot_id", lambda: _process().boot),
        (supervisor.Supervisor, "_register", lambda self: None),
        (table, "restore_priority", lambda: None),
        (os, "fsync", lambda fd: None),
        (process_start, "Process", SimpleNamespace(adopt=_adopt)),
        (run, "Monitor", _monitor),
        (run, "Channel", lambda path, clock: ChannelModel(_process().guests, _process().loop, path.parent.name)),
        (spawn, "spawn", lambda machine, place: _process().guests.spawn(machine.name, place.taps)),
        (command, "with_file_names", lambda machine, said: said),
        (resources, "check_processors", lambda guest, there: None),
        (resources, "check_memory", lambda name, wanted, meminfo: None),
        (resources, "kvm_works", lambda: True),
        (resources, "machine_of", _machine_of),
        (watch, "PacketSocket", lambda tap, kind, _: TapSocket(_process().guests, _process().loop, tap, kind)),
        (cpu_stall, "look", _look),
        (tap, "ensure", _make_tap),
        (tap, "existing", lambda: list(_process().kernel.taps)),
        (tap, "remove", _remove_tap),
        (management_port, "tidy", lambda guests, lan: None),
        (management_port, "port", lambda guest, hop, lan: None),
        (Console, "serve", _no_console),
        (Console, "say", lambda self, text: None),
    ]
    patches: list[Any] = [mock.patch.object(where, name, new) for where, name, new in replaced]
    patches.append(mock.patch.dict(table.ROLES, {ROLE: PARTS}))
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in reversed(patches):
            patch.stop()
        enter(None)


def files_of(root: Path, startup: str, pstore: Path) -> None:
    """The folders and the configuration that a new appliance has."""
    for folder in ("etc/bypass", "run/bypass/guests", "var/lib/bypass", "usr/share/bypass"):
        (root / folder).mkdir(parents=True)
    pstore.mkdir(parents=True)
    (root / "etc/bypass/config.toml").write_text(startup)
