# SPDX-License-Identifier: GPL-2.0-only
"""Names from the live system, for Tab and `?`: guests, ports, configuration keys. Requested on demand.

They are cached while one line is typed. Without the daemon there are none, and no delay.
"""

from __future__ import annotations

from appliance.errors import BypassError
from console.client import Client
from console.line.command import Arg
from console.render import cell

Proposals = list[tuple[str, str]]  # (name, meaning)
SOURCES = {  # Arg.source -> (method, columns that hold names, column that describes them)
    "segments": ("segments.show", ("name",), "relay"),
    "ports": ("segments.show", ("lan", "wan"), "name"),
    "all ports": ("ports.show", ("name",), "link"),
    "guests": ("guests.show", ("name",), "state"),
    "remotes": ("remotes.show", ("name",), "state"),
    "serves": ("serves.show", ("name",), "state"),
    "mirrors": ("mirrors.show", ("name",), "beside"),
    "rules": ("rules.show", ("name",), "match"),
    "users": ("management.show", ("name",), "role"),
    "incidents": ("incidents.show", ("number",), "guest"),
    "crash-log": ("crash-log.show", ("number",), "cause"),
    "quarantine": ("quarantine.show", ("name",), "flow"),
    "licences": ("licences.show", ("name",), "licence"),
    "sessions": ("sessions.show", ("pid",), "user"),
    "images": ("images.show", ("name",), "format"),
}
EXAMPLE, NAME_OF = "example: ", "NAME of "  # how bypassd marks them
CONFIG = "config "  # a source with this prefix asks config.complete for the action that follows it


class Names:
    """Current proposals for an argument. `prefix`: the current level of `configure` mode."""

    def __init__(self, client: Client) -> None:
        self._client, self._known = client, dict[tuple[str, ...], Proposals]()
        self.prefix: tuple[str, ...] = ()

    def forget(self) -> None:
        """Clear the cache: the next Tab asks again."""
        self._known.clear()

    def hints(self, arg: Arg, before: tuple[str, ...] = ()) -> Proposals:
        """What else may be typed for `arg`, where that is no word to choose: a new name, a value, a filter."""
        if not arg.source.startswith(CONFIG):
            return []
        params: dict[str, object] = {"words": [*self.prefix, *before], "action": arg.source.removeprefix(CONFIG)}
        try:
            rows = self._client.call("config.complete", params, wait=2.0)["words"]
        except (BypassError, KeyError, TypeError):
            return []
        free = [row for row in rows if isinstance(row, dict) and not row.get("word") and row.get("kind") == "value"]
        return [_placeholder(cell(row.get("help"))) for row in free]

    def whole(self, arg: Arg, before: tuple[str, ...] = ()) -> bool:
        """Whether the words so far are a whole line of `configure`; without bypassd they count as one."""
        params: dict[str, object] = {"words": [*self.prefix, *before], "action": arg.source.removeprefix(CONFIG)}
        try:
            return bool(self._client.call("config.complete", params, wait=2.0)["complete"])
        except (BypassError, KeyError, TypeError):
            return True

    def of(self, arg: Arg, partial: str, before: tuple[str, ...] = ()) -> Proposals:
        """Proposals for `arg` that begin with `partial`; `before`: its words so far, if it takes several."""
        if arg.source == "file":
            return _files(partial)
        key = (arg.source, *before)
        if key not in self._known:
            self._known[key] = self._ask(arg.source, before)
        return [row for row in self._known[key] if row[0].startswith(partial)]

    def _ask(self, source: str, before: tuple[str, ...]) -> Proposals:
        try:
            if source.startswith(CONFIG):
                params: dict[str, object] = {"words": [*self.prefix, *before], "action": source.removeprefix(CONFIG)}
                rows = self._client.call("config.complete", params, wait=2.0)
                return [(cell(row["word"]), cell(row.get("help"))) for row in _dicts(rows, "words", "word")]
            if source not in SOURCES:
                return []
            method, columns, meaning = SOURCES[source]
            rows = _dicts(self._client.call(method, wait=1.0), source, columns[0])
        except BypassError:
            return []
        return [(cell(row.get(column)), cell(row.get(meaning))) for row in rows for column in columns]


def _placeholder(meaning: str) -> tuple[str, str]:
    """What stands for the word that is free to choose, and what it means."""
    if meaning.startswith(EXAMPLE):
        return "EXAMPLE", meaning.removeprefix(EXAMPLE)
    if meaning.startswith(NAME_OF):
        return "NAME", meaning.removeprefix(NAME_OF)
    return "VALUE", meaning


def _dicts(data: object, key: str, name: str) -> list[dict[str, object]]:
    if isinstance(data, dict):
        data = data.get(key, [])
    return [row for row in data if isinstance(row, dict) and row.get(name)] if isinstance(data, list) else []


def _files(partial: str) -> Proposals:
    """Files and folders that begin with `partial`; folders end with a slash."""
    import glob
    import os

    found = sorted(glob.glob(f"{glob.escape(partial)}*"))[:200]
    return [(path + "/" if os.path.isdir(path) else path, "") for path in found]
