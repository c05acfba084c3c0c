# SPDX-License-Identifier: GPL-2.0-only
"""How the simulated relay is driven: the electronics between the machine's lines and the contacts. Pure.

The `[[relay]]` table that the appliance finds in board.toml says how the board is built, so the electronics follow from
the same table: `drive_of`. A drive gets the edges of its lines and says in which position the contacts should be, and
when that changes by itself. Times are seconds of the caller's clock.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, Protocol

from boardspec import SpecError

from simulator.i2c import Controller, Expander

Position = Literal["bypass", "inline", "disconnect"]
LONGER = 0.75  # a latching relay's coil needs at least this share of the pulse that board.toml gives


class Drive(Protocol):
    """One way of driving the relay."""

    kind: str
    lines: tuple[str, ...]

    def edge(self, name: str, driven: bool, now: float) -> None:
        """One of its lines was driven or released."""

    def position(self, now: float, power: bool) -> Position:
        """Where the contacts should be; `power`: whether the relay has its supply."""

    def due(self, now: float) -> float | None:
        """When the position changes by itself."""

    @property
    def why(self) -> str:
        """Why it changed by itself."""


class LevelDrive:
    """A coil that a line holds, and optionally a second one that separates both ports."""

    kind = "level"
    why = ""

    def __init__(self, line: str, disconnect: str = "") -> None:
        self.lines = tuple(filter(None, (line, disconnect)))
        self._coil, self._second = line, disconnect
        self._levels = dict.fromkeys(self.lines, False)

    def edge(self, name: str, driven: bool, now: float) -> None:
        self._levels[name] = driven

    def position(self, now: float, power: bool) -> Position:
        if not power:
            return "bypass"
        if self._second and self._levels[self._second]:
            return "disconnect"
        return "inline" if self._levels[self._coil] else "bypass"

    def due(self, now: float) -> float | None:
        return None


class LatchingDrive:
    """Two coils. A pulse that lasts long enough moves the contacts, and nothing else does, not even the power."""

    kind = "latching"
    why = ""

    def __init__(self, set_line: str, reset_line: str, needs_s: float) -> None:
        self.lines: tuple[str, ...] = (set_line, reset_line)
        self._needs_s = needs_s
        self._since: dict[str, float] = {}
        self._position: Position = "bypass"

    def edge(self, name: str, driven: bool, now: float) -> None:
        if driven:
            self._since[name] = now
        elif now - self._since.pop(name, now) >= self._needs_s:
            self._position = "inline" if name == self.lines[0] else "bypass"

    def position(self, now: float, power: bool) -> Position:
        return self._position

    def due(self, now: float) -> float | None:
        return None


class KeepAliveDrive:
    """A monostable: inline until `holds_s` after the last edge of its line."""

    kind = "keep-alive"
    why = "no edge any more"

    def __init__(self, line: str, holds_s: float) -> None:
        self.lines: tuple[str, ...] = (line,)
        self._holds_s = holds_s
        self._last: float | None = None

    def edge(self, name: str, driven: bool, now: float) -> None:
        self._last = now

    def position(self, now: float, power: bool) -> Position:
        if not power:
            self._last = None
        due = self.due(now)
        return "inline" if due is not None and now < due else "bypass"

    def due(self, now: float) -> float | None:
        return None if self._last is None else self._last + self._holds_s


class ControllerDrive:
    """One pair of a bypass controller behind I2C."""

    kind = "bypass-controller"
    why = "controller's watchdog"
    lines: tuple[str, ...] = ()

    def __init__(self, controller: Controller, pair: int) -> None:
        self._controller, self._pair = controller, pair

    def edge(self, name: str, driven: bool, now: float) -> None:
        pass

    def position(self, now: float, power: bool) -> Position:
        if not power:
            self._controller.power_up()
        return "bypass" if self._controller.bypassed(self._pair) else "inline"

    def due(self, now: float) -> float | None:
        return self._controller.due


class ExpanderDrive:
    """A coil on a pin of an expander, and optionally a second one that separates both ports."""

    kind = "expander"
    why = ""
    lines: tuple[str, ...] = ()

    def __init__(self, expander: Expander, pin: int, disconnect: int | None) -> None:
        self._expander, self._pin, self._second = expander, pin, disconnect

    def edge(self, name: str, driven: bool, now: float) -> None:
        pass

    def position(self, now: float, power: bool) -> Position:
        if not power:
            self._expander.power_up()
        if self._second is not None and self._expander.high(self._second):
            return "disconnect"
        return "inline" if self._expander.high(self._pin) else "bypass"

    def due(self, now: float) -> float | None:
        return None


def seconds(value: object, default: str = "0ms") -> float:
    """A time of board.toml in seconds. SpecError: it is none."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s)", str(value or default))
    if not found:
        raise SpecError(f"board.toml: {value!r} is no time like 20ms or 2s")
    return float(found[1]) / (1000 if found[2] == "ms" else 1)


def drive_of(table: Mapping[str, Any], controller: Controller, expander: Expander) -> Drive:
    """The electronics of a `[[relay]]` table. SpecError: the simulator has none for its kind."""
    kind = str(table.get("kind", "level"))
    if table.get("active", "high") != "high":
        raise SpecError("board.toml: the simulator's lines drive a coil while they are high")
    try:
        if kind in ("level", "gpio"):
            return LevelDrive(str(table["line"]), str(table.get("disconnect", "")))
        if kind == "latching":
            return LatchingDrive(str(table["set_line"]), str(table["reset_line"]), LONGER * seconds(table["pulse"]))
        if kind == "keep-alive":
            return KeepAliveDrive(str(table["line"]), seconds(table["keep_alive_timeout"]))
        if kind == "bypass-controller":
            return ControllerDrive(controller, int(table["pair"]))
        if kind == "expander":
            return ExpanderDrive(expander, int(table["pin"]), table.get("disconnect"))
    except KeyError as error:
        raise SpecError(f"board.toml: a relay of kind {kind} needs the key {error}") from error
    raise SpecError(f'board.toml: the simulator has no relay of kind "{kind}": level, latching, keep-alive and '
                    "bypass-controller")  # fmt: skip


def inputs_of(table: Mapping[str, Any]) -> tuple[str, bool]:
    """The name of the relay's read-back line ("" = none), and its level while inline."""
    return str(table.get("read_back", "")), table.get("read_back_active", "high") == "high"


def lines_of(table: Mapping[str, Any]) -> list[str]:
    """All lines of a relay."""
    names = [table.get(key, "") for key in ("line", "disconnect", "set_line", "reset_line", "read_back")]
    return [str(name) for name in names if name]
