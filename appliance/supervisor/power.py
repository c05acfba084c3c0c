# SPDX-License-Identifier: GPL-2.0-only
"""Reboot and poweroff: kept until they are due, then carried out in order: relays, guests, the machine.

First every segment goes to bypass and the keeper confirms it; then the guests power down; then init ends the rest
(rootfs/etc/init.d/rcK). A relay that does not close ends the order unless it was forced, because frames would stop. An
order lies in /run: another bypassd carries it out, another boot does not know it. Lives as long as bypassd.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from appliance.api.rpc import Param, Params, Registry, caller
from appliance.api.schema import methods
from appliance.api.schema.base import Done
from appliance.api.schema.machine import PowerOrder, PowerPlan
from appliance.errors import BypassError, NotFoundError, RefusedError, UnreachableError
from appliance.hardware import data_partition
from appliance.part import happens
from appliance.supervisor import power_order, power_plan
from appliance.supervisor.power_order import Action, Order
from appliance.supervisor.system import System
from appliance.system import files
from appliance.system.command import run
from appliance.system.threads import to_the_end
from appliance.telemetry.subject import Kind, Notice, Subject

if TYPE_CHECKING:  # slow to import: the link does not wait for it
    from appliance.guest.guest import Guest

log = logging.getLogger(__name__)

FILE = "power-order.json"
LOOK_S = 5.0  # how often a waiting order is compared with the wall clock, which may be set
GUESTS_S = 15.0  # for all guests to power down; whatever is left then is ended by init
INIT_S = 60.0  # for init to begin with the end, once it was asked
ANSWER_S = 0.3  # to answer who asked

_CANCEL: dict[Action, str] = {"reboot": "`reboot cancel`", "poweroff": "`poweroff cancel`"}
_FORCE: dict[Action, str] = {"reboot": "`reboot now force`", "poweroff": "`poweroff now force`"}

Run = Callable[[Sequence[str]], Awaitable[tuple[int, str]]]


class Power:
    """See the module. `relays_closed` waits until the keeper has these relays in bypass, or raises HardwareError.

    `unsaved` says what of the configuration would be lost; `begin` runs the program that has init end the machine.
    """

    def __init__(
        self,
        system: System,
        relays_closed: Callable[[list[str]], Awaitable[None]],
        wake: Callable[[], None],
        unsaved: Callable[[], list[str]] = list,
        begin: Run | None = None,
    ) -> None:
        self._system, self._closed, self._wake, self._unsaved = system, relays_closed, wake, unsaved
        self._begin = begin or self._init
        self._file: Path = system.paths.run / FILE
        self.order: Order | None = None
        system.power_due = self.due
        self._changed = asyncio.Event()
        self._stopped: list[Guest] = []  # by the order that is carried out

    # -- life

    async def run(self) -> None:
        """Take up the order of an earlier bypassd, and carry out orders when they are due, until cancelled."""
        self.order = await asyncio.to_thread(self._read)
        while True:
            self._changed.clear()
            left = self._left()
            if left is not None and left <= 0:
                await self._carry_out()
                continue
            await happens(self._changed, None if left is None else min(left, LOOK_S))

    def _left(self) -> float | None:
        return None if self.order is None else self.order.seconds_left(time.monotonic_ns(), time.time())

    async def _carry_out(self) -> None:
        order = self.order
        assert order is not None
        await asyncio.sleep(ANSWER_S)
        if self.order is not order:
            return
        word = order.action
        self._say(f"{word} by order of {order.user}: relays first")
        self._system.ending = f"{word} by order of {order.user}"
        self._stopped = []
        self._system.crash_log.planned = (word, order.user)
        try:
            await self._close_relays(order)
            await self._stop_guests()
            await self._leave_reset(order.reset)
            status, said = await self._begin([word])
            if status:
                raise UnreachableError(f"{word}: {' '.join(said.split()) or f'exit status {status}'}")
            await asyncio.sleep(INIT_S)  # init ends this process meanwhile
            raise UnreachableError(f"{word}: init did not end bypassd within {INIT_S:g} s")
        except BypassError as error:
            await self._give_up(f"{word} given up: {error}")

    async def _give_up(self, why: str) -> None:
        self._system.ending = ""
        self._system.crash_log.planned = ("orderly", "")
        await self._keep(None)
        try:
            await self._leave_reset("")
        except BypassError as error:
            why = f"{why}; {error}"
        for guest in self._stopped:
            guest.start()
        self._wake()
        self._say(why)

    async def _close_relays(self, order: Order) -> None:
        relays = [unit.relay for unit in self._system.segments.units.values() if unit.relay]
        self._wake()
        if self._system.keeper_state is None:
            return
        try:
            await self._closed(relays)
        except BypassError as error:
            if not order.force:
                force = f"{_FORCE[order.action]} continues in spite of it"
                raise RefusedError(f"{error}: nothing else was stopped; {force}") from error
            self._say(f"{order.action} continues although a relay did not close: the link may be interrupted")

    async def _stop_guests(self) -> None:
        running = self._running()
        for guest in running:
            guest.stop()
        self._stopped = running
        try:
            async with asyncio.timeout(GUESTS_S):
                while any(guest.current_run for guest in running):
                    await asyncio.sleep(0.1)  # each guest has its own way to its end
        except TimeoutError:
            left = ", ".join(guest.name for guest in running if guest.current_run)
            log.warning("guests that did not power down within %g s: %s", GUESTS_S, left)

    async def _init(self, words: Sequence[str]) -> tuple[int, str]:
        """RefusedError: this bypassd runs below another root, and the machine is not its own."""
        if self._system.paths.root != Path("/"):
            raise RefusedError(f"the root of this bypassd is {self._system.paths.root}: the machine is not its own")
        return await run(words)

    async def _leave_reset(self, what: str) -> None:
        """The order to erase, for the next boot (rootfs/etc/init.d/data-partition). RefusedError: it cannot be kept."""
        path = self._system.paths.state / "factory-reset"
        try:
            if what:
                await to_the_end(lambda: files.replace(path, f"{what}\n"))
            else:
                await to_the_end(lambda: path.unlink(missing_ok=True))
        except OSError as error:
            raise RefusedError(f"factory reset: {path}: {error.strerror}") from error

    def _running(self) -> list[Guest]:
        manager = self._system.guests
        return [guest for guest in (manager.guests() if manager is not None else ()) if guest.current_run]

    def _say(self, text: str) -> None:
        self._system.events.record(Notice.POWER, Subject(Kind.SYSTEM), text)

    # -- the order

    def _read(self) -> Order | None:
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=Order)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as error:
            log.warning("%s: %s: a reboot that was ordered is forgotten", self._file, error)
            return None

    async def _keep(self, order: Order | None) -> None:
        self.order = order
        self._changed.set()

        def write() -> None:
            if order is None:
                self._file.unlink(missing_ok=True)
            else:
                files.replace(self._file, msgspec.json.encode(order), synced=False)

        try:
            await to_the_end(write)
        except OSError as error:
            log.warning("%s: %s: the order holds for this bypassd only", self._file, error.strerror)

    # -- the API

    def register(self, registry: Registry) -> None:
        """Offer the methods."""
        action = Param("string", "what is to be done", choices=("reboot", "poweroff"))
        times = {
            "in_s": Param("integer", "after so many seconds; left out: now", required=False),
            "at": Param("string", "at this local time, HH:MM or YYYY-MM-DD HH:MM, instead", required=False),
            "force": Param("boolean", "also if a relay does not close", required=False),
            "reset": Param("string", "what the next boot erases", required=False, choices=power_order.RESETS),
        }
        doc = "what a reboot or poweroff means for traffic, guests and users"
        registry.add(methods.POWER_PLAN, self.plan, doc=doc, params={"action": action})
        doc = "reboot or power off: relays first, then guests, then the machine; replaces an earlier order"
        registry.add(methods.POWER_ORDER, self.set, "admin", doc, {"action": action, **times})
        registry.add(methods.POWER_CANCEL, self.cancel, "admin", "cancel the reboot or poweroff that is scheduled")
        registry.add(methods.POWER_SHOW, self.show, doc="the reboot or poweroff that is scheduled")

    async def plan(self, params: Params) -> PowerPlan:
        """power.plan"""
        system = self._system
        action: Action = "reboot" if params["action"] == "reboot" else "poweroff"
        keeper = system.keeper_state
        links = []
        for segment in system.segments.show(time.monotonic_ns()):
            unit = system.segments.units.get(segment.name)
            relay = keeper.relays.get(unit.relay) if keeper is not None and unit is not None else None
            trouble = "the keeper does not say where it is" if relay is None else "" if relay.usable else relay.error
            links.append(power_plan.link(segment, action, trouble))
        return PowerPlan(
            action=action,
            links=links,
            guests=[guest.name for guest in self._running()],
            sessions=await asyncio.to_thread(self._sessions),
            warnings=[*power_plan.blocked(system.config.rule if system.config else ()), *self._unsaved()],
        )

    def _sessions(self) -> list[str]:
        access = self._system.access
        there = access.logins.sessions.present() if access is not None else []
        return [f"{session.user} from {session.address}" for session in there]

    async def set(self, params: Params) -> Done:
        """power.order"""
        action: Action = "reboot" if params["action"] == "reboot" else "poweroff"
        if self._system.ending:
            raise RefusedError(f"{self._system.ending} is under way")
        if "at" in params and "in_s" in params:
            raise RefusedError("either `in` or `at`, not both")
        reset = self._reset(action, str(params.get("reset", "")))
        user, force = caller().user or f"uid {caller().uid}", bool(params.get("force"))
        if "at" in params:
            moment = power_order.at(str(params["at"]), datetime.now().astimezone())
            order = Order(action, user, at=moment, force=force, reset=reset)
        else:
            wait = power_order.after(int(params.get("in_s", 0)))
            order = Order(action, user, due_ns=time.monotonic_ns() + wait * 10**9, force=force, reset=reset)
        before = self.order
        await self._keep(order)
        left = order.seconds_left(time.monotonic_ns(), time.time())
        if left <= 1:
            return Done(f"{action}: the relays close now, then guests and appliance end")
        due = order.when(time.monotonic_ns(), time.time())
        said = f"{action} at {due:%Y-%m-%d %H:%M:%S %Z}; cancel it with {_CANCEL[action]}"
        self._say(f"{action} at {due:%Y-%m-%d %H:%M:%S %Z} ordered by {user}")
        return Done(f"{said}; replaces the {before.action} that {before.user} ordered" if before else said)

    def _reset(self, action: Action, what: str) -> str:
        """What to erase. RefusedError: the boot could not do that."""
        found = data_partition.read(self._system.paths.data_partition)
        if what and action == "poweroff":
            raise RefusedError("a factory reset ends with a reboot")
        if what and found.state not in (data_partition.KEPT, data_partition.UNKNOWN):
            hint = "boot with bypass.format-data on the kernel command line"
            raise RefusedError(f"the data partition is {found.state}: the next boot could not erase it", hint)
        return what

    async def press(self) -> None:
        """The power button: power off now, in place of any order that waits; nothing while the machine is ending."""
        if not self._system.ending:
            await self._keep(Order("poweroff", "the power button", due_ns=time.monotonic_ns()))

    async def cancel(self, _: Params) -> Done:
        """power.cancel"""
        if self._system.ending:
            raise RefusedError(f"{self._system.ending} is under way")
        if self.order is None:
            raise NotFoundError("no reboot or poweroff is scheduled")
        action = self.order.action
        await self._keep(None)
        self._say(f"{action} cancelled by {caller().user or f'uid {caller().uid}'}")
        return Done(f"{action} cancelled")

    async def show(self, _: Params) -> PowerOrder:
        """power.show"""
        return self.due()

    def due(self) -> PowerOrder:
        """The order, as the API shows it."""
        order = self.order
        if order is None:
            return PowerOrder("none")
        now_ns, now = time.monotonic_ns(), time.time()
        return PowerOrder(
            state="running" if self._system.ending else "waiting",
            action=order.action,
            user=order.user,
            seconds_left=max(0, round(order.seconds_left(now_ns, now))),
            when=order.when(now_ns, now).isoformat(timespec="seconds"),
        )
