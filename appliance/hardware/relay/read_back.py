# SPDX-License-Identifier: GPL-2.0-only
"""Any kind of relay with an input line that shows where its contacts are.

The contacts have the last word: `read` returns their position wherever it differs from what the drive says, and the
keeper takes that for a fault. A line that is not steady for `debounce` chatters, which is a fault too.
"""

from __future__ import annotations

import time

from appliance.hardware.relay.keys import milliseconds
from appliance.hardware.relay.line import InputLine, Line, LineSpec
from appliance.hardware.relay.protocol import BYPASS, INLINE, Relay, RelayFaultError, RelaySpec

_SAMPLE_S = 0.001
_TRIES = 5  # how many times `debounce` a line may take to become steady


class ReadBack:
    """A relay and its read-back line. `contacts_decide`: the drive does not know the position when it is opened."""

    def __init__(self, relay: Relay, spec: RelaySpec, contacts_decide: bool) -> None:
        self.relay, self.name, self._contacts_decide = relay, spec.name, contacts_decide
        options = spec.options
        active_high = options.get("read_back_active", "high") == "high"
        self.line: Line = InputLine(LineSpec(str(options["read_back"]), active_high))
        self._debounce_s = milliseconds(options.get("debounce", "0ms")) / 1000

    def open(self) -> str:
        """Open both; the position by the contacts if the drive does not know its own."""
        position = self.relay.open()
        self.line.open()
        return self._seen(position) if self._contacts_decide else position

    def set(self, position: str) -> None:
        self.relay.set(position)

    def read(self) -> str:
        """The position according to the contacts. RelayFaultError: they chatter."""
        return self._seen(self.relay.read())

    def kick(self, level: bool) -> None:
        self.relay.kick(level)

    def close(self) -> None:
        self.relay.close()
        self.line.close()

    def _seen(self, position: str) -> str:
        inline = self._steady()
        if inline == (position == INLINE):
            return position
        return INLINE if inline else BYPASS

    def _steady(self) -> bool:
        now = time.monotonic()
        level, since, end = self.line.driven(), now, now + _TRIES * self._debounce_s
        while now - since < self._debounce_s:
            if now >= end:
                what = f'read-back line "{self.line.spec.line}" chatters'
                raise RelayFaultError(f"relay {self.name}: {what}: not steady for {self._debounce_s * 1000:g} ms")
            time.sleep(_SAMPLE_S)
            now = time.monotonic()
            if self.line.driven() != level:
                level, since = not level, now
        return level
