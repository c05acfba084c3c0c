# SPDX-License-Identifier: GPL-2.0-only
"""`board test`: tries every line, watchdog, port and LED that board.toml names, for a board's first day.

Relays are moved by the keeper, as always, so what is tried is what will be used: to bypass, inline, back, and to
disconnect where there is one. Each segment's link is interrupted for the time of the moves. Every relay ends in what
its segment asks for. What only a person can see, or only a reset shows, is listed as to do.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import appliance
from appliance.api.rpc import Params, Registry, caller
from appliance.api.schema import machine, methods, state
from appliance.errors import RefusedError
from appliance.hardware.board import Board, Port, Relay
from appliance.supervisor import status
from appliance.supervisor.system import System

log = logging.getLogger(__name__)

MOVE_S = 3.0  # from an order until the keeper reports the position, besides the time of the contacts
REST_S = 0.5  # in each position
BLINK_S = 5.0
PASSED, FAILED, UNKNOWN, TO_DO = "passed", "failed", "not known", "to do"

Item = state.BoardTestItem


class BoardTester:
    """The handler of `board.test`. `ports`: every port as `show ports` has it."""

    def __init__(
        self, system: System, wake: Callable[[], None], ports: Callable[[], Awaitable[list[machine.Port]]]
    ) -> None:
        self._system, self._wake, self._ports = system, wake, ports
        self._busy = False

    def register(self, registry: Registry) -> None:
        """Offer the method."""
        doc = "try every line, watchdog, port and LED of the board; moves its relays, which interrupts the links"
        registry.add(methods.BOARD_TEST, self.test, "admin", doc)

    async def test(self, _: Params) -> state.BoardTest:
        """board.test"""
        system = self._system
        if system.board is None:
            raise RefusedError(f"board.toml cannot be used: {system.board_error}")
        if self._busy or system.ending:
            raise RefusedError(system.ending or "another test of the board is under way")
        if any(unit.drill for unit in system.segments.units.values()) or system.watchdog_drill:
            raise RefusedError("a drill is under way: `drill abort` ends it")
        self._busy, began = True, datetime.now(UTC)
        log.warning("test of the board, ordered by uid %d: it moves every relay", caller().uid)
        try:
            items = [
                *self._watchdogs(),
                *[item for relay in system.board.relay for item in await self._relay(relay)],
                *await self._leds(system.board),
                *[
                    Item(f"button {button.name}", TO_DO, "hold it for 5 s: `show events` then names it")
                    for button in system.board.button
                ],
                *self._port_items(system.board, {row.name: row for row in await self._ports()}),
                *_facts(system.board),
            ]
        finally:
            self._busy = False
        when = began.isoformat(timespec="seconds")
        passed = not any(item.result == FAILED for item in items)
        return state.BoardTest(system.board.name, appliance.__version__, when, passed, items)

    # -- watchdogs

    def _watchdogs(self) -> list[Item]:
        found = status.watchdog(self._system)
        if found.state != "armed":
            result = UNKNOWN if found.state == "none on this board" else FAILED
            return [Item("watchdog", result, found.detail or found.state)]
        items = []
        for device in found.devices or ():
            early = f", warns {device.pretimeout_ms} ms before" if device.pretimeout_ms else ""
            said = f"{device.identity}: armed, {device.timeout_ms} ms{early}"
            said += f"; {device.note}" if device.note else ""
            items.append(Item(f"watchdog {device.name}", PASSED, said))
        return [*items, Item("watchdog reset", TO_DO, "`drill run watchdog` resets the machine and measures it")]

    # -- relays

    async def _relay(self, relay: Relay) -> list[Item]:
        segments = self._system.segments
        names = [name for name, unit in segments.units.items() if unit.relay == relay.line]
        items = []
        try:
            for name in names:
                segments.drill(name, True)  # the segment rests: its relay moves without its order
            for position in ("bypass", "inline", "bypass", *(("disconnect", "bypass") if relay.disconnect else ())):
                item = await self._move(relay, position)
                items.append(item)
                if item.result == FAILED:
                    break
                await asyncio.sleep(REST_S)
        finally:
            for name in names:
                segments.drill(name, False)
            self._system.relay_orders.pop(relay.line, None)
            self._wake()
        return items

    async def _move(self, relay: Relay, position: str) -> Item:
        system, what = self._system, f"relay {relay.line}: {position}"
        began, limit = time.monotonic(), MOVE_S + relay.moves_ns / 1e9
        system.relay_orders[relay.line] = position
        self._wake()
        while True:
            keeper = system.keeper_state
            now = keeper.relays.get(relay.line) if keeper is not None else None
            took = time.monotonic() - began
            if now is None:
                return Item(what, FAILED, "the keeper does not report this relay")
            if now.relay == position and now.usable:
                return Item(what, PASSED, f"after {took * 1000:.0f} ms, as read back")
            if took >= limit:
                return Item(what, FAILED, now.error or f"in {now.relay} after {limit:g} s")
            await asyncio.sleep(0.01)

    # -- LEDs

    async def _leds(self, board: Board) -> list[Item]:
        system = self._system
        names = [led.name for led in board.led if led.name in ("status", "locate")]
        if names and system.keeper.present:
            system.locate_until = time.monotonic_ns() + round(BLINK_S * 1e9)
            self._wake()
            await asyncio.sleep(BLINK_S)
        blinks = "locate" if "locate" in names else "status"
        said = {
            name: f"it blinked fast for {BLINK_S:g} s during this test: did it?"
            if name == blinks
            else "it is on while every relay is inline"
            for name in names
        }
        return [
            Item(f"LED {led.name}", TO_DO, said.get(led.name, "nothing drives an LED of this name"))
            for led in board.led
        ]

    # -- ports

    def _port_items(self, board: Board, rows: dict[str, machine.Port]) -> list[Item]:
        return [self._port(port, rows.get(port.name)) for port in board.port]

    def _port(self, port: Port, row: machine.Port | None) -> Item:
        what = f"port {port.name}"
        if row is None or not row.device:
            missing = self._system.links.missing.get(port.name, "it was not found")
            return Item(what, FAILED, row.detail if row is not None and row.detail else missing)
        said = f"{row.device}, {row.driver or 'driver not known'}, link {row.link}"
        if port.driver and row.driver and not _same_driver(port.driver, row.driver):
            return Item(what, FAILED, f"{said}: board.toml says {port.driver}")
        return Item(
            what, PASSED if row.link == "up" else TO_DO, said if row.link == "up" else f"{said}: plug in a cable"
        )


def _same_driver(described: str, found: str) -> bool:
    """The kernel names a platform's driver of the stmmac family by its own name."""
    return described == found or (described == "stmmac" and ("dwmac" in found or found == "st_gmac"))


def _facts(board: Board) -> list[Item]:
    """What nobody knows about this board yet."""
    items = []
    for relay in board.relay:
        said = {
            "power_up": relay.power_up,
            "unpowered": relay.unpowered,
            "on_watchdog": relay.on_watchdog,
            "settle": relay.settle,
        }
        if relay.released == "times-out" and relay.times_out_ms is None:
            said["keep_alive_timeout"] = ""
        missing = [key for key, value in said.items() if not value]
        if missing:
            items.append(Item(f"relay {relay.line}: facts", UNKNOWN, f"board.toml lacks {', '.join(missing)}"))
    for port in board.port:
        if port.role == "data" and not port.on_attach:
            said_ = "board.toml lacks on_attach: does the link drop when the datapath is attached?"
            items.append(Item(f"port {port.name}: facts", UNKNOWN, said_))
    return items
