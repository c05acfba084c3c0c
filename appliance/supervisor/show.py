# SPDX-License-Identifier: GPL-2.0-only
"""What bypassd reports about itself: the handlers of status, segments, rules, counters, transitions, crash log.

They return the types of api/schema/state.py, which clients render. All only read, except segment.set and
crash-count.clear, which pass the operator's request on. Owns nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec import UNSET

from appliance.api.schema import methods, state
from appliance.api.schema.base import Done
from appliance.api.server import Param, Params, Registry, caller
from appliance.errors import ConfigError, NotFoundError, RefusedError, UnreachableError
from appliance.steering import answers
from appliance.steering.baseline import Baseline
from appliance.steering.overlay import reason_of
from appliance.supervisor import status
from appliance.supervisor.system import System
from appliance.system.threads import to_the_end

if TYPE_CHECKING:
    from appliance.config.schema.model import Config
    from appliance.hardware.crashlog import Report

log = logging.getLogger(__name__)

_MODES = ("bypass", "auto", "disconnect", "inline", "maintenance")
_FOR_A_TIME = {"inline": 600, "maintenance": 3600}  # seconds, if none are named
_LONGEST_S = 86400


class Show:
    """The handlers."""

    def __init__(self, system: System, wake: Callable[[], None]) -> None:
        """`wake` makes the pulse check everything now."""
        self._system, self._wake = system, wake
        self._baseline = Baseline(system.paths.run / "counters-cleared.json")
        self._known = False  # whether the baseline of an earlier bypassd was looked for

    def register(self, registry: Registry) -> None:
        """Offer the methods."""
        name = Param("string", "the segment's name")
        mode = Param("string", "auto: inline unless there is a fault", choices=_MODES)
        seconds = Param("integer", "inline, maintenance: for how long; default: 600 s, 3600 s", required=False)
        count = Param("integer", "how many of the newest; 0: all in memory", required=False)
        one = Param("integer", "only this report, with its whole text", required=False)
        add = registry.add
        add(methods.STATUS_SHOW, self.status, doc="state of the appliance on one page")
        add(methods.SEGMENTS_SHOW, self.segments, doc="segments with relay, cause, ports and links")
        add(methods.GROUPS_SHOW, self.groups, doc="groups, and which of their members are available")
        add(methods.MIRRORS_SHOW, self.mirrors, doc="hops that get copies of frames, and how many")
        add(methods.RELAYS_SHOW, self.relays, doc="relays: position, and what they do when nobody drives them")
        since = Param("string", "clear: since they were cleared", required=False, choices=("load", "clear"))
        doc = "rules in order, with frames, and how their filters were compiled"
        add(methods.RULES_SHOW, self.rules, doc=doc, params={"since": since})
        doc = "counters of ports, hops and rules, since the datapath was loaded"
        add(methods.COUNTERS_SHOW, self.counters, doc=doc, params={"since": since})
        doc = "restart the counters that are read with `since` clear; all other counters and the metrics go on"
        add(methods.COUNTERS_CLEAR, self.counters_clear, "operator", doc)
        add(methods.TRANSITIONS_SHOW, self.transitions, doc="changes of state with causes", params={"count": count})
        add(methods.CRASH_LOG_SHOW, self.crash_log, doc="reports of crashes of the machine", params={"number": one})
        add(methods.BOOTS_SHOW, self.boots, doc="boots of the machine, and why each came")
        clear = "clear the crash count: ends safe mode and the hold after a start"
        add(methods.CRASH_COUNT_CLEAR, self.crash_count_clear, role="admin", doc=clear)
        params = {"name": name, "mode": mode, "time": seconds}
        add(methods.SEGMENT_SET, self.segment_set, role="operator", doc="request or end a bypass", params=params)

    async def status(self, _: Params) -> state.Status:
        """status.show"""
        return status.status(self._system, time.monotonic_ns())

    async def segments(self, _: Params) -> list[state.Segment]:
        """segments.show"""
        return status.segments(self._system, time.monotonic_ns())

    async def groups(self, _: Params) -> list[state.Group]:
        """groups.show"""
        self._config()
        return status.groups(self._system, time.monotonic_ns())

    async def mirrors(self, _: Params) -> list[state.Mirror]:
        """mirrors.show"""
        self._config()
        return status.mirrors(self._system, time.monotonic_ns())

    async def relays(self, _: Params) -> list[state.BoardRelay]:
        """relays.show"""
        return status.relays(self._system)

    async def rules(self, params: Params) -> state.Rules:
        """rules.show"""
        self._config()
        steering = self._system.steering
        datapath, config = steering.datapath, steering.effective
        counts = datapath.counters().rules if datapath else {}
        found = state.Rules(
            rules=[
                answers.rule(rule, reason_of(rule.name, steering.overlay), counts.get(rule.name))
                for rule in config.rule
            ],
            filters=datapath.compiled() if datapath else [],
        )
        if params.get("since") != "clear":
            return found
        return await asyncio.to_thread((await self._since()).rules, found)  # thousands of rules take their time

    async def counters(self, params: Params) -> state.Counters:
        """counters.show"""
        now = self._counters()
        return await asyncio.to_thread((await self._since()).counters, now) if params.get("since") == "clear" else now

    async def counters_clear(self, _: Params) -> Done:
        """counters.clear"""
        now, baseline = self._counters(), await self._since()
        await to_the_end(lambda: baseline.set(now))
        log.info("the counters were cleared by uid %d", caller().uid)
        return Done("counters cleared: `show counters` and `show rules` count from now on; metrics go on")

    async def _since(self) -> Baseline:
        if not self._known:
            await asyncio.to_thread(self._baseline.read)
            self._known = True
        return self._baseline

    def _counters(self) -> state.Counters:
        datapath = self._system.steering.datapath
        if datapath is None:
            raise UnreachableError("the datapath is down: `bypass show status` says why")
        shown = answers.counters(datapath.counters())
        for place, refused in answers.refused_frames(datapath.attachments()).items():
            shown.ports["/".join(place)].refused = {cause: frames for cause, frames in refused.items() if frames}
        return shown

    async def transitions(self, params: Params) -> list[state.Transition]:
        """transitions.show"""
        count = int(params.get("count", 200))
        return [entry.answer() for entry in self._system.transitions.entries(count if count > 0 else None)]

    async def crash_log(self, params: Params) -> list[state.CrashReport]:
        """crash-log.show: the heads of all reports, or one with its text."""
        crash_log = self._system.crash_log
        if "number" not in params:
            return [_report(found) for found in await asyncio.to_thread(crash_log.reports)]
        number = int(params["number"])
        one = await asyncio.to_thread(crash_log.read, number)
        if one is None:
            there = [str(found.about.number) for found in await asyncio.to_thread(crash_log.reports)]
            raise NotFoundError(f"there is no crash report {number}; there is: {', '.join(there) or 'none'}")
        return [_report(one)]

    async def boots(self, _: Params) -> state.Boots:
        """boots.show"""
        known = self._system.crash_log.boots
        return state.Boots(
            count=known.count,
            by_kind=dict(known.by_kind),
            boots=[
                state.Boot(boot.number, boot.when, boot.kind, boot.text, boot.version, boot.ran_s, boot.report or None)
                for boot in known.newest
            ],
        )

    async def crash_count_clear(self, _: Params) -> Done:
        """crash-count.clear"""
        log.info("the crash count is cleared by uid %d", caller().uid)
        said = await self._system.safe_mode.clear()
        self._wake()
        return Done(said)

    async def segment_set(self, params: Params) -> state.SegmentSet:
        """segment.set"""
        system = self._system
        self._config()
        name, mode = str(params["name"]), str(params["mode"])
        now, until = time.monotonic_ns(), 0
        if mode in _FOR_A_TIME:
            seconds = int(params.get("time", _FOR_A_TIME[mode]))
            if not 1 <= seconds <= _LONGEST_S:
                raise RefusedError(f"the time must be 1 s to {_LONGEST_S} s, not {seconds} s")
            until = now + seconds * 1_000_000_000
        elif "time" in params:
            raise RefusedError(f"{mode} has no time: it lasts until another request")
        unit = system.segments.ask(name, mode, until)
        if mode in ("auto", "inline"):
            system.steering.forgive()
        who = caller()
        log.info("segment %s: %s requested by uid %d", name, mode, who.uid)
        system.segments.update(now, system.keeper_state, system.faults)
        self._wake()
        machine = unit.machine
        return state.SegmentSet(
            message=f"segment {name}: requested: {mode}; current: {machine.state} ({machine.cause})",
            name=name,
            mode=mode,
            state=machine.state,
            cause=machine.cause,
        )

    def _config(self) -> Config:
        config = self._system.config
        if config is None:
            errors: list[ConfigError] = self._system.config_errors
            raise RefusedError(f"the configuration is not valid: {errors[0] if errors else 'unknown'}")
        return config


def _report(found: Report) -> state.CrashReport:
    about = found.about
    return state.CrashReport(
        number=about.number,
        when=about.when,
        kind=about.kind,
        cause=about.cause,
        version=about.version,
        ran_s=about.ran_s,
        bytes=found.size,
        text=found.text or UNSET,
    )
