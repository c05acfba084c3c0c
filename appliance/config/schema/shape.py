# SPDX-License-Identifier: GPL-2.0-only
"""The structure of a configuration, read from the structs of model.py: tables, lists of tables, and values.

`configure` accepts, completes and explains what is described here; a new key of the model appears by itself. Pure.
"""

from __future__ import annotations

import functools
import types
import typing
from typing import Any, Final, Literal, NamedTuple

import msgspec

from appliance.api.schema.configuration import Field
from appliance.config.schema import metadata
from appliance.config.schema.model import NAME_PATTERN, NAME_RULE, Config, struct_fields
from appliance.units import Duration, Size


class Leaf(NamedTuple):
    """A value, or a list of values (`many`)."""

    path: str
    kind: Any
    many: bool = False
    default: object = msgspec.NODEFAULT

    @property
    def choices(self) -> tuple[str, ...]:
        """The choices, where there is a fixed list."""
        if self.kind is bool:
            return ("true", "false")
        return typing.get_args(self.kind) if typing.get_origin(self.kind) is Literal else ()


class Table(NamedTuple):
    """A table with fixed keys: [system], or an inline one such as `heartbeat = { ... }`."""

    path: str
    cls: type[msgspec.Struct]

    @property
    def keys(self) -> dict[str, Node]:
        """Its keys in the order of the struct."""
        return _keys(self)

    @property
    def required(self) -> list[str]:
        """Keys that have no default."""
        return [key for key, field in struct_fields(self.cls).items() if field.required]


class Tables(NamedTuple):
    """A list of tables, identified by `key`, or by position (from 1) when that is empty."""

    path: str
    item: Table
    key: str


Node = Leaf | Table | Tables
ROOT: Final = Table("", Config)


@functools.cache
def _keys(table: Table) -> dict[str, Node]:
    prefix = f"{table.path}." if table.path else ""
    return {key: _node(prefix + key, field.type, field.default) for key, field in struct_fields(table.cls).items()}


def _node(path: str, kind: Any, default: object) -> Node:
    if typing.get_origin(kind) is types.UnionType:
        kind = next(arm for arm in typing.get_args(kind) if arm is not types.NoneType)
    if typing.get_origin(kind) is tuple:
        item = typing.get_args(kind)[0]
        if isinstance(item, type) and issubclass(item, msgspec.Struct):
            names = struct_fields(item)
            return Tables(path, Table(path, item), next((key for key in ("name", "hop") if key in names), ""))
        return Leaf(path, item, many=True, default=default)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return Table(path, kind)
    return Leaf(path, kind, default=default)


def find(path: str) -> Node | None:
    """The node at a dotted path without names, such as "guest.probes.kind"."""
    node: Node = ROOT
    for key in path.split("."):
        table = node.item if isinstance(node, Tables) else node
        if not isinstance(table, Table) or key not in table.keys:
            return None
        node = table.keys[key]
    return node


def tables(name: str) -> Tables:
    """The list of tables of this name at the top of the file."""
    node = ROOT.keys[name]
    assert isinstance(node, Tables)
    return node


def type_word(leaf: Leaf) -> str:
    """The type of a value, for a person."""
    kind = leaf.kind
    if leaf.choices:
        word = " | ".join(leaf.choices)
    elif kind is Duration:
        word = 'time with unit, "100ms"'
    elif kind is Size:
        word = 'size with unit, "512M"'
    else:
        bounds = next((m for m in getattr(kind, "__metadata__", ()) if isinstance(m, msgspec.Meta)), None)
        base = typing.get_args(kind)[0] if bounds else kind
        word = "name" if bounds and bounds.pattern == NAME_PATTERN else "whole number" if base is int else "text"
    return f"list of: {word}" if leaf.many else word


def range_word(leaf: Leaf) -> str:
    """The range of a value: from its row, else from its type."""
    row = metadata.field(leaf.path)
    if row.range:
        return row.range
    if row.least is not None and row.most is not None:
        least = "0s" if row.least == 0 and leaf.kind is Duration else str(row.least)
        return f"{'0s, ' if row.zero else ''}{least} .. {row.most}"
    for meta in getattr(leaf.kind, "__metadata__", ()):
        if isinstance(meta, msgspec.Meta) and meta.ge is not None:
            return f"{meta.ge} .. {meta.le}"
        if isinstance(meta, msgspec.Meta) and meta.pattern:
            return NAME_RULE if meta.pattern == NAME_PATTERN else meta.pattern
    return ""


def default_word(leaf: Leaf) -> str:
    """The default as it would be written; "required" where there is none."""
    if leaf.default is msgspec.NODEFAULT:
        return "required"
    if leaf.default is None:
        return "none"
    if isinstance(leaf.default, bool):
        return str(leaf.default).lower()
    if isinstance(leaf.default, tuple):
        return "[]"
    return str(leaf.default) or '""'


def leaves(node: Node = ROOT) -> typing.Iterator[Node]:
    """Every leaf and every nested table below a node, in the order of the structs."""
    table = node.item if isinstance(node, Tables) else node
    if isinstance(table, Leaf):
        yield table
        return
    for child in table.keys.values():
        if not isinstance(child, Leaf) and child.path.count("."):
            yield child
        yield from leaves(child)


def describe() -> list[Field]:
    """Every key with all its metadata: config.fields of the control socket."""
    rows = []
    for node in leaves():
        row = metadata.field(node.path)
        leaf = node if isinstance(node, Leaf) else None
        rows.append(
            Field(
                path=node.path,
                type=type_word(leaf) if leaf else "table" if isinstance(node, Table) else "list of tables",
                range=range_word(leaf) if leaf else "",
                default=default_word(leaf) if leaf else "none",
                doc=row.doc,
                effect=str(row.effect),
                source=row.source,
            )
        )
    return rows
