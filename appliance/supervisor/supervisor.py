# SPDX-License-Identifier: GPL-2.0-only
"""The large half of the supervisor: the composition root of bypassd. One TaskGroup, one order, one pulse.

Order: keeper link -> control -> links -> steering -> segments begin -> guests; stops in reverse. Control comes early,
because the console must work whatever else is missing. The pulse is the only place that checks in with the keeper and
renews the datapath's dead-man lease, and it does neither while a part is late.

What a failing part means: a BypassError is a named fault, shown, logged, and tried again with back-off; those of links
and steering are a reason to bypass, those of guests and control are not (the datapath skips a guest that is not there).
Any other exception is a bug and the state behind it unknown: bypassd ends, and the keeper starts a fresh one.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.api.server import ControlServer, Registry, add_version
from appliance.causes import Cause
from appliance.config.api import Api
from appliance.config.commit.engine import Engine
from appliance.config.commit.store import Pending, Store
from appliance.config.edit.candidate import Candidate
from appliance.config.schema.model import Config
from appliance.errors import BypassError, ConfigError, DatapathError, HardwareError
from appliance.guest.port.management_lan import lan_of
from appliance.hardware.board import Board
from appliance.hardware.crashlog import CrashLog, boot_id
from appliance.hardware.links import Links
from appliance.keeper.client import KeeperLink, KeeperState
from appliance.part import CheckIns, Part
from appliance.paths import Paths
from appliance.segment.manager import Segments
from appliance.steering.part import Steering
from appliance.supervisor import exit_reason
from appliance.supervisor.commit_steps import Appliance
from appliance.telemetry.events import Events
from appliance.telemetry.subject import Change, Kind, Notice, Subject
from appliance.telemetry.transitions import Transitions

if TYPE_CHECKING:
    from appliance.guest.manager import GuestManager
    from appliance.management.manager import Access

log = logging.getLogger(__name__)

MS = 1_000_000
PULSE_NS = 100 * MS
LEASE_NS = 500 * MS
"""The datapath skips every guest when the pulse has been away for this long."""
KEEPER_SETTLES_S = 5.0
RELAY_S = 3.0  # from the keeper's order to a relay's confirmed move
FIRST_S = 60.0  # to bring everything up when the first valid configuration came by a commit
ANSWER_S = 0.5  # to answer who asked, before bypassd ends
RETRY_FIRST_S, RETRY_LAST_S = 0.5, 10.0
_RESETS = {  # by the kind that hardware/crashlog.py found
    "panic": Change.SYSTEM_CRASHED,
    "watchdog": Change.SYSTEM_CRASHED,
    "power": Change.SYSTEM_LOST_POWER,
}


class Supervisor:
    """Everything that runs in bypassd. `config` None: it is not valid, and `config_errors` says why."""

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
    ) -> None:
        """`text` is what `config` was read from; `store` None: beside the other paths."""
        self.paths, self.keeper, self.board, self.config = paths, keeper, board, config
        self.board_error, self.config_errors = board_error, config_errors
        self.began = time.monotonic_ns()
        self.status = 0  # of the process, at its end
        self.check_ins = CheckIns()
        self.part_faults: dict[str, str] = {}  # by part
        self.part_states: dict[str, str] = {}
        self.transitions = Transitions(paths.transitions)
        self.events = Events()
        self.registry = Registry()
        pstore = paths.root / board.crash_log.pstore.lstrip("/") if board and board.crash_log else None
        self.crash_log = CrashLog(pstore, paths.crash, paths.state, boot_id())
        self.links = Links(board.port if board else (), self._ports_changed)
        names = paths.state / "names.json"
        self.steering = Steering(config or Config(), self.links, bpf_object or paths.bpf_object, paths.bpffs, names)
        memory = paths.run / "segments.json"
        segments = config.segment if config else ()
        self.segments = Segments(segments, board, self.links, self.transitions, memory)
        self.guests: GuestManager | None = None
        self.lan = lan_of(paths)
        self.control = ControlServer(paths.control_socket, self.registry, ("transition", "event", "config"))
        self.access: Access | None = None  # made when the segments have begun
        self.engine, self._api = self._configuration(store, text, pending)
        self._configured = asyncio.Event()
        if config is not None:
            self._configured.set()
        self._poke = asyncio.Event()
        self._up = asyncio.Event()  # every part was brought up
        self._keeper_changed = asyncio.Event()
        self._ending = asyncio.Event()
        self._late: list[str] = []

    # -- life

    async def run(self) -> int:
        """Run until SIGTERM, or until the keeper is gone. Returns the exit status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ending.set)
        self.keeper.on_change(self._keeper_says)
        if self.keeper.fileno() >= 0:
            loop.add_reader(self.keeper.fileno(), self.keeper.receive)
        self._register()
        self.paths.run.mkdir(parents=True, exist_ok=True)
        self.transitions.load()
        self.transitions.listen(lambda entry, _: self.control.publish("transition", entry.answer()))
        self.transitions.listen(self.events.transition)
        self._collect_crash_log()
        parts: list[Part] = []
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._pulse(), name="pulse"), group.create_task(self.transitions.run())]
                tasks.append(group.create_task(self._start(group, parts, tasks), name="start"))
                tasks.append(group.create_task(self.engine.run(), name="pending commit"))
                await self._ending.wait()
                for task in tasks:
                    task.cancel()
        finally:
            await self._stop(parts)
        return self.status

    async def _start(self, group: asyncio.TaskGroup, parts: list[Part], tasks: list[asyncio.Task[None]]) -> None:
        async def bring_up(part: Part) -> None:
            """Wait for the first attempt only: a part that fails is tried again while the others go on."""
            tried = asyncio.Event()
            parts.append(part)
            tasks.append(group.create_task(self._keep(part, tried), name=part.name))
            await tried.wait()

        await bring_up(self.control)
        await bring_up(self.links)
        if self.config is not None:
            await bring_up(self.steering)
        await self._await_keeper()
        now = time.monotonic_ns()
        first = self.crash_log.reset.kind in ("first", "orderly", "power")
        self.segments.begin(now, self._keeper_state(), self.faults, intact=self.steering.adopted, first=first)
        self._poke.set()
        log.info("segments begin %d ms after start", (now - self.began) // MS)
        end_haste()
        tasks.append(group.create_task(self._let_in(parts), name="access"))  # nothing waits for it
        if self.config is None:  # guests that run are left alone: which ones are wanted is not known
            await self._configured.wait()  # a commit brings the first one
            await bring_up(self.steering)
        await self.steering.ready.wait()
        await asyncio.to_thread(importlib.import_module, "appliance.guest.api")  # slow, as in steering
        from appliance.guest import api
        from appliance.guest.manager import GuestManager

        assert self.steering.datapath is not None
        assert self.config is not None
        self.guests = GuestManager(
            self.config,
            self.paths,
            self.steering.datapath,
            self.transitions,
            steered=self.steering,
            lan=self.lan,
        )
        api.register(self.registry, self.guests)
        await bring_up(self.guests)
        if self.steering.datapath is not None:
            self.steering.datapath.drop_unclaimed()
        self._up.set()

    async def _let_in(self, parts: list[Part]) -> None:
        """Management port, users, SSH, metrics: after the link, which does not wait for their modules either."""
        await asyncio.to_thread(importlib.import_module, "appliance.supervisor.management")
        from appliance.supervisor.management import compose

        self.access = compose(self)
        parts.append(self.access)
        await self._keep(self.access, asyncio.Event())

    async def _keep(self, part: Part, tried: asyncio.Event) -> None:
        """Start and run one part, and start it again after an expected failure."""
        delay = RETRY_FIRST_S
        while True:
            self.part_states[part.name] = "starting"
            try:
                await part.start()
                self.part_faults.pop(part.name, None)
                self.part_states[part.name] = "running"
                tried.set()
                self._poke.set()
                began = time.monotonic()
                await part.run(self.check_ins.watch(part.name, part.patience))
                raise RuntimeError(f"part {part.name} ended by itself")
            except BypassError as error:
                self._fault(part.name, str(error))
            finally:
                self.check_ins.forget(part.name)
            tried.set()
            await part.stop()
            if self.part_states[part.name] == "running" and time.monotonic() - began > RETRY_LAST_S:
                delay = RETRY_FIRST_S
            self.part_states[part.name] = "failed"
            await asyncio.sleep(delay)  # nothing tells when a kernel or a file has changed its mind
            delay = min(2 * delay, RETRY_LAST_S)

    def _fault(self, name: str, text: str) -> None:
        if self.part_faults.get(name) != text:
            log.error("part %s: %s", name, text)
        self.part_faults[name] = text
        self._poke.set()

    async def _stop(self, parts: list[Part]) -> None:
        await self._api.stop()
        for part in reversed(parts):
            try:
                await part.stop()
            except Exception:
                log.exception("part %s did not stop", part.name)
        try:
            if self._ending.is_set() and not self.keeper.lost and not self.status:
                self.crash_log.mark_orderly()
        except OSError as error:
            log.error("the orderly stop is not noted: %s", error)
        self.transitions.flush()

    # -- the pulse

    async def _pulse(self) -> None:
        while True:
            self._beat(time.monotonic_ns())
            due = self.segments.deadline()
            wait = PULSE_NS if due is None else min(PULSE_NS, max(MS, due - time.monotonic_ns()))
            try:
                async with asyncio.timeout(wait / 1e9):  # not wait_for: see parts.wait_alive
                    await self._poke.wait()
            except TimeoutError:
                continue
            self._poke.clear()

    def _beat(self, now: int) -> None:
        """Check in and renew; while a part is late do neither, and let the keeper and the kernel draw the line."""
        late = self.check_ins.late(now)
        names = [name for name, _ in late]
        if names != self._late:
            for name, silent in late:
                log.error("part %s has been silent for %d ms: no check-in with the keeper", name, silent // MS)
            if not late:
                log.warning("all parts check in again")
            self._late = names
        if late:
            return
        self.segments.update(now, self._keeper_state(), self.faults)
        self.steering.renew(now + LEASE_NS)
        timeout = int(self.config.watchdog.timeout) // MS if self.config else None
        grace = int(self.config.system.supervisor_grace) // MS if self.config else None
        self.keeper.check_in(self._wants(), timeout, grace)

    def _wants(self) -> dict[str, tuple[str, str]]:
        if self.config is None and self.board is not None:
            return {relay.line: ("bypass", str(Cause.CONFIG_INVALID)) for relay in self.board.relay}
        return self.segments.wants()

    def faults(self, segment: str) -> Mapping[Cause, str]:
        """Reasons to bypass that the parts give, for one segment."""
        faults: dict[Cause, str] = {}
        if self.board_error:
            faults[Cause.PORT_MISSING] = self.board_error
        if "links" in self.part_faults:
            faults[Cause.PORT_MISSING] = self.part_faults["links"]
        trouble = self.part_faults.get("steering") or self.steering.faults.get(segment)
        if trouble:
            faults[Cause.DATAPATH_FAULT] = trouble
        elif not self.steering.ready.is_set():
            faults[Cause.STARTING] = "the datapath is not up yet"
        return faults

    # -- the configuration

    def _configuration(self, store: Store | None, text: str, pending: Pending | None) -> tuple[Engine, Api]:
        appliance = Appliance(self)
        engine = Engine(
            store or Store(self.paths.config, self.paths.history),
            running=self.config,
            text=text,
            boot=boot_id(),
            pending=pending,
            steps=appliance.steps(),
            look=appliance.look,
            down=appliance.down,
            tell=self._tell,
            end=self.restart,
        )
        candidate = Candidate(lambda: engine.text, self.paths.run / "candidate.json", self._tell)
        return engine, Api(engine, candidate, self._port_names, self._wrong_password)

    def _port_names(self) -> list[str]:
        return [port.name for port in (self.board.port if self.board else ())]

    def _wrong_password(self, user: str) -> None:
        text = "gave a wrong present password to change it"
        self.events.record(Notice.LOGIN_FAILED, Subject(Kind.USER, user), text)

    def _tell(self, event: str, user: str, text: str) -> None:
        """What happens to the configuration: to those who listen, and what counts to the ledger too."""
        self.control.publish("config", {"event": event, "user": user, "text": text})
        if event in ("committed", "pending", "confirmed", "reverted"):
            detail = f"{text} (by {user})"
            self.transitions.record(Change.CONFIGURATION_CHANGED, "", "", event, Cause.CONFIGURED, detail=detail)

    def restart(self, why: str) -> None:
        """End with a fault, a moment from now: the keeper starts a fresh bypassd, from the startup configuration."""
        log.critical("bypassd starts anew: %s", why)
        self.status = 1
        asyncio.get_running_loop().call_later(ANSWER_S, self._ending.set)

    async def configured(self, config: Config) -> None:
        """The first valid configuration since the start: bring up what waited for it. DatapathError: it does not."""
        self.config, self.config_errors = config, []
        self._configured.set()
        try:
            async with asyncio.timeout(FIRST_S):
                await self._up.wait()
        except TimeoutError:
            trouble = self.part_faults.get("steering", "the guests' part did not come up")
            raise DatapathError(trouble) from None

    async def relays_closed(self, relays: list[str]) -> None:
        """Wait until the keeper has these relays in bypass. HardwareError: it has not."""
        try:
            async with asyncio.timeout(RELAY_S):
                while any(self._inline(relay) for relay in relays):
                    self._keeper_changed.clear()
                    self._poke.set()
                    await self._keeper_changed.wait()
        except TimeoutError:
            raise HardwareError(f"relay {' and '.join(relays)} did not close: its ports stay as they are") from None

    def _inline(self, relay: str) -> bool:
        state = self._keeper_state()
        return state is not None and relay in state.relays and state.relays[relay].relay != "bypass"

    # -- the keeper

    def _keeper_state(self) -> KeeperState | None:
        return self.keeper.state if self.keeper.present else None

    def _keeper_says(self) -> None:
        if self.keeper.lost and not self._ending.is_set():
            asyncio.get_running_loop().remove_reader(self.keeper.fileno())
            log.error("the keeper is gone: bypassd ends, the next keeper starts a fresh one; guests and datapath go on")
            self._ending.set()
        self._keeper_changed.set()
        self._poke.set()

    async def _await_keeper(self) -> None:
        """Wait until the keeper has tried relay and watchdog once; its word is needed to know whether to adopt."""
        if not self.keeper.present:
            log.warning("no keeper: no relay is driven and no watchdog fed; start bypass-keeper instead")
            return
        try:
            async with asyncio.timeout(KEEPER_SETTLES_S):
                while self.keeper.state is None or not self.keeper.state.settled():
                    self._keeper_changed.clear()
                    await self._keeper_changed.wait()
        except TimeoutError:
            log.error("the keeper does not say where the relay is: in bypass until it does")
        state, said = self.keeper.state, exit_reason.take(self.paths.last_words)
        if state is not None and state.restarts:
            how = f"{state.last_exit}: {said}" if said else state.last_exit
            self.transitions.record(
                Change.SUPERVISOR_RESTARTED, "", "ended", "running", Cause.SUPERVISOR_RESTARTED, detail=how
            )

    # -- others

    def _ports_changed(self) -> None:
        self.steering.ports_changed()
        self._poke.set()

    def _collect_crash_log(self) -> None:
        try:
            reset = self.crash_log.collect()
        except OSError as error:
            log.error("crash log: %s: records stay in pstore", error)
            return
        if reset.kind != "none":
            change = _RESETS.get(reset.kind, Change.SYSTEM_STARTED)
            detail = f"last reset: {reset.text}"
            self.transitions.record(change, "", "reset", "running", reset.kind, detail=detail)

    def _register(self) -> None:
        from appliance.steering.capture_api import Captures
        from appliance.steering.explain.api import SteeringApi
        from appliance.supervisor.status import Show

        add_version(self.registry)
        Show(self).register(self.registry)
        SteeringApi(lambda: self.steering.datapath).register(self.registry)
        self._api.register(self.registry)
        Captures(lambda: (self.config, self.steering.datapath)).register(self.registry)

    def poke(self) -> None:
        """Have the pulse look at everything now."""
        self._poke.set()


def end_haste() -> None:
    """Give back the priority that `main` took for the start: guests are children, and must not have it."""
    for task in os.listdir("/proc/self/task"):
        try:
            os.setpriority(os.PRIO_PROCESS, int(task), 0)
        except OSError:
            continue  # a thread that ended meanwhile


def run(make: Callable[[], Supervisor], last_words: Path) -> int:
    """Run a supervisor to its end; a bug ends it with status 1, its traceback in the log and its words in the file."""

    async def body() -> int:
        return await make().run()

    try:
        return asyncio.run(body())
    except BaseExceptionGroup as group:
        for error in group.exceptions:
            log.critical("bypassd ends, the keeper starts it again: %s", error, exc_info=error)
        exit_reason.leave(last_words, group.exceptions)
        return 1
