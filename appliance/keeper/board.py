# SPDX-License-Identifier: GPL-2.0-only
"""What the keeper reads from board.toml: the relays, the watchdogs and the LEDs."""

from __future__ import annotations

from appliance.hardware.relay.keys import milliseconds
from appliance.hardware.relay.line import LineSpec
from appliance.hardware.relay.protocol import RelaySpec
from appliance.hardware.relay.table import spec_of
from appliance.ranges import WATCHDOG_PRETIMEOUT_MS


class Board:
    """The relays, the watchdogs and the LEDs. `error` says in one line why the file cannot be used at all."""

    def __init__(self, path: str) -> None:
        self.relays: list[RelaySpec] = []
        self.watchdogs: tuple[str, ...] = ()  # their drivers; "" = any; empty: the board has none
        self.pretimeout_ms = 0
        self.leds: dict[str, LineSpec] = {}  # those that the keeper drives (lamp.py)
        self.error = ""
        try:
            import tomllib

            with open(path, "rb") as file:
                self._read(tomllib.load(file))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            self.error = f"{path}: {what}: the keeper stays in bypass until board.toml is right and it is restarted"

    def _read(self, data: dict[str, object]) -> None:
        self.relays = [spec_of(table) for table in _tables(data, "relay")]
        watchdog = data.get("watchdog")
        if isinstance(watchdog, dict):
            also = watchdog.get("also", [])
            if not isinstance(also, list):
                raise ValueError("[watchdog] also must be a list of drivers")
            self.watchdogs = (str(watchdog.get("driver", "")), *(str(driver) for driver in also))
            if "pretimeout" in watchdog:
                self.pretimeout_ms = WATCHDOG_PRETIMEOUT_MS.clamp(milliseconds(watchdog["pretimeout"]))
        for table in _tables(data, "led"):
            if table.get("name") in ("status", "locate"):
                self.leds[str(table["name"])] = LineSpec(str(table["line"]), str(table.get("active", "high")) == "high")


def _tables(data: dict[str, object], key: str) -> list[dict[str, object]]:
    tables = data.get(key, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ValueError(f"[[{key}]] must be a list of tables")
    return tables
