# SPDX-License-Identifier: GPL-2.0-only
"""Which device is which port, and what rtnetlink says: pure. Real ports: tests/image."""

from __future__ import annotations

import os
import struct

import pytest

from appliance.hardware import links
from appliance.hardware.board import Port
from appliance.hardware.links import Device, match
from appliance.system.netlink import LinkMessage, parse_links

LAN = Port(name="lan0", pci="0000:00:10.0")
WAN = Port(name="wan0", mac="02:00:00:00:00:02")
ETH0 = Device("eth0", 2, "52:54:00:00:00:01", "0000:00:10.0")
ETH1 = Device("eth1", 3, "02:00:00:00:00:02", "0000:00:11.0")


def test_ports_are_found_by_pci_and_mac() -> None:
    found, missing = match([LAN, WAN], [ETH1, ETH0])
    assert (found, missing) == ({"lan0": ETH0, "wan0": ETH1}, {})


def test_a_copy_of_the_mac_is_not_the_port() -> None:
    vlan = Device("eth1.5", 9, ETH1.mac, "")
    assert match([WAN], [vlan, ETH1])[0] == {"wan0": ETH1}


def test_a_missing_port_says_what_is_there() -> None:
    found, missing = match([LAN], [ETH1, Device("lo", 1, "00:00:00:00:00:00", "")])
    assert not found
    assert missing["lan0"] == (
        "lan0 (PCI 0000:00:10.0) was not found; there are eth1 at 0000:00:11.0: check board.toml and the port's driver"
    )
    assert "no port at all" in match([LAN], [])[1]["lan0"]


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
