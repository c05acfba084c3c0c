# SPDX-License-Identifier: GPL-2.0-only
"""Filters that look through what is around a packet: tags, PPPoE, labels, SNAP, extension headers, fragments.

A pcap expression such as `tcp port 80` means untagged frames, whole datagrams or first fragments, and IPv6 without
extension headers. `widen` makes the filter that takes those frames, and those that carry the same behind what `through`
names. It rewrites classic instructions: the filter as it is; for a frame that it does not take, a reading of what is
around the packet, which leaves in memory how much later everything stands; and the filter once more, with its loads
moved by that. It only ever takes more frames than the filter alone. Pure.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from appliance.errors import FilterError
from appliance.filter import classic
from appliance.filter.classic import ClassicFilter, Instruction

TAGS = (0x8100, 0x88A8, 0x9100)
MAX_LABELS = 3
MAX_EXTENSIONS = 4
_TYPE, _HEADER, _HEADER6 = 12, 14, 40  # where the EtherType is, and what is behind it; length of an IPv6 header
_IPV4, _IPV6, _PPPOE, _MPLS = 0x0800, 0x86DD, 0x8864, 0x8847
_FRAGMENT, _AUTHENTICATION, _OPTIONS = 44, 51, (0, 43, 60, 135)
_LOAD4, _LOAD2, _LOAD1 = (classic.LD | size | classic.ABS for size in (classic.W, classic.H, classic.B))
_INDEX4, _INDEX2, _INDEX1 = (classic.LD | size | classic.IND for size in (classic.W, classic.H, classic.B))
_CONSTANT, _RETURN, _GO = classic.LD | classic.IMM, classic.RET | classic.RET_K, classic.JMP | classic.JA
_AND, _ADD, _LSH, _RSH = (classic.ALU | op for op in (classic.AND, classic.ADD, classic.LSH, classic.RSH))
_ADD_X = _ADD | classic.X
_STORE, _STORE_X, _RECALL, _RECALL_X = classic.ST, classic.STX, classic.LD | classic.MEM, classic.LDX | classic.MEM
_TO_X, _FROM_X = classic.MISC | classic.TAX, classic.MISC | classic.TXA
_EQUAL, _ANY_BIT, _GREATER = (classic.JMP | test for test in (classic.JEQ, classic.JSET, classic.JGT))
# Words of memory: libpcap takes them from 0 on. How much later the packet begins, and what is behind its headers; the
# EtherType; the protocol behind extension headers; what is put aside.
_FIRST_WORD = 10
_SHIFT, _BEHIND, _KIND, _PROTOCOL, _A, _X = range(_FIRST_WORD, 16)
_TAKES = 262144  # libpcap's answer for a frame that it takes


@dataclass
class _Code:
    """Instructions with labels. A conditional jump becomes three instructions, so that none is too far."""

    instructions: list[Instruction] = field(default_factory=list)
    places: dict[int, int] = field(default_factory=dict)
    jumps: list[tuple[int, int]] = field(default_factory=list)
    labels: Iterator[int] = field(default_factory=itertools.count)

    def label(self) -> int:
        return next(self.labels)

    def place(self, label: int) -> None:
        self.places[label] = len(self.instructions)

    def add(self, code: int, k: int = 0) -> None:
        self.instructions.append(Instruction(code, 0, 0, k))

    def go(self, label: int) -> None:
        self.jumps.append((len(self.instructions), label))
        self.add(_GO)

    def test(self, code: int, k: int, yes: int, no: int) -> None:
        self.instructions.append(Instruction(code, 0, 1, k))
        self.go(yes)
        self.go(no)

    def unless(self, code: int, k: int, otherwise: int) -> None:
        """Go on where the test holds."""
        self.instructions.append(Instruction(code, 1, 0, k))
        self.go(otherwise)

    def when(self, values: Sequence[int], then: int) -> None:
        """Go to `then` when the accumulator is one of these."""
        for value in values:
            self.instructions.append(Instruction(_EQUAL, 0, 1, value))
            self.go(then)

    def keep(self, word: int, *instructions: tuple[int, int]) -> None:
        """Store what these leave in the accumulator."""
        for code, k in instructions:
            self.add(code, k)
        self.add(_STORE, word)

    def finish(self) -> tuple[Instruction, ...]:
        for at, label in self.jumps:
            self.instructions[at] = Instruction(_GO, 0, 0, self.places[label] - at - 1)
        return tuple(self.instructions)


def widen(filt: ClassicFilter, through: Sequence[str]) -> ClassicFilter:
    """The filter that takes also what carries the same behind these: vlan, qinq, pppoe, mpls, snap, ip6ext, fragments.

    FilterError: the filter asks for something that has no counterpart there.
    """
    if not through or filt.constant is not None:
        return filt
    code = _Code()
    none, wrapped, plain = code.label(), code.label(), code.label()
    for instruction in filt.instructions:
        if instruction.code == _RETURN and instruction.k == 0:
            code.go(wrapped)
        else:
            code.instructions.append(instruction)
    code.place(wrapped)
    _read_wrapping(code, through, none)
    fragments = _Fragments(code, filt.instructions) if "fragments" in through else None
    four, six, later4, later6 = (code.label() for _ in range(4))
    code.add(_RECALL, _KIND)
    code.when((_IPV4,), four)
    code.when((_IPV6,), six)
    code.go(plain)
    code.place(four)
    if fragments is not None:
        code.add(_RECALL_X, _SHIFT)
        code.add(_INDEX2, _HEADER + 6)
        code.test(_ANY_BIT, 0x1FFF, later4, plain)
    else:
        code.go(plain)
    code.place(six)
    extensions: tuple[int, ...] = (*_OPTIONS, _AUTHENTICATION, _FRAGMENT) if "ip6ext" in through else ()
    extensions = extensions or ((_FRAGMENT,) if fragments is not None else ())
    if extensions:
        _read_extensions(code, extensions, later6 if fragments is not None else none)
    code.place(plain)
    code.add(_RECALL, _BEHIND)
    code.unless(_GREATER, 0, none)  # nothing is around the packet: the filter has said no
    _moved_filter(code, filt.instructions, none, by_protocol=bool(extensions))
    if fragments is not None:
        for version, label in ((_IPV4, later4), (_IPV6, later6)):
            code.place(label)
            fragments.emit(version, none)
    code.place(none)
    code.add(_RETURN, 0)
    return ClassicFilter(code.finish(), filt.text)


def _read_wrapping(code: _Code, through: Sequence[str], none: int) -> None:
    """Leave in memory how much later than in a plain frame the packet begins, and its EtherType."""
    inside, tag, two_tags = code.label(), code.label(), code.label()
    code.keep(_SHIFT, (_CONSTANT, 0))
    code.keep(_KIND, (_LOAD2, _TYPE))
    code.when(TAGS, tag)
    code.go(inside)
    code.place(tag)
    code.keep(_SHIFT, (_CONSTANT, 4))
    code.keep(_KIND, (_LOAD2, _TYPE + 4))
    code.when(TAGS, two_tags)
    code.go(inside if "vlan" in through else none)
    code.place(two_tags)
    if "qinq" in through:
        code.keep(_SHIFT, (_CONSTANT, 8))
        code.keep(_KIND, (_LOAD2, _TYPE + 8))
    else:
        code.go(none)
    code.place(inside)
    done = code.label()
    code.add(_RECALL_X, _SHIFT)
    if "snap" in through:
        other = code.label()
        code.add(_RECALL, _KIND)
        code.instructions.append(Instruction(_GREATER, 0, 1, 1500))
        code.go(other)
        code.add(_INDEX4, _HEADER)
        code.unless(_EQUAL, 0xAAAA0300, none)
        code.add(_INDEX2, _HEADER + 4)
        code.unless(_EQUAL, 0, none)
        code.keep(_KIND, (_INDEX2, _HEADER + 6))
        code.keep(_SHIFT, (_FROM_X, 0), (_ADD, 8))
        code.go(done)
        code.place(other)
    if "pppoe" in through:
        other, four = code.label(), code.label()
        code.add(_RECALL, _KIND)
        code.unless(_EQUAL, _PPPOE, other)
        code.add(_INDEX2, _HEADER)
        code.unless(_EQUAL, 0x1100, none)
        code.keep(_SHIFT, (_FROM_X, 0), (_ADD, 8))
        code.add(_INDEX2, _HEADER + 6)
        code.when((0x0021,), four)
        code.unless(_EQUAL, 0x0057, none)
        code.keep(_KIND, (_CONSTANT, _IPV6))
        code.go(done)
        code.place(four)
        code.keep(_KIND, (_CONSTANT, _IPV4))
        code.go(done)
        code.place(other)
    if "mpls" in through:
        _read_labels(code, none, done)
    code.place(done)
    code.keep(_BEHIND, (_RECALL, _SHIFT))


def _read_labels(code: _Code, none: int, done: int) -> None:
    other, four, bottom = code.label(), code.label(), code.label()
    code.add(_RECALL, _KIND)
    code.unless(_EQUAL, _MPLS, other)
    for _ in range(MAX_LABELS):
        code.add(_FROM_X)
        code.add(_ADD, 4)
        code.add(_TO_X)
        code.add(_INDEX1, _HEADER - 4 + 2)
        code.instructions.append(Instruction(_ANY_BIT, 0, 1, 1))
        code.go(bottom)
    code.go(none)
    code.place(bottom)
    code.add(_STORE_X, _SHIFT)
    code.add(_INDEX1, _HEADER)
    code.add(_AND, 0xF0)
    code.when((0x40,), four)
    code.unless(_EQUAL, 0x60, none)
    code.keep(_KIND, (_CONSTANT, _IPV6))
    code.go(done)
    code.place(four)
    code.keep(_KIND, (_CONSTANT, _IPV4))
    code.go(done)
    code.place(other)


def _read_extensions(code: _Code, values: Sequence[int], later: int) -> None:
    """Step over extension headers; a later fragment goes to `later`, with the protocol that its datagram has."""
    begin, done = _HEADER + _HEADER6, code.label()
    code.add(_RECALL_X, _SHIFT)
    code.keep(_PROTOCOL, (_INDEX1, _HEADER + 6))
    for _ in range(MAX_EXTENSIONS if len(values) > 1 else 1):
        options, authentication, fragment, whole, measured = (code.label() for _ in range(5))
        code.add(_RECALL_X, _BEHIND)
        code.add(_RECALL, _PROTOCOL)
        code.when([value for value in values if value in _OPTIONS], options)
        code.when([value for value in values if value == _AUTHENTICATION], authentication)
        code.when([value for value in values if value == _FRAGMENT], fragment)
        code.go(done)
        for label, more, shift in ((options, 1, 3), (authentication, 2, 2)):
            code.place(label)
            code.add(_INDEX1, begin + 1)
            code.add(_ADD, more)
            code.add(_LSH, shift)
            code.go(measured)
        code.place(fragment)
        code.keep(_PROTOCOL, (_INDEX1, begin))
        code.add(_INDEX2, begin + 2)
        code.test(_ANY_BIT, 0xFFF8, later, whole)
        code.place(whole)
        code.add(_CONSTANT, 8)
        code.place(measured)
        code.add(_STORE, _A)
        code.keep(_PROTOCOL, (_INDEX1, begin))
        code.keep(_BEHIND, (_RECALL, _A), (_ADD_X, 0))
    code.place(done)


def _moved_filter(code: _Code, instructions: Sequence[Instruction], otherwise: int, *, by_protocol: bool) -> None:
    """The filter, reading the packet where it is. `by_protocol`: that behind extension headers is in memory."""
    labels = [code.label() for _ in instructions]
    for at, instruction in enumerate(instructions):
        code.place(labels[at])
        if instruction.code == _GO:
            code.go(labels[at + 1 + instruction.k])
        elif instruction.code & 7 == classic.JMP:
            code.test(instruction.code, instruction.k, labels[at + 1 + instruction.jt], labels[at + 1 + instruction.jf])
        elif instruction.code == _RETURN and instruction.k == 0:
            code.go(otherwise)
        elif by_protocol and instruction[::3] == (_LOAD1, _HEADER + 6):
            four, done = code.label(), code.label()
            code.add(_RECALL, _KIND)
            code.unless(_EQUAL, _IPV6, four)
            code.add(_RECALL, _PROTOCOL)
            code.go(done)
            code.place(four)
            _moved(code, instruction)
            code.place(done)
        else:
            _moved(code, instruction)


def _moved(code: _Code, instruction: Instruction) -> None:
    """One instruction; X and memory stay as the filter believes them to be."""
    kind, mode, k = instruction.code & 7, instruction.code & 0xE0, instruction.k
    if kind in (classic.ST, classic.STX) and k >= _FIRST_WORD:
        raise FilterError("through: the filter computes too much at once to look through anything")
    if kind == classic.LDX and mode == classic.MSH:
        code.add(_STORE, _A)
        code.add(_RECALL_X, _SHIFT)
        code.add(_INDEX1, k)
        code.add(_AND, 0xF)
        code.add(_LSH, 2)
        code.add(_TO_X)
        code.add(_RECALL, _A)
    elif kind != classic.LD or mode not in (classic.ABS, classic.IND):
        code.instructions.append(instruction)
    elif mode == classic.IND:
        code.add(_STORE_X, _X)
        code.add(_FROM_X)
        code.add(_RECALL_X, _SHIFT)
        code.add(_ADD_X)
        code.add(_TO_X)
        code.instructions.append(instruction)
        code.add(_RECALL_X, _X)
    else:
        _moved_absolute(code, instruction)


def _moved_absolute(code: _Code, instruction: Instruction) -> None:
    k, size = instruction.k, classic.size_of(instruction.code)
    if k + size <= _TYPE:
        code.instructions.append(instruction)
    elif k < _HEADER:
        if k < _TYPE or k + size > _HEADER:
            raise FilterError("through: the filter asks for bytes across the EtherType, which are not together there")
        code.add(_RECALL, _KIND)
        if size == 1:
            code.add(_RSH, 8) if k == _TYPE else code.add(_AND, 0xFF)
    else:
        code.add(_STORE_X, _X)
        code.add(_RECALL_X, _BEHIND if k >= _HEADER + _HEADER6 else _SHIFT)
        code.add(instruction.code & ~0xE0 | classic.IND, k)
        code.add(_RECALL_X, _X)


@dataclass(frozen=True)
class _Known:
    """What of the machine's state does not depend on bytes that a later fragment does not have."""

    a: bool = True
    x: bool = True
    lost: frozenset[int] = frozenset()  # words of memory


@dataclass
class _Fragments:
    """The filter on a later fragment of a datagram: could its first one match?

    What stands behind the IP header is not there. A test of it may go either way; the frame is taken when any of the
    ways takes it.
    """

    code: _Code
    instructions: Sequence[Instruction]
    version: int = _IPV4

    def emit(self, version: int, otherwise: int) -> None:
        """Append the code for one version of IP; `otherwise`: none of the ways takes the frame."""
        self.version = version
        self._run(0, _Known(), otherwise)

    def _run(self, start: int, known: _Known, otherwise: int) -> None:
        """Append the code from this instruction on; a frame that it does not take goes to `otherwise`, further behind.

        In the order of the instructions, whose jumps lead forward.
        """
        code = self.code
        labels = {(start, known): code.label()}
        order = itertools.count()
        left = [(start, next(order), known)]

        def label(at: int, state: _Known) -> int:
            if (at, state) not in labels:
                labels[at, state] = code.label()
                heapq.heappush(left, (at, next(order), state))
            return labels[at, state]

        while left:
            at, _, state = heapq.heappop(left)
            code.place(labels[at, state])
            if len(code.instructions) > classic.MAX_INSTRUCTIONS:
                raise FilterError("through: the filter becomes too long")
            while self.instructions[at].code & 7 not in (classic.JMP, classic.RET):
                state = self._straight(self.instructions[at], state)
                at += 1
            instruction = self.instructions[at]
            ways = at + 1 + instruction.jt, at + 1 + instruction.jf
            if instruction.code & 7 == classic.RET:
                if instruction.code == _RETURN and instruction.k == 0:
                    code.go(otherwise)
                else:
                    code.add(_RETURN, _TAKES)
            elif instruction.code == _GO:
                code.go(label(at + 1 + instruction.k, state))
            elif state.a and (state.x or not instruction.code & classic.X):
                code.test(instruction.code, instruction.k, label(ways[0], state), label(ways[1], state))
            else:  # either way: one after the other, each distinct continuation once
                *first, last = self._points(ways, state)
                for point in first:
                    following = code.label()
                    self._run(*point, following)
                    code.place(following)
                code.go(label(*last))

    def _points(self, ways: Sequence[int], known: _Known) -> list[tuple[int, _Known]]:
        """Where tests of what is there go on behind a test of what is not."""
        found: list[tuple[int, _Known]] = []
        seen, left = set[tuple[int, _Known]](), [(way, known) for way in reversed(ways)]
        while left:
            start = left.pop()
            if start in seen:
                continue
            seen.add(start)
            at, state = start
            while self.instructions[at].code & 7 not in (classic.JMP, classic.RET):
                state = self._effect(self.instructions[at], state)
                at += 1
            instruction = self.instructions[at]
            asks = instruction.code & 7 == classic.JMP and instruction.code & 0xF0 != classic.JA
            if asks and (not state.a or (not state.x and instruction.code & classic.X)):
                left += [(at + 1 + instruction.jf, state), (at + 1 + instruction.jt, state)]
            else:
                found.append(start)
        return found

    def _behind(self, instruction: Instruction) -> bool:
        """Whether it loads bytes behind the IP header."""
        if instruction.code & 7 != classic.LD:
            return False
        mode = instruction.code & 0xE0
        if mode == classic.IND:
            return True
        header = 20 if self.version == _IPV4 else _HEADER6
        return mode == classic.ABS and instruction.k + classic.size_of(instruction.code) > _HEADER + header

    def _effect(self, instruction: Instruction, known: _Known) -> _Known:
        """What is known behind the instruction."""
        code, k = instruction.code, instruction.k
        kind, mode = code & 7, code & 0xE0
        lost = known.lost
        if kind in (classic.ST, classic.STX):
            held = known.a if kind == classic.ST else known.x
            return _Known(known.a, known.x, lost - {k} if held else lost | {k})
        if kind == classic.ALU:
            return _Known(known.a and (known.x or not code & classic.X), known.x, lost)
        if kind == classic.MISC:
            return _Known(known.x, known.x, lost) if code & 0x80 else _Known(known.a, known.a, lost)
        here = k not in lost if mode == classic.MEM else not self._behind(instruction)
        return _Known(here, known.x, lost) if kind == classic.LD else _Known(known.a, here, lost)

    def _straight(self, instruction: Instruction, known: _Known) -> _Known:
        """Append one that is no jump, and say what is known behind it."""
        code, mode, k = self.code, instruction.code & 0xE0, instruction.k
        asks = k, classic.size_of(instruction.code) if instruction.code & 7 == classic.LD else 0
        absolute = instruction.code & 7 == classic.LD and mode == classic.ABS
        if self._behind(instruction):
            pass
        elif absolute and asks == (_HEADER + 6, 2) and self.version == _IPV4:
            code.add(_CONSTANT, 0)  # flags and offset of a whole packet
        elif absolute and asks == (_HEADER + 6, 1) and self.version == _IPV6:
            code.add(_RECALL, _PROTOCOL)
        elif instruction.code & 7 == classic.ALU and not self._effect(instruction, known).a:
            pass  # of no use, and a division could end the filter
        else:
            _moved(code, instruction)
        return self._effect(instruction, known)
