# SPDX-License-Identifier: GPL-2.0-only
"""Relay kinds and their lines without hardware: order of moves, registry, refusals. The devices: tests/image."""

from __future__ import annotations

import errno
import os
import struct
import sys
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from appliance.errors import HardwareError
from appliance.hardware.relay import factory, i2c, kinds, line, read_back
from appliance.hardware.relay.factory import bus_of
from appliance.hardware.relay.keys import Key
from appliance.hardware.relay.level import LevelRelay
from appliance.hardware.relay.line import Line, LineSpec, find_line
from appliance.hardware.relay.protocol import RelayBusError, RelayFaultError, RelaySpec, UnsupportedRelayError
from appliance.hardware.relay.table import COMMON, spec_of, wrong
from tests.support.relay_box import Box
from tests.support.relay_models import (
    BlockRig,
    ControllerRig,
    ExpanderRig,
    KeepAliveRig,
    LatchingReadBackRig,
    LatchingRig,
    LevelRig,
    SuperIoRig,
)


class Coil:
    """What periphery's line does, for the relay's order of moves."""

    def __init__(self, log: list[tuple[str, bool]], name: str) -> None:
        self.log, self.name, self.level = log, name, False

    def write(self, level: bool) -> None:
        self.level = level
        self.log.append((self.name, level))

    def read(self) -> bool:
        return self.level

    def close(self) -> None:
        self.log.append((self.name, False))


def made(active: str = "high") -> tuple[LevelRelay, list[tuple[str, bool]]]:
    spec = spec_of({"line": "r", "disconnect": "d", "active": active})
    log: list[tuple[str, bool]] = []
    one = LevelRelay(spec)
    assert one._disconnect
    one._inline._gpio, one._disconnect._gpio = Coil(log, "r"), Coil(log, "d")  # type: ignore[assignment]
    return one, log


def test_modes_and_their_order() -> None:
    """From disconnect to inline the disconnect contact opens first; away from inline the coil falls first."""
    one, log = made()
    for mode in ("inline", "disconnect", "inline", "bypass"):
        one.set(mode)
        assert one.read() == mode
    assert log == [
        ("d", False), ("r", True),
        ("r", False), ("d", True),
        ("d", False), ("r", True),
        ("r", False), ("d", False),
    ]  # fmt: skip


def test_an_active_low_coil_is_released_high() -> None:
    one, log = made("low")
    one.set("inline")
    assert ("r", False) in log
    assert one.read() == "inline"
    one.set("bypass")
    assert log[-2:] == [("r", True), ("d", True)]


def test_no_disconnect_on_this_board() -> None:
    one = LevelRelay(spec_of({"line": "r"}))
    with pytest.raises(HardwareError, match="no disconnect"):
        one.set("disconnect")


def test_a_line_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(HardwareError, match='GPIO line "r" not found \\(no GPIO chip\\): load the GPIO driver'):
        find_line("r", str(tmp_path / "gpiochip*"))
    (tmp_path / "gpiochip0").touch()
    with pytest.raises(HardwareError, match="gpiochip0: "):
        find_line("r", str(tmp_path / "gpiochip*"))


def test_an_unopened_line_refuses() -> None:
    with pytest.raises(HardwareError, match="not open"):
        Line(LineSpec("r")).drive(True)


# -- kinds


def test_a_relay_is_a_level_line_where_nothing_else_is_said() -> None:
    for table in ({"line": "r"}, {"line": "r", "kind": "level"}, {"line": "r", "kind": "gpio"}):
        assert isinstance(factory.make(spec_of(table)), LevelRelay)


def test_a_kind_that_is_not_known_is_refused_and_not_driven() -> None:
    one = factory.make(spec_of({"ports": ["lan0", "wan0"], "kind": "telepathic", "bus": 7}))
    for call in (one.open, one.read, lambda: one.set("inline")):
        with pytest.raises(UnsupportedRelayError, match=r'relay lan0-wan0: .*"telepathic" .*knows attribute, .*level'):
            call()
    one.close()


def test_a_kind_is_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    class Pulse(LevelRelay):
        """A kind of its own."""

    monkeypatch.setitem(
        kinds.KINDS, "pulse", kinds.Kind(Pulse, {"line": Key("a line", "line")}, released=lambda options: "reverts")
    )
    one = factory.make(spec_of({"line": "p", "kind": "pulse", "settle": "15ms"}))
    assert isinstance(one, Pulse)
    assert one.spec == RelaySpec("p", "pulse", {"line": "p"}, 15)


def test_a_table_without_its_line_says_so_when_it_is_opened() -> None:
    with pytest.raises(HardwareError, match="relay lan0-wan0: line is missing: the GPIO line of the coil"):
        factory.make(spec_of({"ports": ["lan0", "wan0"]})).open()


@pytest.mark.parametrize(("text", "found"), [("0ms", 0), ("15ms", 15), ("1h", 10_000)])
def test_the_time_to_settle_stays_in_its_range(text: str, found: int) -> None:
    assert spec_of({"line": "r", "settle": text}).settle_ms == found


# -- facts about the board


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"power_up": "up"}, "power_up: must be bypass or inline or disconnect or keeps, not 'up'"),
        ({"unpowered": "maybe"}, "unpowered: must be proven or claimed or no"),
        ({"unpowered": "proven"}, '"proven" and unpowered_proven need each other'),
        ({"unpowered": "claimed", "unpowered_proven": date(2026, 5, 3)}, "need each other"),
        (
            {"unpowered": "proven", "unpowered_proven": "yesterday"},
            "unpowered_proven: must be a date such as 2026-05-03",
        ),
        ({"debounce": "5ms"}, "debounce: needs read_back"),
        ({"read_back": "r", "debounce": "1s"}, "debounce: must be 0 to 100 ms, not 1000"),
        ({"read_back": "gpiochip0:x"}, "read_back: must be the name of a line, or CHIP:OFFSET"),
        ({"setle": "5ms"}, 'setle: no such key; did you mean "settle"?'),
        ({"kind": "expander", "pin": 16}, "pin: must be 0 to 15, not 16"),
        ({"kind": "expander", "address": "0x99"}, "address: must be 3 to 119, not 153"),
        ({"kind": "expander", "address": "twenty"}, "address: must be a number such as 5 or \"0x37\", not 'twenty'"),
        ({"kind": "expander", "address": True}, "address: must be a number, not True"),
        ({"kind": "bypass-controller", "watchdog": "5min"}, "watchdog: must be 1000 to 255000 ms, not 300000"),
        ({"kind": "port", **SuperIoRig.options, "line": "x"}, "line: no such key"),
        ({"kind": "attribute", "path": "sys/x"}, "path: must be a path that begins with /, not 'sys/x'"),
        ({"kind": "block", "inline": "xy"}, "inline: must be bytes such as \"01 0a\", not 'xy'"),
        ({"kind": "latching"}, "set_line is missing: the GPIO line whose pulse"),
        ({"kind": "latching", "pulse": "2s"}, "pulse: must be 1 to 500 ms, not 2000"),
        ({"kind": "keep-alive", "high": "1ms"}, "high: must be 10 to 5000 ms, not 1"),
        ({"kind": "keep-alive", "start": "up 5ms"}, 'start: must be levels and times such as "high 10ms, low 10ms"'),
        ({"kind": "keep-alive", "start": "high 900ms, low 200ms"}, "start: must be 0 to 1000 ms in all, not 1100"),
    ],
)
def test_what_is_wrong_with_a_relay(more: dict[str, object], said: str) -> None:
    """The same text for both readers; the keeper keeps that relay in bypass."""
    table = {"ports": ["lan0", "wan0"], "line": "r", **more}
    assert any(said in text for text in wrong(table)), wrong(table)


def test_everything_that_is_wrong_is_said_at_once() -> None:
    assert len(wrong({"ports": ["lan0", "wan0"], "active": "up", "settle": "soon"})) == 3


# -- latching and keep-alive


def test_a_pulse_has_its_length_and_never_meets_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = LatchingRig(monkeypatch)
    rig.relay.open()
    rig.edges.clear()
    for position in ("inline", "bypass"):
        rig.relay.set(position)
        assert rig.contacts == position
    assert rig.edges == [(20, "set", True), (40, "set", False), (40, "reset", True), (60, "reset", False)]
    assert not rig.both


def test_a_latching_relay_is_sent_to_bypass_by_a_new_keeper_unless_its_contacts_are_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for kind, found in ((LatchingRig, "bypass"), (LatchingReadBackRig, "inline")):
        rig = kind(monkeypatch)
        rig.position = "inline"
        assert rig.relay.open() == found == rig.contacts


def test_keep_alive_toggles_as_described_after_its_start_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = KeepAliveRig(monkeypatch, start="high 30ms, low 20ms", high="100ms", low="50ms")
    box = Box([rig])
    box.run(50)
    began = rig.now_ms
    box.wants = {"alive": "inline"}
    box.run(460)
    edges = [(round(when - began), level) for when, _, level in rig.edges]
    assert edges == [
        (0, True),
        (30, False),
        (50, True),
        (150, False),
        (200, True),
        (300, False),
        (350, True),
        (450, False),
    ]


def test_a_keep_alive_line_that_is_stuck_inline_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = KeepAliveRig(monkeypatch)
    box = Box([rig])
    box.inline()
    rig.faults.stuck = True
    box.until_unusable(2500)
    assert box.state() == ("bypass", "relay_fault", False)


# -- read-back line


class WithReadBack(LevelRig):
    """Its contacts can weld."""

    options = {**LevelRig.options, "read_back": "contacts", "debounce": "5ms"}  # noqa: RUF012
    welded = False

    @property
    def contacts(self) -> str:
        return "inline" if self.welded else super().contacts


def test_contacts_that_do_not_follow_are_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = WithReadBack(monkeypatch)
    box = Box([rig])
    box.inline()
    rig.welded = True
    box.wants = {"coil": "bypass"}
    box.until_unusable(500)
    assert box.state()[1:] == ("relay_fault", False)
    assert any("set to bypass, reads inline" in str(action) for action in box.log)


def test_contacts_that_chatter_are_a_fault_and_those_that_bounce_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = WithReadBack(monkeypatch)
    rig.relay.open()
    clock = iter(range(1000))
    samples: list[bool] = []
    monkeypatch.setattr(read_back, "time", SimpleNamespace(sleep=lambda _: None, monotonic=lambda: next(clock) / 1000))
    rig.inputs = {"contacts": lambda: samples.pop(0)}
    samples[:] = [True, False, True, *[True] * 50]
    assert rig.relay.read() == "inline"
    samples[:] = [True, False] * 50
    with pytest.raises(RelayFaultError, match='read-back line "contacts" chatters: not steady for 5 ms'):
        rig.relay.read()


def test_contacts_get_their_time_to_settle(monkeypatch: pytest.MonkeyPatch) -> None:
    """They move 30 ms after their order; `settle` says 40 ms: no fault, and the position counts from then on."""

    class Late(WithReadBack):
        @property
        def contacts(self) -> str:
            late = self.edges and self.now_ms - self.edges[-1][0] < 30
            return LevelRig.contacts.fget(self) if not late else "bypass"  # type: ignore[attr-defined]

    rig = Late(monkeypatch, settle="40ms")
    box = Box([rig])
    box.run(20)
    box.wants = {"coil": "inline"}
    box.run(20)
    assert (rig.levels["coil"], box.state()[0]) == (True, "bypass")
    box.run(50)
    assert box.state() == ("inline", "healthy", True)


def test_a_line_is_found_by_chip_and_offset(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By the name or the label of the chip; a line that has such a name comes first."""
    (tmp_path / "gpiochip3").touch()
    names = {0: b"", 1: b"a:1", 2: b""}

    def ioctl(_fd: int, request: int, argument: bytes | bytearray) -> bytes:
        if request == line._GET_CHIPINFO:
            return struct.pack("=32s32sI", b"gpiochip3", b"30200000.gpio", len(names))
        (offset,) = struct.unpack_from("=I", argument, 64)
        assert isinstance(argument, bytearray)
        argument[:32] = names[offset].ljust(32, b"\0")
        return b""

    monkeypatch.setattr("fcntl.ioctl", ioctl)
    pattern = str(tmp_path / "gpiochip*")
    assert find_line("30200000.gpio:2", pattern).offset == find_line("gpiochip3:2", pattern).offset == 2
    assert find_line("a:1", pattern).offset == 1
    with pytest.raises(
        HardwareError, match=r'"gpiochip3:3" not found \(gpiochip3 \(30200000.gpio\) has 3 other lines\)'
    ):
        find_line("gpiochip3:3", pattern)


# -- chips, ports and files


def test_an_expander_never_shows_a_wrong_level_on_a_pin_and_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """The level is written before the direction; a keeper that comes later finds the pin driven and moves nothing."""
    rig = ExpanderRig(monkeypatch)
    rig.relay.open()
    assert rig.writes == [(3, 0xFD), (7, 0xFD)]
    rig.relay.set("inline")
    rig.writes.clear()
    assert rig.relay.open() == "inline"
    assert rig.writes == []


def test_an_expander_that_lost_its_settings_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = ExpanderRig(monkeypatch)
    rig.relay.open()
    rig.reset()
    with pytest.raises(RelayFaultError, match="pin 9 is an input again: the expander was reset"):
        rig.relay.read()


def test_a_chip_that_a_kernel_driver_has_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = ExpanderRig(monkeypatch)
    monkeypatch.setattr(i2c, "driver_of", lambda path, address: "pca953x")
    with pytest.raises(UnsupportedRelayError, match='the kernel driver pca953x has the chip at 0x20: use kind "level"'):
        rig.relay.open()


def test_a_controller_is_never_made_to_save(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not its settings for power off and power up either; and the memory behind them takes 10,000 writes only."""
    rig = ControllerRig(monkeypatch)
    box = Box([rig])
    box.inline()
    box.run(3000)
    box.wants = dict.fromkeys(box.names, "bypass")
    box.run(1000)
    assert {command for command, _ in rig.writes} == {0x12, 0x21, 0x22, 0x24, 0x25}
    assert rig.writes.count((0x12, 1)) == rig.writes.count((0x12, 3)) == 1
    with pytest.raises(ValueError, match="0x0b is never written at run time"):
        rig.relay._write(0x0B, 1)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("register", "value", "said"),
    [
        (0x03, 0x0B, "cannot move this pair at run time"),
        (0x06, 0x01, "cannot move this pair at run time"),
        (0x03, 0x07, "has no watchdog: remove `watchdog`"),
    ],
)
def test_a_controller_that_says_it_cannot_is_refused(
    monkeypatch: pytest.MonkeyPatch, register: int, value: int, said: str
) -> None:
    rig = ControllerRig(monkeypatch)
    rig.registers[register] = value
    with pytest.raises(UnsupportedRelayError, match=said):
        rig.relay.open()


def test_two_pairs_of_a_controller_keep_out_of_each_others_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of them leaves; the watchdog goes on for the other."""
    rig = ControllerRig(monkeypatch)
    other = factory.make(spec_of({**rig.table, "ports": ["lan1", "wan1"], "pair": 1}))
    for one in (rig.relay, other):
        one.open()
        one.set("inline")
    other.set("bypass")
    assert (rig.registers[0x12] & 3, rig.registers[0x21] & 3, rig.due is not None) == (1, 2, True)
    rig.relay.set("bypass")
    assert (rig.registers[0x12] & 3, rig.registers[0x21] & 3, rig.due) == (3, 0, None)
    assert bus_of(rig.spec) == bus_of(spec_of({**rig.table, "pair": 1}))


def test_another_chip_at_the_controllers_address_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = ControllerRig(monkeypatch)
    monkeypatch.setattr(rig, "read_word", lambda address, register: 0xFFFF)
    with pytest.raises(RelayBusError, match="answers 0xffff to command 0x03: another chip has its address"):
        rig.relay.open()


def test_a_super_io_register_keeps_its_other_bits_and_is_locked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = SuperIoRig(monkeypatch)
    rig.relay.open()
    rig.relay.set("inline")
    assert (rig.registers[8, 0xF1], rig.unlocking) == (0x14, 0)


@pytest.mark.parametrize(
    ("number", "said"),
    [(errno.ENOENT, "no /dev/port .CONFIG_DEVPORT"), (errno.EPERM, "locked down and refuses I/O ports"),
     (errno.EACCES, "run the keeper as root"), (errno.EIO, "Input/output error")],
)  # fmt: skip
def test_a_kernel_that_refuses_io_ports_is_named(monkeypatch: pytest.MonkeyPatch, number: int, said: str) -> None:
    rig = SuperIoRig(monkeypatch)

    def refused(path: str, flags: int) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(rig, "_open", refused)
    rig.install(monkeypatch)
    with pytest.raises(UnsupportedRelayError, match=said):
        rig.relay.open()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"inline": "0x20"}, "0x20 has bits outside mask 0x10"),
        ({"inline": 0}, "must differ"),
        ({"register": None}, "logical_device: needs register"),
    ],
)
def test_values_that_cannot_be_are_refused(more: dict[str, object], said: str) -> None:
    table = {"ports": ["lan0", "wan0"], "kind": "port", **SuperIoRig.options, **more}
    one = factory.make(spec_of({key: value for key, value in table.items() if value is not None}))
    with pytest.raises(HardwareError, match=said):
        one.open()


def test_an_attribute_is_found_and_its_words_are_the_boards(tmp_path: Path) -> None:
    (tmp_path / "bypass0").mkdir()
    (mode := tmp_path / "bypass0" / "mode").write_text("closed\n")
    words = {"inline": "open", "bypass": "closed"}
    table = {"ports": ["lan0", "wan0"], "kind": "attribute", "path": f"{tmp_path}/*/mode", **words}
    one = factory.make(spec_of(table))
    assert one.open() == "bypass"
    one.set("inline")
    assert (mode.read_text(), one.read()) == ("open\n", "inline")
    with pytest.raises(HardwareError, match="no disconnect"):
        one.set("disconnect")
    mode.write_text("ajar\n")
    with pytest.raises(RelayFaultError, match=r"holds 'ajar': board\.toml has no position for that"):
        one.read()
    (tmp_path / "bypass1").mkdir()
    (tmp_path / "bypass1" / "mode").touch()
    with pytest.raises(UnsupportedRelayError, match="matches 2 files: name one of them"):
        one.open()
    with pytest.raises(HardwareError, match="does not exist: load its driver"):
        factory.make(spec_of({**table, "path": f"{tmp_path}/none"})).open()


def test_a_block_relay_that_cannot_be_asked_is_sent_to_bypass_by_a_new_keeper(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = BlockRig(monkeypatch)
    rig.relay.open()
    rig.relay.set("disconnect")
    assert rig.contacts == rig.relay.read() == rig.relay.open() == "disconnect"
    blind = factory.make(spec_of({key: value for key, value in rig.table.items() if key != "read_command"}))
    assert blind.open() == rig.contacts == "bypass"


# -- adapters


def test_an_adapter_is_found_by_the_beginning_of_its_name(tmp_path: Path) -> None:
    for number, name in ((0, "Synopsys DesignWare"), (3, "SMBus I801 adapter at f040")):
        (tmp_path / f"i2c-{number}").mkdir()
        (tmp_path / f"i2c-{number}" / "name").write_text(name + "\n")
    assert i2c.find_adapter("SMBus I801 adapter", str(tmp_path)) == "/dev/i2c-3"
    assert i2c.find_adapter("/dev/i2c-7") == "/dev/i2c-7"
    with pytest.raises(HardwareError, match=r'"x" not found .*i2c-3 is "SMBus I801 adapter at f040"'):
        i2c.find_adapter("x", str(tmp_path))


def test_the_driver_of_a_chip_is_seen(tmp_path: Path) -> None:
    (tmp_path / "drivers" / "pca953x").mkdir(parents=True)
    (tmp_path / "1-0020").mkdir()
    (tmp_path / "1-0020" / "driver").symlink_to(tmp_path / "drivers" / "pca953x")
    assert i2c.driver_of("/dev/i2c-1", 0x20, str(tmp_path)) == "pca953x"
    assert i2c.driver_of("/dev/i2c-1", 0x21, str(tmp_path)) == ""


def test_an_adapter_that_speaks_smbus_only_is_driven_by_smbus2(monkeypatch: pytest.MonkeyPatch) -> None:
    """periphery refuses it without an errno; where smbus2 is missing the image is named."""

    def refused(path: str) -> None:
        raise OSError(None, f"I2C not supported on device {path}")

    monkeypatch.setattr(i2c, "PeripheryBus", refused)
    calls: list[tuple[object, ...]] = []

    class SMBus:
        def __init__(self, path: str) -> None:
            calls.append(("open", path))

        def read_word_data(self, address: int, register: int) -> int:
            calls.append(("word", address, register))
            return 0x1F83

    monkeypatch.setitem(sys.modules, "smbus2", SimpleNamespace(SMBus=SMBus))
    assert i2c.open_bus("/dev/i2c-0").read_word(0x37, 3) == 0x1F83
    assert calls == [("open", "/dev/i2c-0"), ("word", 0x37, 3)]
    monkeypatch.setitem(sys.modules, "smbus2", None)
    with pytest.raises(UnsupportedRelayError, match="speaks SMBus only, and the image has no python-smbus2"):
        i2c.open_bus("/dev/i2c-0")


def test_the_bytes_on_an_i2c_bus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A register is one write of its number and a read; an SMBus block carries its length."""
    sent: list[list[tuple[bytes, bool]]] = []
    answers = [b"\x83\x1f", b"\x02\x01\x09" + bytes(30)]
    periphery = pytest.importorskip("periphery.i2c")

    class Adapter:
        Message = periphery.I2C.Message

        def __init__(self, path: str) -> None: ...

        def transfer(self, address: int, messages: list[Any]) -> None:
            assert address == 0x37
            sent.append([(bytes(message.data), message.read) for message in messages])
            for message in messages:
                if message.read:
                    message.data = answers.pop(0)

    monkeypatch.setattr(periphery, "I2C", Adapter)
    bus = i2c.open_bus("/dev/i2c-1")
    assert bus.read_word(0x37, 3) == 0x1F83
    assert bus.read_block(0x37, 0x56) == b"\x01\x09"
    bus.write_byte(0x37, 0x12, 2)
    bus.write_block(0x37, 0x55, b"\x01\x02")
    assert sent[0] == [(b"\x03", False), (b"\0\0", True)]
    assert sent[2:] == [[(b"\x12\x02", False)], [(b"\x55\x02\x01\x02", False)]]


def test_the_document_for_integrators_names_every_kind_with_its_keys() -> None:
    """board/README.md, Relay: a key that is not there cannot be found by whoever brings up a board."""
    text = (Path(__file__).parents[3] / "board/README.md").read_text()
    section = text[text.index("\n## Relay\n") : text.index("\n## Kernel\n")]
    rows = {
        line.split("`")[1]: line for line in section.splitlines() if line.startswith("| `") and "| `kind`" not in line
    }
    assert rows.keys() == kinds.KINDS.keys() - {"gpio"}
    assert {name: [key for key in kinds.KINDS[name].keys if f"`{key}`" not in row] for name, row in rows.items()} == {
        name: [] for name in rows
    }
    assert [key for key in COMMON if f"`{key}`" not in section] == []
