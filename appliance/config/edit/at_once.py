# SPDX-License-Identifier: GPL-2.0-only
"""Refuses a `set` whose value can never be right, before anything is changed. Pure but for the compiling of filters."""

from __future__ import annotations

from collections.abc import Iterable

from appliance.config.check import values
from appliance.config.check.load import scalar
from appliance.config.edit.key_path import Assign, Path, where
from appliance.config.schema import shape
from appliance.config.schema.shape import Leaf, Node, Tables
from appliance.errors import ConfigError


def refuse(changes: Iterable[Assign]) -> None:
    """ConfigError for the first value that no other key can make right."""
    for change in changes:
        node = _node(change.path)
        if not isinstance(node, Leaf):
            continue
        for item in change.value if isinstance(change.value, list) else [change.value]:
            if why := values.trouble(node.path, scalar(node.kind, item)):
                raise ConfigError(where(change.path), why)


def _node(path: Path) -> Node:
    node: Node = shape.ROOT
    for part in path:
        if isinstance(node, Tables):
            node = node.item
        elif not isinstance(node, Leaf):
            node = node.keys[str(part)]
    return node
