# SPDX-License-Identifier: GPL-2.0-only
"""What every kind of relay has in common for its owner: positions, the interface, and its errors.

Imports are light: the relay is driven before anything heavy is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from appliance.errors import HardwareError

BYPASS, INLINE, DISCONNECT = "bypass", "inline", "disconnect"


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
