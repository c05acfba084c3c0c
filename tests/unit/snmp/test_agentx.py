# SPDX-License-Identifier: GPL-2.0-only
"""AgentX: what is written is what is read, in either byte order; what is no message is refused."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.snmp import agentx
from appliance.snmp.agentx import AgentXError, Kind, Message, Range, Row, Type, Value

OIDS = st.lists(st.integers(0, 2**32 - 1), max_size=20).map(tuple)
VALUES = st.one_of(
    st.integers(-(2**31), 2**31 - 1).map(agentx.integer),
    st.binary(max_size=40).map(agentx.text),
    st.integers(0, 2**32 - 1).map(agentx.counter),
    st.integers(0, 2**32 - 1).map(agentx.gauge),
    st.integers(0, 2**32 - 1).map(agentx.ticks),
    st.integers(0, 2**64 - 1).map(agentx.counter64),
    OIDS.map(agentx.oid),
    st.sampled_from((Type.NULL, Type.NO_SUCH_OBJECT, Type.NO_SUCH_INSTANCE, Type.END)).map(Value),
)
ROWS = st.lists(st.builds(Row, st.one_of(OIDS, OIDS.map(lambda end: (1, 3, 6, 1, 2, *end))), VALUES), max_size=8)


@settings(max_examples=100, deadline=None)
@given(ROWS)
def test_rows_are_read_as_they_were_written(rows: list[Row]) -> None:
    (got,) = agentx.all_of([agentx.message(Kind.NOTIFY, agentx.rows(rows), session=7, packet=9)])
    assert (got.kind, got.session, got.packet) == (Kind.NOTIFY, 7, 9)
    assert agentx.values(got) == rows


def test_a_message_is_as_the_rfc_draws_it() -> None:
    """RFC 2741, 5.1, 6.1 and 6.2.1: sizes, padding, and names below 1.3.6.1 by their prefix."""
    written = agentx.message(Kind.OPEN, agentx.open_session("abc", 5), packet=1)
    assert written.hex(" ", 4) == ("01011000 00000000 00000000 00000001 00000010 05000000 00000000 00000003 61626300")
    row = agentx.rows([Row((1, 3, 6, 1, 2, 1), agentx.integer(-1))])
    assert row.hex(" ", 4) == "00020000 01020000 00000001 ffffffff"


def test_questions_are_read_in_the_order_of_bytes_that_they_name() -> None:
    """snmpd on this machine sends its own."""
    name = struct.pack("<BBBxI", 1, 2, 1, 1) + struct.pack("<BBBx", 0, 0, 0)
    asked = Message(Kind.GET_NEXT, 0, 1, 2, 3, name, "<")
    assert agentx.ranges(asked) == [Range((1, 3, 6, 1, 2, 1), True, ())]
    many = asked._replace(payload=struct.pack("<HH", 1, 10) + name)
    assert agentx.bulk(many) == (1, 10, agentx.ranges(asked))
    head, length = agentx.header(struct.pack("<BBBxIIII", 1, Kind.PING, 0, 5, 6, 7, 8))
    assert (head.session, head.transaction, head.packet, length, head.order) == (5, 6, 7, 8, "<")


@pytest.mark.parametrize(
    "data",
    [
        b"\x02" + bytes(19),
        struct.pack("!BBBxIIII", 1, 1, 0x10, 0, 0, 0, 3),
        struct.pack("!BBBxIIII", 1, 1, 0x10, 0, 0, 0, agentx.MAX_PAYLOAD + 4),
        b"\x01",
    ],
)
def test_what_is_no_header_is_refused(data: bytes) -> None:
    with pytest.raises(AgentXError):
        agentx.header(data)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=80), st.sampled_from("!<"))
def test_no_payload_does_more_than_be_refused(payload: bytes, order: str) -> None:
    asked = Message(Kind.GET, 0, 1, 1, 1, payload, order)
    for read in (agentx.ranges, agentx.bulk, agentx.values, agentx.answered):
        try:
            read(asked)
        except AgentXError:
            continue


def test_a_text_is_no_longer_than_a_manager_takes() -> None:
    assert agentx.text("é" * 200).value == ("é" * 127).encode()
