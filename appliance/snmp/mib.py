# SPDX-License-Identifier: GPL-2.0-only
"""The objects that are offered, from facts. Pure.

IF-MIB (RFC 2863) for every port, whatever network namespace it is in. ENTITY-MIB (RFC 6933): chassis, relays, the ports
behind each relay, sensors. ENTITY-STATE-MIB (RFC 4268): a relay is enabled while it is inline. ENTITY-SENSOR-MIB (RFC
3433). The state of segments, guests and remotes in words, which no standard table has: nsExtendOutput1Table of
NET-SNMP-EXTEND-MIB, where net-snmp itself shows what has a name, a text and a result. No number is our own, because
none is registered.

What the kernel does not count apart (broadcasts, multicasts sent) has no instance instead of a zero.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final

from appliance.snmp.agentx import Oid, Value, counter, counter64, gauge, integer, oid, text, ticks
from appliance.snmp.facts import CHASSIS, RELAYS, SENSORS, Facts, Machine, Moment, Port, Relay
from appliance.snmp.tree import Tree
from appliance.system.netdev import IFF_PROMISC
from appliance.system.netlink import Interface

MIB_2: Final = (1, 3, 6, 1, 2, 1)
INTERFACES: Final = (*MIB_2, 2)
IF_MIB: Final = (*MIB_2, 31)
ENTITY: Final = (*MIB_2, 47)
SENSOR: Final = (*MIB_2, 99)
STATE: Final = (*MIB_2, 131)
EXTEND: Final = (1, 3, 6, 1, 4, 1, 8072, 1, 3, 2, 3)
SUBTREES: Final = (INTERFACES, IF_MIB, ENTITY, SENSOR, STATE, EXTEND)

IF_INDEX, IF_ADMIN, IF_OPER = ((*INTERFACES, 2, 1, column) for column in (1, 7, 8))
STATE_ADMIN, STATE_ALARM = ((*STATE, 1, 1, 1, column) for column in (2, 5))
LINE: Final = (*EXTEND, 1, 1)

_ETHERNET = 6  # ethernetCsmacd
_UP, _DOWN, _MISSING = 1, 2, 6  # ifAdminStatus, ifOperStatus: up, down, notPresent
_YES, _NO = 1, 2  # TruthValue
_CHASSIS, _SENSOR, _MODULE, _PORT = 3, 8, 9, 10  # PhysicalClass
_LOCKED, _UNLOCKED = 2, 4  # EntityAdminState
_UNKNOWN, _DISABLED, _ENABLED, _TESTING = 1, 2, 3, 4  # EntityOperState
_IDLE, _ACTIVE = 2, 3  # EntityUsageState
_COLD, _PROVIDING = 3, 4  # EntityStandbyStatus
_CELSIUS, _RPM, _UNITS, _OK = 8, 10, 9, 1  # EntitySensorDataType, -DataScale, -Status


class _Objects:
    def __init__(self) -> None:
        self.found: dict[Oid, Value] = {}
        self.kinds: set[Oid] = set()

    def scalar(self, name: Oid, value: Value) -> None:
        self.kinds.add(name)
        self.found[*name, 0] = value

    def row(self, entry: Oid, index: Oid, columns: Mapping[int, Value | None]) -> None:
        for column, value in columns.items():
            self.kinds.add((*entry, column))
            if value is not None:
                self.found[*entry, column, *index] = value


def tree(
    facts: Facts,
    machine: Machine,
    interfaces: Mapping[str, Interface],
    since: Mapping[int, Moment],
    uptime: Callable[[int], int],
) -> Tree:
    """Everything that is offered. `interfaces`: by port; `since`: when the entity of that number last changed;
    `uptime`: from CLOCK_MONOTONIC in ns to hundredths of a second since snmpd started."""
    objects = _Objects()
    _interfaces(objects, facts, interfaces, since, uptime)
    _entities(objects, facts, machine)
    _states(objects, facts, since)
    _sensors(objects, machine)
    for item in facts.items:
        columns = {1: text(item.text), 2: text(item.text), 3: integer(1), 4: integer(item.result)}
        objects.row((*EXTEND, 1), token(item.token), columns)
    return Tree(objects.found, objects.kinds)


def token(name: str) -> Oid:
    """The index of an item: its length and its bytes."""
    data = name.encode()[:100]
    return len(data), *data


def admin_status(port: Port) -> Value:
    """ifAdminStatus. A port that is taken down on purpose is down."""
    return integer(_UP if port.up and not port.held else _DOWN)


def oper_status(port: Port) -> Value:
    """ifOperStatus."""
    return integer(_MISSING if not port.device else _UP if port.link and not port.held else _DOWN)


def _interfaces(
    objects: _Objects,
    facts: Facts,
    interfaces: Mapping[str, Interface],
    since: Mapping[int, Moment],
    uptime: Callable[[int], int],
) -> None:
    objects.scalar((*INTERFACES, 1), integer(len(facts.ports)))
    objects.scalar((*IF_MIB, 1, 5), ticks(0))  # ifTableLastChange: ports neither come nor go
    for port in facts.ports:
        seen = interfaces.get(port.name)
        moment = since.get(port.physical)
        objects.row((*INTERFACES, 2, 1), (port.index,), {
            1: integer(port.index),
            2: text(port.name),
            3: integer(_ETHERNET),
            7: admin_status(port),
            8: oper_status(port),
            9: ticks(uptime(moment.mono_ns) if moment else 0),
            **(_classic(seen) if seen else {}),
        })  # fmt: skip
        objects.row((*IF_MIB, 1, 1, 1), (port.index,), {
            1: text(port.name),
            14: integer(1),  # linkUp and linkDown are sent
            17: integer(_YES),
            18: text(port.alias),
            19: ticks(0),
            **(_extended(seen) if seen else {}),
        })  # fmt: skip
        for above, below in ((0, port.index), (port.index, 0)):
            objects.row((*IF_MIB, 1, 2, 1), (above, below), {3: integer(1)})


def _classic(seen: Interface) -> dict[int, Value]:
    """Columns of ifTable."""
    return {
        4: integer(seen.mtu),
        5: gauge((seen.speed or 0) * 1_000_000),
        6: text(seen.mac),
        10: counter(seen.rx_bytes),
        11: counter(seen.rx_packets - seen.multicast),
        13: counter(seen.rx_dropped),
        14: counter(seen.rx_errors),
        16: counter(seen.tx_bytes),
        17: counter(seen.tx_packets),
        19: counter(seen.tx_dropped),
        20: counter(seen.tx_errors),
    }


def _extended(seen: Interface) -> dict[int, Value]:
    """Columns of ifXTable."""
    return {
        2: counter(seen.multicast),
        6: counter64(seen.rx_bytes),
        7: counter64(seen.rx_packets - seen.multicast),
        8: counter64(seen.multicast),
        10: counter64(seen.tx_bytes),
        11: counter64(seen.tx_packets),
        15: gauge(seen.speed or 0),
        16: integer(_YES if seen.flags & IFF_PROMISC else _NO),
    }


def _entities(objects: _Objects, facts: Facts, machine: Machine) -> None:
    known = machine.identity
    behind = {port: relay for relay in facts.relays for port in relay.ports}
    rows = [
        (CHASSIS, 0, _CHASSIS, 0, "bypass appliance", facts.board, ""),
        *((relay.physical, CHASSIS, _MODULE, relay.index, f"bypass relay of {' and '.join(relay.ports)}", relay.name,
           f"segment {relay.segment}" if relay.segment else "") for relay in facts.relays),
    ]  # fmt: skip
    for port in facts.ports:
        relay = behind.get(port.name)
        inside = relay.physical if relay else CHASSIS
        place = relay.ports.index(port.name) + 1 if relay else RELAYS + port.index
        rows.append((port.physical, inside, _PORT, place, f"{port.role} port", port.name, port.alias))
        pointed = oid((*IF_INDEX, port.index))
        objects.row((*ENTITY, 1, 3, 2, 1), (port.physical, 0), {2: pointed})
    for number, (name, _) in enumerate(_measured(machine), 1):
        rows.append((SENSORS + number, CHASSIS, _SENSOR, SENSORS + number, "sensor", name, ""))
    for physical, inside, kind, place, description, name, alias in rows:
        box = physical == CHASSIS
        objects.row((*ENTITY, 1, 1, 1, 1), (physical,), {
            2: text(description),
            3: oid((0, 0)),
            4: integer(inside),
            5: integer(kind),
            6: integer(place),
            7: text(name),
            8: text(""),
            9: text(known.get("firmware", "") if box else ""),
            10: text(facts.version if box else ""),
            11: text(known.get("serial", "") if box else ""),
            12: text(known.get("vendor", "") if box else ""),
            13: text(known.get("model", "") if box else ""),
            14: text(alias),
            15: text(""),
            16: integer(_NO),
        })  # fmt: skip
        if inside:
            objects.row((*ENTITY, 1, 3, 3, 1), (inside, physical), {1: integer(physical)})
    objects.scalar((*ENTITY, 1, 4, 1), ticks(0))


def _states(objects: _Objects, facts: Facts, since: Mapping[int, Moment]) -> None:
    for relay in facts.relays:
        inline = relay.position == "inline"
        oper = _TESTING if relay.testing else _ENABLED if inline else _DISABLED
        _state(objects, relay.physical, since, {
            2: integer(_LOCKED if relay.locked else _UNLOCKED),
            3: integer(_UNKNOWN if relay.position == "unknown" else oper),
            4: integer(_ACTIVE if inline else _IDLE),
            5: alarm(relay),
            6: integer(_PROVIDING if inline else _COLD),
        })  # fmt: skip
    for port in facts.ports:
        works = bool(port.device) and port.link and not port.held
        _state(objects, port.physical, since, {
            2: integer(_LOCKED if port.held else _UNLOCKED),
            3: integer(_ENABLED if works else _DISABLED),
            4: integer(_ACTIVE if works else _IDLE),
            5: text(b"\0"),
            6: integer(_PROVIDING if works else _COLD),
        })  # fmt: skip


def _state(objects: _Objects, physical: int, since: Mapping[int, Moment], columns: dict[int, Value]) -> None:
    moment = since.get(physical)
    objects.row((*STATE, 1, 1, 1), (physical,), {1: text(date(moment.date) if moment else bytes(8)), **columns})


def alarm(relay: Relay) -> Value:
    """entStateAlarm: a string of bits, the first one of the first byte being bit 0."""
    return text(bytes([0x80 >> relay.alarm]) if relay.alarm is not None else b"\0")


def date(when: datetime) -> bytes:
    """DateAndTime of a time in UTC (RFC 2579)."""
    tenths = when.microsecond // 100_000
    fields = (when.year, when.month, when.day, when.hour, when.minute, when.second, tenths)
    return struct.pack("!H6B", *fields) + b"+\0\0"


def _measured(machine: Machine) -> list[tuple[str, dict[int, Value]]]:
    """Every sensor with its columns, temperatures first."""
    common = {2: integer(_UNITS), 5: integer(_OK), 7: ticks(0), 8: gauge(0)}
    found = []
    for name, celsius in sorted(machine.temperatures.items()):
        tenths = {1: integer(_CELSIUS), 3: integer(1), 4: integer(round(celsius * 10)), 6: text("degrees Celsius")}
        found.append((name, {**common, **tenths}))
    for name, rpm in sorted(machine.fans.items()):
        turns = {1: integer(_RPM), 3: integer(0), 4: integer(round(rpm)), 6: text("turns per minute")}
        found.append((name, {**common, **turns}))
    return found


def _sensors(objects: _Objects, machine: Machine) -> None:
    for number, (_, columns) in enumerate(_measured(machine), 1):
        objects.row((*SENSOR, 1, 1, 1), (SENSORS + number,), columns)
