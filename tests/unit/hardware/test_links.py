# SPDX-License-Identifier: GPL-2.0-only
"""Which device is which port, and messages of rtnetlink: pure. Real ports are tested in tests/image."""

from __future__ import annotations

import asyncio
import errno
import os
import struct
import threading
from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from appliance.errors import HardwareError
from appliance.hardware import links
from appliance.hardware.board import Port
from appliance.hardware.links import Device, match
from appliance.system import netdev, netlink
from appliance.system.netlink import LinkMessage, parse_links

LAN = Port(name="lan0", pci="0000:00:10.0")
WAN = Port(name="wan0", mac="02:00:00:00:00:02")
ETH0 = Device("eth0", 2, "52:54:00:00:00:01", "0000:00:10.0")
ETH1 = Device("eth1", 3, "02:00:00:00:00:02", "0000:00:11.0")


def test_ports_are_found_by_pci_and_mac() -> None:
    found, missing = match([LAN, WAN], [ETH1, ETH0])
    assert (found, missing) == ({"lan0": ETH0, "wan0": ETH1}, {})


def test_a_port_without_pci_is_found_by_its_platform_device() -> None:
    fec = Device("eth0", 2, "02:00:00:00:00:09", "", "30be0000.ethernet")
    found, missing = links.match([Port(name="lan0", device="30be0000.ethernet"), Port(name="w", device="x")], [fec])
    assert found == {"lan0": fec}
    assert "w (device x) was not found; there are eth0 at 30be0000.ethernet" in missing["w"]


def test_a_copy_of_the_mac_is_not_the_port() -> None:
    vlan = Device("eth1.5", 9, ETH1.mac, "")
    assert match([WAN], [vlan, ETH1])[0] == {"wan0": ETH1}


def test_a_missing_port_says_what_is_there() -> None:
    found, missing = match([LAN], [ETH1, Device("lo", 1, "00:00:00:00:00:00", "")])
    assert not found
    assert missing["lan0"] == (
        "lan0 (PCI 0000:00:10.0) was not found; there are eth1 at 0000:00:11.0: check board.toml and the port's driver"
    )
    assert "none at all" in match([LAN], [])[1]["lan0"]


def message(kind: int, index: int, flags: int, name: bytes = b"") -> bytes:
    attribute = struct.pack("=HH", 5 + len(name), 3) + name + b"\0" if name else b""
    attribute += b"\0" * (-len(attribute) % 4)
    body = struct.pack("=BxHiII", 0, 1, index, flags, 0) + attribute
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


def test_link_messages() -> None:
    data = message(16, 2, 0x10001, b"lan0") + message(17, 3, 0, b"x") + message(24, 4, 0) + message(16, 5, 1)
    assert list(parse_links(data)) == [
        LinkMessage(16, 2, "lan0", up=True, link=True, flags=0x10001),
        LinkMessage(17, 3, "x", up=False, link=False),
        LinkMessage(16, 5, "", up=True, link=False, flags=1),
    ]


@pytest.mark.parametrize("seed", range(20))
def test_cut_and_random_datagrams_do_no_harm(seed: int) -> None:
    whole = message(16, 2, 1, b"lan0")
    for cut in range(len(whole)):
        list(parse_links(whole[:cut]))
    list(parse_links(os.urandom(200 + seed)))


def test_a_rescan_follows_only_devices_that_were_not_seen() -> None:
    """Each look asks the kernel for all links: an answer about a known stranger must not start the next look."""
    made = links.Links([LAN], lambda: None)
    made.missing, made._seen = {"lan0": "gone"}, {7}
    made._take_message(LinkMessage(16, 7, "tap", up=True, link=True))
    assert not made._rescan
    made._take_message(LinkMessage(16, 8, "eth0", up=False, link=False))
    assert made._rescan


def test_management_ports_are_left_alone() -> None:
    made = links.Links([Port(name="mgmt0", pci="0000:00:12.0", role="management")], lambda: None)
    assert made._wanted == []


# -- what other programs do to a port


class Settings:
    """The flags of one port in the kernel, which another program may change."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.flags, self.error, self.repairs = 0, "", list[str]()
        self.set_up_by = list[int]()
        self.during_set_up: Callable[[], object] = lambda: None
        self.now = 0
        monkeypatch.setattr(netdev, "flags", lambda _: self.flags)
        monkeypatch.setattr(netdev, "prepare", self._prepare)
        monkeypatch.setattr(netdev, "set_up", self._set_up)
        monkeypatch.setattr(netlink, "read_links", lambda _: {2: self.said()})
        monkeypatch.setattr(links, "time", SimpleNamespace(monotonic_ns=lambda: self.now))
        self.links = links.Links([LAN], lambda: None, lambda port, cause, how: self.repairs.append(how))
        self.links.ports = {"lan0": links.Port("lan0", "lan0", 2, "")}

    def _prepare(self, _: str) -> list[str]:
        if self.error:
            raise HardwareError(self.error)
        self.flags = netdev.TRANSPARENT
        return []

    def _set_up(self, ifname: str, up: bool) -> None:
        self.during_set_up()
        self.flags = self.flags | netdev.IFF_UP if up else self.flags & ~netdev.IFF_UP
        self.set_up_by.append(threading.get_ident())

    def said(self) -> LinkMessage:
        return LinkMessage(16, 2, "lan0", up=bool(self.flags & 1), link=True, flags=self.flags)

    def look(self) -> dict[str, str]:
        self.now += 10**9
        asyncio.run(self.links._look())
        return dict(self.links.contested)


def test_changed_settings_are_set_right_and_contested_only_when_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Settings(monkeypatch)
    for lacking, word in ((netdev.IFF_UP, "set it down"), (netdev.IFF_PROMISC, "changed its settings")):
        world.flags = netdev.TRANSPARENT & ~lacking
        assert world.look() == {}
        assert world.flags == netdev.TRANSPARENT
        assert word in world.repairs[-1]
    assert world.look() == {}
    assert len(world.repairs) == 2
    for _ in range(2):
        world.flags = 0
        contested = world.look()
    assert "was restored 4 times in a minute" in contested["lan0"]
    assert world.look() == contested, "peace has to last"
    world.now += 60 * 10**9
    assert world.look() == {}


def test_a_port_that_cannot_be_set_right_is_contested_until_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Settings(monkeypatch)
    world.error = "port lan0: flags cannot be set: Input/output error"
    for _ in range(3):
        assert world.look() == {"lan0": f"cannot be restored: {world.error}"}
    world.error = ""
    assert world.look() == {}


def test_a_port_that_we_hold_down_is_left_down(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Settings(monkeypatch)

    async def life() -> None:
        world.links.set_down("lan0", True)
        await asyncio.gather(*world.links._movers.values())

    asyncio.run(life())
    assert world.look() == {}
    assert (world.flags, world.repairs) == (0, [])


def test_a_port_ends_as_it_was_ordered_last_and_nothing_waits_for_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second order comes while the driver still does what the first one said."""
    world = Settings(monkeypatch)
    world.flags = netdev.TRANSPARENT
    begun, goes_on = threading.Event(), threading.Event()

    def driver() -> None:
        begun.set()
        assert goes_on.wait(60)

    world.during_set_up = driver

    async def life() -> None:
        world.links.set_down("lan0", True)
        await asyncio.to_thread(begun.wait, 60)
        world.links.set_down("lan0", False)
        goes_on.set()
        await world.links.stop()

    asyncio.run(life())
    assert world.flags == netdev.TRANSPARENT
    assert len(world.set_up_by) == 2
    assert threading.get_ident() not in world.set_up_by


def test_an_old_message_repairs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The port was set up again since: only the kernel's present state counts."""
    world = Settings(monkeypatch)
    world.flags = netdev.TRANSPARENT
    world.links._take_message(LinkMessage(16, 2, "lan0", up=False, link=False, flags=0))
    assert world.links._wrong == {"lan0"}
    assert world.look() == {}
    assert world.repairs == []


def test_a_port_that_is_gone_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Settings(monkeypatch)
    monkeypatch.setattr(netlink, "read_links", lambda _: {2: None})
    world.look()
    assert world.links._rescan


def test_a_lost_link_has_the_others_asked_for_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel reports losses up to a second late, and it matters whether both links are lost."""
    world = Settings(monkeypatch)
    up = LinkMessage(16, 2, "lan0", up=True, link=True, flags=netdev.TRANSPARENT)
    world.links._take_message(up)
    assert not world.links._woken.is_set()
    world.links._take_message(up._replace(link=False))
    assert world.links._woken.is_set()


@pytest.mark.parametrize("refuses", [False, True])
def test_a_kernel_that_does_not_answer_is_a_fault_until_it_does(monkeypatch: pytest.MonkeyPatch, refuses: bool) -> None:
    """A driver that hangs may block every request, or have it refused: a fault after the time that its text says."""
    world = Settings(monkeypatch)
    world.flags = netdev.TRANSPARENT
    world.now = began = 10**12
    answers = True
    faults: list[tuple[int, str]] = []

    async def thread(function: Callable[[Any], Any], argument: Any) -> Any:
        while not answers:
            if refuses:
                raise OSError(errno.ENOBUFS, "No buffer space available")
            await asyncio.sleep(0)
        return function(argument)

    def alive() -> None:
        nonlocal answers
        world.now += 50_000_000
        elapsed = world.now - began
        answers = elapsed < 2 * 10**9 or elapsed > 14 * 10**9
        if world.links.unreadable != (faults[-1][1] if faults else ""):
            faults.append((world.now - world.links.counted, world.links.unreadable))
        if elapsed > 17 * 10**9:
            raise HardwareError("enough")

    monkeypatch.setattr(asyncio, "to_thread", thread)
    monkeypatch.setattr(world.links, "patience", 400_000)
    with pytest.raises(HardwareError, match="enough"):
        asyncio.run(world.links.run(alive))
    (silent, text), (_, after) = faults
    assert text == f"the kernel has not answered for {links.UNANSWERED_S} s about its network devices"
    assert links.UNANSWERED_S * 10**9 <= silent < (links.UNANSWERED_S + 1) * 10**9 + 50_000_000
    assert after == ""


def test_a_machine_that_stood_still_has_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Settings(monkeypatch)
    world.flags = netdev.TRANSPARENT
    world.look()
    with monkeypatch.context() as context:
        context.setattr(netlink, "read_links", lambda _: (_ for _ in ()).throw(OSError(errno.ENOBUFS, "full")))
        counted = world.links.counted
        world.now += 3600 * 10**9
        world.look()
        assert not world.links.unreadable
        assert world.links.counted == counted, "what was not read is no sample of now"
    world.look()
    assert world.links.counted == world.now


def test_a_missing_port_is_looked_for_without_an_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that could not be set up once, or whose message was lost."""
    world = Settings(monkeypatch)
    world.flags = netdev.TRANSPARENT
    world.links.missing = {"wan0": "busy"}
    world.now = 100 * 10**9
    scans = []

    async def scan() -> None:
        scans.append(world.now)
        world.links._scanned = world.now
        if len(scans) == 3:
            raise HardwareError("enough")

    monkeypatch.setattr(world.links, "_scan", scan)
    monkeypatch.setattr(world.links, "patience", 4_000_000)

    def alive() -> None:
        world.now += 10**9

    with pytest.raises(HardwareError, match="enough"):
        asyncio.run(world.links.run(alive))
    assert min(after - before for before, after in pairwise(scans)) >= links.SCAN_NS
