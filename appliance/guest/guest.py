# SPDX-License-Identifier: GPL-2.0-only
"""One guest of the configuration: a hop and its QEMU process, through all of its runs.

The hop's policy (hop/hop.py) says which traffic the guest may have; process_policy.py says when its process should run.
This is the thin shell around both: it waits, runs QEMU, and passes on what the process reports. The object lives as
long as bypassd; each start of QEMU is a `Run` (run.py), which outlives bypassd.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Protocol

from appliance.causes import Cause
from appliance.config.schema import model
from appliance.config.schema.metadata import Effect, differ
from appliance.errors import BypassError, RefusedError, UnreachableError
from appliance.guest.agent.channel import Message
from appliance.guest.agent.conversation import Agent, Host
from appliance.guest.console import Console
from appliance.guest.port import tap
from appliance.guest.port.management_port import Port
from appliance.guest.port.tap import TapInUseError
from appliance.guest.process_policy import ProcessEnd, ProcessPolicy
from appliance.guest.qemu.record import read_record
from appliance.guest.qemu.resources import NotReadyError
from appliance.guest.restart import Restarts
from appliance.guest.run import Run
from appliance.guest.run_context import RunContext
from appliance.guest.start_order import StartOrder
from appliance.health.bypass_latency import Fault
from appliance.health.verdict import Decision, WouldFall
from appliance.health.watch import TapPair
from appliance.hop.hop import Answer, Hop, HopLeases
from appliance.hop.lifecycle import ALIVE, SERVING, HopEvent, HopState
from appliance.telemetry.ledger import Ledger
from appliance.telemetry.subject import Change

log = logging.getLogger(__name__)

SETTLE_S = 0.1
"""Seconds between the end of the lease and the order to power down, in which frames inside the guest leave it."""

EVENT_TEXT = 200
"""Characters of a QMP event's data that are shown; they may originate in the guest."""

_CHANGES = {
    HopState.AVAILABLE: Change.GUEST_AVAILABLE,
    HopState.OVERLOADED: Change.GUEST_OVERLOADED,
    HopState.SUSPECT: Change.GUEST_SUSPECT,
    HopState.FAILED: Change.GUEST_FAILED,
}
"""What a guest's new state means for the ledger; every other state is `GUEST_OTHER`."""


def change_of(state: HopState) -> Change:
    """The kind of ledger entry for a guest's new state."""
    return _CHANGES.get(state, Change.GUEST_OTHER)


class GuestEvents(Protocol):
    """Hears when a guest failed, and when it starts over (failure.py)."""

    def agent_host(self, guest: Guest) -> Host:
        """What carries out the requests of the guest's agent."""

    def fell(self, guest: Guest, kind: str, fault: Fault, detail: str) -> None:
        """It "died", with or without traffic, or a check "failed" while it had traffic. Returns at once.

        The lease is gone already.
        """

    def measured(self, guest: Guest, fault: Fault, at_most: int | None) -> None:
        """The first frame bypassed it, at most `at_most` ns after it was last known to work."""

    def fresh_run(self, guest: Guest) -> None:
        """It started over: what its agent registered no longer holds."""


class Guest:
    """One guest, through all of its runs."""

    def __init__(
        self,
        config: model.Guest,
        context: RunContext,
        leases: HopLeases,
        ledger: Ledger,
        *,
        order: StartOrder,
        events: GuestEvents,
    ) -> None:
        self._context, self._leases, self._ledger = context, leases, ledger
        self._order, self._events = order, events
        self.name = config.name
        self._folder = context.paths.guests / config.name
        self.hop = Hop("guest", config.name, self._folder, leases=leases, owner=self, now=context.clock())
        self._policy = ProcessPolicy(config, self.hop, self._want, partial(events.fell, self, "died"))
        self.current_run: Run | None = None
        self._beginning = False
        self.console = Console(config.name, self._folder)
        self._agent_host = events.agent_host(self)
        self.agent = Agent(self.name, self._agent_host)
        self.application = ""
        self.counters: dict[str, int] = {}
        self.qmp_events: deque[str] = deque(maxlen=20)
        self._wanted, self._unwanted = asyncio.Event(), asyncio.Event()
        # Called before the next start, if the guest then has other segments or another management port.
        self.new_context: Callable[[], Awaitable[RunContext]] | None = None
        self._power_down: asyncio.Task[None] | None = None

    @property
    def config(self) -> model.Guest:
        """Its table in the configuration."""
        return self._policy.config

    @property
    def restarts(self) -> Restarts:
        """Its restarts: their number, and when the next one is due."""
        return self._policy.restarts

    @property
    def state(self) -> HopState:
        """The state of its hop."""
        return self.hop.state

    @property
    def pid(self) -> int | None:
        """The id of its process, while it runs and is not paused for lack of room."""
        run = self.current_run
        return run.pid if run is not None and not run.full else None

    async def stop_for_space(self, why: str) -> None:
        """Take its traffic away and pause it until there is room for its disks. UnreachableError: QEMU refuses."""
        if self.current_run is not None:
            self.hop.lease.revoke()
            await self.current_run.stop_for_space(why)

    @property
    def hop_number(self) -> int:
        """Its number in the datapath."""
        return self._context.hop

    @property
    def pairs(self) -> tuple[TapPair, ...]:
        """Its taps, one pair per segment."""
        return self._context.pairs

    @property
    def management(self) -> Port | None:
        """Its third port, if it has one."""
        return self._context.management

    @property
    def idle(self) -> bool:
        """It has no process, and none is being started or stopped."""
        return self.current_run is None and not self._beginning and not self.hop.stopping

    @property
    def wanted(self) -> bool:
        """Whether its process should run."""
        return self._wanted.is_set()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What it lacks of its configuration, and what weakens the bypass; nothing while it does not run."""
        if self.current_run is None:
            return ()
        late = "the host's kernel has no BPF_EVENTS: if the guest dies, frames are lost for some milliseconds"
        return (*self.current_run.warnings, *([] if self._leases.end_with_processes else [late]))

    def reconfigure(self, config: model.Guest) -> None:
        """Use `config`: its checks at once, keys that need another process from the next start on."""
        checks = differ("guest", self.config, config, Effect.CHECKS)
        if self.current_run is not None:
            self.current_run.reconfigure(config)
            if checks:
                self.hop.prove_again("its checks have changed")
        self._policy.reconfigure(config)

    # Orders: from an operator, or from the start of bypassd. Answers are for display.

    def autostart(self) -> None:
        """Start as the configuration and the last order say; a guest that is already running is adopted."""
        if self.state is not HopState.DEFINED:
            return
        running = read_record(self._folder) is not None
        if self.config.hugepages and running:
            self._context.huge.promise(self.name, self.config.memory)  # its QEMU may be about to take them
        self._policy.autostart(running=running)

    def start(self) -> str:
        """Start it, or put it back into service after a drain."""
        return self._policy.start().said

    def drain(self) -> str:
        """Send it no new flows; established ones stay."""
        return self.hop.drain(Cause.OPERATOR).said

    def stop(self) -> str:
        """Stop it in good order: take its traffic away, then power it down."""
        return self._take_down(self._policy.stop())

    def restart(self) -> str:
        """Stop it in good order, then start it; one that is down is started."""
        return self._take_down(self._policy.restart())

    def _take_down(self, answer: Answer) -> str:
        run = self.current_run
        if answer.changed and run is not None and self.hop.stopping:
            work = self._settle_and_power_down(run)
            self._power_down = asyncio.get_running_loop().create_task(work, name=f"stop {self.name}")
        elif answer.changed and run is not None and self.state is HopState.STOPPED:
            run.kill()  # it has not answered yet, so there is nothing to power down
        return answer.said

    async def _settle_and_power_down(self, run: Run) -> None:
        await asyncio.sleep(SETTLE_S)
        await run.power_down()

    async def pause(self, on: bool) -> str:
        """Take its traffic away and pause its vCPUs, or resume them. UnreachableError: QEMU refuses."""
        run = self.current_run
        if run is None or self.state not in ALIVE:
            raise RefusedError(f"guest {self.name} is {self.state.value}: only a running guest can be paused")
        run.room.held = on
        if on:
            self.hop.lease.revoke()
        else:
            await asyncio.to_thread(self._drop_queued)
        await run.monitor.ask("stop" if on else "cont")
        return f"guest {self.name} is paused: `resume` resumes it" if on else f"guest {self.name} is resumed"

    def command(self, word: str, value: int = 0) -> str:
        """Send a command to the guest's agent; UnreachableError if there is none."""
        self.send({"type": "command", "command": word, "value": value})
        return f'guest {self.name}: command "{word}" was sent'

    def _want(self, running: bool) -> None:
        (self._wanted if running else self._unwanted).set()
        (self._unwanted if running else self._wanted).clear()

    # What its agent needs

    def send(self, message: dict[str, object]) -> None:
        """Send to the agent; UnreachableError if it does not read."""
        if self.current_run is None:
            raise UnreachableError(f"guest {self.name}: no agent channel: it is {self.state.value}")
        self.current_run.channel.send(message)

    def heartbeat(self, status: str, counters: Mapping[str, int]) -> None:
        """The agent reports the state of the application."""
        self.application, self.counters = status, dict(counters)
        if self.current_run is not None:
            self.current_run.watch.heartbeat(status)

    def ask_bypass(self, on: bool, why: str) -> None:
        """The agent requests that no frames reach the guest, or that they do again."""
        if self.current_run is not None:
            self.current_run.watch.ask_bypass(on, why)

    # The guest's task

    async def run(self) -> None:
        """Start and serve the guest's runs until cancelled, which leaves the process running."""
        try:
            while True:
                if not self.wanted:
                    await self._context.huge.give_back(self.name)
                await self._wanted.wait()
                if not await self._my_turn():
                    continue
                self.agent.close()
                self.agent = Agent(self.name, self._agent_host)
                try:
                    await self._reconnect()
                    run = await self._begin()
                except BypassError as error:
                    cause = Cause.TAP_IN_USE if isinstance(error, TapInUseError) else Cause.GUEST_FAILED
                    self._policy.cannot_start(error.cause if isinstance(error, NotReadyError) else cause, str(error))
                    continue
                self.current_run = run
                if not run.adopted:
                    self.console.say(f"guest {self.name} starts")
                end = await run.live()
                self.current_run = None
                self.application, self.counters = "", {}
                await self._after(end)
        finally:
            self.agent.close()
            if self._power_down is not None:
                self._power_down.cancel()

    async def _reconnect(self) -> None:
        """Connect it as it is configured now, if that has changed; a commit may change it again meanwhile."""
        while (make := self.new_context) is not None:
            self._context = await make()
            if self.new_context is make:
                self.new_context = None

    async def _begin(self) -> Run:
        """A run whose process exists. BypassError: it cannot be started."""
        config = self.config
        run = Run(config, self._context, self.hop.history, self, self.console)
        self._beginning = True
        try:
            await run.begin()
        finally:
            self._beginning = False
        # Apply what was ordered and configured in the meantime:
        if not self.wanted:
            run.kill()
        elif self.config is not config:
            try:
                run.reconfigure(self.config)
            except BypassError as error:
                log.error("guest %s: its checks are not changed: %s", self.name, error)
        return run

    async def _my_turn(self) -> bool:
        """Wait for the guests that come first, and for its memory; False if it was stopped in the meantime.

        A guest that is already running does not wait.
        """
        if read_record(self._folder) is not None:
            return True

        def say(why: str) -> None:
            self.hop.move(HopEvent.WAIT, Cause.WAITING, why)

        async def ready() -> None:
            await self._order.turn(self.config, say)
            if self.config.hugepages:
                await self._context.huge.reserve(self.name, self.config.memory)

        turn = asyncio.ensure_future(ready())
        stopped = asyncio.ensure_future(self._unwanted.wait())
        try:
            await asyncio.wait({turn, stopped}, return_when=asyncio.FIRST_COMPLETED)
            return not stopped.done()
        finally:
            turn.cancel()
            stopped.cancel()
            await asyncio.gather(turn, stopped, return_exceptions=True)

    async def _after(self, end: ProcessEnd) -> None:
        """The process has ended: do what follows, and wait until the next start is due."""
        self.hop.lease.revoke()
        if self._power_down is not None:
            await asyncio.gather(self._power_down, return_exceptions=True)
            self._power_down = None
        self.console.say(f"guest {self.name} {end.detail}")
        wait = self._policy.ended(self._context.clock(), end)
        if wait:
            try:
                await asyncio.wait_for(self._unwanted.wait(), wait / 1e9)
            except TimeoutError:
                pass  # it was not stopped in the meantime: the next start follows

    # What its run reports

    def on_end(self) -> None:
        """The process has ended: end the lease before anything else."""
        run = self.current_run
        self.hop.gone(self._context.clock(), Cause.GUEST_EXITED, run.watch.verdict if run is not None else None)

    def on_running(self, run: Run) -> None:
        """QEMU answers: now the guest must pass its checks."""
        pid, processors = run.threads()
        self._leases.tie(self.name, (pid, *processors))
        self.hop.running("; ".join((*["adopted"] * run.adopted, *self.warnings)))
        if not run.adopted:
            self._events.fresh_run(self)
        self.agent.greet()

    def on_decision(self, decision: Decision) -> None:
        """The checks say that the guest may, or may not, have traffic."""
        if isinstance(decision, WouldFall):
            passing, states = decision.why == "", ("checks pass", "checks would bypass it")
            change, cause = Change.GUEST_DRY_RUN, Cause.HEALTHY if passing else decision.cause
            self._ledger.record(change, self.name, *(states[::-1] if passing else states), cause, detail=decision.why)
            return
        self.hop.on_decision(self._context.clock(), decision)

    def on_event(self, name: str, data: Mapping[str, object]) -> None:
        """A QMP event: some are vetoes (health/qemu_events.py), and after a reset the guest starts over."""
        text = ", ".join(f"{key} {value}" for key, value in data.items())[:EVENT_TEXT]
        self.qmp_events.append(f"{name} {text}".strip())
        if self.current_run is None:
            return
        if name == "RESET" and self.hop.can(HopEvent.RESET):
            self.hop.restarted(Cause.GUEST_RESET, text)
            self.current_run.watch.reset()
            self._events.fresh_run(self)
        else:
            self.current_run.watch.event(name, data)

    def on_message(self, message: Message) -> None:
        """The agent sent a message."""
        self.agent.on_message(message)

    async def ask_agent(self, word: str) -> str:
        """Have the agent run the check `word`: "ok", or what is wrong."""
        return await self.agent.ask(word)

    # What its hop reports

    def on_move(self, old: HopState) -> None:
        """The hop changed its state: keep that for the next bypassd, tell the start order, record it."""
        hop = self.hop
        if self.current_run is not None and SERVING & {old, hop.state}:
            self.current_run.note_proved(hop.state in SERVING)
        self._order.tell(self.name, hop.state)
        change = change_of(hop.state)
        self._ledger.record(change, self.name, old.value, hop.state.value, hop.cause, detail=hop.detail)

    def on_failed(self, fault: Fault, why: str) -> None:
        """A check failed while the guest had traffic: the last frames sent to it are kept."""
        self._events.fell(self, "failed", fault, why)
        asyncio.get_running_loop().run_in_executor(None, self._drop_queued)

    def _drop_queued(self) -> None:
        """Drop the frames that wait for it in its taps, up to a thousand in each.

        Its traffic takes another path by now: if it continued, it would send them out late and out of order.
        """
        for pair in self.pairs:
            for name in (pair.lan, pair.wan):
                with contextlib.suppress(OSError):  # the tap is gone, and its frames with it
                    tap.drop_queued(name)

    def on_measured(self, fault: Fault, at_most: int | None) -> None:
        """The first frame bypassed the guest after it failed."""
        self._events.measured(self, fault, at_most)
