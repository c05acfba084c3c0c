# SPDX-License-Identifier: GPL-2.0-only
"""What a guest's agent is granted: its wishes (agent.py) carried out, within what the administrator allows.

An agent only ever takes away from its own guest: fewer frames, no new flows, no frames at all. What an operator
ordered it cannot take back. Lives as long as its guest's object.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from appliance.causes import Cause
from appliance.errors import RefusedError, UnreachableError
from appliance.guest.lifecycle import State
from appliance.steering.overlay_editor import GuestPolicy

if TYPE_CHECKING:
    from appliance.guest.guest import Guest

TAG_OUT, TAG_OUT_LAN, TAG_OUT_WAN = 0, 4001, 4002  # bpf/steer.h


class Desk:
    """Serves the agent of one guest."""

    def __init__(
        self, guest: Guest, policy: GuestPolicy, hops: Callable[[], dict[str, int]], retag: Callable[[str, bool], None]
    ) -> None:
        """`hops` gives name and number of every hop; `retag` tells the datapath whether a guest's tags count."""
        self._guest, self._policy, self._hops, self._retag = guest, policy, hops, retag

    def send(self, message: dict[str, object]) -> None:
        """Send to the agent; UnreachableError when it does not read."""
        run = self._guest.run_now
        if run is None:
            raise UnreachableError(f"guest {self._guest.name}: no agent channel: it is {self._guest.state.value}")
        run.channel.send(message)

    def greeting(self) -> dict[str, object]:
        """What an agent is told of its guest."""
        config = self._guest.config
        beat = config.heartbeat
        return {
            "guest": config.name,
            "accept": config.accept,
            "tags": config.tags,
            "heartbeat_ms": None if beat is None else int(beat.interval) / 1e6,
        }

    def heartbeat(self, status: str, counters: Mapping[str, int]) -> None:
        """The application is there, and how it is."""
        self._guest.application, self._guest.counters = status, dict(counters)
        if self._guest.run_now is not None:
            self._guest.run_now.watch.heartbeat(status)

    def ask_bypass(self, on: bool, why: str) -> None:
        """No frames at all, or again."""
        if self._guest.run_now is not None:
            self._guest.run_now.watch.ask_bypass(on, why)

    def ask_drain(self, on: bool) -> None:
        """No new flows, or again; RefusedError when that cannot be now."""
        guest = self._guest
        if on:
            guest.drain(Cause.GUEST_ASKED)
        elif guest.state is State.DRAINING:
            if guest.drained_by is not Cause.GUEST_ASKED:
                raise RefusedError("an operator drains this guest")
            guest.take_back(Cause.GUEST_ASKED)

    async def narrow(self, text: str) -> None:
        """Only frames that match `text`; "" = all that the administrator allows."""
        await self._policy.narrow(self._guest.name, text)

    async def use_tags(self, on: bool) -> dict[str, int]:
        """Tags decide the next hop, or not; the VLAN ids by which the guest names hops and ports."""
        name = self._guest.name
        if not on:
            await self._policy.use_tags(name, False)
            self._retag(name, False)
            return {}
        if not self._guest.config.tags:
            raise RefusedError("the administrator does not let this guest choose by tags (tags = false)")
        await self._policy.use_tags(name, True)
        self._retag(name, True)
        ports = {"out": TAG_OUT, "out-lan": TAG_OUT_LAN, "out-wan": TAG_OUT_WAN}
        return {**{hop: number for hop, number in self._hops().items() if hop != name}, **ports}
