# SPDX-License-Identifier: GPL-2.0-only
"""The ports of the board: found by PCI path or MAC address through udev, watched through rtnetlink.

`Links` is a part of bypassd. From `start` on it owns the netlink socket and the settings of the data ports (up,
promiscuous); the settings stay when bypassd ends, because the datapath goes on. A missing port is not an
error: it is listed as missing and set up when it appears. Management ports are left to management/.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from appliance.errors import HardwareError
from appliance.hardware import board
from appliance.part import PATIENCE_NS, Alive
from appliance.system import netdev, netlink
from appliance.system.netlink import RTM_DELLINK, RTM_NEWLINK, LinkMessage, parse_links

log = logging.getLogger(__name__)


class Device(NamedTuple):
    """A network device as udev shows it."""

    ifname: str
    ifindex: int
    mac: str
    pci: str  # of the nearest PCI parent; "" = none


@dataclass
class Port:
    """A port of the board that was found."""

    name: str
    ifname: str
    ifindex: int
    mac: str
    up: bool = False
    link: bool = False


def match(wanted: Iterable[board.Port], devices: Iterable[Device]) -> tuple[dict[str, Device], dict[str, str]]:
    """Which device is which port, and what is missing with one line of detail. Pure."""
    there = list(devices)
    found: dict[str, Device] = {}
    missing: dict[str, str] = {}
    for port in wanted:
        hits = [d for d in there if (d.pci == port.pci if port.pci else d.mac == port.mac)]
        if hits:
            # several devices on one PCI function or MAC (a VLAN or bridge copies its parent's): the oldest is the port
            found[port.name] = min(hits, key=lambda device: device.ifindex)
        else:
            place = f"PCI {port.pci}" if port.pci else f"MAC {port.mac}"
            others = ", ".join(f"{d.ifname} at {d.pci or d.mac}" for d in there if d.ifname != "lo") or "no port at all"
            missing[port.name] = (
                f"{port.name} ({place}) was not found; there are {others}: check board.toml and the port's driver"
            )
    return found, missing


def devices() -> list[Device]:
    """All network devices of this network namespace, through udev."""
    import pyudev

    result = []
    for device in pyudev.Context().list_devices(subsystem="net"):
        try:
            parent = device.find_parent("pci")
            mac = device.attributes.asstring("address").lower()
            index = int(device.attributes.asstring("ifindex"))
        except (KeyError, ValueError, OSError):
            continue  # it went away while we looked
        result.append(Device(device.sys_name, index, mac, parent.sys_name if parent is not None else ""))
    return result


class Links:
    """The part "links"."""

    name = "links"
    patience = PATIENCE_NS

    def __init__(self, wanted: Iterable[board.Port], changed: Callable[[], None]) -> None:
        self._wanted = [port for port in wanted if port.role == "data"]
        self._changed = changed
        self._socket: socket.socket | None = None
        self.ports: dict[str, Port] = {}
        self.missing: dict[str, str] = {}
        self._downed: set[str] = set()
        self._seen: set[int] = set()  # indexes of all devices at the last look
        self._rescan = asyncio.Event()

    async def start(self) -> None:
        """Listen first and look then, so that nothing that changes in between is missed."""
        try:
            self._socket = netlink.watch_links()
        except OSError as error:
            raise HardwareError(f"links cannot be watched: {error.strerror}") from error
        asyncio.get_running_loop().add_reader(self._socket, self._receive)
        self._scan()

    async def run(self, alive: Alive) -> None:
        """Look again whenever a device comes or goes."""
        while True:
            alive()
            try:
                async with asyncio.timeout(self.patience / 4e9):
                    await self._rescan.wait()
            except TimeoutError:
                continue
            self._rescan.clear()
            self._scan()

    async def stop(self) -> None:
        """Stop watching. A port that we took down to pass a lost link on comes up again: nobody would do it later."""
        for name in list(self._downed):
            self.set_down(name, False)
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    def set_down(self, name: str, down: bool) -> None:
        """Take a port administratively down or up again (passing a lost link on). A port that is gone is left out."""
        (self._downed.add if down else self._downed.discard)(name)
        port = self.ports.get(name)
        if port is None:
            return
        try:
            netdev.set_up(port.ifname, not down)
        except HardwareError as error:
            log.warning("%s", error)

    @property
    def downed(self) -> frozenset[str]:
        """The ports that `set_down` has down."""
        return frozenset(self._downed)

    def _scan(self) -> None:
        there = devices()
        self._seen = {device.ifindex for device in there}
        found, missing = match(self._wanted, there)
        for name, line in missing.items():
            if name not in self.missing:
                log.error("port missing: %s", line)
        self.missing = missing
        for name in [name for name in self.ports if name not in found]:
            del self.ports[name]
        for name, device in found.items():
            known = self.ports.get(name)
            if known is None or known.ifindex != device.ifindex:
                try:
                    self._take(name, device)
                except HardwareError as error:
                    log.error("%s", error)
                    self.missing[name] = str(error)
        assert self._socket is not None
        netlink.ask_links(self._socket)
        self._changed()

    def _take(self, name: str, device: Device) -> None:
        ifname = netdev.rename(device.ifname, name)
        if name not in self._downed:
            for words in netdev.prepare(ifname):
                log.warning("port %s: %s", name, words)
        self.ports[name] = Port(name, ifname, device.ifindex, device.mac)
        log.info("port %s is %s (%s)", name, ifname, device.pci or device.mac)

    def _receive(self) -> None:
        changed = False
        while self._socket is not None:
            try:
                data = self._socket.recv(1 << 17)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self._rescan.set()  # messages were lost
                continue
            for message in parse_links(data):
                changed |= self._take_message(message)
        if changed:
            self._changed()

    def _take_message(self, message: LinkMessage) -> bool:
        port = next((port for port in self.ports.values() if port.ifindex == message.ifindex), None)
        if port is None:
            if message.kind == RTM_NEWLINK and self.missing and message.ifindex not in self._seen:
                self._rescan.set()
            return False
        if message.kind == RTM_DELLINK:
            self._rescan.set()
            return False
        before = (port.up, port.link, port.ifname)
        port.up, port.link, port.ifname = message.up, message.link, message.ifname or port.ifname
        if before[:2] != (port.up, port.link):
            log.info("port %s: %s", port.name, "link" if port.link else "no link" if port.up else "down")
        return before != (port.up, port.link, port.ifname)
