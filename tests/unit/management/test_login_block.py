# SPDX-License-Identifier: GPL-2.0-only
"""Which frames of a blocked network are dropped: those that open an SSH connection or could hide that; no others."""

from __future__ import annotations

import struct

import pytest

from appliance.filter import libpcap
from appliance.management import login_block

SYN, ACK, PUSH, ECE, CWR = 0x02, 0x10, 0x08, 0x40, 0x80
DROP = 2
TCP, UDP, HOP, FRAGMENT = 6, 17, 0, 44


def tcp(flags: int, port: int = 22) -> bytes:
    return struct.pack("!HHIIBBHHH", 40000, port, 1, 0, 0x50, flags, 1024, 0, 0)


def v4(
    payload: bytes, source: str = "192.0.2.7", fragment: int = 0, protocol: int = TCP, options: bytes = b""
) -> bytes:
    address = bytes(map(int, source.split(".")))
    length = 20 + len(options)
    head = struct.pack("!BBHHHBBH", 0x40 + length // 4, 0, length + len(payload), 1, fragment, 64, protocol, 0)
    return b"\x02" * 12 + b"\x08\x00" + head + address + b"\xc0\x00\x02\x0a" + options + payload


def v6(payload: bytes, network: str = "20010db800000000", header: int = TCP) -> bytes:
    address = bytes.fromhex(network) + b"\0" * 7 + b"\x07"
    head = struct.pack("!IHBB", 6 << 28, len(payload), header, 64)
    return b"\x02" * 12 + b"\x86\xdd" + head + address + b"\x20" + b"\0" * 15 + payload


OPENING = [
    v4(tcp(SYN)),
    v4(tcp(SYN | ECE | CWR)),
    v4(tcp(SYN | PUSH)),
    v4(tcp(SYN), options=b"\x01\x01\x01\x00"),
    v4(tcp(SYN)[:8], fragment=0x2000),
    v4(tcp(SYN)[8:], fragment=1),
]
HARMLESS = [
    v4(tcp(ACK)),
    v4(tcp(ACK | PUSH) + b"a key typed"),
    v4(tcp(SYN | ACK)),  # the answer to a connection of ours
    v4(tcp(SYN, port=9464)),  # metrics
    v4(tcp(SYN), source="192.0.2.8"),
    v4(tcp(SYN), protocol=UDP),
    v4(tcp(SYN), protocol=UDP, fragment=0x2000),
    v6(tcp(SYN)),
    b"\x02" * 12 + b"\x08\x06" + b"\0" * 28,
    b"",
]
OPENING6 = [
    v6(tcp(SYN)),
    v6(tcp(SYN | ECE | CWR)),
    v6(b"\x06\0" + b"\0" * 6 + tcp(SYN), header=HOP),
    v6(b"\x06\0\0\x01" + b"\0" * 4 + tcp(SYN), header=FRAGMENT),
]
HARMLESS6 = [v6(tcp(ACK)), v6(tcp(SYN, port=9464)), v6(tcp(SYN), network="20010db800000001"), v4(tcp(SYN))]


@pytest.mark.parametrize(
    ("network", "opening", "harmless"),
    [("192.0.2.7/32", OPENING, HARMLESS), ("2001:db8::/64", OPENING6, HARMLESS6)],
)
def test_only_new_connections_are_dropped(network: str, opening: list[bytes], harmless: list[bytes]) -> None:
    program = libpcap.make_program(tuple(login_block.program(network, 22)))
    assert [libpcap.run(program, frame) for frame in opening] == [DROP] * len(opening)
    assert DROP not in {libpcap.run(program, frame) for frame in harmless}


def test_the_commands() -> None:
    words = login_block.block("192.0.2.7/32", 3, "mgmt0", 22, "mgmt")
    where = "dev mgmt0 ingress protocol all pref 1 handle 3 bpf"
    assert " ".join(words[:-1]) == f"tc -n mgmt filter replace {where} direct-action bytecode"
    assert int(words[-1].partition(",")[0]) == words[-1].count(",")
    assert " ".join(login_block.unblock(3, "mgmt0", "mgmt")) == f"tc -n mgmt filter del {where}"
