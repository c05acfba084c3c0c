# SPDX-License-Identifier: GPL-2.0-only
"""The core's `decide`, `attached` and `own` programs as templates: compiled code with a place for a set's filters.

A tail call from the filters to the core costs as much as the filters themselves, and values must go through memory from
one program to the next; a function call costs less, but still as much as a few filters. So the fixed core has programs
that begin with a call of a function `filters`, about which the compiler knows nothing. Here they are read from the
object file, and the generated code replaces the call. At that point only the context is in a register, the one in which
generated code keeps it. The file is read here, because libbpf returns a program's code only after it has loaded the
whole object. Pure except `read`.
Source: ELF-64, and the kernel's llvm_reloc.rst for the two kinds of relocation.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from pathlib import Path

from appliance.errors import DatapathError
from appliance.filter.asm import JLE, JNE, R0, R1, R2, R6, SUB, Assembler
from appliance.steering.kernel.layout import NOT_HERE

_SYMBOLS, _RELOCATIONS = 2, 9  # SHT_SYMTAB, SHT_REL
_TO_MAP, _TO_FUNCTION = 1, 10  # R_BPF_64_64, R_BPF_64_32
_SECTION, _SYMBOL, _INSTRUCTION = 64, 24, 8
_MOV, _MOV32, _MOV64 = 0xBF, 0xB4, 0xB7  # of a register, and of constants
_MOVES = (_MOV32, _MOV64)
_GENERATION = struct.pack("<I", 0x54574731)  # GENERATION_PLACE
_FRAGMENTS = struct.pack("<I", 0x54574732)  # FRAGMENTS_PLACE
_SLOT = struct.pack("<I", 0x54574733)  # SLOT_PLACE
_DATA, _DATA_END = 0, 4  # struct xdp_md
_KEPT = range(6, 10)  # registers that a call preserves; generated code has the context in the first of them


@dataclass(frozen=True)
class Template:
    """The code after the filters, with their result in r0 and the context in r6.

    `places`: indexes of the instructions that load the policy's generation; `fragments`: of those that load whether a
    fragment's datagram counts, 0 or 1; `slots`: of those that load the slot of the port that it is made for, if it is
    made for one. `maps`: (index, name) of the maps that it reads.
    `guarded`: if another generation is in force, the filters are skipped, and the result is NOT_HERE; the same if a
    program for one port may not have the frame (`own_ways`).
    """

    code: bytes
    places: tuple[int, ...]
    fragments: tuple[int, ...]
    slots: tuple[int, ...]
    maps: tuple[tuple[int, str], ...]
    guarded: bool
    generation: int = 0
    slot: int = 0

    def of(self, generation: int, *, fragments: bool = False, slot: int = 0) -> Template:
        """The template for this generation's programs. `fragments`: they check whether a frame may be a fragment.

        `slot`: of the port that the program is made for; of no consequence to those made for many.
        """
        code = bytearray(self.code)
        for places, value in ((self.places, generation), (self.fragments, int(fragments)), (self.slots, slot)):
            for at in places:
                code[at * _INSTRUCTION] = _MOV32  # a 64-bit move would sign-extend it
                struct.pack_into("<I", code, at * _INSTRUCTION + 4, value)
        return replace(self, code=bytes(code), generation=generation, slot=slot)

    def around(
        self, code: bytes, relocations: tuple[tuple[int, str], ...]
    ) -> tuple[bytes, tuple[tuple[int, str], ...]]:
        """The program with `code` before the template; `code` ends by running past its last instruction."""
        if self.guarded:
            code, relocations = self._guard(code, relocations)
        ahead = len(code) // _INSTRUCTION
        return code + self.code, (*relocations, *((at + ahead, name) for at, name in self.maps))

    def _guard(
        self, code: bytes, relocations: tuple[tuple[int, str], ...]
    ) -> tuple[bytes, tuple[tuple[int, str], ...]]:
        """`code` after a check whether its generation is in force, and whether it may have the frame."""
        asm = Assembler()
        other, same = asm.label(), asm.label()
        asm.map_value(R0, "control", 0)  # struct control begins with the generation
        asm.load(4, R0, R0, 0)
        asm.jump_imm(JNE, R0, self.generation, other)
        if self.slots:
            asm.load(4, R2, R1, _DATA_END)
            asm.load(4, R0, R1, _DATA)
            asm.alu(SUB, R2, R0, wide=True)
            asm.map_value(R0, "own_ways", 8 * self.slot)
            asm.load(8, R0, R0, 0)
            asm.jump_reg(JLE, R2, R0, same, wide=True)
        else:
            asm.jump(same)
        asm.place(other)
        asm.mov(R6, R1)
        asm.mov_imm(R0, NOT_HERE)
        asm.skip(len(code) // _INSTRUCTION)
        asm.place(same)
        guard = asm.finish()
        ahead = len(guard) // _INSTRUCTION
        return guard + code, (*asm.relocations, *((at + ahead, name) for at, name in relocations))


def read(path: Path, names: frozenset[str]) -> dict[str, Template]:
    """The templates with these names in a compiled object file; DatapathError if they are not there as expected."""
    try:
        return _read(path.read_bytes(), names)
    except (OSError, struct.error, ValueError, IndexError) as error:
        raise DatapathError(f"{path}: not the compiled datapath: {error}") from error


def _read(data: bytes, names: frozenset[str]) -> dict[str, Template]:
    if data[:6] != b"\x7fELF\x02\x01":
        raise ValueError("not a little-endian ELF-64 file")
    begin, count = struct.unpack_from("<Q", data, 40)[0], struct.unpack_from("<H", data, 60)[0]
    # of each section: type, offset, size, link, info
    sections = [struct.unpack_from("<4xI16xQQII", data, begin + at * _SECTION) for at in range(count)]
    table = next(at for at, section in enumerate(sections) if section[0] == _SYMBOLS)
    texts = sections[sections[table][3]][1]

    def symbol(number: int) -> tuple[str, int, int, int]:
        """Name, section, value, size."""
        name, _, section, value, size = struct.unpack_from("<IHHQQ", data, sections[table][1] + number * _SYMBOL)
        return data[texts + name : data.index(0, texts + name)].decode(), section, value, size

    found: dict[str, Template] = {}
    for number in range(sections[table][2] // _SYMBOL):
        name, section, value, size = symbol(number)
        if name not in names:
            continue
        start = sections[section][1] + value
        maps: list[tuple[int, str]] = []
        calls: list[int] = []
        for kind, offset, length, _, info in sections:
            if kind != _RELOCATIONS or info != section:
                continue
            for at in range(offset, offset + length, 16):
                where, what = struct.unpack_from("<QQ", data, at)
                if not value <= where < value + size:
                    continue
                index = (where - value) // _INSTRUCTION
                if what & 0xFFFFFFFF == _TO_MAP:
                    maps.append((index, symbol(what >> 32)[0]))
                elif what & 0xFFFFFFFF == _TO_FUNCTION:
                    calls.append(index)
        if len(calls) != 1 or not all(text for _, text in maps):
            raise ValueError(f"{name} calls {len(calls)} functions instead of the filters alone, or reads a non-map")
        context = data[start + 1]  # r1, the context, into a register that a call preserves: `rN = r1`
        if calls != [1] or data[start] != _MOV or context >> 4 != 1 or context & 15 not in _KEPT:
            raise ValueError(f"{name} does not begin with the filters")
        code = bytearray(data[start : start + size])
        for index, _ in maps:
            code[index * _INSTRUCTION + 1] |= 1 << 4  # BPF_PSEUDO_MAP_FD
        code[1] = context & 15 | _KEPT[0] << 4  # `rN = r6`, followed by the code after the call
        del code[_INSTRUCTION : 2 * _INSTRUCTION]
        whole = range(0, len(code), _INSTRUCTION)
        places, fragments, slots = (
            tuple(at // _INSTRUCTION for at in whole if code[at] in _MOVES and code[at + 4 : at + 8] == constant)
            for constant in (_GENERATION, _FRAGMENTS, _SLOT)
        )
        own = name.startswith("own")
        if not places or not fragments or bool(slots) is not own:
            raise ValueError(f"{name} has no place for the generation, the check for fragments, or its slot")
        relocations = tuple((at - 1, text) for at, text in maps)
        guarded = own or name.startswith("attached")
        found[name] = Template(bytes(code), places, fragments, slots, relocations, guarded)
    missing = names - found.keys()
    if missing:
        raise ValueError(f"it has no {', '.join(sorted(missing))}")
    return found
