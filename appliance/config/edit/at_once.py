# SPDX-License-Identifier: GPL-2.0-only
"""Refuses a `set` whose value can never be right, before anything is changed. Pure but for the compiling of filters."""

from __future__ import annotations

from collections.abc import Iterable

from appliance.config.check import values
from appliance.config.check.load import scalar
from appliance.config.edit.key_path import Assign, Data, Path, names, owner, where
from appliance.config.schema import metadata, shape
from appliance.config.schema.shape import Leaf, Node, Tables
from appliance.errors import ConfigError


def refuse(changes: Iterable[Assign], data: Data) -> None:
    """ConfigError for the first value that no other key can make right. `data`: the configuration before them."""
    for change in changes:
        node = _node(change.path)
        if not isinstance(node, Leaf):
            continue
        for item in change.value if isinstance(change.value, list) else [change.value]:
            if why := values.trouble(node.path, scalar(node.kind, item)):
                raise ConfigError(where(change.path), _not_meant(node, change, data) or why)


def _not_meant(leaf: Leaf, change: Assign, data: Data) -> str:
    """What is wrong if a good filter is followed by the next key, or by names of the path; "" if that is not the case.

    A filter takes all words up to the end of the line.
    """
    if not metadata.field(leaf.path).rest:
        return ""
    tables = ("guest", "remote", "group") if leaf.path == "rule.match" else ()
    found = {name: (table, "path ") for table in tables for name in names(data.get(table), shape.tables(table))}
    found |= dict.fromkeys(owner(leaf).keys, ("key of its own", ""))
    words = str(change.value).split()
    for at, word in enumerate(words):
        if at and word in found and not values.trouble(leaf.path, " ".join(words[:at])):
            what, key = found[word]
            line = " ".join(["set", *(str(part) for part in change.path[:-1]), key + " ".join(words[at:])])
            return f'"{word}" is not part of the filter but a {what}, for a line of its own: `{line}`'
    return ""


def _node(path: Path) -> Node:
    node: Node = shape.ROOT
    for part in path:
        if isinstance(node, Tables):
            node = node.item
        elif not isinstance(node, Leaf):
            node = node.keys[str(part)]
    return node
