# SPDX-License-Identifier: GPL-2.0-only
"""Relay kinds and their lines without hardware: order of moves, registry, refusals. The devices: tests/image."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.errors import HardwareError
from appliance.hardware import relay
from appliance.hardware.relay import RelaySpec, UnsupportedRelayError, spec_of
from appliance.hardware.relay.level import LevelRelay
from appliance.hardware.relay.line import Line, LineSpec, find_line


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
        with pytest.raises(UnsupportedRelayError, match=r'relay lan0-wan0: .*"telepathic" .*knows gpio, level'):
            call()
    one.close()


def test_a_kind_is_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    class Pulse(LevelRelay):
        """A kind of its own."""

    monkeypatch.setitem(relay.KINDS, "pulse", relay.Kind(Pulse, {"line": ()}))
    one = relay.make(spec_of({"line": "p", "kind": "pulse", "settle": "15ms"}))
    assert isinstance(one, Pulse)
    assert one.spec == RelaySpec("p", "pulse", {"line": "p"}, 15)


def test_a_table_without_its_line_says_so_when_it_is_opened() -> None:
    with pytest.raises(HardwareError, match="relay lan0-wan0: 'line' is missing"):
        relay.make(spec_of({"ports": ["lan0", "wan0"]})).open()


@pytest.mark.parametrize(("text", "found"), [("0ms", 0), ("15ms", 15), ("1h", 10_000)])
def test_the_time_to_settle_stays_in_its_range(text: str, found: int) -> None:
    assert spec_of({"line": "r", "settle": text}).settle_ms == found
