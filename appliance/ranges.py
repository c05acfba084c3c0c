# SPDX-License-Identifier: GPL-2.0-only
"""Valid ranges of the numbers that the keeper gets from the configuration and from board.toml, in whole milliseconds.

This is their only definition. `bypass check` refuses a configuration outside them, and the keeper clamps what it
receives, so that no number from bypassd can cost the link. Imports nothing but NamedTuple: the keeper loads it.
"""

from __future__ import annotations

from typing import NamedTuple

_DAY_MS = 24 * 3600 * 1000


class Range(NamedTuple):
    """Both ends belong to the range."""

    least: int
    most: int

    def clamp(self, value: float) -> int:
        """The number within the range that is nearest to `value` (which may be infinite, but not NaN)."""
        return int(min(max(value, self.least), self.most))


SUPERVISOR_GRACE_MS = Range(0, _DAY_MS)
"""How long a relay is held inline without a supervisor. 0: it goes to bypass as soon as the supervisor is lost."""

WATCHDOG_TIMEOUT_MS = Range(1000, _DAY_MS)
"""Watchdog devices count whole seconds."""

WATCHDOG_PRETIMEOUT_MS = Range(1000, 60_000)
"""How long before the reset the kernel panics by itself; whole seconds too."""

RELAY_SETTLE_MS = Range(0, 10_000)
"""From the order to a relay until its contacts have moved."""

RELAY_PULSE_MS = Range(1, 500)
"""Of the coil of a latching relay. The upper end keeps an order well below the keeper's limit for it."""

RELAY_TOGGLE_MS = Range(10, 5000)
"""One level of a keep-alive line. Below the lower end the keeper's loop would only toggle."""

RELAY_START_MS = Range(0, 1000)
"""All levels of a start sequence together."""

RELAY_DEBOUNCE_MS = Range(0, 100)
"""How long a read-back line must be steady."""

RELAY_TIMEOUT_MS = Range(1, 300_000)
"""Of a keep-alive relay or of the watchdog in a bypass controller."""
