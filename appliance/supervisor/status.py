# SPDX-License-Identifier: GPL-2.0-only
"""What bypassd answers about itself: the handlers of status, segments, rules, counters, transitions, crash log.

They return the types of api/schema/state.py, and clients render them. All but segment.set only read; that one passes
the operator's request on to the segments. Reads the system and owns nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from msgspec import UNSET

import appliance
from appliance.api.schema import methods, state
from appliance.api.schema.base import Done
from appliance.api.schema.guests import Guest
from appliance.api.server import Param, Params, Registry, caller
from appliance.causes import DESCRIPTION, Cause
from appliance.errors import ConfigError, RefusedError, UnreachableError
from appliance.hardware import data_partition
from appliance.steering import answers
from appliance.steering.overlay import reason_of
from appliance.supervisor.system import System

if TYPE_CHECKING:
    from appliance.config.schema.model import Config
    from appliance.steering.kernel.attachments import Attachment
    from appliance.steering.kernel.layout import Loss

log = logging.getLogger(__name__)

IDLE_S = 900.0  # idle time-out of a session while there is no configuration


class Show:
    """The handlers."""

    def __init__(self, system: System, wake: Callable[[], None]) -> None:
        """`wake` has the pulse look at everything now."""
        self._system, self._wake = system, wake

    def register(self, registry: Registry) -> None:
        """Offer the methods."""
        name = Param("string", "the segment's name")
        mode = Param("string", "auto: inline unless there is a fault", choices=("bypass", "auto", "disconnect"))
        count = Param("integer", "how many of the newest; 0: all in memory", required=False)
        one = Param("string", "only this record, with its whole text", required=False)
        add = registry.add
        add(methods.STATUS_SHOW, self.status, doc="state of the appliance on one page")
        add(methods.SEGMENTS_SHOW, self.segments, doc="segments with relay, cause, ports and links")
        add(methods.RULES_SHOW, self.rules, doc="rules in order, with frames, and how their filters were compiled")
        add(methods.COUNTERS_SHOW, self.counters, doc="counters of ports, hops and rules")
        add(methods.TRANSITIONS_SHOW, self.transitions, doc="changes of state with causes", params={"count": count})
        add(methods.CRASH_LOG_SHOW, self.crash_log, doc="records of kernel crashes", params={"name": one})
        clear = "forget the crashes that were counted: ends safe mode, and the hold after a start"
        add(methods.CRASH_COUNT_CLEAR, self.crash_count_clear, role="admin", doc=clear)
        params = {"name": name, "mode": mode}
        add(methods.SEGMENT_SET, self.segment_set, role="operator", doc="ask for bypass, or end that", params=params)

    async def status(self, _: Params) -> state.Status:
        """status.show"""
        system = self._system
        now = time.monotonic_ns()
        segments = self._segments()
        inline = bool(segments) and all(segment.relay == "inline" for segment in segments)
        keeper, longest = system.keeper.state, system.loop_watch.longest
        return state.Status(
            hostname=system.config.system.hostname if system.config else "bypass",
            version=appliance.__version__,
            idle_timeout_s=int(system.config.system.idle_timeout) / 1e9 if system.config else IDLE_S,
            board=system.board.name if system.board else system.board_error,
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
                uptime_s=round((now - system.began) / 1e9),
                restarts=keeper.restarts if keeper else 0,
                last_exit=keeper.last_exit if keeper else "",
                stalls=system.loop_watch.counts.total(),
                longest_stall_ms=round(longest.own * 1e3, 1) if longest is not None else 0.0,
                longest_stall=str(longest) if longest is not None else "",
            ),
            last_reset=state.Reset(kind=system.crash_log.reset.kind, text=system.crash_log.reset.text),
            crashes=system.safe_mode.answer(),
            datapath=self._datapath(),
            data_partition=self._partition(),
            config=state.ConfigState(
                valid=system.config is not None,
                errors=[str(error) for error in system.config_errors],
                confirm_s=system.confirm_s(),
                rolled_back=system.rolled_back(),
            ),
        )

    async def segments(self, _: Params) -> list[state.Segment]:
        """segments.show"""
        return self._segments()

    async def rules(self, _: Params) -> state.Rules:
        """rules.show"""
        self._config()
        steering = self._system.steering
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
        datapath = self._system.steering.datapath
        if datapath is None:
            raise UnreachableError("the datapath is not up: `bypass show status` says why")
        shown = answers.counters(datapath.counters())
        for place, refused in answers.refused_frames(datapath.attachments()).items():
            shown.ports["/".join(place)].refused = {cause: frames for cause, frames in refused.items() if frames}
        return shown

    async def transitions(self, params: Params) -> list[state.Transition]:
        """transitions.show"""
        count = int(params.get("count", 200))
        return [entry.answer() for entry in self._system.transitions.entries(count if count > 0 else None)]

    async def crash_log(self, params: Params) -> list[state.CrashRecord]:
        """crash-log.show: the whole text of the record that is named, otherwise the last lines of each."""
        name = params.get("name")
        records = await asyncio.to_thread(self._system.crash_log.records)
        return [
            state.CrashRecord(name=r.name, when=r.when, kind=r.kind, text=r.text if name else r.text[-2000:])
            for r in records
            if name in (None, r.name)
        ]

    async def crash_count_clear(self, _: Params) -> Done:
        """crash-count.clear"""
        log.info("the crashes that were counted are forgotten by order of uid %d", caller().uid)
        said = await self._system.safe_mode.clear()
        self._wake()
        return Done(said)

    async def segment_set(self, params: Params) -> state.SegmentSet:
        """segment.set"""
        system = self._system
        self._config()
        name, mode = str(params["name"]), str(params["mode"])
        unit = system.segments.ask(name, mode)
        if mode == "auto":
            system.steering.forgive()
        who = caller()
        log.info("segment %s: %s requested by uid %d", name, mode, who.uid)
        system.segments.update(time.monotonic_ns(), system.keeper_state, system.faults)
        self._wake()
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
        config = self._system.config
        if config is None:
            errors: list[ConfigError] = self._system.config_errors
            raise RefusedError(f"the configuration is not valid: {errors[0] if errors else 'unknown'}")
        return config

    def _segments(self) -> list[state.Segment]:
        system = self._system
        if system.config is None:
            return self._relays_without_config()
        segments = system.segments.show(time.monotonic_ns())
        datapath = system.steering.datapath
        attached = datapath.attachments() if datapath is not None else []
        counts = datapath.port_counts() if datapath is not None else {}
        for segment in segments:
            ports = [one for one in attached if one.segment == segment.name and not one.hop]
            segment.attach = "/".join(dict.fromkeys(port.mode for port in ports)) or "none"
            segment.attach_why = "; ".join(dict.fromkeys(port.reason for port in ports))
            if datapath is not None and ports:
                segment.mtu = datapath.mtu(segment.name)
                segment.longest_bytes = min(port.device.longest for port in ports)
            segment.unsent = _sum(counts[segment.name, port.side].unsent for port in ports)
        return segments

    def _relays_without_config(self) -> list[state.Segment]:
        """While the configuration is not valid no segment has a name; the relays of the board stand for them."""
        system = self._system
        relays = system.keeper.state.relays if system.keeper.state else {}
        detail = str(system.config_errors[0]) if system.config_errors else DESCRIPTION[Cause.CONFIG_INVALID]
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
            for relay in (system.board.relay if system.board else ())
        ]

    def _guests(self) -> list[Guest]:
        system = self._system
        if system.guests is not None:
            return system.guests.summary()
        cause = Cause.STARTING if system.config else Cause.CONFIG_INVALID
        cause = Cause.SAFE_MODE if system.safe_mode.active else cause
        return [
            Guest(name=g.name, state="defined", cause=cause) for g in (system.config.guest if system.config else ())
        ]

    def _partition(self) -> state.Partition:
        system = self._system
        found = data_partition.read(system.paths.data_partition)
        room = system.guests.disk_space.room if system.guests is not None else None
        alarms = (found.alarm, system.transitions.alarm, room.alarm if room is not None else "")
        return state.Partition(
            state=found.state,
            alarm="; ".join(filter(None, alarms)),
            available_bytes=room.available if room is not None else UNSET,
            total_bytes=room.total if room is not None else UNSET,
        )

    def _parts(self, now: int) -> list[state.Part]:
        system = self._system
        ages = system.check_ins.ages(now)
        return [
            state.Part(
                name=name,
                state=word,
                detail=system.part_faults.get(name, ""),
                checked_in_ms=ages[name] // 1_000_000 if name in ages else None,
            )
            for name, word in system.part_states.items()
        ]

    def _watchdog(self) -> state.Watchdog:
        system = self._system
        keeper = system.keeper.state
        if keeper is None:
            return state.Watchdog(state="unknown", detail="the keeper is not running")
        return state.Watchdog(
            state="armed" if keeper.watchdog_ms else "missing" if keeper.watchdog_present else "none on this board",
            timeout_ms=keeper.watchdog_ms,
            asked_ms=int(system.config.watchdog.timeout) // 1_000_000 if system.config else None,
            detail=keeper.watchdog_error,
        )

    def _keeper(self, now: int) -> state.Keeper:
        keeper = self._system.keeper
        if keeper.state is None or not keeper.present:
            return state.Keeper(state="missing")
        relays = [
            state.KeeperRelay(line=name, relay=r.relay, cause=r.cause, usable=r.usable, detail=r.error)
            for name, r in keeper.state.relays.items()
        ]
        return state.Keeper(state="running", uptime_s=round((now - keeper.state.started_ns) / 1e9), relays=relays)

    def _datapath(self) -> state.Datapath:
        steering = self._system.steering
        if steering.datapath is None:
            return state.Datapath(state="down", detail=self._system.part_faults.get("steering", ""))
        attached = [_attached(attachment) for attachment in steering.datapath.attachments()]
        return state.Datapath(
            state="up",
            adopted=steering.adopted,
            counts_losses=steering.datapath.kernel.sees_losses,
            attached=attached,
        )


def _sum(counted: Iterable[Mapping[Loss, int]]) -> dict[str, int]:
    """Lost frames of several devices together, by cause."""
    total: Counter[Loss] = Counter()
    for each in counted:
        total.update(each)
    return answers.causes(total)


def _attached(attachment: Attachment) -> state.Attached:
    """A device that the datapath takes frames from."""
    return state.Attached(
        device=attachment.device.name,
        driver=attachment.device.driver,
        segment=attachment.segment,
        side=attachment.side.name.lower(),
        hop=attachment.hop or None,
        mode=attachment.mode,
        reason=attachment.reason,
    )
