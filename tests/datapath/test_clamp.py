# SPDX-License-Identifier: GPL-2.0-only
"""The segment size that the ends of TCP connections offer is made to fit a remote's tunnels (bpf/clamp.h)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Raw

from appliance.steering.datapath import Datapath
from appliance.steering.kernel.layout import ClampValue
from appliance.system import libbpf

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

LOOPBACK, MTU = 1, 1400  # of the device that a test run has, and of what its tunnel carries
TC_ACT_UNSPEC = 0xFFFFFFFF


@pytest.fixture(scope="module")
def datapath(bpf_object: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Datapath]:
    made = Datapath.open(bpf_object)
    try:
        yield made
    finally:
        made.unload()


def four(**more: object) -> Packet:
    return Ether() / IP(src="192.0.2.1", dst="192.0.2.2", **more)


def six() -> Packet:
    return Ether() / IPv6(src="2001:db8::1", dst="2001:db8::2")


def syn(size: int | None, *before: tuple[str, object], flags: str = "S") -> Packet:
    return TCP(flags=flags, options=[*before, *([("MSS", size)] if size is not None else [])])


def run(datapath: Datapath, frame: Packet) -> Packet:
    """The frame afterwards; its checksums are as the program left them."""
    clamps = datapath.kernel.maps["clamps"]
    clamps.set(LOOPBACK, ClampValue(mtu=MTU))
    action, out, _ = libbpf.run_frame(datapath.kernel.programs["clamp_tc"], bytes(frame), 1)
    assert action == TC_ACT_UNSPEC, "the frame goes on in any case"
    return Ether(out)


def clamped(datapath: Datapath) -> int:
    return datapath.ip_devices.clamped(LOOPBACK)


NOP, SACK, SCALE = ("NOP", None), ("SAckOK", b""), ("WScale", 7)
LOWERED = {
    "ipv4": (four() / syn(1460), 1360),
    "its answer": (four() / syn(1460, flags="SA"), 1360),
    "behind others": (four() / syn(1460, SACK, SCALE), 1360),
    "at an odd place": (four() / syn(1460, NOP), 1360),
    "behind three of padding": (four() / syn(9000, NOP, NOP, NOP), 1360),
    "with IP options": (four(options=b"\x01\x01\x01\x00") / syn(1460), 1360),
    "with data": (four() / syn(1460) / Raw(b"x" * 99), 1360),
    "ipv6": (six() / syn(1440), 1340),
    "ipv6, odd": (six() / syn(1440, NOP), 1340),
    "in a VLAN": (Ether() / Dot1Q(vlan=5) / IP() / syn(1460), 1360),
    "in two": (Ether() / Dot1AD(vlan=5) / Dot1Q(vlan=6) / IPv6() / syn(1440), 1340),
}
KEPT = {
    "it fits": four() / syn(1360),
    "smaller": six() / syn(536),
    "no option": four() / syn(None, SACK, SCALE),
    "none at all": four() / TCP(flags="S"),
    "established": four() / syn(1460, flags="A"),
    "a later fragment": four(frag=10) / syn(1460),
    "an extension of IPv6": Ether() / IPv6() / IPv6ExtHdrFragment() / syn(1440),
    "udp": four() / UDP() / Raw(b"x" * 40),
    "three tags": Ether() / Dot1Q() / Dot1Q() / Dot1Q() / IP() / syn(1460),
    "no IP": Ether(type=0x88B5) / Raw(b"x" * 50),
    "cut off": Ether(bytes(four() / syn(1460))[:56]),
    "an option of no length": four() / TCP(flags="S", dataofs=6) / Raw(b"\x05\x00\x02\x04"),
}


@pytest.mark.parametrize("which", list(LOWERED))
def test_what_does_not_fit_is_lowered(datapath: Datapath, which: str) -> None:
    """With a right checksum, and nothing else changed."""
    frame, size = LOWERED[which]
    before = Ether(bytes(frame))
    out = run(datapath, frame)
    assert dict(out[TCP].options)["MSS"] == size
    assert clamped(datapath) == 1
    wanted = before.copy()
    wanted[TCP].options = [(name, size if name == "MSS" else value) for name, value in wanted[TCP].options]
    del wanted[TCP].chksum
    assert bytes(out) == bytes(Ether(bytes(wanted)))


@pytest.mark.parametrize("which", list(KEPT))
def test_everything_else_is_left_alone(datapath: Datapath, which: str) -> None:
    frame = bytes(KEPT[which])
    assert bytes(run(datapath, KEPT[which])) == frame
    assert clamped(datapath) == 0


def test_a_device_that_is_not_a_remotes_changes_nothing(datapath: Datapath) -> None:
    datapath.ip_devices.release(LOOPBACK)
    frame = bytes(four() / syn(1460))
    _, out, _ = libbpf.run_frame(datapath.kernel.programs["clamp_tc"], frame, 1)
    assert out == frame
