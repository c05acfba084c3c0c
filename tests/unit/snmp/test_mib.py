# SPDX-License-Identifier: GPL-2.0-only
"""What is offered, from facts."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from appliance.snmp import agentx, mib
from appliance.snmp.agentx import Oid, Range, Type, Value
from appliance.snmp.facts import Alarm, Facts, Item, Machine, Moment, Port, Relay, Result
from appliance.snmp.settings import VIEW
from appliance.snmp.tree import Tree
from appliance.system.netlink import Interface

LAN = Port(1, "lan0", "enp1s0", "data", "main/lan", up=True, link=True)
WAN = Port(2, "wan0", "", "data", "main/wan", up=False, link=False)
MGMT = Port(4, "mgmt0", "mgmt0-hw", "management", "management", up=True, link=False)
RELAY = Relay(1, "relay-main", ("lan0", "wan0"), "main", "inline")
SEEN = Interface(b"\2\0\0\0\0\1", 3480, 0x1 | 0x100, 1000, 900, 2**33, 2**34, 3, 4, 5, 6, 100, 2500)
MACHINE = Machine({"serial": "A1", "model": "Box", "vendor": "Acme"}, {"cpu": 41.5}, {"fan1": 1200.0})
WHEN = Moment(7_000_000_000, datetime(2026, 11, 30, 13, 5, 6, 780_000, UTC))
ITEM = Item("segment main", "inline: healthy", Result.OK)


def tree(relay: Relay = RELAY, *ports: Port) -> Tree:
    facts = Facts("acme-2", "1.2.3", ports or (LAN, WAN, MGMT), (relay,), (ITEM,))
    return mib.tree(facts, MACHINE, {"lan0": SEEN}, {101: WHEN, 201: WHEN}, lambda at: at // 10_000_000)


def get(found: Tree, *name: int) -> Value:
    return found.get(Range(name, False, ())).value


def test_a_port_has_its_place_on_the_board_as_index_and_its_role_as_alias() -> None:
    found = tree()
    entry, extended = (*mib.INTERFACES, 2, 1), (*mib.IF_MIB, 1, 1, 1)
    assert get(found, *mib.INTERFACES, 1, 0) == agentx.integer(3)
    assert [get(found, *extended, 1, index).value for index in (1, 2, 4)] == [b"lan0", b"wan0", b"mgmt0"]
    assert get(found, *extended, 18, 1).value == b"main/lan"
    assert [get(found, *entry, 8, index).value for index in (1, 2, 4)] == [1, 6, 2], "up, notPresent, down"
    assert get(found, *entry, 9, 1) == agentx.ticks(700)
    assert get(found, *entry, 6, 1).value == SEEN.mac
    assert get(found, *extended, 6, 1) == agentx.counter64(2**33)
    assert get(found, *entry, 10, 1) == agentx.counter(0), "32 bits wrap"
    assert get(found, *entry, 11, 1) == agentx.counter(900), "unicast: all but multicast"
    assert get(found, *extended, 15, 1) == agentx.gauge(2500)
    assert get(found, *entry, 5, 1) == agentx.gauge(2_500_000_000)
    assert get(found, *extended, 16, 1) == agentx.integer(1)
    assert get(found, *extended, 6, 2).type is Type.NO_SUCH_INSTANCE, "a port that is missing counts nothing"
    assert get(found, *extended, 9, 1).type is Type.NO_SUCH_OBJECT, "broadcasts are not counted, and no zero is told"
    assert get(found, *mib.IF_MIB, 1, 2, 1, 3, 0, 1) == agentx.integer(1)


def test_speeds_beyond_32_bits_stay_at_the_end_of_the_old_column() -> None:
    facts = Facts(ports=(LAN,))
    found = mib.tree(facts, Machine(), {"lan0": SEEN._replace(speed=10_000)}, {}, lambda at: 0)
    assert get(found, *mib.INTERFACES, 2, 1, 5, 1) == agentx.gauge(0xFFFFFFFF)
    assert get(found, *mib.IF_MIB, 1, 1, 1, 15, 1) == agentx.gauge(10_000)


def test_a_port_that_is_taken_down_on_purpose_is_down() -> None:
    found = tree(RELAY, replace(LAN, held=True))
    assert get(found, *mib.IF_ADMIN, 1).value == get(found, *mib.IF_OPER, 1).value == 2
    assert get(found, *mib.STATE_ADMIN, 201).value == 2, "locked"


def test_ports_are_in_their_relay_and_it_in_the_chassis() -> None:
    found, entry = tree(), (*mib.ENTITY, 1, 1, 1, 1)
    inside = {physical: get(found, *entry, 4, physical).value for physical in (1, 101, 201, 202, 204, 301, 302)}
    assert inside == {1: 0, 101: 1, 201: 101, 202: 101, 204: 1, 301: 1, 302: 1}
    kinds = [get(found, *entry, 5, physical).value for physical in inside]
    assert kinds == [3, 9, 10, 10, 10, 8, 8]
    assert [get(found, *entry, column, 1).value for column in (7, 10, 11, 12, 13)] == [
        b"acme-2", b"1.2.3", b"A1", b"Acme", b"Box",
    ]  # fmt: skip
    assert get(found, *entry, 14, 101).value == b"segment main"
    assert get(found, *mib.ENTITY, 1, 3, 2, 1, 2, 201, 0).value == (*mib.IF_INDEX, 1)
    assert get(found, *mib.ENTITY, 1, 3, 3, 1, 1, 101, 202) == agentx.integer(202)
    places = [get(found, *entry, 6, physical).value for physical in (201, 202)]
    assert places == [1, 2]


@pytest.mark.parametrize(
    ("relay", "columns"),
    [
        (RELAY, (4, 3, 3, b"\0", 4)),
        (replace(RELAY, position="bypass", alarm=Alarm.MAJOR), (4, 2, 2, b"\x10", 3)),
        (replace(RELAY, position="bypass", locked=True, alarm=Alarm.WARNING), (2, 2, 2, b"\x04", 3)),
        (replace(RELAY, position="bypass", testing=True, alarm=Alarm.CRITICAL), (4, 4, 2, b"\x20", 3)),
        (replace(RELAY, position="unknown"), (4, 1, 2, b"\0", 3)),
        (replace(RELAY, alarm=Alarm.MINOR), (4, 3, 3, b"\x08", 4)),
    ],
)
def test_a_relay_is_enabled_while_it_is_inline(relay: Relay, columns: tuple[object, ...]) -> None:
    """entStateAdmin, Oper, Usage, Alarm, Standby of RFC 4268."""
    found = tree(relay)
    assert tuple(get(found, *mib.STATE, 1, 1, 1, column, 101).value for column in range(2, 7)) == columns
    assert get(found, *mib.STATE, 1, 1, 1, 1, 101).value == bytes.fromhex("07ea0b1e0d0506072b0000")


def test_words_and_sensors() -> None:
    found = tree()
    index = mib.token("segment main")
    assert index == (12, *b"segment main")
    assert get(found, *mib.LINE, *index).value == b"inline: healthy"
    assert get(found, *mib.EXTEND, 1, 4, *index) == agentx.integer(0)
    assert [get(found, *mib.SENSOR, 1, 1, 1, column, 301).value for column in (1, 3, 4)] == [8, 1, 415]
    assert [get(found, *mib.SENSOR, 1, 1, 1, column, 302).value for column in (1, 3, 4)] == [10, 0, 1200]


def test_users_may_read_all_of_it_and_nothing_is_outside_what_is_registered() -> None:
    found, at = tree(), Range((), False, ())
    views = [tuple(map(int, subtree.strip(".").split("."))) for subtree in VIEW]
    names: list[Oid] = []
    while (row := found.next(at)).value.type is not Type.END:
        names.append(row.name)
        at = Range(row.name, False, ())
    assert len(names) == len(found) > 150
    for name in names:
        assert any(name[: len(subtree)] == subtree for subtree in mib.SUBTREES), name
        assert any(name[: len(view)] == view for view in views), name
