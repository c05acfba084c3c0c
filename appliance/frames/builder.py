# SPDX-License-Identifier: GPL-2.0-only
"""Build a frame of a flow given as text: `udp 10.0.0.5:1234 10.1.0.9:53`. Pure; quick to import.

For `explain --live`: a complete, valid frame of at least 60 bytes between two fixed MAC addresses.
"""

from __future__ import annotations

import ipaddress
import struct

from appliance.errors import RefusedError

STATIONS = bytes.fromhex("020000000002 020000000001")
MAX_FRAMES = 16  # explained by one request: each takes milliseconds where there are hundreds of rules
PROTOCOLS = ("udp", "tcp", "icmp")
SOURCE_PORT = 50000  # of a flow whose source port is not given: one that clients use
_SYN = 0x02
_SHORTEST = 60
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def frame_of(protocol: str, source: str, destination: str) -> bytes:
    """The frame. `protocol`: one of PROTOCOLS; ends are ADDRESS:PORT, [IPV6]:PORT, or for icmp an ADDRESS.

    A source without a port gets SOURCE_PORT. A tcp frame opens a connection (SYN). RefusedError names what cannot be
    read.
    """
    ports = protocol != "icmp"
    (left, left_port), (right, right_port) = _end(source, ports, SOURCE_PORT), _end(destination, ports)
    if left.version != right.version:
        raise RefusedError(f"{source} is IPv{left.version} and {destination} is IPv{right.version}")
    six = left.version == 6
    number = {"tcp": 6, "udp": 17}.get(protocol, 58 if six else 1)
    if protocol == "udp":
        inner = struct.pack("!HHHH", left_port, right_port, 8, 0)
    elif protocol == "tcp":
        inner = struct.pack("!HHIIBBHHH", left_port, right_port, 1, 0, 0x50, _SYN, 65535, 0, 0)
    else:
        inner = struct.pack("!BBHHH", 128 if six else 8, 0, 0, 1, 1)
    # icmp's sum alone has no addresses in it
    head = (
        b"" if protocol == "icmp" and not six else left.packed + right.packed + struct.pack("!II", len(inner), number)
    )
    at = {"udp": 6, "tcp": 16}.get(protocol, 2)
    total = _sum(head + inner) or (0xFFFF if protocol == "udp" else 0)
    inner = inner[:at] + struct.pack("!H", total) + inner[at + 2 :]
    if six:
        ip = struct.pack("!IHBB", 6 << 28, len(inner), number, 64) + left.packed + right.packed
    else:
        ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(inner), 0, 0, 64, number, 0) + left.packed + right.packed
        ip = ip[:10] + struct.pack("!H", _sum(ip)) + ip[12:]
    made = STATIONS + (b"\x86\xdd" if six else b"\x08\x00") + ip + inner
    return made.ljust(_SHORTEST, b"\0")


def _end(text: str, ports: bool, port_left_out: int | None = None) -> tuple[Address, int]:
    """An address, and its port."""
    address, port = text, "0"
    bare = text.endswith("]") if text.startswith("[") else ":" not in text
    if ports and port_left_out is not None and bare:
        port = str(port_left_out)
    elif ports:
        address, colon, port = text.rpartition(":")
        bracketed = address.startswith("[") and address.endswith("]")
        if not colon or (":" in address and not bracketed):
            raise RefusedError(f'"{text}": write ADDRESS:PORT, such as 10.0.0.5:1234 or [fd00::5]:1234')
    try:
        found = ipaddress.ip_address(address.strip("[]"))
    except ValueError as error:
        raise RefusedError(f'"{text}": {error}') from error
    if not (port.isascii() and port.isdigit() and int(port) <= 0xFFFF):
        raise RefusedError(f'"{text}": "{port}" is no port (0 to 65535)')
    return found, int(port)


def _sum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
