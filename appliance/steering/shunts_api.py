# SPDX-License-Identifier: GPL-2.0-only
"""`show shunts` and `clear shunts`: the flows that guests have shunted. Handlers only; the datapath keeps them."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from appliance.api.schema import methods, state
from appliance.api.schema.base import Done
from appliance.api.server import Param, Params, Registry, caller
from appliance.counted import counted
from appliance.errors import NotFoundError, RefusedError, UnreachableError

if TYPE_CHECKING:
    from appliance.steering.datapath import Datapath
    from appliance.steering.kernel.shunts import Shunted
    from appliance.steering.policy import CompiledHop

log = logging.getLogger(__name__)

MOST_SHOWN = 1000
"""Flows in one answer, the newest of each guest's."""
DIRECTIONS = {1: "to-wan", 2: "to-lan", 3: "both"}


class ShuntsApi:
    """See the module. `datapath`: the present one, or None while it is not up."""

    def __init__(self, datapath: Callable[[], Datapath | None]) -> None:
        self._datapath = datapath

    def register(self, registry: Registry) -> None:
        """Register the methods."""
        guest = Param("string", "only of this guest", required=False)
        registry.add(
            methods.SHUNTS_SHOW,
            self.show,
            doc=f"flows that guests have shunted, the newest {MOST_SHOWN}; what each guest may shunt",
            params={"guest": guest},
        )
        registry.add(
            methods.SHUNTS_CLEAR,
            self.clear,
            role="operator",
            doc="send shunted flows to their guests again; the guests may shunt them once more",
            params={
                "guest": guest,
                "end": Param(
                    "string", "only flows with this end: ADDRESS, ADDRESS:PORT or [IPV6]:PORT", required=False
                ),
            },
        )

    def _hops(self, params: Params) -> tuple[Datapath, list[CompiledHop]]:
        datapath = self._datapath()
        if datapath is None or datapath.policy is None:
            raise UnreachableError("the datapath is not up: `bypass show status` says why")
        hops = [hop for hop in datapath.policy.hops.values() if hop.shunts is not None]
        name = params.get("guest")
        if name is None:
            return datapath, hops
        if name not in datapath.policy.hops:
            raise NotFoundError(f'there is no guest "{name}"')
        return datapath, [hop for hop in hops if hop.name == name]

    async def show(self, params: Params) -> state.Shunts:
        """shunts.show"""
        datapath, hops = self._hops(params)
        now = time.monotonic_ns()
        counters = datapath.counters().hops
        assert datapath.policy is not None
        names = {number: name for name, number in datapath.policy.segments.items()}
        flows: list[state.Shunt] = []
        guests: list[state.Shunting] = []
        for hop in hops:
            # in a thread: a table may be long
            found = await asyncio.to_thread(datapath.shunts.reader(hop.id, now))
            asked = datapath.shunts.counts(hop.id)
            assert hop.shunts is not None
            guests.append(
                state.Shunting(
                    guest=hop.name,
                    most=hop.shunts.max,
                    flows=len(found),
                    entered=asked.entered,
                    unfit=asked.unfit,
                    too_frequent=asked.too_frequent,
                    full=asked.full,
                    frames=counters[hop.name].shunted,
                )
            )
            flows += [_row(hop.name, names.get(one.flow.segment, ""), one, now) for one in found[-MOST_SHOWN:]]
        return state.Shunts(shunts=flows[-MOST_SHOWN:], guests=guests)

    async def clear(self, params: Params) -> Done:
        """shunts.clear"""
        datapath, hops = self._hops(params)
        end = _end(str(params["end"])) if "end" in params else None
        now, removed = time.monotonic_ns(), 0
        for hop in hops:
            found = await asyncio.to_thread(datapath.shunts.reader(hop.id, now))
            if end is None:
                datapath.shunts.clear(hop.id)
                removed += len(found)
                continue
            chosen = [one.flow for one in found if _has(one, *end)]
            await asyncio.to_thread(datapath.shunts.remover(hop.id, chosen))
            removed += len(chosen)
        log.info("%s removed by uid %d", counted(removed, "shunt"), caller().uid)
        return Done(f"{counted(removed, 'shunt')} removed")


def _row(guest: str, segment: str, one: Shunted, now: int) -> state.Shunt:
    flow = one.flow
    return state.Shunt(
        guest=guest,
        segment=segment,
        protocol=flow.protocol_name,
        lan=str(flow.lan),
        lan_port=flow.lan_port,
        wan=str(flow.wan),
        wan_port=flow.wan_port,
        vlan=flow.tag,
        direction=DIRECTIONS.get(one.directions, ""),
        since_s=round((now - one.since) / 1e9, 1),
        left_s=round((one.until - now) / 1e9, 1),
        quiet_s=round(max(0, now - one.seen) / 1e9, 1),
    )


def _end(text: str) -> tuple[str, int | None]:
    """An address, and a port if the text has one."""
    host, colon, port = text.rpartition(":")
    bare = text.endswith("]") or (text.count(":") > 1 and not text.startswith("["))
    host, port = (text, "") if bare or not colon else (host, port)
    host = host.removeprefix("[").removesuffix("]")
    try:
        address = ipaddress.ip_address(host)
        number = int(port) if port else None
    except ValueError as error:
        raise RefusedError(f'"{text}": write ADDRESS, ADDRESS:PORT or [IPV6]:PORT') from error
    if number is not None and not 0 <= number <= 65535:
        raise RefusedError(f'"{text}": the port is beyond 65535')
    return str(address), number


def _has(one: Shunted, address: str, port: int | None) -> bool:
    flow = one.flow
    ends = ((str(flow.lan), flow.lan_port), (str(flow.wan), flow.wan_port))
    return any(address == at and port in (None, number) for at, number in ends)
