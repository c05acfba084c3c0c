# SPDX-License-Identifier: GPL-2.0-only
"""Inline is as transparent as the wire: every size and kind of frame arrives unchanged, or is dropped by cause."""

from __future__ import annotations

import os
import select
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
from simulator import netns

from appliance.errors import DatapathError
from appliance.guest.port import tap
from appliance.steering.datapath import Datapath
from appliance.steering.kernel.layout import Outcome, Reason, Side
from appliance.steering.kernel.slots import Attachment
from appliance.system import netdev, offloads
from appliance.system.netdev_facts import refused
from tests.support.waiting import wait_until
from tests.support.wire import LAN_MAC, WAN_MAC, Wire
from tests.support.wired_datapath import ALL, EMPTY, MODES, available, outcomes

pytestmark = pytest.mark.root

SIZES = (60, 61, 64, 128, 590, 1280, 1499, 1500, 1514, 1518, 1519, 1522, 1526, 1530, 1600, 2048, 3000, 3490, 3498, 3499,
         4096, 4100, 8192, 9000, 9014, 9018, 9019, 9100, 9216)  # fmt: skip
KINDS = {
    "plain": b"",
    "VLAN": bytes.fromhex("81000064"),
    "QinQ": bytes.fromhex("88a8006481000065"),
    "MPLS": bytes.fromhex("88470001003f0002013f"),
}
ETH_P_ALL = 3
PACKET_AUXDATA, SOL_PACKET = 8, 263


def frame(kind: str, size: int, number: int) -> bytes:
    """A frame of this length, with a number behind its tags or labels."""
    head = WAN_MAC + LAN_MAC + KINDS[kind]
    body = struct.pack("!I", number) if kind == "MPLS" else struct.pack("!HI", 0x9000, number)
    return (head + body).ljust(size, b"\xa5")


@contextmanager
def ends(wire: Wire) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Raw sockets at both far ends, which take frames of any length; what arrives is complete, with its tags."""
    for space in (wire.lan, wire.wan):
        netns.run("ip", "-n", space, "link", "set", "eth0", "mtu", "9500")
        # as on a wire: tags are in the frame
        netns.run("ip", "netns", "exec", space, "ethtool", "-K", "eth0", "txvlan", "off", "rxvlan", "off")

    def opened() -> socket.socket:
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        made.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        made.bind(("eth0", ETH_P_ALL))
        return made

    with netns.enter(wire.lan, opened) as lan, netns.enter(wire.wan, opened) as wan:
        wan.settimeout(20)
        yield lan, wan


def received(opened: socket.socket) -> bytes:
    """The next frame from the LAN's end, as it was on the wire: a tag that the kernel keeps beside it is put back."""
    while True:
        data, ancillary, _, address = opened.recvmsg(1 << 16, 256)
        if address[2] == socket.PACKET_OUTGOING or data[6:12] != LAN_MAC:
            continue
        for level, kind, aux in ancillary:
            if (level, kind) == (SOL_PACKET, PACKET_AUXDATA):
                status, *_, tci, tpid = struct.unpack("=IIIHHHH", aux[:20])
                if status & 0x10:
                    data = data[:12] + struct.pack("!HH", tpid, tci) + data[12:]
        return data


def ports(made: Datapath) -> list[Attachment]:
    return [one for one in made.attachments() if not one.hop]


@contextmanager
def in_line(wire: Wire, path: Path, mode: str, mtu: int) -> Iterator[Datapath]:
    made = Datapath.open(path, wire.pins)
    try:
        wire.inside(lambda: made.attach_segment("main", "lan0", "wan0", mode, whole=mode == "xdp", mtu=mtu))
        made.set_policy(EMPTY)
        yield made
    finally:
        made.unload()


@MODES
@pytest.mark.parametrize("mtu", [0, 1500, 9202])
def test_every_size_and_kind(wire: Wire, bpf_object: Path, mode: str, mtu: int) -> None:
    """What the MTU lets pass arrives byte by byte; what is longer is dropped, counted as oversize or as refused."""
    with ends(wire) as (lan, wan), in_line(wire, bpf_object, mode, mtu) as made:
        longest = min(port.device.longest for port in ports(made))
        assert longest == {0: 3498, 1500: 1518, 9202: 9220}[mtu]
        sent = arrived = 0
        before = sum(wire.inside(lambda: refused("lan0")).values())
        for kind in KINDS:
            for size in SIZES:
                data = frame(kind, size, sent)
                with suppress(OSError):  # where the far end of this veth refuses it at once: no buffer space
                    lan.send(data)
                sent += 1
                if size <= longest:
                    assert received(wan) == data, f"{kind}, {size} bytes"
                    arrived += 1

        def dropped() -> int:
            at_port = sum(wire.inside(lambda: refused("lan0")).values()) - before
            return at_port + made.counters().ports["main", Side.LAN].dropped

        wait_until(
            lambda: arrived + dropped() == sent, "a name for each frame", explain=lambda: outcomes(made, Side.LAN)
        )
        assert outcomes(made, Side.LAN)[Outcome.STRAIGHT] == arrived


@MODES
def test_a_frame_that_the_other_port_cannot_send(wire: Wire, bpf_object: Path, mode: str) -> None:
    """9,014 bytes towards a port of 1,500: counted as oversize, with tc as with XDP, and not left to a driver."""
    with ends(wire) as (lan, wan), in_line(wire, bpf_object, mode, 0) as made:
        netns.run("ip", "-n", wire.box, "link", "set", "lan0", "mtu", "9202")
        netns.run("ip", "-n", wire.box, "link", "set", "wan0", "mtu", "1500")
        # ports that are in line keep the MTU that they have
        wire.inside(lambda: made.attach_segment("main", "lan0", "wan0", mode, whole=mode == "xdp"))
        lan.send(frame("plain", 9014, 1))
        lan.send(frame("QinQ", 1522, 2))
        lan.send(frame("plain", 1518, 3))
        assert len(received(wan)) == 1518
        assert outcomes(made, Side.LAN) == {Outcome.OVERSIZE: 2, Outcome.STRAIGHT: 1}


@contextmanager
def with_tap(wire: Wire, made: Datapath) -> Iterator[int]:
    """A hop whose LAN side is a real tap, which takes no frame in several buffers by XDP."""
    opened = wire.inside(lambda: tap.open_tap("real"))
    try:
        wire.inside(lambda: netdev.set_mtu("real", tap.TAP_MTU))
        netns.run("ip", "-n", wire.box, "link", "set", "real", "up")
        wire.inside(lambda: made.attach_hop("real", "ips", "main", Side.LAN))
        yield opened
    finally:
        os.close(opened)
        wire.inside(lambda: tap.remove("real"))


def skipped(made: Datapath) -> int:
    return made.counters().hops["ips"].skipped[Reason.OVERSIZE]


@pytest.mark.parametrize(
    "case",
    [
        ("auto", 0, "xdp", ""),
        ("auto", 9202, "tc", "frames longer than 3498 bytes come in several buffers, which guests get by tc only"),
        ("tc", 9202, "tc", ""),
        ("xdp", 9202, "xdp", "frames longer than 3498 bytes come in several buffers, which skip ips"),
    ],
)
def test_a_guest_gets_long_frames(wire: Wire, bpf_object: Path, case: tuple[str, int, str, str]) -> None:
    """`auto` leaves XDP as soon as a guest is there that would not get the longest frames; what is kept says so."""
    mode, mtu, attached, says = case
    with ends(wire) as (lan, _), in_line(wire, bpf_object, mode, mtu) as made:
        made.set_policy(ALL)
        with with_tap(wire, made) as opened:
            available(made)
            assert {one.mode for one in ports(made)} == {attached}
            assert all(says in one.reason for one in ports(made))
            # attached again, as after a change of the configuration
            wire.inside(lambda: made.attach_segment("main", "lan0", "wan0", mode, whole=True, mtu=mtu))
            assert {one.mode for one in ports(made)} == {attached}
            assert all(says in one.reason for one in ports(made))
            size = 9000 if mtu else 3498
            lan.send(frame("plain", size, 1))
            if (mode, mtu) == ("xdp", 9202):
                wait_until(lambda: skipped(made) == 1, "the frame around the guest")
            else:
                assert select.select([opened], [], [], 20)[0]
                assert os.read(opened, 1 << 16) == frame("plain", size, 1)
                assert not any(made.counters().hops["ips"].unsent.values())  # what is read is not lost


def test_tags_that_hardware_strips_take_tc(wire: Wire, bpf_object: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A port whose tag stripping cannot be switched off: tc, which has the tag beside the frame; XDP would lose it."""

    def stripping(name: str) -> tuple[str, ...]:
        return ("stripped VLAN tags",) if name == "wan0" else ()

    monkeypatch.setattr(offloads, "switch_off", stripping)
    with ends(wire) as (lan, wan), in_line(wire, bpf_object, "auto", 0) as made:
        assert {one.mode for one in ports(made)} == {"tc"}
        assert "wan0 (veth) delivers stripped VLAN tags, which XDP cannot undo" in ports(made)[0].reason
        lan.send(frame("QinQ", 200, 1))
        assert received(wan) == frame("QinQ", 200, 1)
        with pytest.raises(DatapathError, match=r'stripped VLAN tags.*set attach = "tc"'):
            wire.inside(lambda: made.attach_segment("main", "lan0", "wan0", "xdp"))


def test_offloads_of_ports_are_off(wire: Wire, bpf_object: Path) -> None:
    """A veth has tag stripping when it is made, and does without once it is attached."""
    assert wire.inside(lambda: offloads.altering("lan0")) == ("stripped VLAN tags", "stripped 802.1ad tags")
    with in_line(wire, bpf_object, "auto", 0):
        for name in ("lan0", "wan0"):
            assert wire.inside(partial(offloads.altering, name)) == ()


def test_an_mtu_that_a_port_refuses(wire: Wire, bpf_object: Path) -> None:
    """The configured MTU is set or refused with a message; then both ports keep their MTU."""
    with in_line(wire, bpf_object, "auto", 1600) as made:
        assert made.mtu("main") == 1600
        with pytest.raises(DatapathError, match=r"lan0 .*an MTU of 70000 is refused.*it has 1600"):
            wire.inside(lambda: made.attach_segment("main", "lan0", "wan0", mtu=70000))
        assert made.mtu("main") == 1600
        assert wire.inside(lambda: netdev.mtu("lan0")) == 1600
        wire.inside(lambda: made.attach_segment("main", "lan0", "wan0", mtu=2000))
        assert made.mtu("main") == 2000
