# SPDX-License-Identifier: GPL-2.0-only
"""bypassd's composition root: builds the system, wires configuration and control socket to it, and runs it to its end.

table.py says what runs and in which order; parts.py keeps the parts alive; pulse.py checks in with the keeper.

If a part fails: a BypassError is a named fault, which is shown, logged, and retried with back-off; those of links and
steering are a reason for bypass, those of guests and control are not (the datapath skips a missing guest). Any other
exception is a bug that leaves an unknown state: bypassd ends, and the keeper starts a fresh one.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable
from pathlib import Path

from appliance.api.schema import methods
from appliance.api.schema.methods import ConfigEvent
from appliance.api.server import add_version
from appliance.causes import Cause
from appliance.config.api import Api
from appliance.config.commit.engine import Engine
from appliance.config.commit.store import Pending, Store
from appliance.config.edit.candidate import Candidate
from appliance.config.schema.model import Config
from appliance.errors import ConfigError, DatapathError
from appliance.hardware import data_partition
from appliance.hardware.board import Board
from appliance.hardware.crashlog import boot_id
from appliance.hardware.reset_cause import Reset
from appliance.keeper.client import KeeperLink
from appliance.paths import Paths
from appliance.supervisor import exit_reason, logs, table
from appliance.supervisor.board_buttons import BoardButtons
from appliance.supervisor.commit_steps import CommitSteps
from appliance.supervisor.drills import Drills
from appliance.supervisor.keeper_watch import KeeperWatch
from appliance.supervisor.parts import PartRunner
from appliance.supervisor.power import Power
from appliance.supervisor.power_button import PowerButton
from appliance.supervisor.pulse import Pulse
from appliance.supervisor.system import build
from appliance.system.threads import to_the_end
from appliance.telemetry.subject import Change, Kind, Notice, Subject

log = logging.getLogger(__name__)

FIRST_S = 60.0  # to bring everything up if the first valid configuration came by a commit
READ_BACK_S = 10.0  # how long reading the ledger of earlier runs waits for the parts, which start first
ANSWER_S = 0.5  # to answer the request, before bypassd ends
EVIDENCE_S = 5.0  # for collecting crash records, which come first: a disk that hangs must not keep the link in bypass
_RESETS = {  # by the kind found by hardware/crashlog.py
    "panic": Change.SYSTEM_CRASHED,
    "watchdog": Change.SYSTEM_CRASHED,
    "power": Change.SYSTEM_LOST_POWER,
    "unknown": Change.SYSTEM_RESET,
}


class Supervisor:
    """Runs a `System`. `config` None: it is invalid, and `config_errors` says why."""

    def __init__(
        self,
        paths: Paths,
        keeper: KeeperLink,
        *,
        board: Board | None,
        board_error: str,
        config: Config | None,
        config_errors: list[ConfigError],
        bpf_object: Path | None = None,
        store: Store | None = None,
        text: str = "",
        pending: Pending | None = None,
        role: str = "appliance",
    ) -> None:
        """`text` is what `config` was read from; `store` None: beside the other paths; `role`: see table.py."""
        self.status = 0  # exit status of the process
        woken = asyncio.Event()  # when set, the pulse checks everything
        self.system = system = build(
            paths,
            keeper,
            board=board,
            board_error=board_error,
            config=config,
            config_errors=config_errors,
            bpf_object=bpf_object,
            wake=woken.set,
        )
        self._ending = asyncio.Event()
        self.pulse = Pulse(system, woken)
        self._keeper = KeeperWatch(system, woken.set, self._keeper_lost)
        self.runner = PartRunner(
            table.parts_of(role),
            table.Given(system, self._keeper.settled, woken.set),
            system.check_ins,
            states=system.part_states,
            faults=system.part_faults,
            wake=woken.set,
        )
        system.registry.coming = self.runner.coming
        self._wake = woken.set
        system.safe_mode.resume = self._resume
        self._engine, self._api = self._configuration(store, text, pending)
        self.drills = Drills(system, woken.set, boot_id())
        self.power = Power(system, self._keeper.relays_closed, woken.set, self._unsaved)

    # -- life

    async def run(self) -> int:
        """Run until SIGTERM, or until the keeper is gone. Returns the exit status."""
        with self.system.loop_watch:
            return await self._run()

    async def _run(self) -> int:
        system = self.system
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ending.set)
        self._keeper.listen()
        self._register()
        system.paths.run.mkdir(parents=True, exist_ok=True)
        system.transitions.listen(lambda entry, _: system.control.publish(methods.TRANSITION, entry.answer()))
        system.transitions.listen(system.events.transition)
        await self._collect_crash_log()
        self._resume()
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self.pulse.run(), name="pulse"),
                    group.create_task(system.transitions.run(), name="transitions"),
                    group.create_task(self._read_back(), name="read back the ledger"),
                    group.create_task(logs.run(system.paths.root / "run/log"), name="logs"),
                    *self.runner.start(group),
                    group.create_task(self._engine.run(), name="pending commit"),
                    group.create_task(system.safe_mode.run(), name="safe mode"),
                    group.create_task(self.power.run(), name="power"),
                    group.create_task(self.drills.run(), name="drills"),
                    group.create_task(PowerButton(system, self.power.press).run(), name="power button"),
                    group.create_task(BoardButtons(system, self._wake).run(), name="board's buttons"),
                ]
                await self._ending.wait()
                for task in tasks:
                    task.cancel()
        finally:
            await self._stop()
        return self.status

    async def _stop(self) -> None:
        await self._api.stop()
        await self.runner.stop()
        system = self.system
        try:
            if self._ending.is_set() and not system.keeper.lost and not self.status:
                await to_the_end(system.crash_log.mark_orderly)
        except OSError as error:
            log.error("the orderly stop is not recorded: %s", error)
        await to_the_end(system.transitions.flush)

    async def _read_back(self) -> None:
        """Read the ledger of earlier runs: megabytes, which must not delay the link."""
        try:
            async with asyncio.timeout(READ_BACK_S):
                await self.runner.all_tried()
        except TimeoutError:
            pass
        self.system.transitions.take_over(await asyncio.to_thread(self.system.transitions.read_back))

    def _keeper_lost(self) -> None:
        if not self._ending.is_set():
            log.error(
                "the keeper is gone: bypassd exits, the next keeper starts a fresh one; guests and datapath continue"
            )
            self._ending.set()

    def restart(self, why: str) -> None:
        """Exit with an error shortly: the keeper starts a fresh bypassd, with the startup configuration."""
        log.critical("bypassd restarts: %s", why)
        self.status = 1
        asyncio.get_running_loop().call_later(ANSWER_S, self._ending.set)

    # -- the configuration

    def _configuration(self, store: Store | None, text: str, pending: Pending | None) -> tuple[Engine, Api]:
        system, paths = self.system, self.system.paths
        steps = CommitSteps(
            system, wake=self._wake, configured=self._configured, relays_closed=self._keeper.relays_closed
        )
        engine = Engine(
            store or Store(paths.config, paths.history),
            running=system.config,
            text=text,
            boot=boot_id(),
            pending=pending,
            steps=steps.steps(),
            look=steps.look,
            down=steps.down,
            tell=self._tell,
            end=self.restart,
            clock=time.monotonic_ns,
        )
        system.confirm_s = lambda: engine.seconds_left() if engine.pending is not None else None
        system.rolled_back = lambda: engine.notice
        candidate = Candidate(lambda: engine.text, paths.run / "candidate.json", self._tell)
        return engine, Api(engine, candidate, self._port_names, self._wrong_password)

    def _unsaved(self) -> list[str]:
        """What of the configuration the next boot would not have."""
        said = []
        if (pending := self._engine.pending) is not None:
            said.append(f"the commit by {pending.entry.user} that awaits confirmation is rolled back")
        if self._api.candidate.changed:
            said.append(f"uncommitted changes by {self._api.candidate.author or 'somebody'} are lost")
        partition = data_partition.read(self.system.paths.data_partition)
        if partition.alarm:
            said.append(partition.alarm)
        return said

    def _port_names(self) -> list[str]:
        board = self.system.board
        return [port.name for port in (board.port if board else ())]

    def _wrong_password(self, user: str) -> None:
        text = "entered a wrong present password for a change of it"
        self.system.events.record(Notice.LOGIN_FAILED, Subject(Kind.USER, user), text)

    def _tell(self, event: str, user: str, text: str) -> None:
        """Report an event of the configuration to subscribers, and if it is important to the ledger too."""
        self.system.control.publish(methods.CONFIG, ConfigEvent(event, user, text))
        if event in ("committed", "pending", "confirmed", "reverted"):
            detail = f"{text} (by {user})" if user else text
            self.system.transitions.record(Change.CONFIGURATION_CHANGED, "", "", event, Cause.CONFIGURED, detail=detail)

    async def _configured(self, config: Config) -> None:
        """The first valid configuration since the start: bring up what waited for it. DatapathError: that failed."""
        self.system.config, self.system.config_errors = config, []
        if self.system.safe_mode.active:
            return
        self.runner.configured()
        try:
            async with asyncio.timeout(FIRST_S):
                await self.runner.all_tried()
        except TimeoutError:
            trouble = self.system.part_faults.get("steering", "the part guests did not come up")
            raise DatapathError(trouble) from None

    # -- other

    def _resume(self) -> None:
        """Bring up datapath and guests, unless there is no configuration or the machine is in safe mode."""
        if self.system.config is not None and not self.system.safe_mode.active:
            self.runner.configured()

    async def _collect_crash_log(self) -> None:
        """Nothing else is started before this has ended, or has taken too long; then it ends beside the rest."""
        system = self.system
        work = asyncio.ensure_future(to_the_end(lambda: system.crash_log.collect(system.safe_mode.limits)))
        work.add_done_callback(self._collected)
        done, _ = await asyncio.wait({work}, timeout=EVIDENCE_S)
        if not done:
            said = (
                "crash log: the data partition has not answered for %g s: starting without the cause of the last reset"
            )
            log.error(said, EVIDENCE_S)
        else:
            await asyncio.sleep(0)  # for `_collected`

    def _collected(self, work: asyncio.Future[Reset]) -> None:
        if work.cancelled():
            return
        error = work.exception()
        if isinstance(error, OSError):
            log.error("crash log: %s: records stay in pstore", error)
        elif error is not None:
            raise error
        system = self.system
        reset = system.crash_log.reset
        if system.safe_mode.active:
            why = system.safe_mode.faults()[Cause.SAFE_MODE]
            log.critical("safe mode: %s", why)
            system.transitions.record(Change.SYSTEM_SAFE, "", "starting", "safe mode", Cause.SAFE_MODE, detail=why)
        if reset.kind != "none":
            change = _RESETS.get(reset.kind, Change.SYSTEM_STARTED)
            report = f" (crash report {system.crash_log.report})" if system.crash_log.report else ""
            detail = f"last reset: {reset.text}{report}"
            system.transitions.record(change, "", "reset", "running", reset.kind, detail=detail)

    def _register(self) -> None:
        from appliance.steering.capture_api import Captures
        from appliance.steering.explain.api import SteeringApi
        from appliance.steering.shunts_api import ShuntsApi
        from appliance.supervisor.board_test import BoardTester
        from appliance.supervisor.locate import Locate
        from appliance.supervisor.ports import Ports
        from appliance.supervisor.show import Show

        system, registry = self.system, self.system.registry
        add_version(registry)
        Show(system, self._wake).register(registry)
        ports = Ports(system)
        ports.register(registry)
        BoardTester(system, self._wake, ports.rows).register(registry)
        Locate(system).register(registry)
        SteeringApi(lambda: system.steering.datapath).register(registry)
        ShuntsApi(lambda: system.steering.datapath).register(registry)
        self._api.register(registry)
        self.power.register(registry)
        self.drills.register(registry)
        Captures(lambda: (system.config, system.steering.datapath)).register(registry)


def run(make: Callable[[], Supervisor], last_words: Path) -> int:
    """Run a supervisor to its end; a bug ends it with status 1, a traceback in the log and the reason in the file."""

    async def body() -> int:
        return await make().run()

    try:
        return asyncio.run(body())
    except BaseExceptionGroup as group:
        for error in group.exceptions:
            log.critical("bypassd exits, the keeper restarts it: %s", error, exc_info=error)
        exit_reason.leave(last_words, group.exceptions)
        return 1
