# SPDX-License-Identifier: GPL-2.0-only
"""The simulated relay: each way of driving it, what breaks of it, and that the appliance understands every wiring."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boardspec
import pytest
from boardspec import SpecError
from simulator import board as simulated
from simulator import gpio, i2c
from simulator.events import EventLog
from simulator.gpio import Lines
from simulator.relay import KeepAliveDrive, LatchingDrive, LevelDrive, drive_of, lines_of, seconds
from simulator.simulator import FAULTS, Simulator, Timing
from simulator.wires import Panel

from appliance.hardware import board as described
from appliance.hardware.relay import table as relays

SPEC = boardspec.load("qemu-x86_64")
NONE = i2c.Controller(lambda: 0.0, lambda: None), i2c.Expander(lambda: None)


# the drives


def test_level() -> None:
    drive = LevelDrive("coil", "second")
    assert drive.position(0, True) == "bypass"
    drive.edge("coil", True, 0)
    assert drive.position(0, True) == "inline"
    drive.edge("second", True, 1)
    assert drive.position(1, True) == "disconnect"
    assert drive.position(1, False) == "bypass"


def test_latching_moves_by_a_whole_pulse_and_stays_without_power() -> None:
    drive = LatchingDrive("set", "reset", 0.02)
    drive.edge("set", True, 0)
    drive.edge("set", False, 0.01)
    assert drive.position(1, True) == "bypass"
    drive.edge("set", True, 2)
    drive.edge("set", False, 2.03)
    assert drive.position(3, True) == "inline"
    assert drive.position(3, False) == "inline"
    drive.edge("reset", True, 4)
    drive.edge("reset", False, 4.03)
    assert drive.position(5, True) == "bypass"


def test_keep_alive_holds_from_edge_to_edge() -> None:
    drive = KeepAliveDrive("alive", 0.1)
    assert drive.due(0) is None
    drive.edge("alive", True, 1.0)
    assert (drive.position(1.05, True), drive.due(1.05)) == ("inline", 1.1)
    drive.edge("alive", False, 1.08)
    assert drive.position(1.15, True) == "inline"
    assert drive.position(1.19, True) == "bypass"
    drive.edge("alive", True, 2.0)
    assert drive.position(2.01, False) == "bypass"
    assert drive.position(2.02, True) == "bypass", "its monostable lost its charge with the power"


def test_kinds_that_the_simulator_has_not_are_refused() -> None:
    with pytest.raises(SpecError, match="no relay of kind"):
        drive_of({"kind": "block"}, *NONE)
    with pytest.raises(SpecError, match="needs the key"):
        drive_of({"kind": "keep-alive", "line": "a"}, *NONE)
    with pytest.raises(SpecError, match="while they are high"):
        drive_of({"line": "a", "active": "low"}, *NONE)
    with pytest.raises(SpecError, match="no time"):
        seconds("soon")


# the controller


class Clock:
    now = 10.0

    def __call__(self) -> float:
        return self.now


def read(adapter: i2c.Adapter, register: int, count: int = 2) -> bytes:
    write = adapter.request(struct.pack("<HHI", i2c.ADDRESS << 1, 0, 1) + bytes([register]), 1)
    assert write == i2c.OK
    return adapter.request(struct.pack("<HHI", i2c.ADDRESS << 1, 0, i2c.READ), count + 1)


def put(adapter: i2c.Adapter, register: int, value: int) -> None:
    assert adapter.request(struct.pack("<HHI", i2c.ADDRESS << 1, 0, 0) + bytes([register, value]), 1) == i2c.OK


def test_controller_has_registers_and_a_watchdog() -> None:
    """It answers with the command, bit 7 set, and the value; an unfed watchdog brings its pairs to bypass."""
    clock = Clock()
    controller = i2c.Controller(clock, lambda: None)
    adapter = i2c.Adapter({i2c.ADDRESS: controller})
    assert read(adapter, 0x03) == bytes([0x83, 0x0F]) + i2c.OK
    put(adapter, i2c.SECONDS, 2)
    put(adapter, i2c.WATCHED, 1)
    put(adapter, i2c.START, 1)
    put(adapter, i2c.POSITION, 2)
    assert (controller.bypassed(1), controller.bypassed(2)) == (False, True)
    clock.now += 1.9
    put(adapter, i2c.START, 1)
    clock.now += 1.9
    assert not controller.bypassed(1)
    clock.now += 0.2
    assert controller.bypassed(1)
    assert read(adapter, i2c.POSITION)[1] == 3
    controller.power_up()
    assert controller.due is None


def test_expander_has_pins_in_pairs_of_registers() -> None:
    """A pin is driven when it is an output; an input is pulled low; two bytes go to both registers of a pair."""
    changes: list[int] = []
    expander = i2c.Expander(lambda: changes.append(1))
    adapter = i2c.Adapter({i2c.EXPANDER: expander})

    def transfer(*data: int) -> None:
        assert adapter.request(struct.pack("<HHI", i2c.EXPANDER << 1, 0, 0) + bytes(data), 1) == i2c.OK

    def shown(register: int, count: int) -> bytes:
        transfer(register)
        return adapter.request(struct.pack("<HHI", i2c.EXPANDER << 1, 0, i2c.READ), count + 1)[:-1]

    assert (shown(2, 2), shown(6, 2), shown(0, 2)) == (b"\xff\xff", b"\xff\xff", b"\0\0")
    assert not changes
    transfer(7, 0xFD)
    assert (expander.high(9), expander.high(8), shown(0, 2)) == (True, False, b"\0\2")
    transfer(2, 0, 0)
    transfer(0, 0xFF)
    assert (expander.high(9), shown(0, 2)) == (False, b"\0\0")
    assert len(changes) == 3
    expander.power_up()
    assert shown(6, 2) == b"\xff\xff"


def test_adapter_refuses_what_is_not_there() -> None:
    adapter = i2c.Adapter({i2c.ADDRESS: NONE[0]})
    assert adapter.request(b"\0", 3)[-1:] == i2c.ERROR
    assert adapter.request(struct.pack("<HHI", 0x20 << 1, 0, i2c.READ), 3) == b"\0\0" + i2c.ERROR
    adapter.refuses = True
    assert adapter.request(struct.pack("<HHI", i2c.ADDRESS << 1, 0, i2c.READ), 3) == b"\0\0" + i2c.ERROR


# the GPIO controller


def ask(lines: Lines, kind: int, line: int = 0, value: int = 0) -> bytes:
    return lines.request(struct.pack("<HHI", kind, line, value))


def test_lines_that_keep_and_lines_that_are_refused() -> None:
    changes: list[tuple[str, bool, str]] = []
    lines = Lines(["coil", "contact"], lambda *change: changes.append(change), {"contact": lambda: True})
    ask(lines, gpio.SET_VALUE, 0, 1)
    ask(lines, gpio.SET_DIRECTION, 0, gpio.OUT)
    lines.keeps = True
    assert ask(lines, gpio.SET_DIRECTION, 0, gpio.NONE) == b"\0\0"
    assert lines.driven("coil")
    assert ask(lines, gpio.GET_DIRECTION, 0) == bytes([gpio.OK, gpio.OUT])
    ask(lines, gpio.SET_DIRECTION, 1, gpio.IN)
    assert ask(lines, gpio.GET_VALUE, 1) == b"\0\1"
    lines.refuses = True
    assert ask(lines, gpio.SET_VALUE, 0, 0)[0] == gpio.ERROR
    lines.release("reset")
    assert changes == [("coil", True, "line driven"), ("coil", False, "reset")]


# the board


class Bench:
    """The electronics without a machine: lines are driven by hand."""

    def __init__(self, folder: Path, wiring: str = "", timing: Timing | None = None) -> None:
        def change(**changes: Any) -> int:
            self.wires.panel = replace(self.wires.panel, **changes)
            return 1

        wires: Any = SimpleNamespace(panel=Panel(), change=change, host=lambda name: name, prefix="tw", traffic=dict)
        self.wires = wires
        self.log = EventLog()
        port: Any = SimpleNamespace()
        self.simulator = Simulator(folder, SPEC, wires, self.log, port, port, timing or Timing())
        self.simulator.wire(wiring)
        names = self.simulator._lines.names.split(b"\0")
        self._numbers = {name.decode(): number for number, name in enumerate(names)}

    def line(self, name: str, level: bool) -> None:
        lines = self.simulator._lines
        ask(lines, gpio.SET_VALUE, self._numbers[name], int(level))
        ask(lines, gpio.SET_DIRECTION, self._numbers[name], gpio.OUT)

    def contact(self) -> int:
        ask(self.simulator._lines, gpio.SET_DIRECTION, self._numbers["relay-contacts"], gpio.IN)
        return ask(self.simulator._lines, gpio.GET_VALUE, self._numbers["relay-contacts"])[1]

    @property
    def relay(self) -> str:
        return str(self.simulator.status()["relay"])

    def broken(self, name: str, broken: bool = True) -> None:
        self.simulator.break_part(name, broken)


def run(body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(body())


def test_a_stuck_relay_stays_and_follows_when_it_is_repaired(tmp_path: Path) -> None:
    async def body() -> None:
        bench = Bench(tmp_path)
        bench.line("relay-inline", True)
        assert bench.relay == "inline"
        bench.broken("relay-stuck")
        bench.line("relay-inline", False)
        assert bench.relay == "inline"
        assert bench.log.last(event="stuck", wanted="bypass", state="inline")
        assert bench.simulator.status()["broken"] == ["relay-stuck"]
        bench.broken("relay-stuck", False)
        assert bench.relay == "bypass"

    run(body)


def test_read_back_shows_the_contacts_or_lies(tmp_path: Path) -> None:
    """It follows the contacts, not the coil: a slow relay shows its old position until it has moved."""

    async def body() -> None:
        bench = Bench(tmp_path, "read-back", Timing(relay_ms=30))
        assert bench.contact() == 0
        bench.line("relay-inline", True)
        assert (bench.relay, bench.contact()) == ("moving", 0)
        while bench.relay == "moving":
            await asyncio.sleep(0.002)
        assert bench.contact() == 1
        bench.broken("read-back-wrong")
        assert bench.contact() == 0
        bench.broken("read-back-wrong", False)
        bench.broken("read-back-chatters")
        assert {bench.contact(), bench.contact()} == {0, 1}

    run(body)


def test_links_are_down_while_they_renegotiate(tmp_path: Path) -> None:
    async def body() -> None:
        bench = Bench(tmp_path)
        bench.simulator.tune(flap_ms=20)
        bench.line("relay-inline", True)
        assert bench.wires.panel.negotiating
        while bench.wires.panel.negotiating:
            await asyncio.sleep(0.002)
        for wrong in ({}, {"relay_ms": -1.0}, {"speed": 1.0}):
            with pytest.raises(ValueError, match="not these"):
                bench.simulator.tune(**wrong)

    run(body)


def test_keep_alive_opens_by_itself(tmp_path: Path) -> None:
    async def body() -> None:
        bench = Bench(tmp_path, "keep-alive")
        bench.line("relay-alive", True)
        assert bench.relay == "inline"
        assert 0 < bench.simulator.observed()["drive_left_s"] <= 0.12
        while bench.relay == "inline":
            await asyncio.sleep(0.005)
        assert bench.log.last(event="relay", state="bypass", cause="no edge any more")
        assert bench.simulator.observed()["drive_left_s"] is None

    run(body)


def test_controller_opens_by_its_watchdog(tmp_path: Path) -> None:
    async def body() -> None:
        bench = Bench(tmp_path, "controller")
        adapter = bench.simulator._adapter
        put(adapter, i2c.WATCHED, 1)
        put(adapter, i2c.SECONDS, 0)
        put(adapter, i2c.POSITION, 2)
        assert bench.relay == "inline"
        put(adapter, i2c.START, 1)
        while bench.relay == "inline":
            await asyncio.sleep(0.005)
        bench.broken("lines-refused")
        assert adapter.refuses

    run(body)


def test_a_coil_on_an_expander_rests_when_the_board_is_reset(tmp_path: Path) -> None:
    async def body() -> None:
        bench = Bench(tmp_path, "expander")
        expander = bench.simulator._expander
        expander.write(bytes([3, 0x02]))
        expander.write(bytes([7, 0xF9]))
        assert bench.relay == "inline"
        expander.write(bytes([3, 0x04]))
        assert bench.relay == "disconnect"
        bench.simulator._qmp_event({"event": "RESET", "data": {"guest": True}})
        assert bench.relay == "bypass"

    run(body)


def test_latching_keeps_its_position_over_a_power_cut(tmp_path: Path) -> None:
    async def body() -> None:
        bench = Bench(tmp_path, "latching")
        bench.line("relay-set", True)
        await asyncio.sleep(0.04)
        bench.line("relay-set", False)
        assert bench.relay == "inline"
        bench.simulator._powerless("power cut")
        assert bench.relay == "inline"

    run(body)


def test_a_brown_out_of_the_relay_ends_by_itself(tmp_path: Path) -> None:
    async def body() -> None:
        bench = Bench(tmp_path)
        bench.simulator.machine = SimpleNamespace(pid=1)  # type: ignore[assignment]
        bench.line("relay-inline", True)
        await bench.simulator.brown_out(10, reset=False)
        assert bench.log.last(event="relay", state="bypass", cause="brown-out")
        while bench.relay == "bypass":
            await asyncio.sleep(0.002)
        assert bench.log.last(event="relay", state="inline", cause="supply back")

    run(body)


def test_the_button_is_pressed_for_its_time(tmp_path: Path) -> None:
    async def body() -> None:
        bench = Bench(tmp_path)
        bench.simulator.press(0.01)
        assert bench.simulator._inputs["button-bypass"]()
        while bench.simulator.status()["button"] == "pressed":
            await asyncio.sleep(0.002)
        assert not bench.simulator._inputs["button-bypass"]()

    run(body)


def test_parts_and_ports_of_other_names_are_refused(tmp_path: Path) -> None:
    async def body() -> None:
        bench = Bench(tmp_path)
        with pytest.raises(ValueError, match="relay-stuck"):
            bench.broken("flux")
        bench.simulator.nic("lan", False)
        assert bench.simulator.status()["ports"] == {"lan": "down", "wan": "up"}
        bench.simulator.hot_plugged("wan", False)
        assert bench.simulator.status()["ports"]["wan"] == "removed"

    run(body)


def test_hot_plug_is_by_the_ports_address() -> None:
    assert simulated.hot_plug("0000:00:10.0", "remove") == "echo 1 >/sys/bus/pci/devices/0000:00:10.0/remove"
    assert simulated.hot_plug("0000:00:10.0", "return") == "echo 1 >/sys/bus/pci/rescan"


# the wirings


@pytest.mark.parametrize("wiring", ["", *SPEC.wirings])
def test_appliance_and_simulator_understand_every_wiring(wiring: str) -> None:
    """The appliance drives the lines that the simulator has."""
    made = described.parse(SPEC.described_text(wiring), wiring)
    assert [port.name for port in made.port] == ["lan0", "wan0", "mgmt0"]
    (table,) = SPEC.described(wiring)["relay"]
    assert not relays.wrong(table)
    assert set(drive_of(table, *NONE).lines) <= set(lines_of(table))


def test_every_kind_of_drive_has_a_wiring() -> None:
    kinds = {SPEC.described(wiring)["relay"][0]["kind"] for wiring in SPEC.wirings}
    assert kinds == {"level", "latching", "keep-alive", "bypass-controller", "expander"}
    assert set(FAULTS) >= {"relay-stuck", "read-back-chatters", "lines-keep", "watchdog-dead"}


def test_an_unknown_wiring_is_refused() -> None:
    with pytest.raises(SpecError, match="keep-alive"):
        SPEC.described_text("tap")
