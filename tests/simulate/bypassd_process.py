# SPDX-License-Identifier: GPL-2.0-only
"""One bypassd: the real supervisor on a loop of simulated time, from its start by the keeper to its end.

It replaces `appliance/__main__.py`: hold, read the configuration, hold, run the supervisor.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, cast

from appliance import progress
from appliance.config.commit import startup
from appliance.config.commit.store import Store
from appliance.errors import DatapathError
from appliance.hardware.board import Board
from appliance.keeper.client import KeeperLink
from appliance.keeper.silence import Looked
from appliance.part import _Entry
from appliance.paths import Paths
from appliance.supervisor.supervisor import Supervisor
from appliance.supervisor.system import System
from tests.simulate import edges
from tests.simulate.clock import MS, Clock, KilledError, Loop, Scope
from tests.simulate.disk import DiskModel
from tests.simulate.edges import PacketSocket
from tests.simulate.guests import Guests
from tests.simulate.keeper_process import PACKET_NS, KeeperProcess
from tests.simulate.kernel import DatapathModel, KernelModel, ModelledLeases

END_NS = MS // 5
"""From a signal that kills until the parent knows."""


class Surroundings(Protocol):
    """What a bypassd gets from the world."""

    clock: Clock
    kernel: KernelModel
    root: Path
    board: Board
    disk: DiskModel
    qemus: Guests
    booted: int

    def renewed(self, hop: str, until: int) -> None:
        """A lease was renewed."""

    def failed(self, invariant: str, what: str) -> None: ...

    def started(self, process: BypassdProcess) -> None:
        """Its supervisor has been created, and runs from now on."""

    def read(self, process: BypassdProcess, begun: startup.Startup) -> None:
        """It has read its configuration."""


class BypassdProcess:
    """See the module. `load`: how long it takes to read its program."""

    def __init__(
        self,
        world: Surroundings,
        keeper: KeeperProcess,
        scope: Scope,
        boot: str,
        *,
        load: int,
        thread: Callable[[], int],
    ) -> None:
        self._world, self._keeper, self.boot = world, keeper, boot
        self.kernel = world.kernel
        self.scope = Scope(scope)
        self.loop = Loop(world.clock, self.scope, self._bug)
        self.loop.thread = thread
        self.loop.waiting = edges.readable
        self.guests = world.qemus
        self.guests.readable = lambda number: self.loop.inside(lambda: self.loop.readable(number))
        self.supervisor: Supervisor | None = None
        self._socket = PacketSocket(lambda data: world.clock.after(PACKET_NS, lambda: keeper.packet(data)))
        self.link = KeeperLink(cast(socket.socket, self._socket))
        self._task: asyncio.Task[int] | None = None
        self._mode, self._since = "S", 0
        self._booted = world.booted
        progress._done = 0
        self.leases = ModelledLeases(self.kernel, self.scope, world.qemus.thread_alive)
        self.leases.renewed = world.renewed
        self._inside(self.link.hold, load // 4)
        self._inside(self._begin, load)

    @property
    def alive(self) -> bool:
        return self.scope.alive

    @property
    def hung(self) -> bool:
        return self.scope.frozen

    @property
    def system(self) -> System | None:
        return self.supervisor.system if self.supervisor is not None else None

    def _inside(self, call: Callable[[], object], delay: int = 0) -> None:
        def entered() -> None:
            edges.enter(self)
            call()

        self.loop.inside(entered, delay)

    def run(self, call: Callable[[], object]) -> None:
        """Do something in this process at once, as its own code would."""
        edges.enter(self)
        self.loop._enter(call)

    def _begin(self) -> None:
        world = self._world
        paths = Paths(world.root)
        store = Store(paths.config, paths.history, world.disk)
        try:
            begun = startup.read(store, self.boot, world.clock.now)
        except KilledError:
            return
        world.read(self, begun)
        self.link.hold()
        self.supervisor = Supervisor(
            paths,
            self.link,
            board=world.board,
            board_error="",
            config=begun.config,
            config_errors=begun.errors,
            store=store,
            text=begun.text,
            pending=begun.pending,
            role=edges.ROLE,
        )
        self._socket.loop = self.loop
        world.started(self)
        self._task = self.loop.create_task(self.supervisor.run(), name="bypassd")
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[int]) -> None:
        if not self.alive or task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self._bug(error)
        self.die(f"ended with status {1 if error is not None else task.result()}")

    def _bug(self, error: BaseException) -> None:
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if isinstance(error, KilledError) or not self.alive:
            return
        where = error.__traceback__
        while where is not None and where.tb_next is not None:
            where = where.tb_next
        place = f"{Path(where.tb_frame.f_code.co_filename).name}:{where.tb_lineno}" if where is not None else "?"
        self._world.failed("bug", f"{type(error).__name__} at {place}: {error}")

    def open_datapath(self) -> DatapathModel:
        """DatapathError: the kernel refuses it."""
        if self.kernel.refuses_load:
            raise DatapathError("steer.bpf.o: the kernel refuses the program: Cannot allocate memory")
        adopted, self.kernel.loaded = self.kernel.loaded, True
        return DatapathModel(self.kernel, self.leases, adopted, self.guests, self.scope)

    def uptime(self) -> int:
        """CLOCK_MONOTONIC as the kernel has it: since the machine started."""
        return self._world.clock.now - self._booted

    # -- what others do to it

    def take(self, packet: bytes) -> None:
        """A packet of the keeper."""
        if self.alive and not self.link.lost:
            self._inside(lambda: self._socket.put(packet))

    def link_closed(self) -> None:
        if self.alive:
            self._inside(lambda: self._socket.put(b""))

    def signal(self, orderly: bool) -> None:
        """SIGTERM or SIGKILL."""
        if orderly and signal.SIGTERM in self.loop.signals:
            self._inside(self.loop.signals[signal.SIGTERM], PACKET_NS)
        elif not orderly or not self.hung:
            self._world.clock.after(END_NS, lambda: self.die(f"killed by signal {15 if orderly else 9}"))

    def die(self, how: str) -> None:
        """It has ended, and the keeper will be notified soon."""
        if not self.scope.alive:
            return
        self.vanish()
        keeper = self._keeper

        def tell() -> None:
            if keeper.child is self:
                keeper.child_gone(how)

        self._world.clock.after(END_NS, tell, keeper.scope)

    def vanish(self) -> None:
        """It has ended, and nobody is notified."""
        self.scope.end()
        edges.enter(self)
        self.loop.close()

    def hang(self, mode: str) -> None:
        """It no longer works: "T" stopped, "R" it loops, "W" it gets no processor."""
        self._mode, self._since = mode, self._world.clock.now
        self.scope.freeze()

    def go_on(self) -> None:
        self._mode = "S"
        self.scope.thaw(self._world.clock)

    def hang_part(self, name: str) -> None:
        """One part does not check in any more."""
        if self.system is not None and name in self.system.check_ins._entries:
            old = self.system.check_ins._entries[name]
            self.system.check_ins._entries[name] = _Entry(old.patience, old.last)

    def look(self) -> Looked:
        """The kernel's account of the process."""
        span = self._world.clock.now - self._since
        ran, waited = (span if self._mode == "R" else 0), (span if self._mode == "W" else 0)
        return Looked({1: (ran, waited)}, "R" if self._mode == "W" else self._mode)

    def skip(self, by: int) -> None:
        """The clock jumped: its parts kept checking in meanwhile."""
        if self.system is not None:
            for entry in self.system.check_ins._entries.values():
                entry.last += by
