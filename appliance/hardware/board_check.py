# SPDX-License-Identifier: GPL-2.0-only
"""Everything that is wrong with a board.toml, each with table, key and line. Pure.

The keys of every table are rows here, except those of a relay, which depend on its kind (relay/table.py). The typed
form is made in board.py, and only of a text without findings.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from appliance.hardware.relay import table
from appliance.hardware.relay.keys import Key, Keys, complaints
from appliance.hardware.relay.kinds import DEFAULT_KIND, KINDS
from appliance.ranges import WATCHDOG_PRETIMEOUT_MS
from appliance.system.toml_lines import Lines, Path

_LEVEL: Final = ("high", "low")
BOARD: Final[Keys] = {"name": Key("the board's name, in lower case", required=True)}
LISTS: Final[dict[str, Keys]] = {
    "port": {
        "name": Key("the port's name", pattern=r"[a-z][a-z0-9_-]{0,14}", example="lan0", required=True),
        "pci": Key(
            'its place on PCI; "unknown" until somebody has found it out',
            pattern=r"unknown|[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]",
            example="0000:01:00.0",
        ),
        "mac": Key("its MAC address", pattern=r"([0-9a-f]{2}:){5}[0-9a-f]{2}", example="02:00:00:00:00:01"),
        "device": Key(
            "the kernel's name of its platform device", pattern=r"[A-Za-z0-9@:._-]+", example="30be0000.ethernet"
        ),
        "role": Key("what it is for", words=("data", "management")),
        "driver": Key("its kernel driver", pattern=r"[a-z0-9_-]+", example="igb"),
        "on_attach": Key("what its link does when an XDP program comes or goes", words=("keeps", "closes")),
    },
    "led": {
        "name": Key("what it shows: status, locate or another name", required=True),
        "line": Key("its GPIO line", "line", required=True),
        "active": Key("the level that lights it", words=_LEVEL),
    },
    "button": {
        "name": Key("what it is called on the box", required=True),
        "line": Key("its GPIO line", "line", required=True),
        "active": Key("its level while it is pressed", words=_LEVEL),
    },
}
TABLES: Final[dict[str, Keys]] = {
    "watchdog": {
        "driver": Key("its kernel driver or identity"),
        "also": Key("drivers of other watchdogs that are fed too", "texts"),
        "pretimeout": Key(
            "before the reset the kernel panics, and so leaves a record", "time", range=WATCHDOG_PRETIMEOUT_MS
        ),
    },
    "crash_log": {"pstore": Key("where the kernel keeps its crash records", "path")},
}
_PLACES: Final = ("pci", "mac", "device")


class Finding(NamedTuple):
    """One fault. `where`: the table; `path` leads to its line."""

    where: str
    path: Path
    what: str

    def text(self, lines: Lines) -> str:
        """For a person, on one line."""
        line = lines.find(self.path)
        return f"{self.where}{': ' if self.where else ''}{self.what}" + (f" (line {line})" if line else "")


def findings(data: Mapping[str, Any]) -> list[Finding]:
    """All faults of the data of a board.toml."""
    found = list(_structure(data))
    rows = {name: _rows(data, name) for name in (*LISTS, "relay")}
    for name, keys in LISTS.items():
        for number, row in rows[name]:
            found += _complain(_called(name, number, row), (name, number), complaints(keys, row))
    for name, keys in TABLES.items():
        if isinstance(data.get(name), dict):
            found += _complain(name, (name,), complaints(keys, data[name]))
    for number, row in rows["relay"]:
        said = table.wrong(row)
        if "ports" not in row or row.get("kind", DEFAULT_KIND) not in KINDS:
            said += complaints({"ports": table.COMMON["ports"]._replace(required=True)}, _only(row, "ports"))
        found += _complain(f"relay {number + 1}", ("relay", number), said)
    return found or list(_together(rows))


def _only(row: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {key: row[key]} if key in row else {}


def _structure(data: Mapping[str, Any]) -> Iterator[Finding]:
    top = {key: value for key, value in data.items() if key not in (*LISTS, *TABLES, "relay")}
    for said in complaints(BOARD, top, (*LISTS, *TABLES, "relay")):
        yield Finding("", (said.partition(":")[0].partition(" ")[0],), said)
    for name in (*LISTS, "relay"):
        rows = data.get(name, [])
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            yield Finding("", (name,), f"{name}: must be a list of tables: [[{name}]]")
    for name in TABLES:
        if not isinstance(data.get(name, {}), dict):
            yield Finding("", (name,), f"{name}: must be a table: [{name}]")


def _rows(data: Mapping[str, Any], name: str) -> list[tuple[int, dict[str, Any]]]:
    rows = data.get(name, [])
    return [each for each in enumerate(rows) if isinstance(each[1], dict)] if isinstance(rows, list) else []


def _complain(where: str, path: Path, said: list[str]) -> list[Finding]:
    return [Finding(where, (*path, text.partition(":")[0].partition(" ")[0]), text) for text in said]


def _called(kind: str, number: int, row: Mapping[str, Any]) -> str:
    name = row.get("name")
    return f"{kind} {name if isinstance(name, str) and name else number + 1}"


def _together(rows: Mapping[str, list[tuple[int, dict[str, Any]]]]) -> Iterator[Finding]:
    """What is wrong with tables that are right one by one."""
    names: list[str] = []
    for number, row in rows["port"]:
        where, path = _called("port", number, row), ("port", number)
        places = [key for key in _PLACES if key in row]
        if len(places) != 1:
            there = f"it has {' and '.join(places)}" if places else "it has none"
            yield Finding(where, path, f"set exactly one of {', '.join(_PLACES)}: {there}")
        if row["name"] in names:
            yield Finding(where, (*path, "name"), "the name is used twice")
        names.append(row["name"])
    yield from _used_twice(rows)
    for number, row in rows["relay"]:
        for name in row.get("ports", ()):
            if name not in names:
                close = difflib.get_close_matches(name, names, 1)
                hint = f'did you mean "{close[0]}"?' if close else f"there are: {', '.join(names) or 'none'}"
                yield Finding(f"relay {number + 1}", ("relay", number, "ports"), f"no port {name}; {hint}")


def _used_twice(rows: Mapping[str, list[tuple[int, dict[str, Any]]]]) -> Iterator[Finding]:
    """Two things on one GPIO line, or two relays of one name."""
    lines: dict[str, str] = {}
    relays: set[str] = set()
    for kind in ("relay", "led", "button"):
        for number, row in rows[kind]:
            where = f"relay {number + 1}" if kind == "relay" else _called(kind, number, row)
            for key in ("line", "disconnect", "set_line", "reset_line", "read_back"):
                line = row.get(key)
                if not isinstance(line, str) or (kind == "relay" and key == "disconnect" and "line" not in row):
                    continue
                if line in lines:
                    yield Finding(
                        where, (kind, number, key), f"{key}: line {line} is used twice, also by {lines[line]}"
                    )
                lines.setdefault(line, where)
            if kind == "relay" and "line" not in row:
                name = table.name_of(row)
                if name in relays:
                    yield Finding(where, (kind, number, "ports"), f"another relay joins {name} too")
                relays.add(name)
