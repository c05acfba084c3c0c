# SPDX-License-Identifier: GPL-2.0-only
"""From the words of `set`, `delete`, `show` and `edit` to paths and values in a configuration.

Pure: the schema comes from shape.py, existing names come from the candidate's plain data. A path leads through tables
by key, name or number (from 1), as in ("rule", "web", "match") and ("guest", "ips1", "probes", 2, "interval").
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from appliance.config.check.load import scalar
from appliance.config.check.verify import hint
from appliance.config.schema import metadata, shape
from appliance.config.schema.model import NAME_PATTERN, NAME_RULE
from appliance.config.schema.shape import Leaf, Node, Table, Tables
from appliance.errors import ConfigError
from appliance.units import Duration, Size

Path = tuple[str | int, ...]
Data = dict[str, Any]


class Assign(NamedTuple):
    """Put `value` at `path`; {} makes a table, or leaves an existing one unchanged."""

    path: Path
    value: Any


class Place(NamedTuple):
    """A node of the schema with its path; `rest` are the words after it."""

    path: Path
    node: Node
    rest: tuple[str, ...] = ()


def where(path: Path) -> str:
    """A path for a person: "rule web: match"."""
    head = " ".join(str(part) for part in path[:2]) if isinstance(shape.ROOT.keys.get(str(path[0])), Tables) else ""
    tail = path[2:] if head else path[1:]
    head = head or str(path[0])
    return f"{head}: {' '.join(str(part) for part in tail)}" if tail else head


def assignments(words: Sequence[str], data: Data) -> list[Assign]:
    """What `set WORDS` does. ConfigError says what is wrong and what is expected."""
    place = walk(words, data, adding=True)
    if not isinstance(place.node, Leaf):
        if isinstance(place.node, Tables):
            what = f"the name of a {place.path[-1]}" if place.node.key else "a number, from 1"
            raise ConfigError(where(place.path) if place.path else "set", f"is followed by {what}")
        if not place.path:
            raise ConfigError("set", f"is followed by one of: {', '.join(shape.ROOT.keys)}")
        if len(place.path) == 1:
            keys = ", ".join(place.node.keys)
            raise ConfigError(where(place.path), f"is followed by a key and its value; keys: {keys}")
        return [Assign(place.path, {})]
    found: list[Assign] = []
    while True:
        leaf, rest = place.node, place.rest
        assert isinstance(leaf, Leaf)
        if not rest:
            raise ConfigError(where(place.path), f"needs a value: {expected(leaf)}")
        if leaf.many or metadata.field(leaf.path).rest:
            return [*found, Assign(place.path, _value(leaf, place.path, rest))]
        taken = 2 if _has_unit_apart(leaf, rest) else 1
        found.append(Assign(place.path, _value(leaf, place.path, ["".join(rest[:taken])])))
        if len(rest) == taken:
            return found
        table = owner(leaf)
        place = walk_from(place.path[:-1], table, rest[taken:], data, adding=True)
        if not isinstance(place.node, Leaf):
            raise ConfigError(where(place.path), "set this on a line of its own")


def _has_unit_apart(leaf: Leaf, words: Sequence[str]) -> bool:
    """Whether a time or size has its unit as a word of its own: `10 min`."""
    if leaf.kind not in (Duration, Size) or len(words) < 2 or not re.fullmatch(r"[0-9.]+", words[0]):
        return False
    try:
        leaf.kind.parse("".join(words[:2]))
    except ValueError:
        return False
    return True


def walk(words: Sequence[str], data: Data, *, adding: bool = False) -> Place:
    """Follow words as far as they lead through tables; an unknown name is an error unless `adding`."""
    if len(words) > 4096 or any(len(word) > 65536 or "\0" in word for word in words):
        raise ConfigError("words", "is too long or contains a NUL character")
    return walk_from((), shape.ROOT, tuple(words), data, adding=adding)


def walk_from(path: Path, node: Node, words: tuple[str, ...], data: Data, *, adding: bool) -> Place:
    here = look(data, path)
    while words and not isinstance(node, Leaf):
        word = words[0]
        if isinstance(node, Table):
            key = _key(word, node, path)
            path, node = (*path, key), node.keys[key]
            here = here.get(key) if isinstance(here, Mapping) else None
        else:
            part = _name(word, node, path, here, adding)
            path = (*path, part)
            here = _item(here, node, part)
            node = node.item
        words = words[1:]
    return Place(path, node, words)


def _key(word: str, table: Table, path: Path) -> str:
    """A key, or an abbreviation of one."""
    keys = list(table.keys)
    if word in keys:
        return word
    fits = [key for key in keys if key.startswith(word)] if word else []
    if len(fits) == 1:
        return fits[0]
    place = where(path) if path else "configuration"
    if fits:
        raise ConfigError(place, f'"{short(word)}" may be {" or ".join(fits)}')
    elsewhere = [
        f'"{name} {word}"' for name, node in table.keys.items() if isinstance(node, Table) and word in node.keys
    ]
    meant = f"; did you mean {' or '.join(elsewhere)}?" if elsewhere else hint(word[:100], keys)
    raise ConfigError(place, f'has no "{short(word)}"{meant}')


def _name(word: str, node: Tables, path: Path, here: Any, adding: bool) -> str | int:
    """The name of one of several tables, or its number where they have no names."""
    known = names(here, node)
    if not node.key:
        number = int(word) if re.fullmatch(r"[0-9]{1,4}", word) else 0
        if 1 <= number <= len(known) + (1 if adding else 0):
            return number
        most = f"{len(known)} of them, {len(known) + 1} adds one" if adding else f"there are {len(known)}"
        raise ConfigError(where(path), f'"{short(word)}" is not the number of one: {most}')
    if word in known:
        return word
    if not adding:
        raise ConfigError(where(path), f'there is no "{short(word)}"{hint(word[:100], known)}')
    if not re.fullmatch(NAME_PATTERN.strip("^$"), word):
        raise ConfigError(where(path), f'"{short(word)}" is not a name: {NAME_RULE}')
    return word


def names(here: Any, node: Tables) -> list[str]:
    """The names (or numbers) of the tables in a list."""
    if not isinstance(here, list):
        return []
    if not node.key:
        return [str(number) for number in range(1, len(here) + 1)]
    return [str(item[node.key]) for item in here if isinstance(item, Mapping) and node.key in item]


def _item(here: Any, node: Tables, part: str | int) -> Any:
    index = index_of(here, node, part)
    return None if index is None else here[index]


def index_of(here: Any, node: Tables, part: str | int) -> int | None:
    """The index in a list of a name or number; None = it does not exist."""
    if not isinstance(here, list):
        return None
    if isinstance(part, int):
        return part - 1 if 1 <= part <= len(here) else None
    return next(
        (i for i, item in enumerate(here) if isinstance(item, Mapping) and item.get(node.key) == part),
        None,
    )


def look(data: Data, path: Path) -> Any:
    """The value at a path of plain data; None where there is none."""
    here: Any = data
    node: Node = shape.ROOT
    for part in path:
        if isinstance(node, Tables):
            here, node = _item(here, node, part), node.item
        elif isinstance(node, Table):
            here = here.get(part) if isinstance(here, Mapping) else None
            node = node.keys[str(part)]
    return here


def owner(leaf: Leaf) -> Table:
    """The table that a leaf is in."""
    parent = shape.find(leaf.path.rpartition(".")[0])
    table = parent.item if isinstance(parent, Tables) else parent
    assert isinstance(table, Table)
    return table


def short(word: str) -> str:
    text = "".join(c if c.isprintable() else " " for c in word)
    return text if len(text) <= 40 else f"{text[:36]} ..."


def expected(leaf: Leaf) -> str:
    """What a value can be: type and range."""
    bounds = shape.range_word(leaf)
    return f"{shape.type_word(leaf)}{f' ({bounds})' if bounds else ''}"


def _value(leaf: Leaf, path: Path, words: Sequence[str]) -> Any:
    try:
        if leaf.many:
            return [_scalar(leaf, word) for word in _list(leaf, words)]
        return _scalar(leaf, " ".join(words))
    except (ValueError, OverflowError) as error:
        raise ConfigError(where(path), " ".join(str(error).split())) from None


def _list(leaf: Leaf, words: Sequence[str]) -> list[str]:
    """`ips dpi`, `[ips dpi]`, `["ips", "dpi"]`, `ips,dpi` and `[]` are lists; of texts, each word is an item."""
    text = " ".join(words).strip()
    if text.startswith("["):
        if not text.endswith("]"):
            raise ValueError("the list has no closing ]")
        try:
            items = tomllib.loads(f"items = {text}")["items"]
            if all(isinstance(item, str) for item in items):
                return list(items)
        except (ValueError, RecursionError):
            pass  # names without quotes
        text = text[1:-1]
    elif leaf.kind is str:
        return list(words)
    return [word for word in re.split(r"[\s,]+", text.replace('"', " ").replace("'", " ")) if word]


def _scalar(leaf: Leaf, word: str) -> Any:
    raw: Any = word
    base = getattr(leaf.kind, "__origin__", leaf.kind)
    if leaf.kind is bool or base is bool:
        if word not in ("true", "false"):
            raise ValueError(f'"{short(word)}" is not true or false')
        raw = word == "true"
    elif shape.type_word(leaf).endswith("whole number"):
        if not re.fullmatch(r"[+-]?[0-9]{1,30}", word):
            raise ValueError(f'"{short(word)}" is not a whole number')
        raw = int(word)
    value = scalar(leaf.kind, raw)
    return raw if isinstance(raw, str) else value
