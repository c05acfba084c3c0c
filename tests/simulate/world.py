# SPDX-License-Identifier: GPL-2.0-only
"""One appliance and everything around it, from its first power-on to the end of a run."""

from __future__ import annotations

import asyncio
import logging
import random
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from appliance.config.commit.engine import Engine
from appliance.config.commit.phases import Phase
from appliance.config.commit.startup import Startup
from appliance.errors import BypassError, RefusedError
from appliance.guest.guest import Guest
from appliance.hardware import board as boards
from appliance.hop.lifecycle import HopState
from appliance.keeper.lifecycle import Phase as KeeperPhase
from appliance.segment.evidence import Kept
from appliance.segment.machine import State
from appliance.segment.manager import Segments
from appliance.segment.unit import Unit
from appliance.telemetry.transitions import Entry as LedgerEntry
from appliance.units import Duration
from tests.simulate import edges
from tests.simulate import guests as guest_models
from tests.simulate.bypassd_process import BypassdProcess
from tests.simulate.clock import MS, SECOND, Clock, KilledError, Scope, installed
from tests.simulate.disk import DiskModel
from tests.simulate.faults import KINDS, RECOVERY_NS, Burst, Fault, Plan, Setup
from tests.simulate.guests import Guests, guest_tables
from tests.simulate.hardware import Port, RelayModel, WatchdogModel
from tests.simulate.invariants import Violation, Watcher
from tests.simulate.keeper_process import RELAY, KeeperProcess
from tests.simulate.kernel import MACS, KernelModel

BEGIN = 1000 * SECOND
LOOK_NS = SECOND // 4
STILL_LOOKS, HEALTHY_LOOKS = 5, 2
"""What recurs each second, as an attempt of the keeper, has happened in so many looks; where all is well and no fault
lasts, no attempt is due that could change it."""
AWAKE_NS = 2 * SECOND
"""Before the next event of the plan, where something is wrong: what waits for a time sees that it has passed."""
HEARD_NS = SECOND // 2
"""A keeper that bypassd has not told of itself for so long is not at rest."""
RESPAWN_NS = SECOND  # init
SEGMENT = "main"
KEPT_LINES = 400

BOARD = f"""\
name = "simulated"
[[port]]
name = "lan0"
mac = "{MACS["lan0"]}"
[[port]]
name = "wan0"
mac = "{MACS["wan0"]}"
[[relay]]
ports = ["lan0", "wan0"]
line = "{RELAY}"
[watchdog]
driver = "modelled"
[crash_log]
pstore = "/sys/fs/pstore"
"""


def configuration(setup: Setup, number: int) -> str:
    """The text of the `number`th configuration of a run: they differ, and mean the same for traffic."""
    return f"""\
[system]
hostname = "wire{number}"
supervisor_grace = "{setup.grace}"
[[segment]]
name = "{SEGMENT}"
lan = "lan0"
wan = "wan0"
on_link_loss = "{setup.link_loss}"
rearm_delay = "{setup.rearm}"
[watchdog]
timeout = "{setup.watchdog}"
{guest_tables(setup.guests, link_down=setup.link_down)}"""


class World:
    """See the module. `run` returns the violation that ended it, or None."""

    def __init__(self, seed: int, plan: Plan) -> None:
        self.seed, self.plan, self.setup = seed, plan, plan.setup
        self.clock = Clock(BEGIN)
        self.began = BEGIN
        self.violation: Violation | None = None
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)
        self.watcher = Watcher(self)
        self._rng = random.Random(f"world {seed}")
        self.grace = int(Duration.parse(self.setup.grace))
        self.board = boards.parse(BOARD)
        self.relay = RelayModel(self.clock, self._relay_moved, keeps=self.setup.keeps, settle=self.setup.settle)
        self.watchdog = WatchdogModel(self.clock, self._bites)
        self.ports = {"lan0": Port(2), "wan0": Port(3)}
        self.disk = DiskModel(random.Random(f"disk {seed}"))
        # switches of faults
        self.at_decision: Callable[[], None] | None = None
        self.start_delay = self.thread_delay = 0
        self.cannot_spawn = self.panics_inline = False
        self.calls_left = 0
        # life
        self.boot = Scope()
        self.boots = 0
        self.booted = 0
        self.powered = False
        self.keeper: KeeperProcess | None = None
        self.bypassd: BypassdProcess | None = None
        self._rebooting = False
        self._trouble_at = 0  # when the keeper could not feed the watchdog, last
        self._operator = "auto"
        # the configuration
        self._commits = 0
        self.acknowledged = configuration(self.setup, 0)
        self._unanswered: set[str] = set()  # committed, and no answer yet
        self._provisional = ""
        # rest
        self._seen: object = None
        self._still = 0
        self._calm = True
        self._jumping = False
        self.disturbed_at = 0
        self.skipped = 0

    # -- the run

    def run(self) -> Violation | None:
        """From power-on to the end of the plan, or to the first violation."""
        memory = Path("/dev/shm")
        folder = tempfile.TemporaryDirectory(prefix="tw-simulate-", dir=memory if memory.is_dir() else None)
        logging.disable(logging.CRITICAL)
        try:
            with folder, installed(self.clock), edges.installed():
                self.root = Path(folder.name)
                self._pstore = self.root / "sys/fs/pstore"
                edges.files_of(self.root, self.acknowledged, self._pstore)
                self._live()
        finally:
            logging.disable(logging.NOTSET)
        return self.violation

    def _live(self) -> None:
        clock = self.clock
        self.power_on()
        for burst in self.plan.bursts:
            self._arrange(burst)
        clock.after(LOOK_NS, self._look)
        end = BEGIN + self.plan.end
        clock.at(end, lambda: None, fixed=True)
        step = self.watcher.step
        try:
            while clock.now < end and self.violation is None:
                clock.run_next()
                step()
        finally:
            if self.bypassd is not None:
                self.bypassd.vanish()

    def _arrange(self, burst: Burst) -> None:
        clock = self.clock
        for fault in burst.faults:
            clock.at(BEGIN + fault.at, lambda fault=fault: self._strike(fault), fixed=True)  # type: ignore[misc]
        clock.at(BEGIN + burst.over + 1, self._mended, fixed=True)
        clock.at(BEGIN + burst.over + RECOVERY_NS, self._must_be_healthy, fixed=True)

    def _strike(self, fault: Fault) -> None:
        self.say(f"fault: {fault}")
        self._still = 0
        self._calm = False
        self.watcher.struck()
        if KINDS[fault.kind].harms:
            self.disturbed_at = self.clock.now
        mend = KINDS[fault.kind].strike(self, fault)
        if mend is not None:
            self.clock.at(BEGIN + fault.at + fault.length, lambda: self._mend(fault, mend), fixed=True)

    def _mend(self, fault: Fault, mend: Callable[[], object]) -> None:
        self.say(f"over: {fault.kind}")
        self._still = 0
        if KINDS[fault.kind].harms:
            self.disturbed_at = self.clock.now
        mend()

    def _mended(self) -> None:
        self.say("all faults are over")
        self._calm = True
        self._operator = "auto"

    def _must_be_healthy(self) -> None:
        if self._calm and (why := self.unhealthy()):
            self.failed("recovery", f"{why}, {RECOVERY_NS // SECOND} s after the last fault")

    def failed(self, invariant: str, what: str) -> None:
        self.watcher.fail(invariant, what)

    def say(self, text: str) -> None:
        """One line of the trace."""
        self.lines.append(f"{(self.clock.now - BEGIN) / 1e9:17.6f}  {text}")

    # -- what is known of the appliance

    @property
    def segments(self) -> Segments | None:
        system = self.bypassd.system if self.bypassd is not None and self.bypassd.alive else None
        return system.segments if system is not None else None

    @property
    def unit(self) -> Unit | None:
        segments = self.segments
        return segments.units.get(SEGMENT) if segments is not None else None

    @property
    def serves(self) -> bool:
        """Whether a supervisor does its work."""
        keeper, process = self.keeper, self.bypassd
        if keeper is None or process is None or not process.alive or process.hung:
            return False
        segments = self.segments
        return keeper.core.bypassd.phase is KeeperPhase.SERVING and segments is not None and segments.begun

    @property
    def crosses(self) -> bool:
        """Whether a frame would cross with the relay inline."""
        return self.boot.alive and self.kernel.carries(SEGMENT)

    @property
    def _engine(self) -> Engine | None:
        process = self.bypassd
        if process is None or not process.alive or process.supervisor is None:
            return None
        return process.supervisor._engine

    def unhealthy(self) -> str:
        """What is wrong although nothing is broken; "" if all is well."""
        keeper, unit, engine = self.keeper, self.unit, self._engine
        if keeper is None or not self.serves:
            return "no supervisor serves"
        if not keeper.core.watchdog.timeout_ms:
            return "the watchdog is not armed"
        assert unit is not None
        if unit.machine.state is not State.INLINE:
            return f"the segment is {unit.machine.state} ({unit.machine.cause}: {unit.machine.detail})"
        if not self.relay.inline:
            return "the relay is in bypass"
        if not self.crosses:
            return "no frame crosses"
        system = self.bypassd.system if self.bypassd is not None else None
        assert system is not None
        for part in edges.PARTS:
            if system.part_states.get(part, "running") != "running":
                return f"part {part} is {system.part_states[part]}"
        process = self.bypassd
        if process is None or process.supervisor is None or process.supervisor.drills.busy:
            return "a drill is under way"
        if engine is None or engine.phase is not Phase.IDLE or engine.pending is not None:
            return "a commit is not finished"
        now = self.clock.now
        return next((why for guest in self.guests if (why := guest_models.unhealthy(guest, now))), "")

    @property
    def guests(self) -> list[Guest]:
        """As bypassd has them."""
        system = self.bypassd.system if self.bypassd is not None and self.bypassd.alive else None
        manager = system.guests if system is not None else None
        return list(manager.guests()) if manager is not None else []

    # -- rest

    def _look(self) -> None:
        """Now and then: states have causes, the operator's last word is heard, and a world at rest jumps."""
        clock = self.clock
        clock.after(LOOK_NS, self._look)
        self.watcher.states()
        if self.serves and (unit := self.unit) is not None and (unit.asked or "auto") != self._operator:
            self.ask(self._operator)
        if self._calm and self.serves:
            self._start_guests()
        signature = self._signature()
        self._still = self._still + 1 if signature is not None and signature == self._seen else 0
        self._seen = signature
        well = not self.unhealthy()
        if self._still < (HEALTHY_LOOKS if well and self._calm else STILL_LOOKS):
            return
        until = clock.quiet_until() - (0 if well else AWAKE_NS)
        to = min((until, *(due - SECOND for due in self._deadlines())))
        if to > clock.now + SECOND:
            self._jump(to)

    def _deadlines(self) -> Iterator[int]:
        """When something ends that lasts. In the past: it is about to."""
        process, engine, now = self.bypassd, self._engine, self.clock.now
        assert process is not None
        system = process.system
        assert system is not None
        segments = self.segments
        if segments is not None and (due := segments.deadline()) is not None:
            yield due
        if held := system.safe_mode.held_s():
            yield now + held * SECOND
        if engine is not None and engine.pending is not None:
            yield engine.pending.deadline
        steering = system.steering
        yield from (retry.due for retry in steering._retries.values())
        faults = steering._watch.faults.values()
        yield from (contest.until for contest, fault in steering._watch._contests.values() if fault in faults)
        yield from (port.contest.until for name, port in system.links.ports.items() if name in system.links.contested)

    def _signature(self) -> object:
        """All states, where they can last; None where something is under way."""
        keeper, unit, engine, process = self.keeper, self.unit, self._engine, self.bypassd
        if not self.serves or keeper is None or unit is None or process is None or process.system is None:
            return None
        if engine is None or engine.phase is not Phase.IDLE:
            return None
        if process.supervisor is None or process.supervisor.drills.busy:
            return None
        if self.clock.now - keeper.heard_at > HEARD_NS or process.system.check_ins.late(self.clock.now):
            return None
        if keeper.busy_until > self.clock.now or self.watcher.unnamed_since or self.watcher.silent_states:
            return None
        if any(port.pending is not None for port in self.ports.values()):
            return None
        links = process.system.links
        if links.unreadable or links.missing or links._unanswered > 2 * SECOND:
            return None
        if process.system.part_faults or any(guest_models.moving(guest) for guest in self.guests):
            return None
        machine, core = unit.machine, keeper.core
        counted = [port.kept is not Kept.UNKNOWN for port in unit.evidence.ports.values()]
        if self.crosses and machine.state is State.INLINE and not self.setup.tc and not all(counted):
            return None  # what is seen now of the drivers' counters counts later
        return (
            self.clock.fixed,  # what happened at its time may be under way still
            (machine.state, machine.cause, self.relay.coil, core.bypassd.phase),
            (core.watchdog.timeout_ms, core.watchdog.error),
            tuple((relay.position, relay.cause, relay.error) for relay in core.relays.states.values()),
            tuple((port.present, port.admin_up, port.carrier) for port in self.ports.values()),
            tuple(sorted(process.system.part_states.items())),
            tuple((guest.hop.state, guest.hop.cause) for guest in self.guests),
            (*process.system.steering._watch.faults, *process.system.steering._retries),
            (*links.contested, engine.pending is not None),
        )

    def _jump(self, to: int) -> None:
        """Until then only the events of the last seconds recur."""
        by = self.clock.jump(to)
        self.skipped += by
        self.watchdog.skip(by)
        self.kernel.skip(by)
        assert self.bypassd is not None
        assert self.keeper is not None
        self.bypassd.skip(by)
        for guest in self.guests:
            guest_models.skip(guest, self.clock.now, by)
        self.qemus.skip(by)
        self._jumping = True  # the keeper takes it for a stall of its own, which changes nothing, and says so
        self.keeper.hear_again(by)
        self.bypassd.link._number += 1
        self._jumping = False
        self._still = 0

    # -- power, boots and processes

    def power_on(self) -> None:
        """The board starts; init starts the keeper some seconds later."""
        if self.powered:
            return
        self.powered = True
        self.boots += 1
        self.boot = Scope()
        run = self.root / "run/bypass"
        shutil.rmtree(run, ignore_errors=True)
        (run / "guests").mkdir(parents=True)
        for port in self.ports.values():
            port.admin_up = port.transparent = port.carrier = False
            port.pending = None
        self.booted = self.clock.now
        self.kernel = KernelModel(
            self.clock,
            self.boot,
            self.ports,
            inline=lambda: self.relay.inline,
            blind=self.setup.blind,
            mode="tc" if self.setup.tc else "xdp",
        )
        self.qemus = Guests(self.clock, self.boot, self.kernel, random.Random(f"guests {self.seed} {self.boots}"))
        self.say(f"boot {self.boots}")
        self.clock.after(self._some(6 * SECOND, 12 * SECOND), self._start_keeper, self.boot)

    def _some(self, least: int, most: int) -> int:
        return self._rng.randint(least, most)

    def _down(self) -> None:
        """Nothing runs any more, the relay's coil is not driven, and unsynced data is lost."""
        process = self.bypassd
        self.boot.end()
        self.powered = False
        self.keeper = self.bypassd = None
        self.watchdog.disarm()
        self.relay.fall()
        if process is not None:
            process.vanish()
        self.disk.lose_power()

    def power_off(self) -> None:
        if self.powered:
            self.say("power cut")
            self._down()

    def panic(self, why: str) -> None:
        """The kernel writes its last messages and resets the board."""
        if not self.boot.alive:
            return
        self.say(f"kernel panic: {why}")
        boot = self.boots
        record = self._pstore / f"dmesg-modelled-{boot}"
        record.write_text(f"Panic#{boot} Part1\nKernel panic - not syncing: {why}\n")
        self._down()
        self.clock.after(SECOND, self.power_on)

    def _bites(self) -> None:
        drilled = self.keeper is not None and self.keeper.core.watchdog.unfed
        runs = (
            self.keeper is not None
            and not drilled
            and self.clock.now - self._trouble_at > self.watchdog.timeout + 3 * SECOND
        )
        if runs and not self.watchdog.missing:
            self.failed("watchdog", f"it bit after {self.watchdog.timeout // SECOND} s, while the keeper ran")
        self.panic("NMI: Not continuing")

    def reboot(self) -> None:
        """An orderly one: init stops the keeper, and does not wait for ever."""
        if self.keeper is None or self._rebooting:
            return
        self.say("reboot")
        self._rebooting = True
        self.keeper.stop()
        self.clock.after(30 * SECOND, self._reset, self.boot)

    def _reset(self) -> None:
        self._rebooting = False
        self._down()
        self.clock.after(SECOND, self.power_on)

    def _start_keeper(self) -> None:
        self._rebooting = False
        keeper = self.keeper = KeeperProcess(
            self.clock,
            Scope(self.boot),
            self.relay,
            self.watchdog,
            spawn=lambda: self._spawn(keeper),
            exited=lambda: self._keeper_exited(keeper),
            failed=self.failed,
            logged=self._keeper_logs,
        )

    def _keeper_logs(self, text: str) -> None:
        if not self._jumping:
            self.say(f"keeper: {text}")

    def _keeper_exited(self, keeper: KeeperProcess) -> None:
        keeper.scope.end()
        if self._rebooting:
            self.clock.after(SECOND, self._reset, self.boot)
        else:
            self._keeper_gone()

    def keeper_dies(self) -> None:
        if self.keeper is not None:
            self.keeper.scope.end()
            self._keeper_gone()

    def keeper_stalls(self, span: int) -> None:
        """Its loop stalls."""
        if self.keeper is not None:
            self._trouble_at = self.clock.now + span
            self.keeper.stall(self._trouble_at)

    def _keeper_gone(self) -> None:
        """Its lines are released, its child dies with it, and init starts another one."""
        self.keeper = None
        self._trouble_at = self.clock.now + RESPAWN_NS
        self.relay.release()
        if self.bypassd is not None:
            self.bypassd.vanish()
            self.bypassd = None
        self.clock.after(RESPAWN_NS, self._start_keeper, self.boot)

    def _spawn(self, keeper: KeeperProcess) -> BypassdProcess | None:
        if self.cannot_spawn:
            return None
        load = self._some(self.setup.load // 2, 2 * self.setup.load) + self.start_delay
        self.bypassd = BypassdProcess(
            self, keeper, keeper.scope, f"boot-{self.boots}", load=load, thread=self._thread_time
        )
        return self.bypassd

    def _thread_time(self) -> int:
        return self._some(MS // 10, 5 * MS) + self.thread_delay

    def started(self, process: BypassdProcess) -> None:
        """A supervisor is made."""
        self.disturbed_at = self.clock.now
        assert process.system is not None
        process.system.transitions.listen(lambda entry, _: self._transition(entry))

    def renewed(self, hop: str, until: int) -> None:
        """A lease was renewed."""
        self.watcher.renewed(hop, until)

    def _transition(self, entry: LedgerEntry) -> None:
        self.say(f"{entry.subject}: {entry.old} -> {entry.new} ({entry.cause}) {entry.detail}")
        self.watcher.transition(entry)
        if self.at_decision is not None:
            struck, self.at_decision = self.at_decision, None
            struck()
            raise KilledError

    def _relay_moved(self) -> None:
        self.say(f"relay: {self.relay.coil}")
        self.watcher.relay_moved()
        if self.boot.alive:
            self.kernel.look_at_cables()
        self.panic_if_inline()

    def panic_if_inline(self) -> None:
        if self.panics_inline and self.relay.inline:
            at = self.clock.now + 5 * SECOND
            self.clock.at(at, lambda: self.panic("caused by being inline"), self.boot, fixed=True)

    def watchdog_found(self) -> None:
        self.watchdog.missing = False
        self._trouble_at = self.clock.now

    def mend_cables(self, *ports: Port) -> None:
        for port in ports:
            port.cable = True
        self.kernel.look_at_cables()

    # -- what people do

    def ask(self, word: str) -> None:
        """An operator's order."""
        self._operator = word
        process, segments = self.bypassd, self.segments
        if process is None or segments is None or not self.serves:
            return

        def order() -> None:
            assert process.supervisor is not None
            segments.ask(SEGMENT, word)
            process.supervisor._wake()

        process.run(order)

    def drill(self, kind: str) -> None:
        """An administrator orders a bypass drill; it is refused where none can be made."""
        process = self.bypassd
        if process is None or not self.serves:
            return

        def order() -> None:
            assert process.supervisor is not None
            with suppress(RefusedError):
                process.supervisor.drills.begin(kind, SEGMENT if kind == "relay" else "", "simulated")

        process.run(order)

    def _start_guests(self) -> None:
        """An operator starts guests that have failed: nobody else does."""
        process = self.bypassd
        for guest in self.guests:
            if guest.state in (HopState.FAILED, HopState.STOPPED) and guest.idle and process is not None:
                process.run(guest.start)

    def commit(self, value: float) -> None:
        """An administrator commits another configuration, provisionally in some of the cases."""
        process, engine = self.bypassd, self._engine
        if process is None or engine is None or process.hung or not self.serves:
            return
        self._commits += 1
        text, confirmed = configuration(self.setup, self._commits), 0 if value < 0.6 else 5 + int((value - 0.6) * 200)
        self.say(f"commit {self._commits}{f', to be confirmed within {confirmed} s' if confirmed else ''}")
        self._unanswered.add(text)
        number = self._commits

        async def work() -> None:
            try:
                await engine.commit(text, "admin", confirmed_s=confirmed)
            except BypassError as error:
                self.say(f"commit {number} refused: {error}")
                self._unanswered.discard(text)
                return
            self.say(f"commit {number} acknowledged")
            if confirmed:
                self._provisional = text
            else:
                self.acknowledged, self._provisional = text, ""
            self._unanswered.discard(text)

        self._task(process, work)

    def settle_pending(self, *, confirm: bool) -> None:
        """An administrator confirms or rolls back a pending commit."""
        process, engine = self.bypassd, self._engine
        if process is None or engine is None or process.hung or engine.pending is None:
            return
        text = engine.pending.entry.text

        async def work() -> None:
            try:
                await (engine.confirm("admin") if confirm else engine.revert("admin", "by order"))
            except BypassError as error:
                self.say(f"{'confirm' if confirm else 'revert'} refused: {error}")
                return
            self.say("confirmed" if confirm else "reverted")
            if confirm:
                self.acknowledged = text
            self._provisional = ""

        self._task(process, work)

    def _task(self, process: BypassdProcess, work: Callable[[], Any]) -> None:
        def done(task: asyncio.Task[None]) -> None:
            if process.alive and not task.cancelled() and (error := task.exception()) is not None:
                process._bug(error)

        process.run(lambda: process.loop.create_task(work()).add_done_callback(done))

    def read(self, process: BypassdProcess, begun: Startup) -> None:
        """bypassd has read its configuration: checks that it may be in force."""
        for error in begun.errors:
            self.failed("commit", f"a configuration that was accepted is refused at the start: {error}")
        if begun.text not in {self.acknowledged, self._provisional, *self._unanswered}:
            self.failed("commit", f"bypassd starts with {name_of(begun.text)}, not with {name_of(self.acknowledged)}")
        if begun.pending is None:
            self.acknowledged, self._provisional = begun.text, ""
        self._unanswered.clear()
        self.say(f"bypassd starts with {name_of(begun.text)}{' (pending)' if begun.pending else ''}")

    # -- the disk

    def stop_counting_calls(self) -> None:
        self.calls_left = 0
        self.disk.before = lambda name: None
        self.power_on()

    def cut_at_call(self, calls: int) -> None:
        """The power fails at this system call of a write from now on."""
        self.calls_left = calls

        def before(name: str) -> None:
            self.calls_left -= 1
            if self.calls_left == 0:
                self.power_off()
                raise KilledError

        self.disk.before = before


def name_of(text: str) -> str:
    """The configuration's host name, which numbers it."""
    return text.partition('hostname = "')[2].partition('"')[0] or "nothing"


def simulate(seed: int, plan: Plan) -> World:
    """Run a plan to its end; the world, with its violation if there is one."""
    world = World(seed, plan)
    world.run()
    return world
