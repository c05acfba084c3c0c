# SPDX-License-Identifier: GPL-2.0-only
"""The differences between two configurations, and when each takes effect; secrets are hidden. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from appliance.config.schema import metadata, shape
from appliance.config.schema.metadata import Effect
from appliance.config.schema.model import Config
from appliance.config.schema.secrets import HIDDEN, SECRET_KEYS
from appliance.config.schema.served import served
from appliance.config.schema.shape import Table, Tables

_ADDED = {
    "guest": "immediately; it is started, and gets traffic once it passes its checks",
    "segment": "immediately; its relay opens once the ports are verified",
    "rule": Effect.POLICY,
    "group": Effect.POLICY,
    "remote": "immediately; its tunnels are set up, and it gets traffic once it passes its checks",
    "serve": "immediately; its tunnels are set up",
}
_REMOVED = {
    "guest": "immediately; its traffic is moved away, then it is powered down",
    "segment": "immediately; its relay closes, and the link is a wire",
    "rule": Effect.POLICY,
    "group": Effect.POLICY,
    "remote": "immediately; its traffic is moved away, then its tunnels are removed",
    "serve": "immediately; the other appliance bypasses it",
}


class Change(NamedTuple):
    """One difference. `old` "" = added, `new` "" = removed; `effect`: when it takes effect."""

    where: str
    old: str
    new: str
    effect: str


def changes(old: Config | None, new: Config) -> list[Change]:
    """Every difference, in the order of the structs. `old` None: nothing ran."""
    before = old or Config()
    found = list(_table(shape.ROOT, before, new, "", ""))
    if old is not None:
        before_segments, now_segments = served(old), served(new)
        for guest in new.guest:
            was, now = before_segments.get(guest.name, []), now_segments[guest.name]
            if guest.name in before_segments and was != now:
                effect = Effect.PROCESS.format(name=guest.name)
                found.append(Change(f"guest {guest.name}: segments it serves", ", ".join(was), ", ".join(now), effect))
    return found


def _table(table: Table, old: Any, new: Any, where: str, name: str) -> Iterator[Change]:
    for key, node in table.keys.items():
        was, now = getattr(old, key, None), getattr(new, key, None)
        if was != now:
            if isinstance(node, Tables) and node.key == "name":
                yield from _named(node, key, was or (), now or ())
            elif isinstance(node, Table) and not where:
                yield from _table(node, was, now, key, name)
            else:
                effect = str(metadata.field(node.path).effect).format(name=name)
                yield Change(f"{where}: {key}" if where else key, _shown(key, was), _shown(key, now), effect)


def _named(node: Tables, table: str, old: tuple[Any, ...], new: tuple[Any, ...]) -> Iterator[Change]:
    before, after = {item.name: item for item in old}, {item.name: item for item in new}
    for name, item in before.items():
        if name not in after:
            yield Change(f"{table} {name}", text(item), "", _REMOVED.get(table, Effect.NOW))
    for name, item in after.items():
        if name not in before:
            yield Change(f"{table} {name}", "", text(item), _ADDED.get(table, Effect.NOW))
        elif item != before[name]:
            yield from _table(node.item, before[name], item, f"{table} {name}", name)
    kept_old = [name for name in before if name in after]
    kept_new = [name for name in after if name in before]
    if kept_old != kept_new and table == "rule":
        yield Change(table, "order " + ", ".join(kept_old), "order " + ", ".join(kept_new), Effect.POLICY)


def _shown(key: str, value: Any) -> str:
    """The value of a key, hidden if it is a secret."""
    return HIDDEN if key in SECRET_KEYS and value else text(value)


def text(value: Any) -> str:
    """A value as a line would show it; defaults of a table are left out."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(text(each) for each in value) + "]"
    if isinstance(value, msgspec.Struct):
        parts = [
            f"{f.encode_name} = {_shown(f.encode_name, getattr(value, f.name))}"
            for f in msgspec.structs.fields(type(value))
            if f.required or getattr(value, f.name) != f.default
        ]
        return "{ " + ", ".join(parts) + " }"
    shown = str(value)
    return shown if shown else '""'
