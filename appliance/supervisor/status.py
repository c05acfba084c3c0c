# SPDX-License-Identifier: GPL-2.0-only
"""What bypassd answers about itself: the handlers of status, segments, rules, counters, transitions, crash log.

They return data; the console renders it. Reads only, but for segment.set, which hands the operator's word to the
segments. Lives as long as the supervisor, which it looks at and does not own.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

from appliance import __version__
from appliance.api.schema import state
from appliance.api.server import Param, Params, Registry, caller
from appliance.causes import DESCRIPTION, Cause
from appliance.errors import ConfigError, RefusedError, UnreachableError
from appliance.hardware import data_partition
from appliance.steering.overlay import reason_of

if TYPE_CHECKING:
    from appliance.supervisor.supervisor import Supervisor

log = logging.getLogger(__name__)

Row = dict[str, object]
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
        registry.add("status.show", self.status, doc="state of the appliance on one page")
        registry.add("segments.show", self.segments, doc="segments with relay, cause, ports and links")
        registry.add("rules.show", self.rules, doc="rules in order, with frames, and how their filters were compiled")
        registry.add("counters.show", self.counters, doc="counters of ports, hops and rules")
        registry.add("transitions.show", self.transitions, doc="changes of state with causes", params={"count": count})
        registry.add("crash-log.show", self.crash_log, doc="records of kernel crashes", params={"name": one})
        params = {"name": name, "mode": mode}
        registry.add("segment.set", self.segment_set, role="operator", doc="ask for bypass, or end that", params=params)

    async def status(self, _: Params) -> Row:
        """status.show"""
        sup = self._supervisor
        now = time.monotonic_ns()
        segments = self._segments()
        inline = bool(segments) and all(row["relay"] == "inline" for row in segments)
        keys = ("name", "relay", "want", "cause", "detail", "also")
        partition = data_partition.read(sup.paths.data_partition)
        return {
            "hostname": sup.config.system.hostname if sup.config else "bypass",
            "version": __version__,
            "idle_timeout_s": int(sup.config.system.idle_timeout) / 1e9 if sup.config else IDLE_S,
            "board": sup.board.name if sup.board else sup.board_error,
            "state": "inline" if inline else "bypass",
            "uptime_s": round(now / 1e9),
            "segments": [{key: row[key] for key in keys if key in row} for row in segments],
            "guests": self._guests(),
            "parts": self._parts(now),
            "watchdog": self._watchdog(),
            "keeper": self._keeper(now),
            "supervisor": {
                "uptime_s": round((now - sup.began) / 1e9),
                "restarts": sup.keeper.state.restarts if sup.keeper.state else 0,
                "last_exit": sup.keeper.state.last_exit if sup.keeper.state else "",
            },
            "last_reset": {"kind": sup.crash_log.reset.kind, "text": sup.crash_log.reset.text},
            "datapath": self._datapath(),
            "data_partition": {"state": partition.state, "alarm": partition.alarm},
            "config": {"valid": sup.config is not None, "errors": [str(error) for error in sup.config_errors]},
        }

    async def segments(self, _: Params) -> list[Row]:
        """segments.show"""
        return self._segments()

    async def rules(self, _: Params) -> Row:
        """rules.show"""
        self._config()
        steering = self._supervisor.steering
        datapath, config = steering.datapath, steering.effective
        counts = datapath.counters().rules if datapath else {}
        rows = [
            {
                "name": rule.name,
                "segment": rule.segment or "all",
                "match": rule.match or "every frame",
                "path": list(rule.path),
                "on_unavailable": rule.on_unavailable,
                "why": reason_of(rule.name, steering.overlay),
                **(counts[rule.name].to_json() if rule.name in counts else {}),
            }
            for rule in config.rule
        ]
        return {"rules": rows, "filters": datapath.compiled() if datapath else []}

    async def counters(self, _: Params) -> object:
        """counters.show"""
        datapath = self._supervisor.steering.datapath
        if datapath is None:
            raise UnreachableError("the datapath is not up: `bypass show status` says why")
        return datapath.counters().to_json()

    async def transitions(self, params: Params) -> list[state.Transition]:
        """transitions.show"""
        count = int(params.get("count", 200))
        return [entry.answer() for entry in self._supervisor.transitions.entries(count if count > 0 else None)]

    async def crash_log(self, params: Params) -> list[Row]:
        """crash-log.show: text in full for one record, its last lines otherwise."""
        name = params.get("name")
        records = await asyncio.to_thread(self._supervisor.crash_log.records)
        return [
            {"name": r.name, "when": r.when, "kind": r.kind, "text": r.text if name else r.text[-2000:]}
            for r in records
            if name in (None, r.name)
        ]

    async def segment_set(self, params: Params) -> Row:
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
        return {
            "message": f"segment {name}: {mode} asked for, {machine.state} now ({machine.cause})",
            "name": name,
            "mode": mode,
            "state": str(machine.state),
            "cause": str(machine.cause),
        }

    # -- inside

    def _config(self) -> Any:
        config = self._supervisor.config
        if config is None:
            errors: list[ConfigError] = self._supervisor.config_errors
            raise RefusedError(f"the configuration is not valid: {errors[0] if errors else 'unknown'}")
        return config

    def _segments(self) -> list[Row]:
        sup = self._supervisor
        if sup.config is None:
            return self._relays_without_config()
        modes: dict[str, list[str]] = {}
        why: dict[str, list[str]] = {}
        if sup.steering.datapath is not None:
            for attachment in sup.steering.datapath.attachments():
                if not attachment.hop:
                    modes.setdefault(attachment.segment, []).append(attachment.mode)
                    why.setdefault(attachment.segment, []).append(attachment.reason)
        rows = sup.segments.show()
        for row in rows:
            used = modes.get(str(row["name"]), [])
            row["attach"] = "/".join(dict.fromkeys(used)) if used else "none"
            row["attach_why"] = "; ".join(dict.fromkeys(why.get(str(row["name"]), [])))
        return rows

    def _relays_without_config(self) -> list[Row]:
        """No segment has a name while the configuration is not valid; the relays are there and in bypass."""
        sup = self._supervisor
        state = sup.keeper.state.relays if sup.keeper.state else {}
        detail = str(sup.config_errors[0]) if sup.config_errors else DESCRIPTION[Cause.CONFIG_INVALID]
        return [
            {
                "name": "-".join(relay.ports),
                "relay": state[relay.line].relay if relay.line in state else "bypass",
                "state": "bypass",
                "want": "bypass",
                "cause": str(Cause.CONFIG_INVALID),
                "detail": detail,
                "lan": relay.ports[0],
                "wan": relay.ports[1],
            }
            for relay in (sup.board.relay if sup.board else ())
        ]

    def _guests(self) -> list[Row]:
        sup = self._supervisor
        if sup.guests is not None:
            return [dict(row) for row in sup.guests.summary()]
        cause = str(Cause.STARTING) if sup.config else str(Cause.CONFIG_INVALID)
        return [{"name": g.name, "state": "defined", "cause": cause} for g in (sup.config.guest if sup.config else ())]

    def _parts(self, now: int) -> list[Row]:
        sup = self._supervisor
        ages = sup.check_ins.ages(now)
        return [
            {
                "name": name,
                "state": state,
                "detail": sup.part_faults.get(name, ""),
                "checked_in_ms": ages[name] // 1_000_000 if name in ages else None,
            }
            for name, state in sup.part_states.items()
        ]

    def _watchdog(self) -> Row:
        sup = self._supervisor
        state = sup.keeper.state
        asked = int(sup.config.watchdog.timeout) // 1_000_000 if sup.config else None
        if state is None:
            return {"state": "unknown", "detail": "there is no keeper"}
        word = "armed" if state.watchdog_ms else "missing" if state.watchdog_present else "none on this board"
        return {"state": word, "timeout_ms": state.watchdog_ms, "asked_ms": asked, "detail": state.watchdog_error}

    def _keeper(self, now: int) -> Row:
        keeper = self._supervisor.keeper
        if keeper.state is None or not keeper.present:
            return {"state": "missing"}
        relays = [
            {"line": name, "relay": r.relay, "cause": r.cause, "usable": r.usable, "detail": r.error}
            for name, r in keeper.state.relays.items()
        ]
        return {"state": "running", "uptime_s": round((now - keeper.state.started_ns) / 1e9), "relays": relays}

    def _datapath(self) -> Row:
        steering = self._supervisor.steering
        if steering.datapath is None:
            return {"state": "down", "detail": self._supervisor.part_faults.get("steering", "")}
        attached = [attachment.to_json() for attachment in steering.datapath.attachments()]
        return {"state": "up", "adopted": steering.adopted, "attached": attached}
