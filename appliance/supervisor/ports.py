# SPDX-License-Identifier: GPL-2.0-only
"""`show ports`: every port of the board with its link, driver, counters and module.

Asks `ip` and `ethtool`, in the namespace where the port is; a driver that does not answer costs its own row only.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from appliance.api.rpc import Param, Params, Registry
from appliance.api.schema import machine, methods
from appliance.errors import NotFoundError, UnreachableError
from appliance.hardware.board import Port
from appliance.management import bridge
from appliance.supervisor.system import System
from appliance.system import ethtool
from appliance.system.command import run

ANSWER_S = 3.0
Run = Callable[[Sequence[str], float], Awaitable[tuple[int, str]]]


class Ports:
    """The handlers."""

    def __init__(self, system: System, ask: Run = run) -> None:
        self._system, self._ask = system, ask

    def register(self, registry: Registry) -> None:
        """Offer the methods."""
        name = {"name": Param("string", "a port of board.toml")}
        registry.add(methods.PORTS_SHOW, self.show, doc="ports: link, speed, errors, driver")
        registry.add(methods.PORT_SHOW, self.one, doc="one port with its driver's counters and its module", params=name)

    async def show(self, _: Params) -> list[machine.Port]:
        """ports.show"""
        board = self._system.board
        return list(await asyncio.gather(*(self._row(port) for port in (board.port if board else ()))))

    async def one(self, params: Params) -> machine.PortDetails:
        """port.show"""
        board = self._system.board
        ports = {port.name: port for port in (board.port if board else ())}
        name = str(params["name"])
        if name not in ports:
            raise NotFoundError(f'this board has no port "{name}"; it has: {", ".join(ports) or "none"}')
        row = await self._row(ports[name])
        before, device = self._place(ports[name])
        if row.link == "missing":
            return machine.PortDetails(row, {}, "", "", {}, {}, {})
        said = {flag: await self._ethtool(before, flag, device) for flag in ("-i", "-g", "-S", "-m")}
        driver = ethtool.driver(said["-i"])
        seen = ethtool.device(await self._try([*before, "ip", "-j", "-s", "-s", "link", "show", "dev", device]))
        return machine.PortDetails(
            port=row,
            errors=seen.errors() if seen else {},
            firmware=driver.firmware,
            bus=driver.bus,
            rings=ethtool.rings(said["-g"]),
            module=ethtool.module(said["-m"]),
            counters=ethtool.counters(said["-S"]),
        )

    def _place(self, port: Port) -> tuple[list[str], str]:
        """(what to put before a command, the device's name there)."""
        if port.role == "management":
            space = self._system.lan.space
            return (space.command([]), bridge.hardware(port.name)) if space.exists else ([], port.name)
        found = self._system.links.ports.get(port.name)
        return [], found.ifname if found is not None else ""

    async def _row(self, port: Port) -> machine.Port:
        before, device = self._place(port)
        row = machine.Port(name=port.name, role=port.role, device=device, segment=self._segment(port), link="missing")
        if not device:
            row.detail = self._system.links.missing.get(port.name, "")
            return row
        try:
            seen = ethtool.device(await self._must([*before, "ip", "-j", "-s", "-s", "link", "show", "dev", device]))
        except UnreachableError as error:
            row.detail = str(error)
            return row
        if seen is None:
            row.detail = f"there is no device {device}" if port.role == "data" else "not in use"
            return row
        link = ethtool.link(await self._try([*before, "ethtool", device]))
        row.link = "up" if seen.link else "down" if seen.up else "off"
        row.speed_mbps = link.speed if seen.link else None
        row.duplex, row.negotiates, row.medium = link.duplex if seen.link else "", link.negotiates, link.medium
        row.mac, row.mtu = seen.mac, seen.mtu
        row.driver = ethtool.driver(await self._ethtool(before, "-i", device)).name
        row.rx_frames, row.tx_frames = seen.rx.get("packets", 0), seen.tx.get("packets", 0)
        row.rx_errors, row.tx_errors = seen.rx.get("errors", 0), seen.tx.get("errors", 0)
        row.rx_dropped, row.tx_dropped = seen.rx.get("dropped", 0), seen.tx.get("dropped", 0)
        return row

    def _segment(self, port: Port) -> str:
        for segment in self._system.segments.show(time.monotonic_ns()):
            for side, name in (("lan", segment.lan), ("wan", segment.wan)):
                if name == port.name:
                    return f"{segment.name}/{side}"
        return ""

    async def _ethtool(self, before: list[str], flag: str, device: str) -> str:
        return await self._try([*before, "ethtool", flag, device])

    async def _must(self, words: Sequence[str]) -> str:
        status, text = await self._ask(words, ANSWER_S)
        return text if status == 0 else ""

    async def _try(self, words: Sequence[str]) -> str:
        """The output; empty where the driver does not have it, or does not answer."""
        try:
            return await self._must(words)
        except UnreachableError:
            return ""
