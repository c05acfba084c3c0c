# SPDX-License-Identifier: GPL-2.0-only
"""Relays: the protocol that every kind of drive implements, and the registry of kinds.

`kind` in a `[[relay]]` table of board.toml says how the board's relay is driven. A new kind is one module beside this
one and one row of `KINDS`. A kind that this firmware does not know is never driven as another one: its relay is
unusable, with its own cause, and stays in bypass.

Only the keeper creates these objects. Imports are light: the module of a kind is loaded only if a board uses it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from appliance.errors import HardwareError
from appliance.hardware.relay import makers
from appliance.hardware.relay.keys import Key, Keys, complaints, milliseconds, number
from appliance.ranges import (
    RELAY_DEBOUNCE_MS,
    RELAY_PULSE_MS,
    RELAY_SETTLE_MS,
    RELAY_START_MS,
    RELAY_TIMEOUT_MS,
    RELAY_TOGGLE_MS,
    Range,
)

BYPASS, INLINE, DISCONNECT = "bypass", "inline", "disconnect"
DEFAULT_KIND = "level"

_POSITIONS = ("bypass", "inline", "disconnect", "keeps")
COMMON: Keys = {
    "settle": Key("from an order until the contacts have moved", "time", range=RELAY_SETTLE_MS),
    "power_up": Key("the position from power on until the supervisor drives the relay", words=_POSITIONS),
    "unpowered": Key("whether both ports are joined without power", words=("proven", "claimed", "no")),
    "unpowered_proven": Key("the date of the power-off drill that proved it", "date"),
    "on_watchdog": Key("what the relay does when the hardware watchdog expires", words=_POSITIONS),
    "read_back": Key("an input line that shows where the contacts are", "line"),
    "read_back_active": Key("its level while inline", words=("high", "low")),
    "debounce": Key("the read-back line must be steady for this long", "time", range=RELAY_DEBOUNCE_MS),
}
"""Keys of every kind of relay."""
STRUCTURE = ("ports", "kind")


class RelaySpec(NamedTuple):
    """One `[[relay]]` table of board.toml. `options` has the keys of its kind, and those about its read-back line."""

    name: str
    kind: str
    options: Mapping[str, object]
    settle_ms: int = 0  # from an order until the contacts have moved: the position is read back, and counts, only then
    keeps: bool = False  # it is not known to fall back to bypass when it is released
    keep_alive: tuple[int, int] | None = None  # inline only while its line is toggled: ns high, ns low


class Relay(Protocol):
    """The keeper's interface to a relay. Every method raises HardwareError with one clear line, and may take long."""

    def open(self) -> str:
        """Open the relay's lines or bus and return its present position, without moving it if possible."""

    def set(self, position: str) -> None:
        """Order `inline`, `bypass` or `disconnect`; does not wait for the contacts."""

    def read(self) -> str:
        """The position, read back from the hardware."""

    def kick(self, level: bool) -> None:
        """Prove that the keeper is alive: the next level of a keep-alive line, or a sign to a controller."""

    def close(self) -> None:
        """Release the relay. Never fails: the hardware may be gone."""


class UnsupportedRelayError(HardwareError):
    """board.toml names a kind of relay that this firmware, or this machine, cannot drive."""


class RelayBusError(HardwareError):
    """The relay's bus or controller refuses a transfer."""


class RelayFaultError(HardwareError):
    """The relay does not do what it was told, or contradicts itself."""


class Kind(NamedTuple):
    """One row of the registry: how to make a relay of this kind, and the keys that it adds to `[[relay]]`.

    `released` says, for these options, what it does when its owner dies and its lines or bus are released: reverts (to
    bypass, at once), times-out (to bypass, after the time in the key `timeout`), keeps, or unknown. `kick`: how often
    it needs a sign of life while inline (ns high, ns low), if it does. `bus`: the keys whose values name the bus;
    relays on one bus are driven one after the other. `contacts_decide`: only a read-back line knows the position at the
    start. `check`: what is wrong with keys that are right one by one.
    """

    make: Callable[[RelaySpec], Relay]
    keys: Keys
    released: Callable[[Mapping[str, object]], str] = lambda options: "keeps"
    kick: Callable[[Mapping[str, object]], tuple[int, int] | None] = lambda options: None
    timeout: str = ""
    bus: tuple[str, ...] = ()
    contacts_decide: bool = False
    check: Callable[[Mapping[str, object]], list[str]] = lambda options: []


def _port_values(options: Mapping[str, object]) -> list[str]:
    mask = number(options["mask"])
    values = {key: number(options[key]) for key in _WORDS if key in options}
    found = [
        f"{key}: 0x{value:02x} has bits outside mask 0x{mask:02x}" for key, value in values.items() if value & ~mask
    ]
    if ("logical_device" in options) != ("register" in options):
        found.append("logical_device: needs register, and register needs it")
    return found + _distinct(values)


def _distinct(options: Mapping[str, object]) -> list[str]:
    values = [options[key] for key in _WORDS if key in options]
    return ["inline, bypass and disconnect must differ"] if len(set(values)) < len(values) else []


def _toggled(options: Mapping[str, object]) -> tuple[int, int]:
    high, low = (milliseconds(options.get(key, "200ms")) for key in ("high", "low"))
    return int(high * 1e6), int(low * 1e6)


def _fed(options: Mapping[str, object]) -> tuple[int, int] | None:
    """A controller's watchdog, four times in its time."""
    if "watchdog" not in options:
        return None
    quarter = int(milliseconds(options["watchdog"]) * 1e6 / 4)
    return quarter, quarter


_ACTIVE = Key("the level that drives the coil", words=("high", "low"))
_ON_RELEASE = Key("what a line does when its owner ends", words=("reverts", "keeps", "unknown"))
_TIMEOUT = Key("the relay goes to bypass this long after the last sign of life", "time", range=RELAY_TIMEOUT_MS)
_ADAPTER = Key("the I2C adapter: its path, or the beginning of its name in /sys/class/i2c-dev", required=True)
_ADDRESS = Key("the chip's address on the bus", "number", range=Range(0x03, 0x77))
_WORDS: Keys = {
    "inline": Key("what to write for inline", required=True),
    "bypass": Key("what to write for bypass", required=True),
    "disconnect": Key("what to write to separate both ports"),
}
_BYTE = Range(0, 0xFF)
_LEVEL = Kind(
    makers.level,
    {
        "line": Key("the GPIO line of the coil", "line", required=True),
        "disconnect": Key("the GPIO line of a second relay that separates both ports", "line"),
        "active": _ACTIVE,
        "on_release": _ON_RELEASE,
    },
    released=lambda options: str(options.get("on_release", "unknown")),
)

KINDS: dict[str, Kind] = {
    "level": _LEVEL,  # the coil is energized while a GPIO line has its active level
    "gpio": _LEVEL,  # the former name of "level"
    "latching": Kind(  # a pulse on one of two lines moves it, and nothing holds it
        makers.latching,
        {
            "set_line": Key("the GPIO line whose pulse moves the relay to inline", "line", required=True),
            "reset_line": Key("the GPIO line whose pulse moves the relay to bypass", "line", required=True),
            "pulse": Key("how long a pulse lasts", "time", range=RELAY_PULSE_MS, required=True),
            "active": _ACTIVE,
        },
        contacts_decide=True,
    ),
    "keep-alive": Kind(  # inline while a GPIO line toggles
        makers.keep_alive,
        {
            "line": Key("the GPIO line that is toggled", "line", required=True),
            "high": Key("how long its active level lasts", "time", range=RELAY_TOGGLE_MS),
            "low": Key("how long its other level lasts", "time", range=RELAY_TOGGLE_MS),
            "start": Key("levels before the first one, to start the controller", "levels", range=RELAY_START_MS),
            "keep_alive_timeout": _TIMEOUT,
            "active": _ACTIVE,
        },
        released=lambda options: "times-out",
        kick=_toggled,
        timeout="keep_alive_timeout",
        contacts_decide=True,
    ),
    "expander": Kind(  # a pin of an I2C expander that no kernel driver has
        makers.expander,
        {
            "adapter": _ADAPTER,
            "address": _ADDRESS._replace(required=True),
            "pin": Key("the pin of the coil", "number", range=Range(0, 15), required=True),
            "disconnect": Key("the pin of a second relay that separates both ports", "number", range=Range(0, 15)),
            "active": _ACTIVE,
        },
        bus=("adapter",),
    ),
    "bypass-controller": Kind(  # a controller with a watchdog of its own behind registers
        makers.controller,
        {
            "adapter": _ADAPTER,
            "address": _ADDRESS,
            "pair": Key("the pair of ports, counted from 1", "number", range=Range(1, 8), required=True),
            "watchdog": Key("the time of the controller's own watchdog", "time", range=Range(1000, 255_000)),
        },
        released=lambda options: "times-out" if "watchdog" in options else "keeps",
        kick=_fed,
        timeout="watchdog",
        bus=("adapter",),
    ),
    "block": Kind(  # a controller that takes the position as a block of bytes
        makers.block,
        {
            "adapter": _ADAPTER,
            "address": _ADDRESS._replace(required=True),
            "command": Key("the SMBus command that takes the position", "number", range=_BYTE, required=True),
            "read_command": Key("the SMBus command that shows it", "number", range=_BYTE),
            **{key: row._replace(kind="bytes") for key, row in _WORDS.items()},
        },
        bus=("adapter",),
        check=_distinct,
    ),
    "attribute": Kind(  # a file of a kernel driver
        makers.attribute,
        {
            "path": Key("the file that takes the position", "path", required=True),
            "read_path": Key("the file that shows it, if it is another one", "path"),
            **_WORDS,
        },
        check=_distinct,
    ),
    "port": Kind(  # bits of an I/O port or of a Super-I/O register
        makers.port,
        {
            "port": Key("the I/O port, or that of the Super-I/O chip", "number", range=Range(0, 0xFFFE), required=True),
            "logical_device": Key("the Super-I/O chip's logical device", "number", range=_BYTE),
            "register": Key("the register of that device", "number", range=_BYTE),
            "mask": Key("the bits that belong to the relay", "number", range=Range(1, 0xFF), required=True),
            **{key: row._replace(kind="number", range=_BYTE) for key, row in _WORDS.items()},
        },
        bus=("port",),
        check=_port_values,
    ),
}


def name_of(table: Mapping[str, object]) -> str:
    """The name of the relay of a `[[relay]]` table, in keeper and bypassd. KeyError: it has neither line nor ports."""
    ports = table.get("ports")
    if "line" not in table and isinstance(ports, list | tuple) and ports:
        return "-".join(map(str, ports))
    return str(table["line"])


def wrong(table: Mapping[str, object]) -> list[str]:
    """Everything that is wrong with the keys of a `[[relay]]` table, except `ports`; none for an unknown kind."""
    kind = KINDS.get(str(table.get("kind", DEFAULT_KIND)))
    if kind is None:
        return []  # the keeper reports it, and the relay stays in bypass
    found = complaints({**kind.keys, **COMMON}, table, STRUCTURE)
    if not found:
        found += kind.check(table)
        if (table.get("unpowered") == "proven") != ("unpowered_proven" in table):
            found.append(
                'unpowered: "proven" and unpowered_proven need each other: run a power-off drill, or claim less'
            )
        found += [
            f"{key}: needs read_back"
            for key in ("read_back_active", "debounce")
            if key in table and "read_back" not in table
        ]
    return found


def settle_ms(options: Mapping[str, object], settle: float) -> int:
    """How long after an order the contacts have moved at the latest, with `settle` of board.toml (ms).

    Those of a relay that is no longer toggled move only when its controller has waited.
    """
    waits = milliseconds(options["keep_alive_timeout"]) if "keep_alive_timeout" in options else 0
    return RELAY_SETTLE_MS.clamp(settle + waits)


def spec_of(table: Mapping[str, object]) -> RelaySpec:
    """Parse a `[[relay]]` table. ValueError, KeyError: it is not usable at all. Bad values are `make`'s to refuse."""
    settle = RELAY_SETTLE_MS.clamp(milliseconds(table["settle"])) if "settle" in table else 0
    kind = str(table.get("kind", DEFAULT_KIND))
    outside = {*STRUCTURE, "settle", "power_up", "unpowered", "unpowered_proven", "on_watchdog"}
    options = {key: value for key, value in table.items() if key not in outside}
    known = KINDS.get(kind)
    if known is None or wrong(table):
        return RelaySpec(name_of(table), kind, options, settle, True)
    settle = settle_ms(options, settle)
    return RelaySpec(name_of(table), kind, options, settle, keeps(known, options), known.kick(options))


def keeps(kind: Kind, options: Mapping[str, object]) -> bool:
    """Whether a relay is not known to go to bypass when its owner dies."""
    return kind.released(options) not in ("reverts", "times-out")


def bus_of(spec: RelaySpec) -> str:
    """The bus of a relay; its own name if it shares none."""
    kind = KINDS.get(spec.kind)
    names = [str(spec.options.get(key, "")) for key in kind.bus] if kind else []
    return f"{spec.kind} {' '.join(names)}" if names else f"relay {spec.name}"


def make(spec: RelaySpec) -> Relay:
    """The relay of a board; if it cannot be made, a relay whose `open` raises the reason."""
    kind = KINDS.get(spec.kind)
    if kind is None:
        known = ", ".join(sorted(KINDS))
        what = f'relay {spec.name}: this firmware cannot drive kind "{spec.kind}" (it knows {known})'
        return _Unusable(UnsupportedRelayError(f"{what}: correct board.toml or update the firmware"))
    if said := wrong({"kind": spec.kind, **spec.options}):
        return _Unusable(HardwareError(f"relay {spec.name}: {'; '.join(said)}: correct board.toml"))
    relay = kind.make(spec)
    if "read_back" not in spec.options:
        return relay
    from appliance.hardware.relay.read_back import ReadBack

    return ReadBack(relay, spec, kind.contacts_decide)


class _Unusable:
    """Stands for a relay that cannot be driven."""

    def __init__(self, error: HardwareError) -> None:
        self._error = error

    def open(self) -> str:
        raise self._error

    def set(self, position: str) -> None:
        raise self._error

    def read(self) -> str:
        raise self._error

    def kick(self, level: bool) -> None:
        raise self._error

    def close(self) -> None:
        pass
