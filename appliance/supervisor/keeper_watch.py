# SPDX-License-Identifier: GPL-2.0-only
"""Waits for the keeper's reports: positions and moves of the relays, and the loss of the keeper itself.

Lives as long as bypassd.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from appliance.causes import Cause
from appliance.errors import HardwareError
from appliance.supervisor import exit_reason
from appliance.supervisor.system import System
from appliance.telemetry.subject import Change

log = logging.getLogger(__name__)

SETTLES_S = 5.0  # for the keeper to try relays and watchdog once
RELAY_S = 3.0  # from the request to the keeper until it confirms the relay's move, besides the time of its contacts


class KeeperWatch:
    """See the module. `wake` is called for each report of the keeper, `lost` when it is gone."""

    def __init__(self, system: System, wake: Callable[[], None], lost: Callable[[], None]) -> None:
        self._system, self._wake, self._lost = system, wake, lost
        self._changed = asyncio.Event()

    def listen(self) -> None:
        """Follow the link, for the life of the event loop."""
        keeper = self._system.keeper
        keeper.on_change(self._said)
        if keeper.fileno() >= 0:
            asyncio.get_running_loop().add_reader(keeper.fileno(), keeper.receive)

    def _said(self) -> None:
        keeper = self._system.keeper
        if keeper.lost:
            asyncio.get_running_loop().remove_reader(keeper.fileno())
            self._lost()
        self._changed.set()
        self._wake()

    async def settled(self) -> None:
        """Wait until the keeper has tried relays and watchdog once: only then is it known whether to adopt."""
        system, keeper = self._system, self._system.keeper
        if not keeper.present:
            log.warning("no keeper: no relay is driven and no watchdog fed; start bypass-keeper instead")
            return
        try:
            async with asyncio.timeout(SETTLES_S):
                while keeper.state is None or not keeper.state.settled():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            log.error("the keeper does not report where the relay is: in bypass until it does")
        state, said = keeper.state, exit_reason.take(system.paths.last_words)
        if state is not None and state.restarts:
            how = f"{state.last_exit}: {said}" if said else state.last_exit
            system.transitions.record(
                Change.SUPERVISOR_RESTARTED, "", "ended", "running", Cause.SUPERVISOR_RESTARTED, detail=how
            )

    async def relays_closed(self, relays: list[str]) -> None:
        """Wait until the keeper has these relays in bypass. HardwareError: that takes too long."""
        board = self._system.board
        moves = [relay.moves_ns for relay in board.relay if relay.line in relays] if board else []
        limit = RELAY_S + max(moves, default=0) / 1e9
        try:
            async with asyncio.timeout(limit):
                while any(self._away_from_bypass(relay) for relay in relays):
                    self._changed.clear()
                    self._wake()
                    await self._changed.wait()
        except TimeoutError:
            raise HardwareError(f"relay {' and '.join(relays)} did not close within {limit:g} s") from None

    def _away_from_bypass(self, relay: str) -> bool:
        state = self._system.keeper_state
        return state is not None and relay in state.relays and state.relays[relay].relay != "bypass"
