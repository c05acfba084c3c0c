# SPDX-License-Identifier: GPL-2.0-only
"""Which outer packets are dropped: the program that tc gets is run over packets of each kind, built here by hand."""

from __future__ import annotations

import ipaddress
import struct

import pytest

from appliance.config.schema.model import Tunnel
from appliance.filter import libpcap
from appliance.tunnel import guard
from appliance.tunnel.plan import plans

FAR4, FAR6, US4, US6 = "192.0.2.7", "2001:db8::7", "192.0.2.1", "2001:db8::1"
ETHERNET = bytes(12)


def ip(source: str, protocol: int, payload: bytes) -> bytes:
    address = ipaddress.ip_address(source)
    if address.version == 6:
        head = struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64)
        return ETHERNET + b"\x86\xdd" + head + address.packed + ipaddress.ip_address(US6).packed + payload
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0)
    return ETHERNET + b"\x08\x00" + head + address.packed + ipaddress.ip_address(US4).packed + payload


def udp(source: str, port: int, vni: int) -> bytes:
    return ip(
        source, 17, struct.pack("!HHHH", 50000, port, 80, 0) + struct.pack("!II", 0x08000000, vni << 8) + bytes(64)
    )


def gre(source: str, key: int, *, sequence: bool = False, checksum: bool = False, keyed: bool = True) -> bytes:
    return ip(source, 47, gre_body(key, sequence=sequence, checksum=checksum, keyed=keyed))


def gre_body(key: int, *, sequence: bool = False, checksum: bool = False, keyed: bool = True) -> bytes:
    flags = 0x8000 * checksum | 0x2000 * keyed | 0x1000 * sequence
    body = struct.pack("!HH", flags, 0x6558) + bytes(4 * checksum) + (struct.pack("!I", key) if keyed else b"")
    return body + bytes(4 * sequence) + bytes(64)


def fou(source: str, port: int, key: int) -> bytes:
    return ip(source, 17, struct.pack("!HHHH", 50000, port, 80, 0) + gre_body(key))


def made(kind: str, remote: str, **more: object) -> Tunnel:
    return Tunnel(kind=kind, remote=remote, lan_key=7, wan_key=8, **more)  # type: ignore[arg-type]


TUNNELS = {
    "vxlan4": made("vxlan", FAR4),
    "vxlan6": made("vxlan", FAR6),
    "geneve6": made("geneve", FAR6, lan_port=7000),
    "fou4": made("fou", FAR4),
    "fou6": made("fou", FAR6, lan_port=7001, wan_port=7001),
    "gre4": made("gre-ethernet", FAR4),
    "gre4-options": made("gre-ethernet", FAR4, sequence=True, checksum=True),
    "gre6": made("gre-ethernet", FAR6),
    "ipip4": Tunnel(kind="ipip", remote=FAR4, wan_remote="192.0.2.9"),
    "ipip6": Tunnel(kind="ipip", remote=FAR6, wan_remote="2001:db8::9"),
}
ROWS = [
    ("vxlan4", udp(FAR4, 4789, 7), False),
    ("vxlan4", udp(FAR4, 4789, 8), False),
    ("vxlan4", udp(FAR4, 4789, 9), True),
    ("vxlan4", udp("192.0.2.8", 4789, 7), True),
    ("vxlan4", udp(FAR6, 4789, 7), True),
    ("vxlan4", udp("192.0.2.8", 123, 7), False),
    ("vxlan4", ip("192.0.2.8", 6, bytes(40)), False),
    ("vxlan6", udp(FAR6, 4789, 8), False),
    ("vxlan6", udp(FAR6, 4789, 9), True),
    ("vxlan6", udp(FAR4, 4789, 7), True),
    ("geneve6", udp(FAR6, 7000, 7), False),
    ("geneve6", udp(FAR6, 6081, 8), False),
    ("geneve6", udp(FAR6, 7000, 8), True),
    ("fou4", fou(FAR4, 4754, 7), False),
    ("fou4", fou(FAR4, 4754, 9), True),
    ("fou4", fou("192.0.2.8", 4754, 7), True),
    ("fou4", gre(FAR4, 7), True),
    ("fou4", gre("192.0.2.8", 7), True),
    ("fou6", fou(FAR6, 7001, 8), False),
    ("fou6", fou(FAR6, 7001, 9), True),
    ("fou6", gre(FAR6, 8), True),
    ("gre4", gre(FAR4, 7), False),
    ("gre4", gre(FAR4, 9), True),
    ("gre4", gre("192.0.2.8", 7), True),
    ("gre4", gre(FAR4, 7, keyed=False), True),
    ("gre4", gre(FAR4, 7, checksum=True), True),
    ("gre4-options", gre(FAR4, 8, sequence=True, checksum=True), False),
    ("gre4-options", gre(FAR4, 8), True),
    ("gre6", gre(FAR6, 8), False),
    ("gre6", gre(FAR6, 1), True),
    ("ipip4", ip(FAR4, 4, bytes(40)), False),
    ("ipip4", ip("192.0.2.9", 4, bytes(40)), False),
    ("ipip4", ip("192.0.2.8", 4, bytes(40)), True),
    ("ipip4", ip(FAR4, 41, bytes(40)), False),
    ("ipip4", ip("192.0.2.8", 17, bytes(40)), False),
    ("ipip6", ip(FAR6, 4, bytes(40)), False),
    ("ipip6", ip("2001:db8::9", 41, bytes(40)), False),
    ("ipip6", ip("2001:db8::8", 41, bytes(40)), True),
    ("ipip6", ip("2001:db8::8", 4, bytes(40)), True),
]


@pytest.mark.parametrize(("which", "frame", "is_dropped"), ROWS)
def test_only_packets_of_the_far_end_with_its_key_arrive(which: str, frame: bytes, is_dropped: bool) -> None:
    program = libpcap.make_program(libpcap.compile_text(guard.expression(plans(TUNNELS[which]))))
    assert bool(libpcap.run(program, frame)) is is_dropped


def test_tunnels_of_several_remotes_side_by_side() -> None:
    everything = [plan for tunnel in TUNNELS.values() for plan in plans(tunnel)]
    program = libpcap.make_program(libpcap.compile_text(guard.expression(everything)))
    good = [frame for _, frame, is_dropped in ROWS[:3] if not is_dropped]
    assert not any(libpcap.run(program, frame) for frame in (*good, gre(FAR6, 8), udp(FAR6, 7000, 7)))
    assert libpcap.run(program, udp("192.0.2.8", 4789, 7))
    assert libpcap.run(program, gre(FAR4, 9))


def test_the_next_filter_decides_about_everything_else() -> None:
    """Those of logins and of `management.allow` are at the same port."""
    ready, install = guard.commands(plans(TUNNELS["vxlan4"]), "mgmt0")
    assert ready == ["tc", "qdisc", "replace", "dev", "mgmt0", "clsact"]
    returns = {line.split()[3] for line in install[-1].split(",")[1:] if line.startswith("6 ")}
    assert returns == {"2", str(0xFFFFFFFF)}
    assert "direct-action" in install
    assert guard.expression([]) == ""


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ('[{"kind":"clsact","drops":7}]', 7),
        ("[]", None),
        ("", None),
        ("Error: no\n", None),
        ('[{"kind":"noqueue"}]', None),
    ],
)
def test_what_tc_says(text: str, count: int | None) -> None:
    assert guard.dropped(text) == count
