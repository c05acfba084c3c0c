# SPDX-License-Identifier: GPL-2.0-only
"""Relay kinds and their lines without hardware: order of moves, registry, refusals. The devices: tests/image."""

from __future__ import annotations

import struct
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import pytest

from appliance.errors import HardwareError
from appliance.hardware import relay
from appliance.hardware.relay import RelayFaultError, RelaySpec, UnsupportedRelayError, line, read_back, spec_of
from appliance.hardware.relay.keys import Key
from appliance.hardware.relay.level import LevelRelay
from appliance.hardware.relay.line import Line, LineSpec, find_line
from tests.support.relay_box import Box
from tests.support.relay_models import KeepAliveRig, LatchingReadBackRig, LatchingRig, LevelRig


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
        assert isinstance(relay.make(spec_of(table)), LevelRelay)


def test_a_kind_that_is_not_known_is_refused_and_not_driven() -> None:
    one = relay.make(spec_of({"ports": ["lan0", "wan0"], "kind": "telepathic", "bus": 7}))
    for call in (one.open, one.read, lambda: one.set("inline")):
        with pytest.raises(UnsupportedRelayError, match=r'relay lan0-wan0: .*"telepathic" .*knows gpio, .*level'):
            call()
    one.close()


def test_a_kind_is_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    class Pulse(LevelRelay):
        """A kind of its own."""

    monkeypatch.setitem(relay.KINDS, "pulse", relay.Kind(Pulse, {"line": Key("a line", "line")}, released="reverts"))
    one = relay.make(spec_of({"line": "p", "kind": "pulse", "settle": "15ms"}))
    assert isinstance(one, Pulse)
    assert one.spec == RelaySpec("p", "pulse", {"line": "p"}, 15)


def test_a_table_without_its_line_says_so_when_it_is_opened() -> None:
    with pytest.raises(HardwareError, match="relay lan0-wan0: line is missing: the GPIO line of the coil"):
        relay.make(spec_of({"ports": ["lan0", "wan0"]})).open()


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
    assert any(said in text for text in relay.wrong(table)), relay.wrong(table)


def test_everything_that_is_wrong_is_said_at_once() -> None:
    assert len(relay.wrong({"ports": ["lan0", "wan0"], "active": "up", "settle": "soon"})) == 3


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
