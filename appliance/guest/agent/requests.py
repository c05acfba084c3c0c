# SPDX-License-Identifier: GPL-2.0-only
"""Carries out the requests of a guest's agent (conversation.py), within what the administrator allows.

An agent can only reduce its own guest's traffic: fewer frames, no new flows, none of a flow, no frames at all. It
cannot undo what an operator ordered. Lives as long as its guest's object.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from appliance.causes import Cause
from appliance.config.schema import model
from appliance.errors import RefusedError
from appliance.guest.agent.channel import Shunt
from appliance.guest.agent.shunting import AgentShunts
from appliance.hop.hop import Hop
from appliance.hop.lifecycle import HopState
from appliance.steering.overlay_editor import GuestPolicy

TAG_OUT, TAG_NEXT, TAG_OUT_LAN, TAG_OUT_WAN, TAG_SHUNT, TAG_SHUNT_ONE = 0, *range(4000, 4005)  # bpf/steer.h


class AgentsGuest(Protocol):
    """The agent's guest (guest.py)."""

    hop: Hop

    @property
    def config(self) -> model.Guest:
        """Its table in the configuration."""

    def send(self, message: dict[str, object]) -> None:
        """Send to the agent; UnreachableError if it does not read."""

    def heartbeat(self, status: str, counters: Mapping[str, int]) -> None:
        """The agent reports the state of the application."""

    def ask_bypass(self, on: bool, why: str) -> None:
        """Send it no frames at all, or send them again."""


class AgentRequests:
    """The requests of one guest's agent."""

    def __init__(
        self,
        guest: AgentsGuest,
        policy: GuestPolicy,
        hops: Callable[[], dict[str, int]],
        retag: Callable[[str, bool], Awaitable[None]],
        shunts: AgentShunts,
    ) -> None:
        """`hops` returns the number of every hop by name; `retag` tells the datapath whether a guest's tags count."""
        self._guest, self._policy, self._hops, self._retag = guest, policy, hops, retag
        self._shunts = shunts
        self.send, self.heartbeat, self.ask_bypass = guest.send, guest.heartbeat, guest.ask_bypass

    def greeting(self) -> dict[str, object]:
        """What an agent is told about its guest."""
        config = self._guest.config
        beat = config.heartbeat
        return {
            "guest": config.name,
            "accept": config.accept,
            "tags": config.tags,
            "shunts": config.shunts.max,
            "heartbeat_ms": None if beat is None else int(beat.interval) / 1e6,
        }

    def ask_drain(self, on: bool) -> None:
        """Send it no new flows, or send them again; RefusedError if that is not possible now."""
        hop = self._guest.hop
        if on:
            hop.drain(Cause.GUEST_ASKED)
        elif hop.state is HopState.DRAINING:
            if hop.drained_by is not Cause.GUEST_ASKED:
                raise RefusedError("this guest is drained by order of an operator")
            hop.cancel_drain(Cause.GUEST_ASKED)

    def shunt(self, message: Shunt) -> None:
        """The frames of a flow skip the guest, or go to it again; RefusedError: it may not, or the flow is none."""
        self._shunts.carry_out(self._guest.config, message)

    async def narrow(self, text: str) -> None:
        """Send it only frames that match `text`; "" = all that the administrator allows."""
        await self._policy.narrow(self._guest.config.name, text)

    async def use_tags(self, on: bool) -> dict[str, int]:
        """Let its tags decide the next hop, or not. Returns the VLAN ids by which the guest names hops and ports."""
        name = self._guest.config.name
        if not on:
            await self._policy.use_tags(name, False)
            await self._retag(name, False)
            return {}
        if not self._guest.config.tags:
            raise RefusedError("this guest is not allowed to choose the next hop by tags (tags = false)")
        await self._policy.use_tags(name, True)
        await self._retag(name, True)
        ports = {"next": TAG_NEXT, "out": TAG_OUT, "out-lan": TAG_OUT_LAN, "out-wan": TAG_OUT_WAN}
        if self._guest.config.shunts.max:
            ports |= {"shunt": TAG_SHUNT, "shunt-one": TAG_SHUNT_ONE}
        return {**{hop: number for hop, number in self._hops().items() if hop != name}, **ports}
