# SPDX-License-Identifier: GPL-2.0-only
"""All run-time changes of the steering by guests and their failures, one at a time.

Owns the current overlay (steering/overlay.py) between the datapath and its users: agents that register or withdraw a
filter, the quarantine of flows, the operator who releases one. A change that the datapath refuses changes nothing, and
its origin gets the error. It lives as long as the part "guests".
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Protocol

import msgspec

from appliance.errors import BypassError, NotFoundError
from appliance.filter import untrusted
from appliance.steering.overlay import MAX_QUARANTINED, Overlay, Quarantined

log = logging.getLogger(__name__)


class Steered(Protocol):
    """Applies an overlay to the policy (steering/part.py)."""

    @property
    def overlay(self) -> Overlay:
        """What is laid over now."""
        ...

    async def lay_over(self, overlay: Overlay) -> None:
        """Switch to another overlay; BypassError: refused, the present one stays in force."""
        ...


def compile_filter(text: str) -> tuple[object, ...]:
    """Compile by libpcap, and check that the datapath supports it. FilterError otherwise."""
    from appliance.filter.compiler import compile_filter as compiled

    return compiled(text).instructions


class GuestPolicy:
    """See the module."""

    def __init__(self, steered: Steered, wall: Callable[[], float] = time.time) -> None:
        self._steered, self._wall = steered, wall
        self._order = asyncio.Lock()

    @property
    def overlay(self) -> Overlay:
        """What is laid over now."""
        return self._steered.overlay

    async def _change(self, make: Callable[[Overlay], Overlay]) -> None:
        async with self._order:
            fresh = make(self.overlay)
            if fresh != self.overlay:
                await self._steered.lay_over(fresh)

    async def narrow(self, guest: str, text: str) -> None:
        """Send the guest only frames that its own filter also matches; "" withdraws it. BypassError: refused."""
        if text.strip():
            untrusted.check(text, compile_filter)

        def make(old: Overlay) -> Overlay:
            accepts = {name: kept for name, kept in old.accepts.items() if name != guest}
            if text.strip():
                accepts[guest] = text.strip()
            return msgspec.structs.replace(old, accepts=accepts)

        await self._change(make)

    async def use_tags(self, guest: str, on: bool) -> None:
        """Record whether the guest chooses its next hop by tags; the caller informs the datapath."""

        def make(old: Overlay) -> Overlay:
            rest = tuple(name for name in old.no_tags if name != guest)
            return msgspec.structs.replace(old, no_tags=rest if on else (*rest, guest))

        await self._change(make)

    async def forget(self, guest: str) -> None:
        """A new run of the guest: registrations by the agent of an earlier one are dropped."""
        try:
            await self.narrow(guest, "")
            await self.use_tags(guest, True)
        except BypassError as error:
            log.error("guest %s: its filter stays as it was: %s", guest, error)

    async def quarantine(self, flows: list[Quarantined]) -> None:
        """Quarantine these flows; a repeated flow starts its time again, and the oldest are dropped for space."""

        def make(old: Overlay) -> Overlay:
            same = {(flow.guests, flow.match) for flow in flows}
            kept = [flow for flow in old.quarantined if (flow.guests, flow.match) not in same]
            return msgspec.structs.replace(old, quarantined=(*kept, *flows)[-MAX_QUARANTINED:])

        await self._change(make)

    async def release(self, name: str) -> Quarantined:
        """Take one flow out of quarantine; NotFoundError if there is none of this name."""
        found = next((flow for flow in self.overlay.quarantined if flow.name == name), None)
        if found is None:
            known = ", ".join(flow.name for flow in self.overlay.quarantined) or "none"
            raise NotFoundError(f'no flow is in quarantine as "{name}"; there is: {known}')
        await self._change(lambda old: msgspec.structs.replace(
            old, quarantined=tuple(flow for flow in old.quarantined if flow.name != name)))  # fmt: skip
        return found

    async def expire(self) -> list[Quarantined]:
        """Take out the flows whose time has expired; returns them."""
        now = self._wall()
        over = [flow for flow in self.overlay.quarantined if flow.until <= now]
        if over:
            await self._change(lambda old: msgspec.structs.replace(
                old, quarantined=tuple(flow for flow in old.quarantined if flow.until > now)))  # fmt: skip
        return over

    def fresh_names(self, count: int) -> list[str]:
        """Names for flows that are about to go into quarantine."""
        taken = {flow.name for flow in self.overlay.quarantined}
        free = (f"quarantine-{number}" for number in range(1, len(taken) + count + 1))
        return [name for name in free if name not in taken][:count]
