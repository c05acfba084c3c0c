# SPDX-License-Identifier: GPL-2.0-only
"""Why a filter does not match a frame, in words: the last test of the filter. Pure.

A filter is a chain of tests that ends at the first decisive one. That one is named: the field by its usual name where
it has one, and its value in the frame.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from appliance.filter import classic
from appliance.filter.classic import ClassicFilter

_ETHERTYPES = {0x0800: "IPv4", 0x0806: "ARP", 0x86DD: "IPv6", 0x8100: "802.1Q", 0x88A8: "802.1ad", 0x8847: "MPLS"}
_PROTOCOLS = {1: "icmp", 2: "igmp", 6: "tcp", 17: "udp", 44: "fragment", 47: "gre", 50: "esp", 58: "icmp6", 132: "sctp"}
_IPV4, _IPV6, _ARP = 0x0800, 0x86DD, 0x0806
_BY_TYPE = {  # (EtherType, offset, size) -> name, kind of value
    (_IPV4, 20, 2): ("fragment field", "hex"),
    (_IPV4, 23, 1): ("IP protocol", "protocol"),
    (_IPV4, 26, 4): ("source address", "ipv4"),
    (_IPV4, 30, 4): ("destination address", "ipv4"),
    (_IPV6, 20, 1): ("IPv6 next header", "protocol"),
    (_IPV6, 54, 2): ("source port", "number"),
    (_IPV6, 56, 2): ("destination port", "number"),
    (_ARP, 28, 4): ("ARP sender", "ipv4"),
    (_ARP, 38, 4): ("ARP target", "ipv4"),
}
_BEHIND_IPV4 = {(14, 2): ("source port", "number"), (16, 2): ("destination port", "number")}


@dataclass
class _Seen:
    """What the accumulator holds: a name for it, how to print it, and whether it was changed since it was loaded."""

    name: str = "a constant"
    kind: str = "number"
    offset: int | None = None
    size: int = 0


def why_not(filt: ClassicFilter, frame: bytes) -> str:
    """Why the filter rejects the frame, such as "destination port is 53"; "" when it takes it."""
    a = x = pc = 0
    memory = [0] * classic.MEMORY_WORDS
    kept = [_Seen()] * classic.MEMORY_WORDS
    seen, header = _Seen(), 0
    looked = "it takes no frame"
    while True:
        code, jt, jf, k = filt.instructions[pc]
        pc += 1
        kind, mode = code & 7, code & 0xE0
        if kind == classic.LD and mode in (classic.ABS, classic.IND):
            at, size = k + (x if mode == classic.IND else 0), classic.size_of(code)
            if at + size > len(frame):
                return f"the frame ends before byte {at + size}"
            a, seen = int.from_bytes(frame[at : at + size], "big"), _field(frame, at, size, header)
        elif kind == classic.LD:
            a = k if mode == classic.IMM else len(frame) if mode == classic.LEN else memory[k]
            seen = _Seen("its length") if mode == classic.LEN else kept[k] if mode == classic.MEM else _Seen()
        elif kind == classic.LDX and mode == classic.MSH:
            if k >= len(frame):
                return f"the frame ends before byte {k + 1}"
            x, header = (frame[k] & 15) << 2, k
        elif kind == classic.LDX:
            x = k if mode == classic.IMM else len(frame) if mode == classic.LEN else memory[k]
        elif kind == classic.ST:
            memory[k], kept[k] = a, seen
        elif kind == classic.STX:
            memory[k] = x
        elif kind == classic.ALU:
            value = x if code & classic.X else k
            if code & 0xF0 in (classic.DIV, classic.MOD) and value == 0:
                return "it divides by zero"
            a, seen = classic.apply(code & 0xF0, a, value), _changed(seen, code & 0xF0, value)
        elif kind == classic.JMP and code & 0xF0 == classic.JA:
            pc += k
        elif kind == classic.JMP:
            value = x if code & classic.X else k
            shown = a & value if code & 0xF0 == classic.JSET else a
            what = _changed(seen, classic.AND, value) if code & 0xF0 == classic.JSET else seen
            looked = f"{what.name} is {_value(shown, what.kind)}"
            pc += jt if classic.compare(code & 0xF0, a, value) else jf
        elif kind == classic.MISC:
            if code & 0xF8 == classic.TAX:
                x = a
            else:
                a, seen = x, _Seen("a computed value")
        else:
            taken = k if code & 0x18 == classic.RET_K else a if code & 0x18 == classic.RET_A else x
            return "" if taken else looked


def _field(frame: bytes, at: int, size: int, header: int) -> _Seen:
    """The name of these bytes of the frame."""
    if (at, size) == (12, 2):
        return _Seen("EtherType", "ethertype", at, size)
    ethertype = int.from_bytes(frame[12:14], "big")
    if ethertype in (0x8100, 0x88A8) and (at, size) == (14, 2):
        return _Seen("VLAN tag", "hex", at, size)
    found = _BY_TYPE.get((ethertype, at, size))
    if found is None and ethertype == _IPV4 and header == 14:
        found = _BEHIND_IPV4.get((at - (frame[14] & 15) * 4, size))
    name, kind = found or (f"byte {at}" if size == 1 else f"bytes {at} to {at + size - 1}", "hex")
    return _Seen(name, kind, at, size)


_OPERATORS = {classic.AND: "&", classic.OR: "|", classic.ADD: "+", classic.SUB: "-", classic.MUL: "*",
              classic.DIV: "/", classic.LSH: "<<", classic.RSH: ">>", classic.MOD: "%", classic.XOR: "^"}  # fmt: skip


def _changed(seen: _Seen, operation: int, value: int) -> _Seen:
    """What the accumulator holds after an operation."""
    if seen.name == "fragment field" and (operation, value) == (classic.AND, 0x1FFF):
        return _Seen("fragment offset", "number")
    if seen.name == "VLAN tag" and (operation, value) == (classic.AND, 0x0FFF):
        return _Seen("VLAN", "number")
    if operation == classic.AND and seen.kind in ("ipv4", "ethertype") and seen.size * 8 >= value.bit_length():
        return _Seen(f"{seen.name} & {_value(value, seen.kind)}", seen.kind, seen.offset, seen.size)
    shown = f"{value:#x}" if operation in (classic.AND, classic.OR, classic.XOR) else str(value)
    return _Seen(f"{seen.name} {_OPERATORS.get(operation, '?')} {shown}", "hex")


def _value(value: int, kind: str) -> str:
    if kind == "ipv4":
        return str(ipaddress.IPv4Address(value))
    if kind == "ethertype":
        return f"{value:#06x}" + (f" ({_ETHERTYPES[value]})" if value in _ETHERTYPES else "")
    if kind == "protocol":
        return f"{value}" + (f" ({_PROTOCOLS[value]})" if value in _PROTOCOLS else "")
    return f"{value:#x}" if kind == "hex" else str(value)
