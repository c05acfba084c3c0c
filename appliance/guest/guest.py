# SPDX-License-Identifier: GPL-2.0-only
"""One guest of the configuration: where it is in its life, its lease, its orders.

Carries out what the table in lifecycle.py allows, and writes every transition to the ledger. The object lives as long
as bypassd; each start of QEMU is a `Run` (run.py), which outlives bypassd. What an operator ordered (stopped, draining)
is kept in the guest's run folder, so that a new bypassd keeps to it until the appliance reboots.

When the process ends the lease goes first, before anything is logged or decided: until then frames go to nobody.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from appliance.causes import Cause
from appliance.config.schema import model
from appliance.errors import BypassError, RefusedError, UnreachableError
from appliance.guest import lifecycle
from appliance.guest.agent.channel import Message
from appliance.guest.agent.conversation import Agent, Host
from appliance.guest.console import Console
from appliance.guest.fall_history import KeptHistory
from appliance.guest.lifecycle import Event, State
from appliance.guest.port.management_port import Port
from appliance.guest.port.tap import TapInUseError
from appliance.guest.qemu.resources import NotReadyError
from appliance.guest.run import End, Run, Setting, read_record
from appliance.guest.start_order import Order
from appliance.health.bypass_latency import Fault, Reaction
from appliance.health.lease import Lease, Leases
from appliance.health.qemu_events import PANIC
from appliance.health.verdict import Available, Decision, Unavailable, Verdict
from appliance.health.watch import TapPair
from appliance.system import files
from appliance.telemetry.subject import Change

log = logging.getLogger(__name__)

SETTLE_S = 0.1
"""Between the end of the lease and the order to power down: frames inside the guest come out of it first."""


class Ledger(Protocol):
    """Where transitions are recorded."""

    def record(self, change: Change, name: str, old: str, new: str, cause: str, *, detail: str = "") -> object:
        """Keep one transition; never blocks, never raises."""
        ...


class HopLeases(Leases, Protocol):
    """What a guest needs of the datapath (steering/leases.py)."""

    @property
    def end_with_processes(self) -> bool:
        """Whether the kernel ends leases by itself."""
        ...

    def tie(self, hop: str, threads: Iterable[int]) -> object:
        """The lease ends in the kernel with the first of these threads."""
        ...

    def untie(self, hop: str) -> object:
        """The process is gone: what is renewed from now on counts again."""
        ...

    def ended(self, hop: str) -> int:
        """When the kernel saw the process end (ns); 0: it did not."""
        ...

    def set_draining(self, hop: str, on: bool) -> object:
        """New flows go elsewhere while this is on; established ones stay."""
        ...

    def first_skip(self, hop: str) -> int:
        """When the first frame was led around the hop since it lost its lease (ns); 0: none was yet."""
        ...


class Aftermath(Protocol):
    """Who must know when a guest that had traffic fell, and what is made anew with each run."""

    def desk(self, guest: Guest) -> Host:
        """What the guest's agent is granted."""

    def fell(self, guest: Guest, kind: str, fault: Fault, detail: str) -> None:
        """It died, or was declared failed ("died", "failed"). Returns at once; the lease is gone already."""

    def measured(self, guest: Guest, fault: Fault, at_most: int | None) -> None:
        """After this fault the first frame was led around it, so long (ns) after the last proof that it worked."""

    def fresh_run(self, guest: Guest) -> None:
        """It starts over: what its agent registered holds no more."""


class Guest:
    """One guest, through all of its runs."""

    def __init__(
        self,
        config: model.Guest,
        setting: Setting,
        leases: HopLeases,
        ledger: Ledger,
        *,
        order: Order,
        aftermath: Aftermath,
    ) -> None:
        self.config, self._setting, self._leases, self._ledger = config, setting, leases, ledger
        self._order = order
        self.name = config.name
        self.state, self.cause, self.detail = State.DEFINED, Cause.NONE, ""
        self.lease = Lease(leases, config.name)
        self.history = KeptHistory.load(setting.paths.guests / config.name, setting.clock())
        self.restarts = lifecycle.Restarts(config.restart)
        self.run_now: Run | None = None
        self.console = Console(config.name, setting.paths.guests / config.name)
        self.reaction = Reaction()
        self._aftermath = aftermath
        self._desk = aftermath.desk(self)
        self.agent = Agent(self.name, self._desk)
        self.application = ""
        self.counters: dict[str, int] = {}
        self.events: deque[str] = deque(maxlen=20)
        self._order_file = setting.paths.guests / config.name / "order"
        self.drained_by = Cause.OPERATOR  # while it is draining: who asked for it
        self._ill = False  # a check has failed since it is draining
        self.ended_at = 0  # its last process (ns)
        self._proof: int | None = None  # of the last process, when it was last proved to work
        self.last_verdict: Verdict | None = None  # of the last process
        self._wanted, self._unwanted = asyncio.Event(), asyncio.Event()
        self.place: Callable[[], Setting] | None = None  # asked before the next start: the guest serves other segments
        self._stopping: asyncio.Task[None] | None = None

    @property
    def hop(self) -> int:
        """Its number in the datapath."""
        return self._setting.hop

    @property
    def pairs(self) -> tuple[TapPair, ...]:
        """Its taps, one pair a segment."""
        return self._setting.pairs

    @property
    def management(self) -> Port | None:
        """Its third port, where it has one."""
        return self._setting.management

    def reconfigure(self, config: model.Guest) -> None:
        """Be as `config` says: its checks at once, what takes another process from the next start on.

        One that failed is started again: that its configuration changed is what was to be mended.
        """
        mended = self.state is State.FAILED and config.autostart and config != self.config
        checks = (config.heartbeat, config.probes) != (self.config.heartbeat, self.config.probes)
        self.config, self.restarts.policy = config, config.restart
        if self.run_now is not None:
            self.run_now.reconfigure(config)
            if checks and self.state is State.AVAILABLE:
                # Its lease goes on; the first answer to the new checks renews it.
                self._to(Event.FELL, Cause.PROVING, "it is checked in another way now")
        if mended:
            self.restarts.forgive()
            self._to(Event.START, Cause.CONFIGURED, "its configuration was changed")
            self._want(True)

    @property
    def idle(self) -> bool:
        """No process, and none is being stopped."""
        return self.run_now is None and self._stopping is None

    # Orders: of an operator, or of the start of bypassd. Answers are for a person.

    def autostart(self) -> None:
        """Start as the configuration and the last order say; a guest that runs already is adopted."""
        if self.state is not State.DEFINED:
            return
        if self.config.hugepages and read_record(self._order_file.parent) is not None:
            self._setting.huge.promise(self.name, self.config.memory)  # its QEMU may be about to take them
        if self._ordered() == "stopped":
            self._to(Event.STOP, Cause.OPERATOR)
        elif self.config.autostart or self._ordered() == "draining" or read_record(self._order_file.parent) is not None:
            self._to(Event.START, Cause.STARTING)
            self._want(True)

    def start(self) -> str:
        """Start, or take back into service after a drain."""
        if self._stopping is not None:
            raise RefusedError(f"guest {self.name} is being stopped: start it when it is stopped")
        if not lifecycle.allowed(self.state, Event.START):
            return f"guest {self.name} is {self.state.value} already"
        self._note_order("")
        self.restarts.forgive()
        if self.state is State.DRAINING:
            self.take_back(Cause.OPERATOR)
            return f"guest {self.name} is taken back into service"
        self._to(Event.START, Cause.OPERATOR)
        self._want(True)
        return f"guest {self.name} is being started"

    def take_back(self, cause: Cause) -> None:
        """End a drain."""
        self._leases.set_draining(self.name, False)
        self._to(Event.START, cause)

    def drain(self, cause: Cause = Cause.OPERATOR) -> str:
        """Give it no new flows; established ones stay."""
        if self.state is State.DRAINING:
            return f"guest {self.name} is draining already"
        if not lifecycle.allowed(self.state, Event.DRAIN):
            raise RefusedError(f"guest {self.name} is {self.state.value}: only a running guest can be drained")
        self._leases.set_draining(self.name, True)
        self.drained_by, self._ill = cause, False
        if cause is Cause.OPERATOR:
            self._note_order("draining")
        self._to(Event.DRAIN, cause)
        return f"guest {self.name} is draining: established flows stay, new ones take another way"

    def stop(self) -> str:
        """Stop in good order: the traffic leaves first, then the guest powers down."""
        if self.state is State.STOPPED:
            return f"guest {self.name} is stopped already"
        if self._stopping is not None:
            return f"guest {self.name} is being stopped already"
        self._note_order("stopped")
        self._want(False)
        self.lease.revoke()
        self._to(Event.STOP, Cause.OPERATOR)
        run = self.run_now
        if run is not None and self.state is State.DRAINING:
            self._stopping = asyncio.get_running_loop().create_task(self._power_down(run), name=f"stop {self.name}")
            return f"guest {self.name} is being stopped"
        if run is not None:
            run.kill()  # it did not answer yet, so there is nothing to power down
        return f"guest {self.name} is stopped"

    async def _power_down(self, run: Run) -> None:
        await asyncio.sleep(SETTLE_S)
        await run.power_down()

    async def pause(self, on: bool) -> str:
        """Stop its processors, or let them go on; the traffic leaves it first. UnreachableError: QEMU refuses."""
        run = self.run_now
        if run is None or self.state not in lifecycle.ALIVE:
            raise RefusedError(f"guest {self.name} is {self.state.value}: only a running guest can be paused")
        if on:
            self.lease.revoke()
        await run.monitor.ask("stop" if on else "cont")
        return f"guest {self.name} is paused: `resume` lets it go on" if on else f"guest {self.name} goes on"

    def tell(self, word: str, value: int = 0) -> str:
        """Send a command over the agent channel; UnreachableError when there is none."""
        if self.run_now is None:
            raise UnreachableError(f"guest {self.name}: no agent channel: it is {self.state.value}")
        self.run_now.channel.send({"type": "command", "command": word, "value": value})
        return f"guest {self.name} was told to {word}"

    def _want(self, running: bool) -> None:
        (self._wanted if running else self._unwanted).set()
        (self._unwanted if running else self._wanted).clear()

    def _ordered(self) -> str:
        try:
            return self._order_file.read_text().strip()
        except OSError:
            return ""

    def _note_order(self, word: str) -> None:
        try:
            files.replace(self._order_file, word, synced=False)
        except OSError as error:
            log.warning("guest %s: order not kept for a restart of bypassd: %s", self.name, error)

    # The task that carries the guest through its life

    async def run(self) -> None:
        """Until cancelled, which leaves the process running."""
        try:
            while True:
                if not self._wanted.is_set():
                    await self._setting.huge.give_back(self.name)
                await self._wanted.wait()
                if not await self._my_turn():
                    continue
                self.agent.close()
                self.agent = Agent(self.name, self._desk)
                try:
                    if self.place is not None:
                        self._setting, self.place = self.place(), None
                    run = Run(self.config, self._setting, self.history, self, self.console)
                    run.begin()
                except BypassError as error:
                    self._cannot_start(error)
                    continue
                self.run_now = run
                if not run.adopted:
                    self.console.say(f"guest {self.name} starts")
                end = await run.live()
                self.run_now = None
                self.application, self.counters = "", {}
                await self._ended(end, run)
        finally:
            self.agent.close()
            if self._stopping is not None:
                self._stopping.cancel()

    async def _my_turn(self) -> bool:
        """Wait for the guests that come before, and for its memory; False when it was stopped meanwhile.

        One that runs waits for none.
        """
        if read_record(self._order_file.parent) is not None:
            return True

        def say(why: str) -> None:
            self._to(Event.WAIT, Cause.WAITING, why)

        async def ready() -> None:
            await self._order.turn(self.config, say)
            if self.config.hugepages:
                await self._setting.huge.reserve(self.name, self.config.memory)

        turn = asyncio.ensure_future(ready())
        stopped = asyncio.ensure_future(self._unwanted.wait())
        try:
            await asyncio.wait({turn, stopped}, return_when=asyncio.FIRST_COMPLETED)
            return not stopped.done()
        finally:
            turn.cancel()
            stopped.cancel()
            await asyncio.gather(turn, stopped, return_exceptions=True)

    def _cannot_start(self, error: BypassError) -> None:
        """What an operator must mend stays so until a new order."""
        self._want(False)
        self.lease.revoke()
        cause = Cause.TAP_IN_USE if isinstance(error, TapInUseError) else Cause.GUEST_FAILED
        cause = error.cause if isinstance(error, NotReadyError) else cause
        if lifecycle.allowed(self.state, Event.REFUSED):
            self._to(Event.REFUSED, cause, str(error))

    async def _ended(self, end: End, run: Run) -> None:
        """After the process: stopped as ordered, failed, or started again after a wait."""
        self.lease.revoke()
        stopped = self._stopping is not None
        if self._stopping is not None:
            await asyncio.gather(self._stopping, return_exceptions=True)
            self._stopping = None
        detail = f"{end.how}: {end.said}" if end.said else end.how
        self.console.say(f"guest {self.name} {detail}")
        if self.state is State.STOPPED:
            return
        if self.state is State.DRAINING and self.drained_by is Cause.GUEST_ASKED and not stopped:
            self.take_back(Cause.GUEST_EXITED)  # it drained itself in order to end, and is started again like any other
        if self.state is State.DRAINING:
            in_order = stopped or end.in_order
            if not in_order:
                self._died(run, end, detail)
            self._want(False)
            self._leases.set_draining(self.name, False)
            self._note_order("stopped")
            self._to(Event.ENDED, Cause.OPERATOR if in_order else Cause.GUEST_EXITED, detail)
            return
        if not end.answered and end.how.startswith("exited"):
            # QEMU itself gave up before it answered: the same arguments would be refused again.
            self._want(False)
            self._to(Event.REFUSED, Cause.QEMU_REFUSED, detail)
            return
        await self._again(run, end, detail)

    def _died(self, run: Run, end: End, detail: str) -> None:
        # A panic is an incident already, from when it was told; a guest that powered itself off did not die.
        if end.answered and not end.in_order and PANIC not in run.watch.verdict.vetoes:
            self._fell("died", Fault(Cause.GUEST_EXITED, self._proof, self.ended_at), detail)

    async def _again(self, run: Run, end: End, detail: str) -> None:
        """It ended by itself: what its policy says."""
        assert run.record is not None
        self._died(run, end, detail)
        after = self.restarts.ended(self._setting.clock(), run.record.since, in_order=end.in_order)
        policy = f"restart.policy = {self.config.restart.policy}"
        if isinstance(after, lifecycle.Again):
            self._to(Event.ENDED, Cause.GUEST_EXITED, f"{detail}; started again in {after.after / 1e9:.1f} s")
            try:
                await asyncio.wait_for(self._unwanted.wait(), after.after / 1e9)
            except TimeoutError:
                pass  # nobody stopped it meanwhile: the next start follows
            return
        self._want(False)
        if self.state is not State.STARTING:
            self._to(Event.ENDED, Cause.GUEST_EXITED, detail)
        if isinstance(after, lifecycle.Rest):
            self._to(Event.REST, Cause.GUEST_EXITED, f"it powered itself off, and {policy}")
        else:
            cause = Cause.CRASH_LOOP if after.loop else Cause.GUEST_EXITED
            self._to(Event.GIVE_UP, cause, detail if after.loop else f"{detail}; {policy}")

    @property
    def warnings(self) -> tuple[str, ...]:
        """What of the configuration could not be had, or weakens what is promised; empty while it does not run."""
        if self.run_now is None:
            return ()
        late = "this kernel has no BPF_EVENTS: when it dies, some milliseconds of frames go nowhere"
        return (*self.run_now.warnings, *([] if self._leases.end_with_processes else [late]))

    # What a run tells

    def on_end(self) -> None:
        """The process is gone: nothing before this. The kernel knows since when, and has ended the lease then."""
        self.lease.revoke()
        ended = self._leases.ended(self.name)
        self._leases.untie(self.name)
        if self.run_now is not None:
            self.ended_at = ended or self._setting.clock()
            self.last_verdict = self.run_now.watch.verdict
            self._proof = self.last_verdict.proof
            if self._serves():
                self.reaction.fell(Fault(Cause.GUEST_EXITED, self._proof, self.ended_at))

    def _serves(self) -> bool:
        """Whether it has traffic that it can lose: its own, or the established flows of a drain."""
        return self.state is State.AVAILABLE or (self._keeps_flows() and not self._ill)

    def _keeps_flows(self) -> bool:
        return self.state is State.DRAINING and self._stopping is None

    def _fell(self, kind: str, fault: Fault, detail: str) -> None:
        """It had traffic, or was on its way to it, and must not have any more: keep what it was handed last."""
        self._aftermath.fell(self, kind, fault, detail)

    def measure(self) -> None:
        """See whether the datapath has led its first frame around since the fall."""
        fault = self.reaction.pending
        if fault is not None:
            found = self.reaction.first_frame(self._leases.first_skip(self.name))
            if found is not None:
                self._aftermath.measured(self, fault, found.at_most)

    def on_running(self, run: Run) -> None:
        """QEMU answers: now the guest must prove itself."""
        pid, processors = run.threads()
        self._leases.tie(self.name, (pid, *processors))
        notes = (*["adopted"] * run.adopted, *self.warnings)
        self._to(Event.RUNNING, Cause.PROVING, "; ".join(notes))
        if not run.adopted:
            self._aftermath.fresh_run(self)
        self.agent.greet()
        if self._ordered() == "draining":
            self._leases.set_draining(self.name, True)
            self.drained_by, self._ill = Cause.OPERATOR, False
            self._to(Event.DRAIN, Cause.OPERATOR)

    def on_decision(self, decision: Decision) -> None:
        """Evidence renews the lease, in the states that have one; nothing else does."""
        match decision:
            case Available(until):
                if self.state in (State.PROVING, State.SUSPECT):
                    self.measure()  # what the datapath noted is gone with the renewal
                    self.reaction.back()
                    self._to(Event.PROVED, Cause.HEALTHY)
                elif self._ill and self._keeps_flows():
                    self._ill = False
                    self.measure()
                    self.reaction.back()
                    self._to(Event.PROVED, self.drained_by, "it works again, and is still draining")
                if self.state is State.AVAILABLE or self._keeps_flows():
                    self.lease.renew(self._setting.clock(), until)
            case Unavailable(why=why, cause=cause, proof=proof):
                self.lease.revoke()
                if self._serves():
                    self._ill = self.state is State.DRAINING
                    fault = Fault(cause, proof, self._setting.clock())
                    self._to(Event.FELL, cause, why)
                    if cause not in (Cause.GUEST_ASKED, Cause.GUEST_EXITED):  # what ends is told when it has
                        self.reaction.fell(fault)
                        self._fell("failed", fault, why)

    def on_event(self, name: str, data: Mapping[str, object]) -> None:
        """QMP events: some end what was proved (told.py), and a reset makes the guest start over."""
        text = ", ".join(f"{key} {value}" for key, value in data.items())
        self.events.append(f"{name} {text}".strip())
        if self.run_now is None:
            return
        if name == "RESET" and lifecycle.allowed(self.state, Event.RESET):
            self.lease.revoke()
            self.run_now.watch.reset()
            self._aftermath.fresh_run(self)
            self._ill = False
            if self.state is State.DRAINING and self.drained_by is Cause.GUEST_ASKED:
                self.take_back(Cause.GUEST_RESET)
            else:
                self._to(Event.RESET, Cause.GUEST_RESET, text)
        else:
            self.run_now.watch.event(name, data)

    def on_message(self, message: Message) -> None:
        """The agent said something."""
        self.agent.on_message(message)

    async def ask_agent(self, word: str) -> str:
        """Have the agent carry out the check `word`: "ok", or what is wrong."""
        return await self.agent.ask(word)

    def _to(self, event: Event, cause: Cause, detail: str = "") -> None:
        """Take a move of the table, and record it."""
        old, self.state = self.state, lifecycle.move(self.state, event)
        self.cause, self.detail = cause, detail
        if self.run_now is not None and State.AVAILABLE in (old, self.state):
            self.run_now.note_proved(self.state is State.AVAILABLE)
        self._order.tell(self.name, self.state)
        change = lifecycle.change(self.state)
        self._ledger.record(change, self.name, old.value, self.state.value, cause, detail=detail)
