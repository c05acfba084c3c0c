# SPDX-License-Identifier: GPL-2.0-only
"""Bypass drills: made by order, or by itself in the maintenance window; measured, and kept with their date.

The rules are in drill/: what a relay drill measures, what a reset proves, how old a proof may be. This puts a segment
into bypass for a drill, asks the keeper not to feed the watchdog, and keeps the results. What a drill asks for is kept
nowhere: it ends with this bypassd, and it never replaces an operator's order. Lives as long as bypassd.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime

from appliance.api.rpc import Param, Params, Registry, caller
from appliance.api.schema import methods, state
from appliance.api.schema.base import Done
from appliance.config.schema.model import Drill
from appliance.drill import evidence, protection
from appliance.drill.record import KINDS, Pending, Record, Result
from appliance.drill.relay import Measured, Phase, RelayDrill, Seen
from appliance.errors import NotFoundError, RefusedError
from appliance.hardware import data_partition
from appliance.hardware.crashlog import LastRun
from appliance.hardware.reset_cause import Reset
from appliance.part import happens
from appliance.segment.machine import State
from appliance.segment.unit import Unit
from appliance.supervisor import drill_plan
from appliance.supervisor.system import System
from appliance.system.threads import to_the_end
from appliance.telemetry.subject import Kind, Notice, Subject

log = logging.getLogger(__name__)

LOOK_S = 10.0  # how often the schedule is looked at
STEP_S = 0.02  # between two looks at a relay; the resolution of what is measured
UNFED_S = 3.0  # for the keeper to say that it does not feed the watchdog
POWER_S = 900.0  # for somebody to cut the power
ITSELF = "schedule"


class Drills:
    """See the module. `boot`: the kernel's id of this boot."""

    def __init__(self, system: System, wake: Callable[[], None], boot: str) -> None:
        self._system, self._wake, self._boot = system, wake, boot
        self.record = Record(system.paths.state / "drills.json")
        self._running: asyncio.Task[None] | None = None
        self._what = ""  # what is under way
        self._aborted_by = ""
        self._ordered = asyncio.Event()
        self._order: tuple[str, str, str] | None = None  # kind, segment, by whom
        system.crash_log.drill = self._judge_reset
        system.protection, system.drilled = self.protection, self.record.each

    # -- life

    def _judge_reset(self, reset: Reset, last: LastRun, text: str) -> Reset:
        """What the last reset counts as. Called in a thread, while nothing else uses the record."""
        record = self.record
        try:
            record.read()
            if reset.kind == "none" and record.pending is not None and record.pending.state == "ordered":
                record.wait_for(None)  # bypassd was restarted, and the keeper feeds the watchdog again
            found = evidence.judge(record.pending, last.boot, reset, text, time.time())
            if found.result is not None:
                record.add(found.result)
                self._tell(found.result)
            elif found.ask:
                record.ask_person()
        except OSError as error:
            log.error("drills: %s", error)
            return reset
        return found.reset

    async def run(self) -> None:
        """Carry out what is ordered or due, until cancelled."""
        while True:
            order = self._order or self._due()
            self._order = None
            if order is not None:
                await self._carry_out(*order)
                continue
            self._ordered.clear()
            await happens(self._ordered, LOOK_S)

    def _due(self) -> tuple[str, str, str] | None:
        config = self._system.config
        if config is None or not config.drill.window or not config.drill.every_days:
            return None
        wish = config.drill
        window = protection.parse_window(wish.window)
        schedule = protection.Schedule(wish.automatic, 86400.0 * wish.every_days, window)
        found = protection.due(schedule, self._segments(), self.record.newest, datetime.now().astimezone())
        if found is None or self._refusal(*found):
            return None  # looked at again soon
        return (*found, ITSELF)

    async def _carry_out(self, kind: str, segment: str, by: str) -> None:
        self._aborted_by = ""
        self._what = f"{kind} drill" + (f" of segment {segment}" if segment else "") + f", ordered by {by}"
        try:
            if why := self._refusal(kind, segment):
                self._say(segment, f"{self._what}: not made: {why}", failed=True)
            elif kind == "relay":
                await self._relay(segment, by)
            elif kind == "watchdog":
                await self._watchdog(by)
            else:
                await self._power(by)
        finally:
            self._what = ""

    def begin(self, kind: str, segment: str, by: str) -> None:
        """Make this drill now; `segment` is empty for one of the whole machine. RefusedError says why not."""
        if self._what or self._order is not None:
            raise RefusedError(f"{self._what or 'a drill'} is under way")
        if why := self._refusal(kind, segment):
            raise RefusedError(why)
        self._order = kind, segment, by
        self._ordered.set()

    @property
    def busy(self) -> bool:
        """Whether a drill is under way."""
        return bool(self._what) or self._order is not None

    # -- the three kinds

    async def _relay(self, segment: str, by: str) -> None:
        system = self._system
        unit = system.segments.units[segment]
        self._say(segment, f"{self._what}: to bypass, then back")
        drill = RelayDrill(time.monotonic_ns(), self._seen(unit))
        try:
            while drill.phase is not Phase.DONE:
                system.segments.drill(segment, drill.bypass)
                system.segments.update(time.monotonic_ns(), system.keeper_state, system.faults)
                self._wake()
                await asyncio.sleep(STEP_S)
                if self._aborted_by:
                    drill.abort(f"by {self._aborted_by}")
                elif system.segments.units.get(segment) is not unit:
                    drill.abort("the configuration was changed")
                drill.step(time.monotonic_ns(), self._seen(unit))
        finally:
            system.segments.drill(segment, False)
            self._wake()
        await self._relay_over(segment, by, drill.result)

    async def _relay_over(self, segment: str, by: str, found: Measured) -> None:
        if found.said.startswith("aborted"):
            self._say(segment, f"{self._what}: {found.said}")
            return
        times = [None if each is None else each / 1e6 for each in (found.to_bypass, found.to_inline, found.first_frame)]
        await self._keep(Result("relay", segment, time.time(), by, found.passed, found.said, *times))

    def _seen(self, unit: Unit) -> Seen:
        system = self._system
        keeper, datapath = system.keeper_state, system.steering.datapath
        relay = keeper.relays.get(unit.relay) if keeper is not None else None
        frames = None
        if datapath is not None:
            counted = datapath.port_counts()
            frames = sum(count.total for (segment, _), count in counted.items() if segment == unit.config.name)
        return Seen(relay.relay if relay is not None else "", unit.machine.cause, frames, unit.asked)

    async def _watchdog(self, by: str) -> None:
        system = self._system
        try:
            await to_the_end(lambda: self.record.wait_for(Pending("watchdog", self._boot, by, time.time())))
        except OSError as error:
            self._say("", f"{self._what}: not made: its result could not be kept: {error.strerror}", failed=True)
            return
        self._say("", f"{self._what}: the keeper stops feeding the watchdog, which resets the machine")
        await to_the_end(system.transitions.flush)
        why = "the keeper did not take the order"
        try:
            system.watchdog_drill = True
            self._wake()
            if await self._until(self._unfed, UNFED_S):
                await self._until(lambda: not self._unfed(), None)
                why = "the watchdog did not reset the machine, and is fed again"
        finally:
            system.watchdog_drill = False
            self._wake()
        if self._aborted_by:
            await self._forget(f"{self._what}: aborted by {self._aborted_by}: the watchdog is fed again")
        else:
            await self._keep(Result("watchdog", "", time.time(), by, False, why))

    def _unfed(self) -> bool:
        keeper = self._system.keeper_state
        return keeper is not None and keeper.watchdog_unfed

    async def _power(self, by: str) -> None:
        try:
            await to_the_end(lambda: self.record.wait_for(Pending("power", self._boot, by, time.time())))
        except OSError as error:
            self._say("", f"{self._what}: not made: its result could not be kept: {error.strerror}", failed=True)
            return
        self._say("", f"{self._what}: cut the power within {POWER_S / 60:g} min, and watch the link meanwhile")
        await self._until(lambda: False, POWER_S)
        said = f"aborted by {self._aborted_by}" if self._aborted_by else "over: the power was not cut"
        await self._forget(f"{self._what}: {said}")

    async def _until(self, true: Callable[[], bool], wait_s: float | None) -> bool:
        """Wait until it is true; False if that takes too long, or the drill is aborted."""
        end = None if wait_s is None else time.monotonic() + wait_s
        while not true():
            if self._aborted_by or (end is not None and time.monotonic() >= end):
                return False
            await asyncio.sleep(STEP_S)
        return True

    async def _keep(self, result: Result) -> None:
        self._tell(result)
        try:
            await to_the_end(lambda: self.record.add(result))
        except OSError as error:
            log.error("the result of a drill is not kept: %s", error)

    async def _forget(self, said: str) -> None:
        self._say("", said)
        try:
            await to_the_end(lambda: self.record.wait_for(None))
        except OSError as error:
            log.error("drills: %s", error)

    def _tell(self, result: Result) -> None:
        word = "passed" if result.passed else "FAILED"
        self._say(result.segment, f"{result.kind} drill {word}: {result.said}", failed=not result.passed)

    def _say(self, segment: str, text: str, *, failed: bool = False) -> None:
        subject = Subject(Kind.SEGMENT, segment) if segment else Subject(Kind.SYSTEM)
        self._system.events.record(Notice.DRILL_FAILED if failed else Notice.DRILL, subject, text)

    # -- what is shown

    def _segments(self) -> list[str]:
        """The segments that have a relay."""
        return [name for name, unit in self._system.segments.units.items() if unit.relay]

    def _wish(self) -> Drill:
        config = self._system.config
        return config.drill if config is not None else Drill()

    def protection(self) -> state.Protection:
        """Whether drills prove that the link survives this appliance."""
        wish = self._wish()
        age = 86400.0 * wish.max_age_days
        found = protection.judge(wish.required, self._segments(), self.record.newest, age, time.time())
        return state.Protection(found.state, found.detail)

    def _refusal(self, kind: str, segment: str) -> str:
        """Why a drill cannot be made now; empty: it can."""
        system = self._system
        if system.ending:
            return f"{system.ending} is under way"
        if system.config is None or system.safe_mode.active:
            return "the appliance is not in normal operation: `show status` says why"
        if kind == "relay":
            unit = system.segments.units.get(segment)
            if unit is None or not unit.relay:
                return f"segment {segment} has no relay"
            if unit.machine.state is not State.INLINE:
                return f"segment {segment} is not inline ({unit.machine.cause}): a drill shows what leaving inline does"
            return ""
        found = data_partition.read(system.paths.data_partition)
        if found.state not in (data_partition.KEPT, data_partition.UNKNOWN):
            return f"the data partition is {found.state}: the result would not survive the reset"
        if system.confirm_s() is not None:
            return "a commit awaits confirmation, and the reset would roll it back"
        if kind == "watchdog":
            keeper = system.keeper_state
            if keeper is None or not keeper.watchdog_ms:
                return "no watchdog is armed: `show status` says why"
        return ""

    # -- the API

    def register(self, registry: Registry) -> None:
        """Offer the methods."""
        kind = Param("string", "what is exercised", choices=KINDS)
        segment = Param("string", "relay: only this segment", required=False)
        passed = Param("boolean", "whether traffic crossed the link without power")
        params = {"kind": kind, "segment": segment}
        registry.add(methods.DRILLS_SHOW, self.show, doc="results of bypass drills, and what they prove")
        registry.add(methods.DRILL_PLAN, self.plan, doc="what a drill means now", params=params)
        doc = "make a bypass drill: exercises relay, watchdog or power for real"
        registry.add(methods.DRILL_RUN, self.order, "admin", doc, params)
        registry.add(methods.DRILL_ABORT, self.abort, "admin", "end the drill that is under way")
        doc = "say what the link did while the power was cut"
        registry.add(methods.DRILL_ANSWER, self.answer, "admin", doc, {"passed": passed})

    async def show(self, _: Params) -> state.Drills:
        """drills.show"""
        pending = self.record.pending
        waits = "the power was cut: `drill answer passed` if traffic crossed the link, else `drill answer failed`"
        return state.Drills(
            protection=self.protection(),
            running=self._what or (waits if pending is not None and pending.state == "answer" else ""),
            window=self._wish().window,
            results=[_shown(result) for result in self.record.each()],
        )

    def _places(self, params: Params) -> tuple[str, list[str]]:
        """The kind of drill, and the segments that are meant. NotFoundError, RefusedError."""
        kind, segment = str(params["kind"]), str(params.get("segment", ""))
        there = self._segments()
        if segment and kind != "relay":
            raise RefusedError(f"the {kind} is that of the machine: a {kind} drill has no segment")
        if segment and segment not in there:
            raise NotFoundError(f'no segment "{segment}" has a relay; there is: {", ".join(there) or "none"}')
        places = [segment] if segment else list(protection.places(kind, there))
        if not places:
            raise RefusedError("no segment has a relay")
        return kind, places

    async def plan(self, params: Params) -> state.DrillPlan:
        """drill.plan"""
        kind, places = self._places(params)
        refusals = [why for segment in places if (why := self._refusal(kind, segment))]
        if refusals:
            raise RefusedError("; ".join(refusals))
        window = self._wish().window
        inside = bool(window) and protection.parse_window(window).holds(datetime.now().astimezone())
        keeper = self._system.keeper_state
        manager = self._system.guests
        guests = [guest.name for guest in (manager.guests() if manager is not None else ()) if guest.current_run]
        timeout = keeper.watchdog_ms if keeper is not None else 0
        meaning = drill_plan.meaning(kind, places, guests, timeout, "" if inside else window)
        return state.DrillPlan(kind, meaning, inside)

    async def order(self, params: Params) -> Done:
        """drill.run"""
        kind, places = self._places(params)
        if len(places) > 1:
            raise RefusedError(f"name one segment: {', '.join(places)}")
        self.begin(kind, places[0], caller().user or f"uid {caller().uid}")
        return Done(f"{kind} drill: begins now; `show drills` has its result, `drill abort` ends it")

    async def abort(self, _: Params) -> Done:
        """drill.abort"""
        pending = self.record.pending
        if not self._what and (pending is None or pending.state != "answer"):
            raise NotFoundError("no drill is under way")
        by = caller().user or f"uid {caller().uid}"
        if not self._what:
            await self._forget(f"power drill: aborted by {by}: without an answer")
            return Done("power drill: forgotten")
        self._aborted_by = by
        return Done(f"{self._what}: aborted")

    async def answer(self, params: Params) -> Done:
        """drill.answer"""
        pending = self.record.pending
        if pending is None or pending.state != "answer":
            raise NotFoundError("no power drill waits for an answer: `drill run power` begins one")
        passed = bool(params["passed"])
        by = caller().user or f"uid {caller().uid}"
        said = f"{by} saw that traffic {'crossed' if passed else 'did not cross'} the link without power"
        await self._keep(Result("power", "", time.time(), pending.by, passed, said))
        return Done(f"power drill: {'passed' if passed else 'failed'}; {said}")


def _shown(result: Result) -> state.DrillResult:
    return state.DrillResult(
        kind=result.kind,
        segment=result.segment,
        when=datetime.fromtimestamp(result.at, UTC).isoformat(timespec="seconds"),
        by=result.by,
        passed=result.passed,
        detail=result.said,
        to_bypass_ms=result.to_bypass_ms,
        to_inline_ms=result.to_inline_ms,
        first_frame_ms=result.first_frame_ms,
        reset_ms=result.reset_ms,
    )
