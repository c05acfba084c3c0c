# SPDX-License-Identifier: GPL-2.0-only
"""The tests' own oracle for filters: an interpreter of libpcap's code without its optimiser.

It shares only libpcap's parser with the product: neither the optimiser, which miscompiles some filters, nor the
interpreter of appliance/filter. Based on the instruction set in the kernel's filter.rst.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import NamedTuple

_WORD = 0xFFFFFFFF


class _Insn(ctypes.Structure):
    _fields_ = (("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint32))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint), ("insns", ctypes.POINTER(_Insn)))


class Verdict(NamedTuple):
    """A filter's verdict. `cut`: no match because the frame ends before a byte that the filter loads."""

    takes: bool
    cut: bool = False


@lru_cache(maxsize=4096)
def plain(text: str, *, optimise: bool = False) -> tuple[tuple[int, int, int, int], ...]:
    """(code, jt, jf, k) of each instruction that libpcap generates for Ethernet."""
    library = ctypes.CDLL("libpcap.so.0.8")
    library.pcap_open_dead.restype = ctypes.c_void_p
    handle, program = ctypes.c_void_p(library.pcap_open_dead(1, 262144)), _Program()
    try:
        assert library.pcap_compile(handle, ctypes.byref(program), text.encode(), int(optimise), _WORD) == 0, text
        return tuple((i.code, i.jt, i.jf, i.k) for i in program.insns[: program.length])
    finally:
        library.pcap_freecode(ctypes.byref(program))
        library.pcap_close(handle)


def run(code: tuple[tuple[int, int, int, int], ...], frame: bytes) -> Verdict:
    """Run the instructions over a frame that was captured whole."""
    a = x = at = 0
    memory = [0] * 16
    while True:
        op, jt, jf, k = code[at]
        at += 1
        match op & 0x07:
            case 0x00 | 0x01:  # ld, ldx
                size = {0x00: 4, 0x08: 2, 0x10: 1}[op & 0x18]
                mode = op & 0xE0
                if mode in (0x20, 0x40):
                    start = k + (x if mode == 0x40 else 0)
                    if start + size > len(frame):
                        return Verdict(False, cut=True)
                    value = int.from_bytes(frame[start : start + size], "big")
                elif mode == 0xA0:
                    if k >= len(frame):
                        return Verdict(False, cut=True)
                    value = 4 * (frame[k] & 0x0F)
                else:
                    value = {0x00: k, 0x60: memory[k & 15], 0x80: len(frame)}[mode]
                if op & 1:
                    x = value
                else:
                    a = value
            case 0x02:
                memory[k] = a
            case 0x03:
                memory[k] = x
            case 0x04:
                operand = x if op & 0x08 else k
                if op & 0xF0 in (0x30, 0x90) and operand == 0:
                    return Verdict(False)
                a = _arithmetic(op & 0xF0, a, operand) & _WORD
            case 0x05:
                operand = x if op & 0x08 else k
                if op & 0xF0 == 0x00:
                    at += k
                else:
                    test = {0x10: a == operand, 0x20: a > operand, 0x30: a >= operand, 0x40: bool(a & operand)}
                    at += jt if test[op & 0xF0] else jf
            case 0x06:
                return Verdict(bool({0x00: k, 0x08: x, 0x10: a}[op & 0x18]))
            case _:
                if op & 0x80:
                    a = x
                else:
                    x = a


def _arithmetic(operation: int, a: int, b: int) -> int:
    match operation:
        case 0x00:
            return a + b
        case 0x10:
            return a - b
        case 0x20:
            return a * b
        case 0x30:
            return a // b
        case 0x40:
            return a | b
        case 0x50:
            return a & b
        case 0x60:
            return a << b if b < 32 else 0
        case 0x70:
            return a >> b if b < 32 else 0
        case 0x80:
            return -a
        case 0x90:
            return a % b
    assert operation == 0xA0
    return a ^ b


def wrong(text: str, frame: bytes, takes: bool) -> str:
    """Why `takes` contradicts the filter's meaning, or "".

    A frame that ends within a header that the filter tests may match if it matches libpcap's optimised code: there the
    missing byte decides nothing.
    """
    meant = run(plain(text), frame)
    if takes == meant.takes or (meant.cut and takes == run(plain(text, optimise=True), frame).takes):
        return ""
    return f'"{text}" says {takes} to {frame.hex()}, and means {meant}'
