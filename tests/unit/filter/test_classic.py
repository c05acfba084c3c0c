# SPDX-License-Identifier: GPL-2.0-only
"""Filters as compiled by libpcap: what is refused and how, and the interpreter compared with libpcap itself."""

from __future__ import annotations

import random
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.errors import FilterError
from appliance.filter import classic, compiler, libpcap
from appliance.filter.classic import ClassicFilter, Instruction
from tests.support.pcap_corpus import EXPRESSIONS, crafted_frames


@pytest.fixture(scope="module")
def frames() -> list[bytes]:
    """Whole, cut and shorter than any header, the empty one included."""
    rng = random.Random(1)
    whole = crafted_frames()
    cut = [frame[: rng.randrange(len(frame))] for frame in whole for _ in range(2)]
    noise = [rng.randbytes(rng.randrange(80)) for _ in range(40)]
    return [b"", b"\0", *whole, *cut, *noise]


def test_there_are_enough_expressions() -> None:
    assert len(set(EXPRESSIONS)) >= 150


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_interpreter_equals_libpcap(text: str, frames: list[bytes]) -> None:
    """The reference gives libpcap's own verdict on every frame, truncated and empty ones too."""
    filt = compiler.compile_filter(text)
    oracle = libpcap.make_program(filt.instructions)
    for frame in frames:
        assert filt.matches(frame) == bool(libpcap.run(oracle, frame)), frame.hex()


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(EXPRESSIONS), st.binary(max_size=120), st.integers(0, 3000))
def test_interpreter_equals_libpcap_when_captured_short(text: str, frame: bytes, more: int) -> None:
    """`len` is the length on the wire, loads see the captured bytes."""
    filt = compiler.compile_filter(text)
    oracle = libpcap.make_program(filt.instructions)
    length = len(frame) + more
    assert filt.matches(frame, length) == bool(libpcap.run(oracle, frame, length))


_OPERATIONS = (classic.ADD, classic.SUB, classic.MUL, classic.DIV, classic.OR, classic.AND, classic.MOD, classic.XOR)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(_OPERATIONS), st.booleans(), st.integers(0, 2**32 - 1)), min_size=1, max_size=6),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
)
def test_arithmetic_equals_libpcap(steps: list[tuple[int, bool, int]], a: int, x: int) -> None:
    """32 bits, and division by zero rejects."""
    code = [Instruction(classic.LDX | classic.IMM, 0, 0, x), Instruction(classic.LD | classic.IMM, 0, 0, a)]
    for operation, with_x, k in steps:
        k_or_one = k or 1 if operation in (classic.DIV, classic.MOD) else k
        code.append(
            Instruction(classic.ALU | operation | (classic.X if with_x else 0), 0, 0, 0 if with_x else k_or_one)
        )
    code.append(Instruction(classic.RET | classic.RET_A, 0, 0, 0))
    instructions = tuple(code)
    classic.check(instructions)
    assert classic.interpret(instructions, b"") == libpcap.run(libpcap.make_program(instructions), b"") & 0xFFFFFFFF


# text, part of the message, what the caret points at
WRONG = (
    ("tcp prot 80", "syntax error", "prot"),
    ("tcp port 80 or", "syntax error", ""),
    ("(tcp", "syntax error", ""),
    ("ip[6:2 & 3", "syntax error", "& 3"),
    ("ether[0] & 1 = 1)", "syntax error", ")"),
    ("host", "syntax error", ""),
    ("port 99999", "99999", "99999"),
    ("tcp port nonesuch", "nonesuch", "nonesuch"),
    ("vlan 5000", "5000", "5000"),
    ("ip broadcast", "netmask", "ip broadcast"),
    ("tcp port 80 and inbound", "outside the frame", "inbound"),
    ("outbound", "outside the frame", "outbound"),
    ("ifindex 3", "outside the frame", "ifindex"),
    ("ip6 protochain 17", "jumps backward", "protochain"),
    ("tcp\0", "NUL", "\0"),
)


@pytest.mark.parametrize(("text", "message", "place"), WRONG)
def test_wrong_filter_is_named_and_pointed_at(text: str, message: str, place: str) -> None:
    """The error begins with the rule, quotes the reason, and puts a caret under the place."""
    with pytest.raises(FilterError) as caught:
        compiler.compile_filter(text, where="rule web: match")
    assert str(caught.value).startswith("rule web: match: ")
    assert message in str(caught.value)
    assert caught.value.column is not None
    assert text[caught.value.column :].startswith(place)
    if not place:
        assert caught.value.column == len(text)
    shown, caret = caught.value.pointer.splitlines()
    assert len(shown) == len(text)
    assert caret.index("^") == caught.value.column


def test_the_same_wrong_filter_in_another_rule_names_that_rule() -> None:
    for where in ("rule one: match", "guest ips1: accept"):
        with pytest.raises(FilterError, match=where):
            compiler.compile_filter("tcp prot 80", where=where)


def test_a_filter_that_is_too_long_names_the_limit() -> None:
    with pytest.raises(FilterError, match=str(compiler.MAX_FILTER_LENGTH)):
        compiler.compile_filter("ip or " * compiler.MAX_FILTER_LENGTH + "ip")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ([], "1 to"),
        ([Instruction(classic.RET, 0, 0, 0)] * 5000, "1 to"),
        ([Instruction(classic.JMP | classic.JEQ, 5, 0, 0), Instruction(classic.RET, 0, 0, 0)], "past the end"),
        ([Instruction(classic.LD | classic.MEM, 0, 0, 16), Instruction(classic.RET, 0, 0, 0)], "memory word 16"),
        ([Instruction(classic.ST, 0, 0, 99), Instruction(classic.RET, 0, 0, 0)], "memory word 99"),
        ([Instruction(classic.LD | classic.MSH, 0, 0, 0), Instruction(classic.RET, 0, 0, 0)], "unknown code"),
        ([Instruction(classic.ALU | 0xE0, 0, 0, 0), Instruction(classic.RET, 0, 0, 0)], "unknown code"),
        ([Instruction(classic.LD | classic.IMM, 0, 0, 0)], "does not end"),
    ],
)
def test_what_no_filter_may_hold_is_refused(code: list[Instruction], message: str) -> None:
    with pytest.raises(FilterError, match=message):
        classic.check(tuple(code))


def test_an_empty_filter_takes_every_frame() -> None:
    filt = compiler.compile_filter("")
    assert filt.constant is True
    assert filt.matches(b"")


def test_equal_programs_are_equal_filters() -> None:
    assert compiler.compile_filter("tcp port 80") == compiler.compile_filter("tcp  port  80")
    assert compiler.compile_filter("tcp port 80") != compiler.compile_filter("tcp port 81")


def test_compiling_from_several_threads() -> None:
    """libpcap's handle is shared: errors and programs must not mix."""
    compiler.forget()
    wrong: list[str] = []

    def work(number: int) -> None:
        for port in range(number * 100, number * 100 + 60):
            if not isinstance(compiler.compile_filter(f"tcp port {port}"), ClassicFilter):
                wrong.append(str(port))
            try:
                compiler.compile_filter(f"tcp port {port} {port}x")
                wrong.append(f"{port} accepted")
            except FilterError as error:
                if f"{port}x" not in str(error) and "syntax error" not in str(error):
                    wrong.append(str(error))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
