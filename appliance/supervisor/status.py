# SPDX-License-Identifier: GPL-2.0-only
"""What bypassd answers about itself: the handlers of status, segments, rules, counters, transitions, crash log.

They return the types of api/schema/state.py, and clients render them. All but segment.set only read; that one passes
the operator's request on to the segments. Lives as long as the supervisor, whose parts it reads and does not own.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

import appliance
from appliance.api.schema import methods, state
from appliance.api.schema.guests import Guest
from appliance.api.server import Param, Params, Registry, caller
from appliance.causes import DESCRIPTION, Cause
from appliance.errors import ConfigError, RefusedError, UnreachableError
from appliance.hardware import data_partition
from appliance.steering import answers
from appliance.steering.overlay import reason_of

if TYPE_CHECKING:
    from appliance.config.schema.model import Config
    from appliance.supervisor.supervisor import Supervisor

log = logging.getLogger(__name__)

IDLE_S = 900.0  # of a session, while no configuration says another time


class Show:
    """The handlers."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def register(self, registry: Registry) -> None:
        """Offer the methods."""
        name = Param("string", "the segment's name")
        mode = Param("string", "auto: inline while nothing speaks against it", choices=("bypass", "auto", "disconnect"))
        count = Param("integer", "how many, the newest; 0: all in memory", required=False)
        one = Param("string", "one record, with its whole text", required=False)
        add = registry.add
        add(methods.STATUS_SHOW, self.status, doc="state of the appliance on one page")
        add(methods.SEGMENTS_SHOW, self.segments, doc="segments with relay, cause, ports and links")
        add(methods.RULES_SHOW, self.rules, doc="rules in order, with frames, and how their filters were compiled")
        add(methods.COUNTERS_SHOW, self.counters, doc="counters of ports, hops and rules")
        add(methods.TRANSITIONS_SHOW, self.transitions, doc="changes of state with causes", params={"count": count})
        add(methods.CRASH_LOG_SHOW, self.crash_log, doc="records of kernel crashes", params={"name": one})
        params = {"name": name, "mode": mode}
        add(methods.SEGMENT_SET, self.segment_set, role="operator", doc="ask for bypass, or end that", params=params)

    async def status(self, _: Params) -> state.Status:
        """status.show"""
        sup = self._supervisor
        now = time.monotonic_ns()
        segments = self._segments()
        inline = bool(segments) and all(segment.relay == "inline" for segment in segments)
        partition = data_partition.read(sup.paths.data_partition)
        keeper = sup.keeper.state
        return state.Status(
            hostname=sup.config.system.hostname if sup.config else "bypass",
            version=appliance.__version__,
            idle_timeout_s=int(sup.config.system.idle_timeout) / 1e9 if sup.config else IDLE_S,
            board=sup.board.name if sup.board else sup.board_error,
            state="inline" if inline else "bypass",
            uptime_s=round(now / 1e9),
            segments=[
                state.ShortSegment(each.name, each.relay, each.want, each.cause, each.detail, each.also)
                for each in segments
            ],
            guests=self._guests(),
            parts=self._parts(now),
            watchdog=self._watchdog(),
            keeper=self._keeper(now),
            supervisor=state.Bypassd(
                uptime_s=round((now - sup.began) / 1e9),
                restarts=keeper.restarts if keeper else 0,
                last_exit=keeper.last_exit if keeper else "",
            ),
            last_reset=state.Reset(kind=sup.crash_log.reset.kind, text=sup.crash_log.reset.text),
            datapath=self._datapath(),
            data_partition=state.Partition(state=partition.state, alarm=partition.alarm),
            config=state.ConfigState(valid=sup.config is not None, errors=[str(error) for error in sup.config_errors]),
        )

    async def segments(self, _: Params) -> list[state.Segment]:
        """segments.show"""
        return self._segments()

    async def rules(self, _: Params) -> state.Rules:
        """rules.show"""
        self._config()
        steering = self._supervisor.steering
        datapath, config = steering.datapath, steering.effective
        counts = datapath.counters().rules if datapath else {}
        return state.Rules(
            rules=[
                answers.rule(rule, reason_of(rule.name, steering.overlay), counts.get(rule.name))
                for rule in config.rule
            ],
            filters=datapath.compiled() if datapath else [],
        )

    async def counters(self, _: Params) -> state.Counters:
        """counters.show"""
        datapath = self._supervisor.steering.datapath
        if datapath is None:
            raise UnreachableError("the datapath is not up: `bypass show status` says why")
        return answers.counters(datapath.counters())

    async def transitions(self, params: Params) -> list[state.Transition]:
        """transitions.show"""
        count = int(params.get("count", 200))
        return [entry.answer() for entry in self._supervisor.transitions.entries(count if count > 0 else None)]

    async def crash_log(self, params: Params) -> list[state.CrashRecord]:
        """crash-log.show: the whole text of the record that is named, otherwise the last lines of each."""
        name = params.get("name")
        records = await asyncio.to_thread(self._supervisor.crash_log.records)
        return [
            state.CrashRecord(name=r.name, when=r.when, kind=r.kind, text=r.text if name else r.text[-2000:])
            for r in records
            if name in (None, r.name)
        ]

    async def segment_set(self, params: Params) -> state.SegmentSet:
        """segment.set"""
        sup = self._supervisor
        self._config()
        name, mode = str(params["name"]), str(params["mode"])
        unit = sup.segments.ask(name, mode)
        who = caller()
        log.info("segment %s: %s asked for by uid %d", name, mode, who.uid)
        sup.segments.update(time.monotonic_ns(), sup.keeper.state if sup.keeper.present else None, sup.faults)
        sup.poke()
        machine = unit.machine
        return state.SegmentSet(
            message=f"segment {name}: requested: {mode}; current: {machine.state} ({machine.cause})",
            name=name,
            mode=mode,
            state=machine.state,
            cause=machine.cause,
        )

    # -- inside

    def _config(self) -> Config:
        config = self._supervisor.config
        if config is None:
            errors: list[ConfigError] = self._supervisor.config_errors
            raise RefusedError(f"the configuration is not valid: {errors[0] if errors else 'unknown'}")
        return config

    def _segments(self) -> list[state.Segment]:
        sup = self._supervisor
        if sup.config is None:
            return self._relays_without_config()
        segments = sup.segments.show()
        attached = sup.steering.datapath.attachments() if sup.steering.datapath is not None else []
        for segment in segments:
            ports = [one for one in attached if one.segment == segment.name and not one.hop]
            segment.attach = "/".join(dict.fromkeys(port.mode for port in ports)) or "none"
            segment.attach_why = "; ".join(dict.fromkeys(port.reason for port in ports))
        return segments

    def _relays_without_config(self) -> list[state.Segment]:
        """While the configuration is not valid no segment has a name; the relays of the board stand for them."""
        sup = self._supervisor
        relays = sup.keeper.state.relays if sup.keeper.state else {}
        detail = str(sup.config_errors[0]) if sup.config_errors else DESCRIPTION[Cause.CONFIG_INVALID]
        return [
            state.Segment(
                name="-".join(relay.ports),
                relay=relays[relay.line].relay if relay.line in relays else "bypass",
                state="bypass",
                want="bypass",
                cause=Cause.CONFIG_INVALID,
                detail=detail,
                lan=relay.ports[0],
                wan=relay.ports[1],
            )
            for relay in (sup.board.relay if sup.board else ())
        ]

    def _guests(self) -> list[Guest]:
        sup = self._supervisor
        if sup.guests is not None:
            return sup.guests.summary()
        cause = Cause.STARTING if sup.config else Cause.CONFIG_INVALID
        return [Guest(name=g.name, state="defined", cause=cause) for g in (sup.config.guest if sup.config else ())]

    def _parts(self, now: int) -> list[state.Part]:
        sup = self._supervisor
        ages = sup.check_ins.ages(now)
        return [
            state.Part(
                name=name,
                state=word,
                detail=sup.part_faults.get(name, ""),
                checked_in_ms=ages[name] // 1_000_000 if name in ages else None,
            )
            for name, word in sup.part_states.items()
        ]

    def _watchdog(self) -> state.Watchdog:
        sup = self._supervisor
        keeper = sup.keeper.state
        if keeper is None:
            return state.Watchdog(state="unknown", detail="there is no keeper")
        return state.Watchdog(
            state="armed" if keeper.watchdog_ms else "missing" if keeper.watchdog_present else "none on this board",
            timeout_ms=keeper.watchdog_ms,
            asked_ms=int(sup.config.watchdog.timeout) // 1_000_000 if sup.config else None,
            detail=keeper.watchdog_error,
        )

    def _keeper(self, now: int) -> state.Keeper:
        keeper = self._supervisor.keeper
        if keeper.state is None or not keeper.present:
            return state.Keeper(state="missing")
        relays = [
            state.KeeperRelay(line=name, relay=r.relay, cause=r.cause, usable=r.usable, detail=r.error)
            for name, r in keeper.state.relays.items()
        ]
        return state.Keeper(state="running", uptime_s=round((now - keeper.state.started_ns) / 1e9), relays=relays)

    def _datapath(self) -> state.Datapath:
        steering = self._supervisor.steering
        if steering.datapath is None:
            return state.Datapath(state="down", detail=self._supervisor.part_faults.get("steering", ""))
        attached = [answers.attached(attachment) for attachment in steering.datapath.attachments()]
        return state.Datapath(state="up", adopted=steering.adopted, attached=attached)
