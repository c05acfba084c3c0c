# SPDX-License-Identifier: GPL-2.0-only
"""What SNMP tells, from the state of the parts."""

from __future__ import annotations

from pathlib import Path

from appliance.causes import Cause
from appliance.hardware.links import Port
from appliance.segment.machine import State
from appliance.snmp.facts import Alarm, Result
from appliance.supervisor.snmp_facts import facts
from tests.unit.supervisor.test_board_test import make
from tests.unit.supervisor.test_supervisor import Keeper


def test_ports_are_those_of_the_board_in_its_order(tmp_path: Path) -> None:
    system = make(tmp_path, Keeper()).system
    system.links.ports["lan0"] = Port("lan0", "eth7", 7, "02:00:00:00:00:01", up=True, link=True)
    found = facts(system, items=False)
    assert [(port.index, port.name, port.alias) for port in found.ports][:2] == [
        (1, "lan0", "main/lan"),
        (2, "wan0", "main/wan"),
    ]
    assert (found.ports[0].device, found.ports[0].link) == ("eth7", True)
    assert (found.ports[1].device, found.ports[1].link) == ("", False)
    assert found.items == ()


def test_a_relay_is_where_the_keeper_reports_it_and_locked_by_an_order(tmp_path: Path) -> None:
    keeper = Keeper()
    system = make(tmp_path, keeper).system
    assert facts(system, items=False).relays[0].position == "unknown", "nobody has reported it yet"
    keeper.say(watchdog_ms=2000)
    system.keeper.receive()
    (relay,) = facts(system, items=False).relays
    assert (relay.index, relay.name, relay.segment, relay.position) == (1, "relay-inline", "main", "bypass")
    assert not relay.locked
    system.segments.units["main"].asked = "bypass"
    assert facts(system, items=False).relays[0].locked
    system.segments.units["main"].drill = True
    assert facts(system, items=False).relays[0].testing


def test_words_say_how_bad_it_is(tmp_path: Path) -> None:
    system = make(tmp_path, Keeper()).system
    machine = system.segments.units["main"].machine

    def told(name: str) -> tuple[str, Result, Alarm | None]:
        found = facts(system, items=True)
        item = next(item for item in found.items if item.token == name)
        return item.text, item.result, found.relays[0].alarm

    machine.state, machine.cause, machine.detail = State.BYPASS, Cause.DATAPATH_FAULT, "no program"
    assert told("segment main") == ("bypass: datapath_fault: no program", Result.CRITICAL, Alarm.CRITICAL)
    machine.cause, machine.detail = Cause.OPERATOR, ""
    assert told("segment main") == ("bypass: operator", Result.WARNING, Alarm.WARNING)
    machine.state, machine.cause = State.INLINE, Cause.LINK_DOWN
    assert told("segment main") == ("inline: link_down", Result.WARNING, Alarm.MINOR)
    machine.cause = Cause.HEALTHY
    assert told("segment main") == ("inline: healthy", Result.OK, None)
    assert told("appliance")[1] is Result.OK
    system.part_states["guests"] = "failed"
    assert told("appliance")[:2] == ("failed: guests", Result.CRITICAL)
