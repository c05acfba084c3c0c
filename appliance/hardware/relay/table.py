# SPDX-License-Identifier: GPL-2.0-only
"""A `[[relay]]` table of board.toml: the keys of every kind, what is wrong with it, and the spec that it describes.

Both readers use it: bypassd, which refuses the file, and the keeper, which keeps the one relay in bypass.
"""

from __future__ import annotations

from collections.abc import Mapping

from appliance.hardware.relay.keys import Key, Keys, complaints, milliseconds
from appliance.hardware.relay.kinds import DEFAULT_KIND, KINDS, Kind
from appliance.hardware.relay.protocol import RelaySpec
from appliance.ranges import RELAY_DEBOUNCE_MS, RELAY_SETTLE_MS

_POSITIONS = ("bypass", "inline", "disconnect", "keeps")
COMMON: Keys = {
    "ports": Key("the two ports that it joins", "ports"),
    "kind": Key("how it is driven"),
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


def name_of(table: Mapping[str, object]) -> str:
    """The name of the relay of a `[[relay]]` table, in keeper and bypassd. KeyError: it has neither line nor ports."""
    ports = table.get("ports")
    if "line" not in table and isinstance(ports, list | tuple) and ports:
        return "-".join(map(str, ports))
    return str(table["line"])


def wrong(table: Mapping[str, object]) -> list[str]:
    """Everything that is wrong with the keys of a `[[relay]]` table; none for an unknown kind. The keeper does without
    `ports`, which bypassd demands (board_check.py)."""
    kind = KINDS.get(str(table.get("kind", DEFAULT_KIND)))
    if kind is None:
        return []  # the keeper reports it, and the relay stays in bypass
    found = complaints({**COMMON, **kind.keys}, table)
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
    outside = {"ports", "kind", "settle", "power_up", "unpowered", "unpowered_proven", "on_watchdog"}
    options = {key: value for key, value in table.items() if key not in outside}
    known = KINDS.get(kind)
    if known is None or wrong(table):
        return RelaySpec(name_of(table), kind, options, settle, True)
    settle = settle_ms(options, settle)
    return RelaySpec(name_of(table), kind, options, settle, keeps(known, options), known.kick(options))


def keeps(kind: Kind, options: Mapping[str, object]) -> bool:
    """Whether a relay is not known to go to bypass when its owner dies."""
    return kind.released(options) not in ("reverts", "times-out")
