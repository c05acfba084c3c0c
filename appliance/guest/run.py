# SPDX-License-Identifier: GPL-2.0-only
"""One run of a guest: from the start (or adoption) of its QEMU to its end.

Owns the process, its QMP connection, its agent channel and the watch over its health, and reports to the guest
(guest.py) through `Listener`. What the next bypassd needs to continue is in the guest's run folder: `state.json`
(qemu/record.py) and the sockets. A run ends with the process; if bypassd ends first, the process keeps running.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Protocol

import msgspec

from appliance.config.schema import model
from appliance.config.schema.metadata import Effect, differ
from appliance.counted import counted
from appliance.errors import BypassError, GuestError, UnreachableError
from appliance.guest import process_start
from appliance.guest.agent.channel import Channel, Message
from appliance.guest.console import Console
from appliance.guest.port import tap
from appliance.guest.process_policy import ProcessEnd
from appliance.guest.process_start import scratch_folder
from appliance.guest.qemu import command, process, queue_threads
from appliance.guest.qemu.process import Process
from appliance.guest.qemu.qmp import Monitor
from appliance.guest.qemu.record import STATE_FILE, Record, write_record
from appliance.guest.room import RoomWait
from appliance.guest.run_context import RunContext
from appliance.health.qemu_events import PANIC, is_disk_full
from appliance.health.verdict import Decision, History
from appliance.health.watch import Watch
from appliance.system.threads import to_the_end

log = logging.getLogger(__name__)

POWERDOWN_S = 10.0
QUIT_S = 2.0
"""How long a guest may take to power down, and QEMU to quit, before it is killed."""

GUEST_SHUTDOWN = "guest-shutdown"  # the reason in QEMU's event if the guest powered itself off

QUEUES_S = 2.0
"""Between two looks at how many queues a guest's driver uses."""

ENDING_S = 5.0  # between the end of the monitor connection and that of the process, if QEMU ends by itself


class Listener(Protocol):
    """Hears what happens in a run. All calls come from the event loop and return at once."""

    def on_end(self) -> None:
        """The process ended. The first call after the kernel reports it: end the lease here."""

    def on_running(self, run: Run) -> None:
        """QEMU runs and is this guest's; the checks begin right after this call."""

    def on_decision(self, decision: Decision) -> None:
        """The checks say that the guest may, or may not, have traffic."""

    def on_event(self, name: str, data: Mapping[str, object]) -> None:
        """A QMP event."""

    def on_message(self, message: Message) -> None:
        """The guest's agent sent a message."""

    async def ask_agent(self, word: str) -> str:
        """Have the agent run the check `word`: "ok", or what is wrong."""


class Run:
    """One QEMU process and all that belongs to it."""

    def __init__(
        self, guest: model.Guest, context: RunContext, history: History, listener: Listener, console: Console
    ) -> None:
        self._guest, self._context, self._listener = guest, context, listener
        self._folder = context.paths.guests / guest.name
        self._history = history
        self.queues = guest.queues  # those of its process: another number counts from its next start
        self.used_queues: dict[str, int] = {}  # by tap, where it has several: those that its driver uses
        self.watch = self._new_watch()
        self._console = console
        self.channel = Channel(self._folder / "agent.sock", context.clock)
        self.monitor = Monitor(guest.name, self._folder / "qmp.sock", self._on_event)
        self.record: Record | None = None
        self.adopted = False
        self.answered = False
        self._process: Process | None = None
        self.since = context.clock()
        self._processors: Sequence[int] = ()
        self._ended = asyncio.Event()
        self._trouble = ""
        self._powered_off = False
        self.room = RoomWait(
            guest.name,
            context.paths.state,
            self.monitor,
            report=self._on_event,
            note=lambda full: self._note(full=full),
            clock=context.clock,
        )
        self._machine: command.Machine | None = None  # None: adopted

    def _new_watch(self) -> Watch:
        context = self._context
        return Watch(
            self._guest,
            context.hop,
            context.pairs,
            context.nonce,
            history=self._history,
            subject=self,
            folder=context.paths.config.parent,
            space=context.space,
            clock=context.clock,
            loads=context.loads,
            queues=self.queues,
        )

    def reconfigure(self, guest: model.Guest) -> None:
        """Check the running guest as `guest` says from now on. Earlier proof counts, and the lease stays valid.

        GuestError if a check is not supported; the old checks then continue.
        """
        old, self._guest = self._guest, guest
        if not differ("guest", old, guest, Effect.CHECKS):
            return
        try:
            fresh = self._new_watch()
        except BypassError:
            self._guest = old
            raise
        was, self.watch = self.watch, fresh
        fresh.verdict.vetoes.update(was.verdict.vetoes)
        if was.running:
            was.stop()
            if self.record is not None and self.record.proved:
                fresh.shorten_proof()
            fresh.start()

    # For the watch

    def on_decision(self, decision: Decision) -> None:
        """The checks say that the guest may, or may not, have traffic."""
        self._listener.on_decision(decision)

    def process_alive(self) -> bool:
        """Whether its process is running, according to the kernel."""
        return self._process is not None and self._process.alive

    def threads(self) -> tuple[int, Sequence[int]]:
        """The ids of QEMU's process (its main thread) and of the vCPU threads. Only once it runs."""
        assert self._process is not None
        return self._process.pid, self._processors

    async def ask_agent(self, word: str) -> str:
        """Have the agent run the check `word`: "ok", or what is wrong."""
        return await self._listener.ask_agent(word)

    # Its life

    async def begin(self) -> None:
        """Adopt the process that an earlier bypassd left, or start one. NotReadyError or GuestError: not possible."""
        try:
            await to_the_end(self._begin)  # reads images, removes what a crash left, and waits for a process to end
        except asyncio.CancelledError:
            if self._process is not None:
                self._process.let_go()  # the next bypassd finds it
            raise

    def _begin(self) -> None:
        begun = process_start.adopt_or_start(self._guest, self._context)
        self._process, self.record, self._machine = begun
        self.adopted = begun.machine is None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What it lacks of the configuration, and what weakens the bypass; for `show guests`."""
        found = self.record.warnings if self.record is not None else ()
        blind = ["no data-path check: a hang would not be noticed"] if self.watch.only_process else []
        if self.watch.dry_run:
            blind = ["dry run: its checks decide nothing"]
        dropped = self.monitor.dropped
        flood = [f"it floods QEMU's monitor: {counted(dropped, 'event')} dropped"] if dropped else []
        fewest = min(self.used_queues.values(), default=self.queues)
        idle = [f"its driver uses {fewest} of {self.queues} queues"] * (0 < fewest < self.queues)
        full = ["no disk space left for what it writes: it is paused"] if self.full else []
        return (*found, *blind, *flood, *idle, *full)

    def note_proved(self, proved: bool) -> None:
        """Keep for the next bypassd whether the guest has passed its checks."""
        if self.record is not None and self.record.proved != proved:
            self._note(proved=proved)

    def _note(self, **more: bool) -> None:
        if self.record is None:
            return
        self.record = msgspec.structs.replace(self.record, **more)
        try:
            write_record(self._folder, self.record)
        except OSError as error:
            what = "the result of its checks" if "proved" in more else "the fact that it is paused"
            why = error.strerror
            log.warning("guest %s: %s will not survive a restart of bypassd: %s", self._guest.name, what, why)

    async def live(self) -> ProcessEnd:
        """Serve the process until it ends. If cancelled, the process keeps running."""
        assert self._process is not None, "begin() comes first"
        assert self.record is not None
        loop = asyncio.get_running_loop()
        loop.add_reader(self._process.pidfd, self._at_end)
        serve = loop.create_task(self._serve(), name=f"serve {self._guest.name}")
        ended = loop.create_task(self._ended.wait())
        try:
            await asyncio.wait({serve, ended}, return_when=asyncio.FIRST_COMPLETED)
            if not self._ended.is_set():
                trouble = serve.exception()
                if trouble is not None and not isinstance(trouble, BypassError):
                    raise trouble
                # Often the monitor closes because QEMU is exiting; then QEMU's own output explains more.
                await asyncio.wait({ended}, timeout=ENDING_S)
                if not self._ended.is_set():
                    self._trouble = str(trouble or "QEMU closed its monitor connection")
                    self._process.kill()  # without its monitor QEMU cannot be controlled
                    await ended
        finally:
            loop.remove_reader(self._process.pidfd)
            serve.cancel()
            ended.cancel()
            await asyncio.gather(serve, ended, return_exceptions=True)
            if not self._ended.is_set():
                self._process.let_go()
        how = self._process.reap()
        (self._folder / STATE_FILE).unlink(missing_ok=True)
        said = process.last_words(self._folder / "qemu.log")
        if self._machine is not None:
            said = command.with_file_names(self._machine, said)
        self._context.cgroups.remove(self._guest.name)
        # Snapshot data may have gigabytes, which take a while to free.
        await to_the_end(partial(shutil.rmtree, scratch_folder(self._context, self._guest.name), ignore_errors=True))
        return ProcessEnd(
            how,
            self._trouble or said,
            self.answered,
            since=self.record.since,
            in_order=self._powered_off,
            panicked=PANIC in self.watch.verdict.vetoes,
        )

    def _on_event(self, name: str, data: Mapping[str, object]) -> None:
        if name == "SHUTDOWN":
            self._powered_off = data.get("reason") == GUEST_SHUTDOWN
        elif name == "RESUME":
            self.room.end()
        elif is_disk_full(name, data):
            self.room.begin()
        self._listener.on_event(name, data)

    @property
    def full(self) -> bool:
        """Whether it is paused until there is room for what it writes."""
        return self.room.waiting

    async def stop_for_space(self, why: str) -> None:
        """Pause it before it fills the disk of all guests; it resumes by itself. UnreachableError: QEMU refuses."""
        self._on_event("BLOCK_IO_ERROR", {"nospace": True, "operation": "write", "reason": why})
        await self.monitor.ask("stop")

    def _at_end(self) -> None:
        assert self._process is not None
        try:
            self._listener.on_end()
        finally:
            self.watch.stop()  # a late answer must not renew the lease that has just ended
            asyncio.get_running_loop().remove_reader(self._process.pidfd)
            self._ended.set()

    def _pin(self, processors: Sequence[int]) -> None:
        """Pin each vCPU, and the kernel's thread of each queue, to its configured host processor."""
        assert self._process is not None
        wanted = dict(zip(processors, self._guest.pin, strict=False))
        if self._guest.queue_pin:
            pid, ports = self._process.pid, 2 * len(self._context.pairs)
            wanted |= queue_threads.places(pid, queue_threads.find(pid), ports, self._guest.queue_pin)
        for thread, processor in wanted.items():
            try:
                os.sched_setaffinity(thread, {processor})
            except OSError as error:
                log.warning("guest %s: cannot pin to processor %d: %s", self._guest.name, processor, error.strerror)

    async def _serve(self) -> None:
        """QMP, agent channel and checks, for as long as the process runs."""
        # At once: the first output of firmware and kernel explains a guest that never comes up.
        talk = asyncio.ensure_future(self._console.serve())
        count = asyncio.ensure_future(self._count_queues())
        try:
            accel = await self.monitor.connect()
            self._context.huge.taken(self._guest.name)
            self._processors = await self.monitor.processors()
            self._pin(self._processors)
            await self.channel.connect()
            assert self.record is not None
            self.record = msgspec.structs.replace(self.record, accel=accel)
            self.answered = True
            if self.adopted and self.record.proved:
                self.watch.shorten_proof()
            self._listener.on_running(self)
            self.watch.start()
            if await self.monitor.status() in ("io-error", *["paused"] * self.record.full):
                self._on_event("BLOCK_IO_ERROR", {"nospace": True, "reason": "before bypassd connected"})
            await asyncio.gather(self.monitor.watch(), self.channel.run(self._listener.on_message), talk)
        finally:
            talk.cancel()
            count.cancel()
            self.room.cancel()
            self.watch.stop()
            self.channel.close()
            await self.monitor.close()

    async def _count_queues(self) -> None:
        """Look now and then how many of several queues its driver uses; the kernel's answer may take seconds."""
        taps = [name for pair in self._context.pairs for name in (pair.lan, pair.wan)]
        while self.queues > 1:
            self.used_queues = await to_the_end(partial(_used, taps))
            await asyncio.sleep(QUEUES_S)

    async def power_down(self) -> None:
        """Power the guest down, or kill it if it does not react; returns when the process has ended."""
        assert self._process is not None
        try:
            self.channel.send({"type": "shutdown"})
        except UnreachableError:
            pass  # no agent: press the power button next
        if await self._order("system_powerdown", POWERDOWN_S) or await self._order("quit", QUIT_S):
            return
        self._process.kill()
        await self._ended.wait()

    async def _order(self, what: str, limit: float) -> bool:
        """Run one QMP command; returns whether the process ended within `limit` seconds."""
        try:
            await self.monitor.ask(what)
        except UnreachableError as error:
            if not self._ended.is_set():
                log.info("%s", error)
                return False
        try:
            await asyncio.wait_for(self._ended.wait(), limit)
        except TimeoutError:
            return False
        return True

    def kill(self) -> None:
        """End the process at once."""
        if self._process is not None:
            self._process.kill()

    @property
    def pid(self) -> int | None:
        """Process id, while it runs."""
        return self._process.pid if self._process is not None and not self._ended.is_set() else None

    def rotate_logs(self) -> None:
        """Keep QEMU's log bounded."""
        process.rotate(self._folder / "qemu.log")


def _used(taps: Sequence[str]) -> dict[str, int]:
    """In a thread."""
    with contextlib.suppress(GuestError):  # a tap is gone: it is found out where it is missed
        return {name: tap.used_queues(name) for name in taps}
    return {}
