# SPDX-License-Identifier: GPL-2.0-only
"""How many instructions loaded XDP programs execute for a frame: a measure of the datapath without noise.

It runs what the kernel made of the programs (`bpf_prog_info.xlated_prog_insns`: look-ups in arrays are inlined there,
and the compiler for the processor makes about one machine instruction of each) in an interpreter, from the first
program through all tail calls, on the contents of the real maps. Nothing is written back. Calls of kernel functions are
counted apart, by name: what they cost is not in the number of instructions.

Meant for what has no noise in time: the datapath's clock stands still in its present tick, and a table of the kernel's
hash kind is read as it is and never changed. Source: the kernel's instruction-set.rst, and the rewriting of programs in
kernel/bpf/verifier.c and the `map_gen_lookup` of the maps.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from appliance.errors import DatapathError
from appliance.system import libbpf

_M64, _M32 = (1 << 64) - 1, (1 << 32) - 1
_CONTEXT, _QUEUE, _DEVICE, _PACKET, _STACK = (place << 32 for place in range(1, 6))
_STACK_BYTES = 512
_MAPS, _PER_CPU, _ELEMENT = 1 << 40, 1 << 36, 1 << 37  # ids grow with every map since the boot: room for 2^23
_ARRAY, _PROGRAMS, _PER_CPU_ARRAY, _ARRAY_OF_MAPS = 2, 3, 6, 12  # BPF_MAP_TYPE_*
_PSEUDO_MAP, _PSEUDO_VALUE = 1, 2
_SIZES = {0x00: 4, 0x08: 2, 0x10: 1, 0x18: 8}
_LOAD_IMMEDIATE, _CALL, _EXIT, _MOVE = 0x18, 0x85, 0x95, 0xBF
_TAIL_CALL = 12  # BPF_FUNC_tail_call, as which the kernel shows it
_ATOMIC = {4: 0xC3, 8: 0xDB}
_REDIRECT = 4
_MOST = 100_000


class _Information(ctypes.Structure):
    """The head of struct bpf_prog_info."""

    _fields_ = (
        ("head", ctypes.c_uint64 * 2),
        ("jited_bytes", ctypes.c_uint32),
        ("bytes", ctypes.c_uint32),
        ("jited_code", ctypes.c_uint64),
        ("code", ctypes.c_uint64),
    )


class _MapInformation(ctypes.Structure):
    """The head of struct bpf_map_info, up to the name."""

    _fields_ = (*libbpf.MapInfo._fields_, ("name", ctypes.c_char * 16))
    type: int
    id: int
    key_size: int
    value_size: int
    name: bytes


@dataclass
class Executed:
    """`instructions` of all `programs` (ids, in order) together; `calls` of kernel functions; what the last
    one returns."""

    action: int = 0
    instructions: int = 0
    calls: Counter[str] = field(default_factory=Counter)
    programs: list[int] = field(default_factory=list)


@cache
def _functions() -> dict[int, str]:
    """The kernel's functions by their distance from the one that calls are relative to."""
    lines = [line.split() for line in Path("/proc/kallsyms").read_text().splitlines()]
    base = next(int(address, 16) for address, _, name, *_ in lines if name == "__bpf_call_base")
    if not base:
        raise DatapathError("the kernel does not show the addresses of its functions")
    return {int(address, 16) - base: name for address, kind, name, *_ in lines if kind in "tT"}


Instruction = tuple[int, int, int, int, int]
"""Operation, destination, source, offset, immediate."""


def _code(program_fd: int) -> list[Instruction]:
    wanted = libbpf.info(program_fd, _Information()).bytes
    room = ctypes.create_string_buffer(wanted)
    about = libbpf.info(program_fd, _Information(bytes=wanted, code=ctypes.addressof(room)))
    if not about.code:
        raise DatapathError("the kernel does not show its programs")
    rows = struct.iter_unpack("<BBhi", room.raw)
    return [
        (operation, registers & 15, registers >> 4, offset, immediate)
        for operation, registers, offset, immediate in rows
    ]


class _Maps:
    """The contents of maps by address, read when first used. An address has the map's id in its upper bits."""

    def __init__(self) -> None:
        self._about: dict[int, _MapInformation] = {}
        self._fds: dict[int, int] = {}
        self._values: dict[tuple[int, int], bytearray] = {}
        self.header = 0  # of the kernel's struct bpf_array
        self._processor = min(os.sched_getaffinity(0))

    def close(self) -> None:
        for fd in self._fds.values():
            os.close(fd)

    def about(self, number: int) -> _MapInformation:
        if number not in self._about:
            self._fds[number] = libbpf.map_by_id(number)
            self._about[number] = libbpf.info(self._fds[number], _MapInformation())
        return self._about[number]

    def named(self, name: bytes, code: list[Instruction]) -> int:
        """The id of the map with this name that a program uses."""
        used = (step[4] for step in code if step[0] == _LOAD_IMMEDIATE and step[2] in (_PSEUDO_MAP, _PSEUDO_VALUE))
        return next(number for number in used if self.about(number).name == name)

    def look_up(self, number: int, key: bytes) -> bytes | None:
        """The value in the kernel; of a map with one for each processor that of ours."""
        about = self.about(number)
        size = about.value_size + 7 & ~7
        values = ctypes.create_string_buffer(size * (libbpf.possible_cpus() if about.type == _PER_CPU_ARRAY else 1))
        if libbpf.library().bpf_map_lookup_elem(self._fds[number], key, values):
            return None
        at = self._processor * size if about.type == _PER_CPU_ARRAY else 0
        return values.raw[at : at + size]

    def value(self, address: int) -> tuple[bytearray, int]:
        """The entry at an address, and the offset in it."""
        number, at = address // _MAPS, address % _MAPS
        about = self.about(number)
        if at >= _ELEMENT:
            return self._values[number, at & ~0xFFF], at & 0xFFF
        size = about.value_size + 7 & ~7
        index, inside = divmod(at % _PER_CPU - (0 if at >= _PER_CPU else self.header), size)
        if (number, index) not in self._values:
            found = self.look_up(number, struct.pack("<I", index))
            if found is None:
                raise DatapathError(f"map {number} has no entry {index}")
            self._values[number, index] = bytearray(found)
        return self._values[number, index], inside

    def has_pointers(self, address: int) -> bool:
        """Whether the map of an address holds pointers."""
        return self.about(address // _MAPS).type in (_PER_CPU_ARRAY, _ARRAY_OF_MAPS)

    def pointer(self, address: int) -> int:
        """What an array holds that has pointers: to the values of each processor, or to maps (0: none)."""
        number, at = address // _MAPS, address % _MAPS
        about, index = self.about(number), (at - self.header) // 8
        if about.type == _PER_CPU_ARRAY:
            return number * _MAPS + _PER_CPU + index * (about.value_size + 7 & ~7)
        found = self.look_up(number, struct.pack("<I", index))
        return struct.unpack_from("<I", found)[0] * _MAPS if found else 0

    def element(self, number: int, key: bytes, ahead: int) -> int:
        """The address of a hash table's element, which has its value `ahead` bytes after its start; 0: it has none."""
        found = self.look_up(number, key)
        if found is None:
            return 0
        at = _ELEMENT + (len(self._values) << 12)
        self._values[number, at] = bytearray(ahead) + bytearray(found)
        return number * _MAPS + at


class _Machine:
    def __init__(self, frame: bytes, ifindex: int) -> None:
        self._packet, self._ifindex = bytearray(frame), ifindex
        self._stack = bytearray(8 * _STACK_BYTES)
        self.maps = _Maps()
        self.code: list[Instruction] = []  # of the program that runs

    def _memory(self, address: int) -> tuple[bytearray, int]:
        if address >= _MAPS:
            return self.maps.value(address)
        if _PACKET <= address < _PACKET + len(self._packet):
            return self._packet, address - _PACKET
        if _STACK <= address < _STACK + len(self._stack):
            return self._stack, address - _STACK
        raise DatapathError(f"unknown address {address:#x}")

    def load(self, address: int, size: int) -> int:
        if _CONTEXT <= address < _CONTEXT + 64:  # struct xdp_buff
            inside = address - _CONTEXT
            end = _PACKET + len(self._packet)
            return {0: _PACKET, 8: end, 16: _PACKET, 24: _PACKET - 256, 32: _QUEUE, 40: 0, 48: 4096, 52: 0}[inside]
        if _QUEUE <= address < _QUEUE + 256:
            return _DEVICE if address == _QUEUE else 0
        if _DEVICE <= address < _DEVICE + 4096:
            return self._ifindex
        if address >= 1 << 63:  # a variable of the kernel: jiffies
            return self._tick()
        if address >= _MAPS and size == 8 and address % _MAPS < _PER_CPU and self.maps.has_pointers(address):
            return self.maps.pointer(address)
        room, at = self._memory(address)
        return int.from_bytes(room[at : at + size], "little")

    def store(self, address: int, size: int, value: int) -> None:
        room, at = self._memory(address)
        room[at : at + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")

    def _tick(self) -> int:
        """The tick in which the datapath has read its clock last (bpf/clock.h)."""
        found = self.maps.look_up(self.maps.named(b"ticks", self.code), bytes(4)) or bytes(16)
        now, check = struct.unpack("<QQ", found)
        return int(now ^ check)

    def atomic(self, operation: int, address: int, size: int, registers: list[int], source: int) -> None:
        old, given = self.load(address, size), registers[source]
        if operation == 0xF1:  # compare and exchange
            if old == registers[0]:
                self.store(address, size, given)
            registers[0] = old
            return
        change = {0x00: old + given, 0x40: old | given, 0x50: old & given, 0xA0: old ^ given, 0xE0: given}
        self.store(address, size, change[operation & 0xF0])
        if operation & 1:
            registers[source] = old

    def call(self, name: str, r: list[int], at: int) -> int:
        """The result of a kernel function, called by the instruction at `at`."""
        if name in ("__htab_map_lookup_elem", "htab_map_lookup_elem"):
            about = self.maps.about(r[1] // _MAPS)
            key = bytes(self.load(r[2] + place, 1) for place in range(about.key_size))
            ahead = next(step[4] for step in self.code[at + 1 : at + 8] if step[0] == 0x07 and step[1] == 0)
            return self.maps.element(about.id, key, ahead)
        if name == "bpf_xdp_get_buff_len":
            return len(self._packet)
        if name in ("dev_map_redirect", "bpf_xdp_redirect_map", "bpf_redirect"):
            return _REDIRECT
        return 0


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> bits - 1 else value


def _compute(operation: int, left: int, right: int, bits: int, offset: int) -> int:
    shift = right & bits - 1
    match operation:
        case 0x00:
            return left + right
        case 0x10:
            return left - right
        case 0x20:
            return left * right
        case 0x30:
            return left // right if right else 0
        case 0x40:
            return left | right
        case 0x50:
            return left & right
        case 0x60:
            return left << shift
        case 0x70:
            return left >> shift
        case 0x80:
            return -left
        case 0x90:
            return left % right if right else left
        case 0xA0:
            return left ^ right
        case 0xB0 if offset in (8, 16, 32):
            return _signed(right & (1 << offset) - 1, offset)
        case 0xB0:
            return right
        case 0xC0:
            return _signed(left, bits) >> shift
    raise DatapathError(f"unknown operation {operation:#x}")


_SIGNED = {0x60: 0x20, 0x70: 0x30, 0xC0: 0xA0, 0xD0: 0xB0}  # comparisons of signed numbers, and the same of others


def _holds(operation: int, left: int, right: int, bits: int) -> bool:
    if operation in _SIGNED:
        operation, left, right = _SIGNED[operation], _signed(left, bits), _signed(right, bits)
    match operation:
        case 0x10:
            return left == right
        case 0x20:
            return left > right
        case 0x30:
            return left >= right
        case 0x40:
            return bool(left & right)
        case 0x50:
            return left != right
        case 0xA0:
            return left < right
        case 0xB0:
            return left <= right
    raise DatapathError(f"unknown comparison {operation:#x}")


def executed(program: int, frame: bytes, ifindex: int) -> Executed:
    """What the XDP program with this id, and those that it calls, execute for a frame from this device.

    The frame has arrived in one buffer. DatapathError: the kernel does not show programs, or one does something that is
    not known here.
    """
    machine, found = _Machine(frame, ifindex), Executed()
    try:
        while program:
            found.programs.append(program)
            program = _run(program, machine, found)
    finally:
        machine.maps.close()
    return found


@cache
def _code_of(program: int) -> list[Instruction]:
    fd = libbpf.program_by_id(program)
    try:
        return _code(fd)
    finally:
        os.close(fd)


def _run(program: int, machine: _Machine, found: Executed) -> int:
    """One program, to its end (0) or the program that it continues in."""
    code, at, r = _code_of(program), 0, [0] * 12
    machine.code = code
    r[1], r[10] = _CONTEXT, _STACK + _STACK_BYTES
    returns: list[tuple[int, list[int]]] = []
    while True:
        operation, to, source, offset, immediate = code[at]
        found.instructions += 1
        if found.instructions > _MOST:
            raise DatapathError("the program does not end")
        kind, at = operation & 7, at + 1
        if operation == _LOAD_IMMEDIATE:
            upper = code[at][4]
            at += 1
            if source in (_PSEUDO_MAP, _PSEUDO_VALUE):
                r[to] = immediate * _MAPS
                if source == _PSEUDO_VALUE:
                    r[to] += machine.maps.header + upper
                elif code[at][0] == 0x07 and code[at][1] == to and machine.maps.about(immediate).type in (
                    _ARRAY, _PER_CPU_ARRAY, _ARRAY_OF_MAPS,
                ):  # fmt: skip
                    machine.maps.header = code[at][4]
            else:
                r[to] = immediate & _M32 | (upper & _M32) << 32
        elif kind == 1:
            value = machine.load(r[source] + offset & _M64, _SIZES[operation & 0x18])
            if operation & 0xE0 == 0x80:
                value = _signed(value, 8 * _SIZES[operation & 0x18])
            r[to] = value & _M64
        elif operation in _ATOMIC.values():
            machine.atomic(immediate, r[to] + offset & _M64, _SIZES[operation & 0x18], r, source)
        elif kind in (2, 3):
            machine.store(r[to] + offset & _M64, _SIZES[operation & 0x18], r[source] if kind == 3 else immediate)
        elif operation & 0xF0 == 0xD0 and kind in (4, 7):
            size = immediate // 8
            swap = operation & 8 or kind == 7  # to big endian, or a swap
            r[to] = int.from_bytes((r[to] & (1 << immediate) - 1).to_bytes(size, "big" if swap else "little"), "little")
        elif kind in (4, 7):
            bits = 64 if kind == 7 else 32
            if operation == _MOVE and offset == -1:  # to the values of this processor
                r[to] = r[source]
                continue
            mask = (1 << bits) - 1
            right = (r[source] if operation & 8 else immediate) & mask
            r[to] = _compute(operation & 0xF0, r[to] & mask, right, bits, offset) & mask
        elif operation == _CALL and source == 0 and immediate == _TAIL_CALL:
            there = machine.maps.look_up(r[2] // _MAPS, struct.pack("<I", r[3] & _M32))
            if there:
                return int(struct.unpack_from("<I", there)[0])
        elif operation == _CALL and source == 1:
            returns.append((at, r[6:11]))
            r[10] += _STACK_BYTES
            at += offset
        elif operation == _CALL:
            name = _functions().get(immediate, str(immediate))
            found.calls[name] += 1
            r[0] = machine.call(name, r, at - 1)
        elif operation == _EXIT:
            if not returns:
                found.action = r[0] & _M32
                return 0
            at, r[6:11] = returns.pop()
        elif operation in (0x05, 0x06):
            at += offset if operation == 0x05 else immediate
        else:
            bits = 64 if kind == 5 else 32
            mask = (1 << bits) - 1
            if _holds(operation & 0xF0, r[to] & mask, (r[source] if operation & 8 else immediate) & mask, bits):
                at += offset
