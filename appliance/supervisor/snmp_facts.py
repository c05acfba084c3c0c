# SPDX-License-Identifier: GPL-2.0-only
"""What SNMP tells of the appliance, from the state of bypassd's parts. Only reads, and is fast enough for the event
loop: it is asked twice a second for links."""

from __future__ import annotations

from collections.abc import Iterator

import appliance
from appliance.management import bridge
from appliance.segment.machine import State
from appliance.segment.unit import Unit
from appliance.snmp.facts import Alarm, Facts, Item, Port, Relay, Result
from appliance.snmp.notify import alarm_of
from appliance.supervisor import status
from appliance.supervisor.system import System
from appliance.telemetry.subject import Change

_LOCKED = ("bypass", "disconnect")
_WELL = ("available", "overloaded")
_ORDERED = ("defined", "draining", "stopped", "starting", "proving")


def facts(system: System, *, items: bool) -> Facts:
    """Everything at this moment; what is told in words only with `items`."""
    board = system.board
    units = list(system.segments.units.values())
    return Facts(
        board=board.name if board is not None else "",
        version=appliance.__version__,
        ports=tuple(_ports(system, units)),
        relays=tuple(_relays(system, units)),
        items=tuple(_items(system, units)) if items else (),
    )


def _ports(system: System, units: list[Unit]) -> Iterator[Port]:
    sides = {
        name: f"{unit.config.name}/{side}"
        for unit in units
        for side, name in (("lan", unit.config.lan), ("wan", unit.config.wan))
    }
    for index, port in enumerate(system.board.port if system.board else (), 1):
        if port.role == "management":
            used = system.access is not None and system.access.port.seen.there
            seen = system.access.port.seen if system.access is not None else None
            device = bridge.hardware(port.name) if used else ""
            up, link = (seen.up, seen.link) if seen is not None and used else (False, False)
            yield Port(index, port.name, device, port.role, "management", up, link)
            continue
        found = system.links.ports.get(port.name)
        alias, held = sides.get(port.name, ""), port.name in system.links.downed
        if found is None:
            yield Port(index, port.name, "", port.role, alias, up=False, link=False)
        else:
            yield Port(index, port.name, found.ifname, port.role, alias, found.up, found.link, held)


def _relays(system: System, units: list[Unit]) -> Iterator[Relay]:
    keeper = system.keeper_state
    for index, relay in enumerate(system.board.relay if system.board else (), 1):
        unit = next((unit for unit in units if unit.relay == relay.line), None)
        known = keeper.relays.get(relay.line) if keeper is not None else None
        position = known.relay if known is not None else "unknown"
        if unit is None:
            yield Relay(index, relay.line, relay.ports, "", position)
            continue
        asked = unit.asked or unit.config.mode
        locked = asked in _LOCKED or bool(unit.maintenance_until)
        yield Relay(index, relay.line, relay.ports, unit.config.name, position, locked, unit.drill, _alarm(unit))


def _alarm(unit: Unit) -> Alarm | None:
    """How bad the state of a segment is."""
    machine = unit.machine
    if machine.state is State.INLINE:
        return None if machine.cause == "healthy" else Alarm.MINOR
    return alarm_of(Change.SEGMENT_BYPASSED.severity(machine.cause))


def _items(system: System, units: list[Unit]) -> Iterator[Item]:
    for unit in units:
        machine, alarm = unit.machine, _alarm(unit)
        detail = f": {machine.detail}" if machine.detail else ""
        warns = alarm in (Alarm.MINOR, Alarm.WARNING)
        result = Result.OK if alarm is None else Result.WARNING if warns else Result.CRITICAL
        yield Item(f"segment {unit.config.name}", f"{machine.state}: {machine.cause}{detail}", result)
    for kind, rows in (("guest", status.guests(system)), ("remote", status.remotes(system))):
        for row in rows:
            result = Result.OK if row.state in _WELL else Result.WARNING if row.state in _ORDERED else Result.CRITICAL
            yield Item(f"{kind} {row.name}", f"{row.state}: {row.cause}", result)
    yield _appliance(system)


def _appliance(system: System) -> Item:
    """What is wrong with the whole, the worst first."""
    if system.safe_mode.active:
        return Item("appliance", "safe mode after crashes: no datapath, no guests", Result.CRITICAL)
    if system.config is None:
        return Item("appliance", "the configuration is not valid", Result.CRITICAL)
    failed = [name for name, word in system.part_states.items() if word == "failed"]
    if failed:
        return Item("appliance", f"failed: {', '.join(failed)}", Result.CRITICAL)
    said = system.protection()
    return Item("appliance", f"running; {said.state}", Result.OK)
