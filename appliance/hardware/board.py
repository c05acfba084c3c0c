# SPDX-License-Identifier: GPL-2.0-only
"""The board as board.toml describes it: ports, relays, watchdog, LEDs, crash log. Pure data, read once at start.

The keeper reads the few keys it needs on its own (keeper/board.py), because it must import little; this is the complete
schema, and unknown keys are errors.
"""

from __future__ import annotations

import datetime
import tomllib
from pathlib import Path
from typing import Any, Literal

import msgspec

from appliance.errors import HardwareError
from appliance.hardware import board_check
from appliance.hardware.relay.keys import milliseconds
from appliance.hardware.relay.kinds import DEFAULT_KIND, KINDS
from appliance.hardware.relay.table import name_of, settle_ms
from appliance.system.toml_lines import Lines
from appliance.units import Duration

UNKNOWN = "unknown"
"""A port's place that nobody has found out yet."""


class _Table(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    pass


class Port(_Table, frozen=True):
    """A network port, found by exactly one of PCI path, MAC or platform device.

    `driver` and `on_attach` are facts about the board: with "closes", an XDP program that comes or goes interrupts the
    link ("" = not known).
    """

    name: str
    pci: str = ""
    mac: str = ""
    device: str = ""
    role: Literal["data", "management"] = "data"
    driver: str = ""
    on_attach: Literal["", "keeps", "closes"] = ""


class Relay(_Table, frozen=True):
    """The relay of one LAN/WAN pair. `kind` says how it is driven, `options` has the keys of its kind (relay/).

    `power_up`, `unpowered` and `on_watchdog` are facts about the board; empty: not known.
    """

    ports: tuple[str, str]
    kind: str = DEFAULT_KIND
    settle: Duration = Duration(0)  # from an order until the contacts have moved
    power_up: str = ""
    unpowered: str = ""
    unpowered_proven: datetime.date | None = None
    on_watchdog: str = ""
    options: dict[str, Any] = {}

    @property
    def line(self) -> str:
        """The relay's name: that of its GPIO line if it has one."""
        return name_of({"ports": self.ports, **self.options})

    @property
    def moves_ns(self) -> int:
        """How long after an order the keeper knows at the latest that the contacts have moved."""
        return round(settle_ms(self.options, int(self.settle) / 1e6) * 1e6)

    @property
    def released(self) -> str:
        """What it does when its owner ends: reverts, times-out, keeps or unknown."""
        kind = KINDS.get(self.kind)
        return kind.released(self.options) if kind else "unknown"

    @property
    def times_out_ms(self) -> float | None:
        """It goes to bypass this long after the last sign of life, by itself; None: it does not, or not known when."""
        kind = KINDS.get(self.kind)
        known = kind is not None and kind.timeout and kind.timeout in self.options and self.released == "times-out"
        return milliseconds(self.options[kind.timeout]) if kind is not None and known else None

    @property
    def disconnect(self) -> bool:
        """Whether the board can separate both ports."""
        return bool(self.options.get("disconnect") not in (None, ""))


class Watchdog(_Table, frozen=True):
    """The hardware watchdog, found by its kernel driver or identity ("" = the first one), and others beside it."""

    driver: str = ""
    also: tuple[str, ...] = ()
    pretimeout: Duration = Duration(0)  # before the reset; 0 = none


class Led(_Table, frozen=True):
    """An LED on a GPIO line; keeper/lamp.py says what "status" and "locate" show."""

    name: str
    line: str
    active: Literal["high", "low"] = "high"


class Button(_Table, frozen=True):
    """A push button on a GPIO line: held for 5 s, it bypasses every segment, or ends that."""

    name: str
    line: str
    active: Literal["high", "low"] = "high"


class CrashLog(_Table, frozen=True):
    """Where the kernel keeps its crash records."""

    pstore: str = "/sys/fs/pstore"


class Board(_Table, frozen=True):
    """The content of board.toml."""

    name: str
    port: tuple[Port, ...] = ()
    relay: tuple[Relay, ...] = ()
    watchdog: Watchdog | None = None
    led: tuple[Led, ...] = ()
    button: tuple[Button, ...] = ()
    crash_log: CrashLog | None = None

    def find_port(self, name: str) -> Port | None:
        """The port of that name."""
        return next((port for port in self.port if port.name == name), None)

    def find_relay(self, lan: str, wan: str) -> Relay | None:
        """The relay that joins these two ports."""
        return next((relay for relay in self.relay if set(relay.ports) == {lan, wan}), None)


def _decode(kind: type, value: Any) -> Any:
    if kind is Duration and isinstance(value, str):
        return Duration.parse(value)
    raise ValueError(f"{value!r} is not allowed here")


def _sort_relay_keys(data: dict[str, Any]) -> dict[str, Any]:
    """Move the keys specific to a kind of relay into `options`."""
    own = set(Relay.__struct_fields__) - {"options"}
    rows = [
        {
            **{key: value for key, value in row.items() if key in own},
            "options": {key: value for key, value in row.items() if key not in own},
        }
        for row in data.get("relay", ())
    ]
    return {**data, "relay": rows}


def parse(text: str, source: str = "board.toml") -> Board:
    """Parse board.toml; HardwareError names everything that is wrong with it, on one line."""
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise HardwareError(f"{source}: {error}") from error
    if found := board_check.findings(data):
        lines = Lines(text)
        raise HardwareError(f"{source}: {'; '.join(each.text(lines) for each in found)}")
    try:
        return msgspec.convert(_sort_relay_keys(data), Board, dec_hook=_decode)
    except (ValueError, msgspec.ValidationError) as error:
        raise HardwareError(f"{source}: {error}") from error


def load(path: Path) -> Board:
    """Read board.toml; HardwareError with one clear line."""
    try:
        return parse(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise HardwareError(f"{path}: {error.strerror}: the image must contain its board.toml") from error
    except UnicodeDecodeError as error:
        raise HardwareError(f"{path}: is not UTF-8 text") from error
