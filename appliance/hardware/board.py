# SPDX-License-Identifier: GPL-2.0-only
"""The board as board.toml describes it: ports, relays, watchdog, LEDs, crash log. Pure data, read once at start.

The keeper reads the few keys it needs on its own (keeper/board.py), because it must import little; this is the complete
schema, and unknown keys are errors.
"""

from __future__ import annotations

import datetime
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from appliance.errors import HardwareError
from appliance.hardware.relay.kinds import DEFAULT_KIND
from appliance.hardware.relay.table import name_of, settle_ms, wrong
from appliance.units import Duration


class _Table(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    pass


PortName = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_-]{0,14}$")]


class Port(_Table, frozen=True):
    """A network port, found by exactly one of PCI path or MAC."""

    name: PortName
    pci: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$")] = ""
    mac: Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{2}:){5}[0-9a-f]{2}$")] = ""
    role: Literal["data", "management"] = "data"


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
    def disconnect(self) -> bool:
        """Whether the board can separate both ports."""
        return bool(self.options.get("disconnect") not in (None, ""))


class Watchdog(_Table, frozen=True):
    """The hardware watchdog, found by its kernel driver or identity ("" = the first one)."""

    driver: str = ""


class Led(_Table, frozen=True):
    """An LED on a GPIO line; the one named "status" is on while every relay is inline."""

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


def _sort_relay_keys(data: dict[str, Any]) -> None:
    """Move the keys specific to a kind of relay into `options`. ValueError: all that is wrong with these keys."""
    said = []
    tables = data.get("relay")
    for number, table in enumerate(tables if isinstance(tables, list) else (), 1):
        if not isinstance(table, dict):
            continue
        said += [f"relay {number}: {what}" for what in wrong(table)]
        table["options"] = {key: table.pop(key) for key in list(table) if key not in Relay.__struct_fields__}
    if said:
        raise ValueError("; ".join(said))


def parse(text: str, source: str = "board.toml") -> Board:
    """Parse board.toml; HardwareError gives file, position and problem."""
    try:
        data = tomllib.loads(text)
        _sort_relay_keys(data)
        board = msgspec.convert(data, Board, dec_hook=_decode)
    except (ValueError, msgspec.ValidationError) as error:
        raise HardwareError(f"{source}: {error}") from error
    names = [port.name for port in board.port]
    for port in board.port:
        if bool(port.pci) == bool(port.mac):
            raise HardwareError(f"{source}: port {port.name}: set exactly one of pci and mac")
        if names.count(port.name) > 1:
            raise HardwareError(f"{source}: port {port.name}: the name is used twice")
    for relay in board.relay:
        missing = [name for name in relay.ports if name not in names]
        if missing:
            raise HardwareError(f"{source}: relay {relay.line}: no port {missing[0]}")
        if relay.ports[0] == relay.ports[1]:
            raise HardwareError(f"{source}: relay {relay.line}: needs two different ports")
    for kind, used in (("relay", [relay.line for relay in board.relay]), ("led", [led.line for led in board.led])):
        for line in used:
            if used.count(line) > 1:
                raise HardwareError(f"{source}: {kind}: line {line} is used twice")
    return board


def load(path: Path) -> Board:
    """Read board.toml; HardwareError with one clear line."""
    try:
        return parse(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise HardwareError(f"{path}: {error.strerror}: the image must contain its board.toml") from error
    except UnicodeDecodeError as error:
        raise HardwareError(f"{path}: is not UTF-8 text") from error
