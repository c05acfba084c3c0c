# SPDX-License-Identifier: GPL-2.0-only
"""Flows that a guest's agent shunts: what it may name, how often, and for how long.

The agent names a flow by its ends, so it can name any; but a shunt only makes frames skip this guest, which could also
refuse them by its filter. Pure except for the datapath, which keeps the shunts and bounds their number.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from appliance.config.schema.model import Guest
from appliance.errors import RefusedError
from appliance.guest.agent.channel import Shunt
from appliance.quota import TokenBucket
from appliance.steering.kernel.shunted_flow import PROTOCOLS, TUNNELS, ShuntedFlow, vlan_of

DIRECTIONS = {"both": 3, "to-wan": 1, "to-lan": 2}
"""One bit for the side that the frames come from."""
_SECOND_NS = 1_000_000_000


class ShuntTable(Protocol):
    """What keeps the shunts (steering/datapath.py)."""

    def segment_id(self, name: str) -> int:
        """The stable number of a segment."""
        ...

    def shunt(self, hop: str, flow: ShuntedFlow, time_ns: int, idle_ns: int, directions: int) -> None:
        """Frames of the flow skip the hop from now on; RefusedError if it has as many as it may have."""
        ...

    def unshunt(self, hop: str, flow: ShuntedFlow) -> None:
        """They go to the hop again."""
        ...


class AgentShunts:
    """One guest's. `served`: the names of the segments that the guest is in."""

    def __init__(
        self, table: ShuntTable, served: Callable[[str], Sequence[str]], clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._table, self._served, self._clock = table, served, clock
        self._budget: TokenBucket | None = None
        self._rate = 0

    def carry_out(self, config: Guest, message: Shunt) -> None:
        """Shunt a flow, or not any more; RefusedError says what is wrong."""
        if not config.shunts.max:
            raise RefusedError("this guest may shunt no flows (shunts max = 0)")
        flow = self._flow(config, message)
        if not self._allow(config.shunts.rate):
            raise RefusedError(f"more than {config.shunts.rate} in a second")
        if not message.on:
            self._table.unshunt(config.name, flow)
            return
        most = int(config.shunts.time)
        lasts = most if message.time_s is None else min(most, int(message.time_s * _SECOND_NS))
        self._table.shunt(config.name, flow, lasts, int(config.shunts.idle), DIRECTIONS[message.direction])

    def _allow(self, rate: int) -> bool:
        now = self._clock()
        if self._budget is None or rate != self._rate:
            self._budget, self._rate = TokenBucket(rate / _SECOND_NS, rate, now), rate
        return self._budget.allow(now)

    def _flow(self, config: Guest, message: Shunt) -> ShuntedFlow:
        try:
            lan, wan = ipaddress.ip_address(message.lan), ipaddress.ip_address(message.wan)
        except ValueError as error:
            raise RefusedError(str(error)) from error
        if lan.version != wan.version:
            raise RefusedError("one address is IPv4, the other one IPv6")
        if any(isinstance(end, ipaddress.IPv6Address) and end.scope_id for end in (lan, wan)):
            raise RefusedError("an address has a zone")
        if message.protocol == "udp" and {message.lan_port, message.wan_port} & set(TUNNELS):
            raise RefusedError("a tunnel, whose flows cannot be shunted")
        vlan = 0 if message.vlan is None else vlan_of(message.vlan, service=message.service_tag)
        ends = (lan, message.lan_port, wan, message.wan_port)
        return ShuntedFlow(self._segment(config, message.segment), PROTOCOLS[message.protocol], *ends, vlan)

    def _segment(self, config: Guest, name: str) -> int:
        served = self._served(config.name)
        if not name and len(served) == 1:
            return self._table.segment_id(served[0])
        if name not in served:
            known = ", ".join(served) or "none"
            raise RefusedError(f'no segment "{name}"' if name else f"`segment` is needed: one of {known}")
        return self._table.segment_id(name)
