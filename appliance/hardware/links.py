# SPDX-License-Identifier: GPL-2.0-only
"""The ports of the board: found by PCI path or MAC address through udev, watched through rtnetlink.

`Links` is a part of bypassd. From `start` on it owns the netlink socket and the settings of the data ports (up,
promiscuous); the settings stay when bypassd ends, because the datapath goes on. A missing port is not an
error: it is listed as missing and set up when it appears. Management ports are left to management/.

The kernel reports every change, but is also asked once a second: a message can be lost, and only an answer shows that
the port still exists. A setting that another program changed on a port is restored at once; a port that it keeps
changing is `contested`, which is a reason for bypass.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from appliance.causes import Cause
from appliance.contest import Contest
from appliance.errors import HardwareError
from appliance.hardware import board
from appliance.part import PATIENCE_NS, Alive, in_thread
from appliance.system import netdev, netlink
from appliance.system.netlink import RTM_DELLINK, RTM_NEWLINK, LinkMessage, parse_links

log = logging.getLogger(__name__)

LOOK_NS = 900_000_000
"""The kernel is asked for the ports this long after its last answer, so that faults are noticed within a second."""
SCAN_NS = 5_000_000_000
"""A missing port, or one that could not be set up, is looked for again after this time, even without a message."""

UNANSWERED_S = 10
"""The kernel not answering for this long is a fault."""
STEP_NS = 1_000_000_000
"""At most this much is counted of the time between two steps: a machine that stood still has not asked."""

Repaired = Callable[[str, Cause, str], None]
"""Called when a port was repaired: its name, the cause, and a description."""


class Device(NamedTuple):
    """A network device as udev shows it."""

    ifname: str
    ifindex: int
    mac: str
    pci: str  # of the nearest PCI parent; "" = none
    parent: str = ""  # the kernel's name of the device that it belongs to; "" = none


@dataclass
class Port:
    """A port of the board that was found."""

    name: str
    ifname: str
    ifindex: int
    mac: str
    up: bool = False
    link: bool = False
    sent: int = 0  # packets, as the driver counted them at the last look
    dropped: int = 0
    contest: Contest = field(default_factory=Contest)


def match(wanted: Iterable[board.Port], devices: Iterable[Device]) -> tuple[dict[str, Device], dict[str, str]]:
    """Which device is which port, and the missing ports with one line of detail. Pure."""
    there = list(devices)
    found: dict[str, Device] = {}
    missing: dict[str, str] = {}
    for port in wanted:
        hits = [d for d in there if _is(d, port)]
        if hits:
            # several devices on one PCI function or MAC (a VLAN or bridge copies its parent's): the oldest is the port
            found[port.name] = min(hits, key=lambda device: device.ifindex)
        else:
            place = f"PCI {port.pci}" if port.pci else f"MAC {port.mac}" if port.mac else f"device {port.device}"
            known = [f"{d.ifname} at {d.pci or d.parent or d.mac}" for d in there if d.ifname != "lo"]
            others = ", ".join(known) or "none at all"
            said = "check board.toml and the port's driver"
            if port.pci == board.UNKNOWN:
                place, said = "not known where", "name its place in board.toml"
            missing[port.name] = f"{port.name} ({place}) was not found; there are {others}: {said}"
    return found, missing


def _is(device: Device, port: board.Port) -> bool:
    if port.pci:
        return device.pci == port.pci
    return device.mac == port.mac if port.mac else device.parent == port.device


def devices() -> list[Device]:
    """All network devices of this network namespace, through udev."""
    import pyudev

    result = []
    for device in pyudev.Context().list_devices(subsystem="net"):
        try:
            on_pci, parent = device.find_parent("pci"), device.parent
            mac = device.attributes.asstring("address").lower()
            index = int(device.attributes.asstring("ifindex"))
        except (KeyError, ValueError, OSError):
            continue  # it disappeared meanwhile
        names = [each.sys_name if each is not None else "" for each in (on_pci, parent)]
        result.append(Device(device.sys_name, index, mac, *names))
    return result


class Links:
    """The part "links"."""

    name = "links"
    patience = PATIENCE_NS

    def __init__(
        self,
        wanted: Iterable[board.Port],
        changed: Callable[[], None],
        repaired: Repaired = lambda port, cause, how: None,
    ) -> None:
        self._wanted = [port for port in wanted if port.role == "data"]
        self._changed, self._repaired = changed, repaired
        self._socket: socket.socket | None = None
        self.ports: dict[str, Port] = {}
        self.missing: dict[str, str] = {}
        self.contested: dict[str, str] = {}  # by port: what another program keeps doing to it
        self.unreadable = ""  # why nothing is known about the ports
        self._unanswered = 0  # ns without an answer of the kernel, as of `_waited`
        self._waited = 0
        self.counted = 0  # when the counters of the ports were read
        self._looked = 0
        self._wrong: set[str] = set()  # ports whose settings seem to have been changed
        self._scanned = 0
        self._downed: set[str] = set()
        self._movers: dict[str, asyncio.Task[None]] = {}  # set ports up or down
        self._seen: set[int] = set()  # indexes of all devices at the last look
        self._rescan = False  # a device appeared or disappeared
        self._woken = asyncio.Event()  # do not wait for the next look

    async def start(self) -> None:
        """Listen first and then look, so that no change in between is missed."""
        try:
            self._socket = netlink.watch_links()
        except OSError as error:
            raise HardwareError(f"links cannot be watched: {error.strerror}") from error
        asyncio.get_running_loop().add_reader(self._socket, self._receive)
        await self._scan()

    async def run(self, alive: Alive) -> None:
        """Look again whenever a device appears or disappears, and once a second."""
        while True:
            alive()
            try:
                async with asyncio.timeout(self.patience / 4e9):
                    await self._woken.wait()
            except TimeoutError:
                pass
            now = time.monotonic_ns()
            woken = self._woken.is_set()
            self._woken.clear()
            if self._rescan or (self.missing and now - self._scanned >= SCAN_NS):
                self._rescan = False
                await in_thread(self._scan(), alive, self.patience)
            if woken or self._wrong or now - self._looked >= LOOK_NS:

                def waiting() -> None:
                    alive()
                    self._wait_for_answer()

                await in_thread(self._look(), waiting, self.patience)

    def _wait_for_answer(self) -> None:
        """Count the time since the last answer; it becomes a fault when it is too long."""
        now = time.monotonic_ns()
        self._unanswered += min(now - self._waited, STEP_NS)
        self._waited = now
        if self._unanswered >= UNANSWERED_S * 1_000_000_000 and not self.unreadable:
            self.unreadable = f"the kernel has not answered for {UNANSWERED_S} s about its network devices"
            log.error("%s", self.unreadable)
            self._changed()

    async def _look(self) -> None:
        """Read the ports, and repair their settings. In a thread: both wait while anyone changes a link."""
        try:
            answers = await asyncio.to_thread(netlink.read_links, [port.ifindex for port in self.ports.values()])
        except OSError as error:
            log.error("links cannot be read: %s", error.strerror or error)
            self._wait_for_answer()
            answers = {}
        else:
            self._unanswered = 0
            self._waited = self.counted = time.monotonic_ns()  # without an answer, the last counters are not current
        changed = bool(self.unreadable) and not self._unanswered
        if changed:
            self.unreadable = ""
        for message in answers.values():
            if message is None:
                self._scan_soon()
            else:
                changed |= self._take_message(message)
        self._looked = time.monotonic_ns()
        for name in sorted(self._wrong):
            changed |= await self._set_right(name)
        changed |= self._forgive(self._looked)
        self._wrong.clear()
        if changed:
            self._changed()

    async def _set_right(self, name: str) -> bool:
        """Restore a port's settings if they are really wrong: a message may be older than our last change."""
        port = self.ports.get(name)
        if port is None or name in self._downed:
            return False
        try:
            lacking = netdev.TRANSPARENT & ~netdev.flags(port.ifname)
            if not lacking:
                return False
            await asyncio.to_thread(netdev.prepare, port.ifname)
            if name in self._downed:  # meanwhile
                self.set_down(name, True)
        except (HardwareError, OSError) as error:
            trouble = f"cannot be restored: {error}"
        else:
            what = "set it down" if lacking & netdev.IFF_UP else "changed its settings"
            often = port.contest.repaired(time.monotonic_ns())
            trouble = f"was restored {often} times in a minute: another program keeps changing it" if often else ""
            if not often:  # a single repair is reported here, a contest by its fault
                self._repaired(name, Cause.PORT_SET_DOWN, f"another program {what}; it was restored")
                log.warning("port %s: another program %s; it was restored", name, what)
        if trouble and self.contested.get(name) != trouble:
            log.error("port %s %s", name, trouble)
        if trouble:
            self.contested[name] = trouble
            return True
        return self.contested.pop(name, None) is not None

    def _forgive(self, now: int) -> bool:
        """Drop contests that are over."""
        over = [name for name in self.contested if name not in self._wrong and not self._is_contested(name, now)]
        for name in over:
            del self.contested[name]
        return bool(over)

    def _is_contested(self, name: str, now: int) -> bool:
        port = self.ports.get(name)
        return port is not None and port.contest.going_on(now)

    async def stop(self) -> None:
        """Stop watching. Ports that we set down to propagate a lost link are set up again: nobody would do it later."""
        for name in list(self._downed):
            self.set_down(name, False)
        await asyncio.gather(*self._movers.values())
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    def set_down(self, name: str, down: bool) -> None:
        """Set a port administratively down or up again, to propagate a lost link. A missing port is ignored.

        In a thread: the kernel waits for the driver, and for whoever else changes a link.
        """
        (self._downed.add if down else self._downed.discard)(name)
        mover = self._movers.get(name)
        if name in self.ports and (mover is None or mover.done()):
            self._movers[name] = asyncio.get_running_loop().create_task(self._move(name), name=f"port {name}")

    async def _move(self, name: str) -> None:
        """Set a port up or down until it is as `set_down` was told last."""
        while (port := self.ports.get(name)) is not None:
            down = name in self._downed
            try:
                await asyncio.to_thread(netdev.set_up, port.ifname, not down)
            except HardwareError as error:
                log.warning("%s", error)
                return
            if down is (name in self._downed):
                return

    def forgive(self, name: str) -> None:
        """An operator has made sure that no other program changes this port any more."""
        self.contested.pop(name, None)
        if name in self.ports:
            self.ports[name].contest = Contest()

    @property
    def downed(self) -> frozenset[str]:
        """The ports that `set_down` holds down."""
        return frozenset(self._downed)

    async def _scan(self) -> None:
        """Look for the ports, and set up those that are new. In a thread, as all that changes a link."""
        self._scanned = time.monotonic_ns()
        there = devices()
        self._seen = {device.ifindex for device in there}
        found, missing = match(self._wanted, there)
        for name, line in missing.items():
            if name not in self.missing:
                log.error("port missing: %s", line)
        self.missing = missing
        for name in [name for name in self.ports if name not in found]:
            del self.ports[name]
        fresh = {name: device for name, device in found.items() if not self._is_known(name, device)}
        for name in fresh:  # until it is set up nothing passes, and that may take a while
            self.ports.pop(name, None)
            self.missing[name] = f"{name} is being set up"
        if fresh:
            self._changed()
        for name, device in fresh.items():
            try:
                await self._take(name, device)
            except HardwareError as error:
                log.error("%s", error)
                self.missing[name] = str(error)
            else:
                self.missing.pop(name, None)
        if self._socket is not None:
            netlink.ask_links(self._socket)
        self._changed()

    def _is_known(self, name: str, device: Device) -> bool:
        port = self.ports.get(name)
        return port is not None and port.ifindex == device.ifindex

    def _scan_soon(self) -> None:
        self._rescan = True
        self._woken.set()

    async def _take(self, name: str, device: Device) -> None:
        ifname = await asyncio.to_thread(netdev.rename, device.ifname, name)
        if name not in self._downed:
            for words in await asyncio.to_thread(netdev.prepare, ifname):
                log.warning("port %s: %s", name, words)
        self.ports[name] = Port(name, ifname, device.ifindex, device.mac)
        if name in self._downed:  # perhaps since a moment ago
            self.set_down(name, True)
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
                self._scan_soon()  # messages were lost
                continue
            for message in parse_links(data):
                changed |= self._take_message(message)
        if changed:
            self._changed()

    def _take_message(self, message: LinkMessage) -> bool:
        port = next((port for port in self.ports.values() if port.ifindex == message.ifindex), None)
        if port is None:
            if message.kind == RTM_NEWLINK and self.missing and message.ifindex not in self._seen:
                self._scan_soon()
            return False
        if message.kind == RTM_DELLINK:
            self._scan_soon()
            return False
        if port.name not in self._downed and netdev.TRANSPARENT & ~message.flags:
            self._wrong.add(port.name)
        port.sent, port.dropped = message.sent, message.dropped
        before = (port.up, port.link, port.ifname)
        port.up, port.link, port.ifname = message.up, message.link, message.ifname or port.ifname
        if before[1] and not port.link:
            self._woken.set()  # the kernel reports losses up to a second late; ask now whether both are lost
        if before[:2] != (port.up, port.link):
            log.info("port %s: %s", port.name, "link" if port.link else "no link" if port.up else "down")
        return before != (port.up, port.link, port.ifname)
