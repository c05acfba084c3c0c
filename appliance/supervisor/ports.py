# SPDX-License-Identifier: GPL-2.0-only
"""`show ports`: every port of the board with its link, driver, counters and module.

Asks `ip` and `ethtool`, in the namespace where the port is; a driver that does not answer costs its own row only.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from appliance.api.rpc import Param, Params, Registry
from appliance.api.schema import machine, methods
from appliance.config.schema.model import Config
from appliance.errors import NotFoundError, UnreachableError
from appliance.hardware.board import Port
from appliance.management import bridge
from appliance.supervisor.system import System
from appliance.system import ethtool
from appliance.system.command import run

ANSWER_S = 3.0
Run = Callable[[Sequence[str], float], Awaitable[tuple[int, str]]]


class _Place(NamedTuple):
    """Where a port is: what leads a command to its namespace, and the name of its device there."""

    before: list[str]
    device: str


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
        return await self.rows()

    async def rows(self) -> list[machine.Port]:
        """Every port of the board."""
        board = self._system.board
        return list(await asyncio.gather(*(self._row(port) for port in (board.port if board else ()))))

    async def one(self, params: Params) -> machine.PortDetails:
        """port.show"""
        board = self._system.board
        ports = {port.name: port for port in (board.port if board else ())}
        name = str(params["name"])
        if name not in ports:
            raise NotFoundError(f'this board has no port "{name}"; it has: {", ".join(ports) or "none"}')
        place = self._places(ports[name])[0]
        try:
            place, seen = await self._seek(ports[name])
        except UnreachableError as error:
            return machine.PortDetails(self._absent(ports[name], place, str(error)), {}, "", "", {}, {}, {})
        if seen is None:
            return machine.PortDetails(self._absent(ports[name], place), {}, "", "", {}, {}, {})
        row = await self._present(ports[name], place, seen)
        said = {flag: await self._ethtool(place, flag) for flag in ("-i", "-g", "-S", "-m")}
        driver = ethtool.driver(said["-i"])
        return machine.PortDetails(
            port=row,
            errors=seen.errors(),
            firmware=driver.firmware,
            bus=driver.bus,
            rings=ethtool.rings(said["-g"]),
            module=ethtool.module(said["-m"]),
            counters=ethtool.counters(said["-S"]),
        )

    def _places(self, port: Port) -> list[_Place]:
        """Where the port may be: the management port moves to its namespace only when it is used."""
        if port.role == "management":
            space = self._system.lan.space
            used = [_Place(space.command([]), bridge.hardware(port.name))] if space.exists else []
            return [*used, _Place([], port.name)]
        found = self._system.links.ports.get(port.name)
        return [_Place([], found.ifname if found is not None else "")]

    async def _seek(self, port: Port) -> tuple[_Place, ethtool.Device | None]:
        """The place where the port is, and what the kernel says of it there; None: it is nowhere."""
        places = self._places(port)
        for place in places:
            if place.device:
                words = [*place.before, "ip", "-j", "-s", "-s", "link", "show", "dev", place.device]
                if (seen := ethtool.device(await self._must(words))) is not None:
                    return place, seen
        return places[0], None

    async def _row(self, port: Port) -> machine.Port:
        try:
            place, seen = await self._seek(port)
        except UnreachableError as error:
            return self._absent(port, self._places(port)[0], str(error))
        return self._absent(port, place) if seen is None else await self._present(port, place, seen)

    def _new(self, port: Port, device: str, link: str) -> machine.Port:
        return machine.Port(name=port.name, role=port.role, device=device, segment=self._segment(port), link=link)

    def _absent(self, port: Port, place: _Place, why: str = "") -> machine.Port:
        """The row of a port that the kernel does not show."""
        row = self._new(port, place.device, "missing")
        row.detail = why or self._system.links.missing.get(port.name, f"there is no device {place.device}")
        return row

    async def _present(self, port: Port, place: _Place, seen: ethtool.Device) -> machine.Port:
        row = self._new(port, place.device, "up" if seen.link else "down" if seen.up else "off")
        if port.role == "management" and not place.before:
            row.detail = "not in use: it has no address"
        link = ethtool.link(await self._try([*place.before, "ethtool", place.device]))
        row.speed_mbps = link.speed if seen.link else None
        row.duplex, row.negotiates, row.medium = link.duplex if seen.link else "", link.negotiates, link.medium
        row.mac, row.mtu = seen.mac, seen.mtu
        row.driver = ethtool.driver(await self._ethtool(place, "-i")).name
        row.rx_frames, row.tx_frames = seen.rx.get("packets", 0), seen.tx.get("packets", 0)
        row.rx_errors, row.tx_errors = seen.rx.get("errors", 0), seen.tx.get("errors", 0)
        row.rx_dropped, row.tx_dropped = seen.rx.get("dropped", 0), seen.tx.get("dropped", 0)
        return row

    def _segment(self, port: Port) -> str:
        for segment in self._system.segments.show(time.monotonic_ns()):
            for side, name in (("lan", segment.lan), ("wan", segment.wan)):
                if name == port.name:
                    return f"{segment.name}/{side}"
        config = self._system.config or Config()
        tunnels = [(f"remote {one.name}", one.tunnel) for one in config.remote]
        tunnels += [(f"serve {one.name}", one.tunnel) for one in config.serve]
        return ", ".join(who for who, tunnel in tunnels if tunnel.port == port.name)

    async def _ethtool(self, place: _Place, flag: str) -> str:
        return await self._try([*place.before, "ethtool", flag, place.device])

    async def _must(self, words: Sequence[str]) -> str:
        status, text = await self._ask(words, ANSWER_S)
        return text if status == 0 else ""

    async def _try(self, words: Sequence[str]) -> str:
        """The output; empty where the driver does not have it, or does not answer."""
        try:
            return await self._must(words)
        except UnreachableError:
            return ""
