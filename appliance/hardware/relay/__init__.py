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
from appliance.hardware.relay.keys import Key, Keys, complaints, milliseconds
from appliance.ranges import (
    RELAY_DEBOUNCE_MS,
    RELAY_PULSE_MS,
    RELAY_SETTLE_MS,
    RELAY_START_MS,
    RELAY_TIMEOUT_MS,
    RELAY_TOGGLE_MS,
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

    `released`: what it does when its owner dies and its lines or bus are released: reverts (to bypass, at once),
    times-out (to bypass, after `keep_alive_timeout`), keeps, or by-board (as `on_release` says). `bus`: the keys whose
    values name the bus; relays on one bus are driven one after the other. `disconnect`: whether it can separate both
    ports, for these options.
    """

    make: Callable[[RelaySpec], Relay]
    keys: Keys
    released: str = "by-board"
    bus: tuple[str, ...] = ()
    disconnect: Callable[[Mapping[str, object]], bool] = lambda options: bool(options.get("disconnect"))
    contacts_decide: bool = False  # only a read-back line knows the position when the relay is opened


def _latching(spec: RelaySpec) -> Relay:
    from appliance.hardware.relay.latching import LatchingRelay

    return LatchingRelay(spec)


def _keep_alive(spec: RelaySpec) -> Relay:
    from appliance.hardware.relay.keep_alive import KeepAliveRelay

    return KeepAliveRelay(spec)


def _level(spec: RelaySpec) -> Relay:
    from appliance.hardware.relay.level import LevelRelay

    return LevelRelay(spec)


_ACTIVE = Key("the level that drives the coil", words=("high", "low"))
_ON_RELEASE = Key("what a line does when its owner ends", words=("reverts", "keeps", "unknown"))
_TIMEOUT = Key("the relay goes to bypass this long after the last sign of life", "time", range=RELAY_TIMEOUT_MS)
_LEVEL = Kind(
    _level,
    {
        "line": Key("the GPIO line of the coil", "line", required=True),
        "disconnect": Key("the GPIO line of a second relay that separates both ports", "line"),
        "active": _ACTIVE,
        "on_release": _ON_RELEASE,
    },
)

KINDS: dict[str, Kind] = {
    "level": _LEVEL,  # the coil is energized while a GPIO line has its active level
    "gpio": _LEVEL,  # the former name of "level"
    "latching": Kind(  # a pulse on one of two lines moves it, and nothing holds it
        _latching,
        {
            "set_line": Key("the GPIO line whose pulse moves the relay to inline", "line", required=True),
            "reset_line": Key("the GPIO line whose pulse moves the relay to bypass", "line", required=True),
            "pulse": Key("how long a pulse lasts", "time", range=RELAY_PULSE_MS, required=True),
            "active": _ACTIVE,
        },
        released="keeps",
        contacts_decide=True,
    ),
    "keep-alive": Kind(  # inline while a GPIO line toggles
        _keep_alive,
        {
            "line": Key("the GPIO line that is toggled", "line", required=True),
            "high": Key("how long its active level lasts", "time", range=RELAY_TOGGLE_MS),
            "low": Key("how long its other level lasts", "time", range=RELAY_TOGGLE_MS),
            "start": Key("levels before the first one, to start the controller", "levels", range=RELAY_START_MS),
            "keep_alive_timeout": _TIMEOUT,
            "active": _ACTIVE,
        },
        released="times-out",
        contacts_decide=True,
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


def spec_of(table: Mapping[str, object]) -> RelaySpec:
    """Parse a `[[relay]]` table. ValueError, KeyError: it is not usable at all. Bad values are `make`'s to refuse."""
    settle = RELAY_SETTLE_MS.clamp(milliseconds(table["settle"])) if "settle" in table else 0
    kind = str(table.get("kind", DEFAULT_KIND))
    outside = {*STRUCTURE, "settle", "power_up", "unpowered", "unpowered_proven", "on_watchdog"}
    options = {key: value for key, value in table.items() if key not in outside}
    known = KINDS.get(kind)
    if known is None or wrong(table):
        return RelaySpec(name_of(table), kind, options, settle, True)
    keep_alive = None
    if "high" in known.keys:
        high, low = (milliseconds(table.get(key, "200ms")) for key in ("high", "low"))
        keep_alive = int(high * 1e6), int(low * 1e6)
        # the contacts of a relay that is no longer toggled move only when its controller has waited
        settle = RELAY_SETTLE_MS.clamp(settle + milliseconds(table.get("keep_alive_timeout", "0ms")))
    return RelaySpec(name_of(table), kind, options, settle, keeps(known, options), keep_alive)


def keeps(kind: Kind, options: Mapping[str, object]) -> bool:
    """Whether a relay is not known to go to bypass when its owner dies."""
    released = options.get("on_release", "unknown") if kind.released == "by-board" else kind.released
    return released not in ("reverts", "times-out")


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
