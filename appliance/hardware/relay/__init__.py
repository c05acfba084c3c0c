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
from appliance.ranges import RELAY_SETTLE_MS

BYPASS, INLINE, DISCONNECT = "bypass", "inline", "disconnect"
COMMON_KEYS = ("ports", "kind", "settle")
DEFAULT_KIND = "level"


class RelaySpec(NamedTuple):
    """One `[[relay]]` table of board.toml. `options` has the keys of its kind."""

    name: str
    kind: str
    options: Mapping[str, object]
    settle_ms: int = 0  # from an order until the contacts have moved: the position is read back, and counts, only then


class Relay(Protocol):
    """The keeper's interface to a relay. Every method raises HardwareError with one clear line."""

    def open(self) -> str:
        """Open the relay's lines or bus and return its present position, without moving it if possible."""

    def set(self, position: str) -> None:
        """Order `inline`, `bypass` or `disconnect`; does not wait for the contacts."""

    def read(self) -> str:
        """The position, read back from the hardware."""

    def close(self) -> None:
        """Release the relay. Never fails: the hardware may be gone."""


class UnsupportedRelayError(HardwareError):
    """board.toml names a kind of relay that this firmware cannot drive."""


class Kind(NamedTuple):
    """One row of the registry: how to make a relay of this kind, and the keys that it adds to `[[relay]]`.

    The value of each key is text: one of the given words, or any text if none are given.
    """

    make: Callable[[RelaySpec], Relay]
    keys: Mapping[str, tuple[str, ...]]


def _level(spec: RelaySpec) -> Relay:
    from appliance.hardware.relay.level import LevelRelay

    return LevelRelay(spec)


_LEVEL = Kind(_level, {"line": (), "disconnect": (), "active": ("high", "low"), "on_release": ("reverts", "keeps")})

KINDS: dict[str, Kind] = {
    "level": _LEVEL,  # the coil is energized while a GPIO line has its active level
    "gpio": _LEVEL,  # the former name of "level"
}


def name_of(table: Mapping[str, object]) -> str:
    """The name of the relay of a `[[relay]]` table, in keeper and bypassd. KeyError: it has neither line nor ports."""
    ports = table.get("ports")
    if "line" not in table and isinstance(ports, list | tuple) and ports:
        return "-".join(map(str, ports))
    return str(table["line"])


def spec_of(table: Mapping[str, object]) -> RelaySpec:
    """Parse a `[[relay]]` table. ValueError, KeyError: it is not usable at all."""
    settle = 0
    if "settle" in table:
        from appliance.units import Duration

        settle = RELAY_SETTLE_MS.clamp(Duration.parse(str(table["settle"])) // 1_000_000)
    options = {key: value for key, value in table.items() if key not in COMMON_KEYS}
    return RelaySpec(name_of(table), str(table.get("kind", DEFAULT_KIND)), options, settle)


def make(spec: RelaySpec) -> Relay:
    """The relay of a board; if it cannot be made, a relay whose `open` raises the reason."""
    kind = KINDS.get(spec.kind)
    if kind is None:
        known = ", ".join(sorted(KINDS))
        what = f'relay {spec.name}: this firmware cannot drive kind "{spec.kind}" (it knows {known})'
        return _Unusable(UnsupportedRelayError(f"{what}: correct board.toml or update the firmware"))
    try:
        return kind.make(spec)
    except (KeyError, ValueError, TypeError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        return _Unusable(HardwareError(f"relay {spec.name}: {what}: correct board.toml"))


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

    def close(self) -> None:
        pass
