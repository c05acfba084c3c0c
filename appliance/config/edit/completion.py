# SPDX-License-Identifier: GPL-2.0-only
"""What can come next in a line of `configure`, for Tab and `?`. Pure; names come from the candidate's plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from appliance.config.edit import key_path
from appliance.config.schema import metadata, shape
from appliance.config.schema.shape import Leaf, Node, Table, Tables
from appliance.errors import ConfigError

_FILTERS = frozenset({"rule.match", "guest.accept"})
_FILTER_HELP = (
    "a capture filter as for tcpdump: which frames; empty: every frame. pcap-filter(7) has all of it",
    "example: tcp port 80 or tcp port 443",
    "example: src net 10.0.0.0/8 and not udp port 53",
    "example: vlan 100 and ip6",
)
"""What a filter is, for `?`. A filter that contains | or ? needs quotes."""


class Next(NamedTuple):
    """Something that can come next. kind: table, name, key, value or end."""

    word: str
    help: str
    kind: str


def complete(
    line: Sequence[str], action: str, data: key_path.Data, ports: Sequence[str] = ()
) -> tuple[list[Next], bool]:
    """What can follow a finished `line` after a verb, and whether the line is complete as it is. Never raises."""
    adding = action == "set"
    try:
        place = key_path.walk(line, data, adding=adding)
    except ConfigError:
        return [], False
    node, rest = place.node, place.rest
    if isinstance(node, Leaf):
        return _after_leaf(place, action, data, ports)
    if action == "move" and len(place.path) == 2:
        others = [
            name
            for name in key_path.names(data.get(str(place.path[0])), shape.tables(str(place.path[0])))
            if name != place.path[1]
        ]
        return [
            Next("first", "before all others", "key"),
            Next("last", "after all others", "key"),
            *(Next(f"{side} {name}", "", "key") for side in ("before", "after") for name in others),
        ], False
    assert not rest
    if isinstance(node, Tables):
        return _of_tables(place, node, action, data)
    whole = bool(place.path) and (action != "set" or len(place.path) > 1)
    keys = [
        Next(key, metadata.field(child.path).doc or _doc(child), "key" if isinstance(child, Leaf) else "table")
        for key, child in node.keys.items()
        if _offered(key, child, place.path, action, data)
        and (place.path or action != "set" or key not in metadata.UNSERVED)
    ]
    end = [Next("", "as it is", "end")] if whole or action == "show" else []
    return keys + end, whole or action == "show"


def _offered(key: str, child: Node, path: key_path.Path, action: str, data: key_path.Data) -> bool:
    if not path and key in metadata.UNSERVED and (action == "set" or key not in data):
        return False  # a commit refuses these tables, so they are offered only where they can be removed
    if action == "move":
        return isinstance(child, Tables)
    if action == "edit" and isinstance(child, Leaf):
        return False
    if action in ("delete", "show"):
        here = key_path.look(data, path)
        return isinstance(here, Mapping) and key in here and key != "name"
    return key != "name"


def _doc(node: Node) -> str:
    doc = node.item.cls.__doc__ if isinstance(node, Tables) else node.cls.__doc__ if isinstance(node, Table) else ""
    return (doc or "").split("\n")[0].rstrip(".")


def _of_tables(place: key_path.Place, node: Tables, action: str, data: key_path.Data) -> tuple[list[Next], bool]:
    here = key_path.look(data, place.path)
    known = [Next(name, _about(here, i), "name") for i, name in enumerate(key_path.names(here, node))]
    if action == "set":
        if node.key == "hop":
            taken = {each.word for each in known}
            known += [Next(name, "a new member", "name") for name in _hops(data) if name not in taken]
        elif node.key:
            known.append(Next("", f"NAME of a new {place.path[-1]}", "value"))
        else:
            known.append(Next(str(len(known) + 1), "a new one", "name"))
    if action == "delete" and known:
        known.append(Next("", f"every {place.path[-1]}", "end"))
    return known, action in ("delete", "show")


def _about(here: Any, index: int) -> str:
    """A short summary of an existing table."""
    item = here[index]
    shown = [
        f"{key} {item[key]}" for key in ("match", "image", "kernel", "lan", "wan", "kind", "weight") if key in item
    ]
    return key_path.short(", ".join(shown))


_OF_HOPS = ("group.standby", "group.spare", "group.balance.hop", "rule.mirrors.hop")


def _hops(data: key_path.Data) -> list[str]:
    return [name for table in ("guest", "remote") for name in key_path.names(data.get(table), shape.tables(table))]


def _after_leaf(
    place: key_path.Place, action: str, data: key_path.Data, ports: Sequence[str]
) -> tuple[list[Next], bool]:
    leaf, rest = place.node, place.rest
    assert isinstance(leaf, Leaf)
    if action != "set":
        many = action == "delete" and leaf.many
        here = key_path.look(data, place.path)
        left = [Next(str(each), "", "value") for each in here if str(each) not in rest] if many and here else []
        return [*left, Next("", "as it is", "end")], True
    if rest and not leaf.many and not metadata.field(leaf.path).rest:
        if len(rest) > 1:
            try:
                place = key_path.walk_from(place.path[:-1], key_path.owner(leaf), rest[1:], data, adding=True)
            except ConfigError:
                return [], False
            if isinstance(place.node, Leaf):
                return _after_leaf(place, action, data, ports)
            return [], False
        more = [
            Next(key, metadata.field(child.path).doc, "key")
            for key, child in key_path.owner(leaf).keys.items()
            if isinstance(child, Leaf) and key not in ("name", leaf.path.rpartition(".")[2])
        ]
        return [*more, Next("", "as it is", "end")], True
    offered = [word for word in _words_for(leaf, data, ports) if not leaf.many or word not in rest]
    doc = metadata.field(leaf.path).doc
    values = [Next(word, doc if leaf.choices else "", "value") for word in offered]
    if leaf.path in _FILTERS:
        values += [Next("", text, "value") for text in _FILTER_HELP]
    elif not leaf.choices:
        default = shape.default_word(leaf)
        values.append(Next("", f"{key_path.expected(leaf)}; default {default}", "value"))
    end = [Next("", "as it is", "end")] if rest else []
    return values + end, bool(rest)


def _words_for(leaf: Leaf, data: key_path.Data, ports: Sequence[str]) -> list[str]:
    """Values that are names of something."""
    if leaf.choices:
        return list(leaf.choices)
    if leaf.path in ("segment.lan", "segment.wan", "remote.tunnel.port", "serve.tunnel.port"):
        return list(ports)
    if leaf.path == "rule.segment":
        return key_path.names(data.get("segment"), shape.tables("segment"))
    if leaf.path == "snmp.receiver.user":
        users = shape.find("snmp.user")
        assert isinstance(users, Tables)
        return key_path.names(key_path.look(data, ("snmp", "user")), users)
    if leaf.path in ("rule.path", "serve.path", "rule.mirrors.beside", *_OF_HOPS):
        groups = [] if leaf.path in _OF_HOPS else key_path.names(data.get("group"), shape.tables("group"))
        return _hops(data) + groups
    return []
