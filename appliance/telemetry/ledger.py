# SPDX-License-Identifier: GPL-2.0-only
"""The ledger, to whoever records the transitions of something of its own; transitions.py keeps them."""

from __future__ import annotations

from typing import Protocol

from appliance.telemetry.subject import Change


class Ledger(Protocol):
    """Where transitions are recorded."""

    def record(self, change: Change, name: str, old: str, new: str, cause: str, *, detail: str = "") -> object:
        """Keep one transition; never blocks, never raises."""
        ...
