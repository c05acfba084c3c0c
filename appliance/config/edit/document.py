# SPDX-License-Identifier: GPL-2.0-only
"""A configuration text that is being edited: comments and order that the user wrote survive.

Two views of one text are kept in step: plain data, which is the truth, and a tomlkit document, which knows comments,
order and style (`comments.py`: which comment belongs to which table). When the two disagree after a change (tomlkit
cannot do everything TOML can), the text is written anew from the data and the comments are gone; `comments_lost` says
so. Lives as long as the candidate.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from typing import Any

from appliance.config.check.load import BYTE_ORDER_MARK, read_toml
from appliance.config.check.verify import hint
from appliance.config.edit import comments, key_path
from appliance.config.edit.key_path import Assign, Data, Path, where
from appliance.config.schema import shape
from appliance.config.schema.shape import Node, Table, Tables
from appliance.errors import ConfigError

_BEFORE_HEADER = re.compile(r"(^[^#\n].*)\n(\[)", re.MULTILINE)  # a new table begins behind an empty line
_WIDTH = 100  # columns; longer lists are broken, an item a line


class Document:
    """A text under edit. ConfigError when the text is no TOML."""

    def __init__(self, text: str) -> None:
        self.data: Data = read_toml(text)
        self.comments_lost = False
        self._doc: Any = None
        self._text: str | None = text.removeprefix(BYTE_ORDER_MARK)  # as long as nothing changed

    @property
    def text(self) -> str:
        """The present text."""
        if self._text is None:
            self._text = self._write()
        return self._text

    def assign(self, change: Assign) -> None:
        """Set one value; tables on the way are made."""
        self._do(lambda root, style: _assign(root, style, change.path, change.value))

    def delete(self, path: Path) -> None:
        """Take a key or table out; the path must exist."""
        self._do(lambda root, _: _delete(root, path, root is not self.data))

    def take(self, path: Path, items: list[str]) -> None:
        """Take items out of a list of values."""
        here = key_path.look(self.data, path)
        left = [item for item in here if str(item) not in items] if isinstance(here, list) else []
        self.assign(Assign(path, left))

    def move(self, path: Path, index: int) -> None:
        """Give one of several tables another place in its order."""
        self._do(lambda root, _: _move(root, path, index, root is not self.data))

    def merge(self, data: Data) -> None:
        """Lay other data over this: keys are set, tables of the same name merged, lists of values replaced."""
        for change in _flat((), shape.ROOT, data):
            self.assign(change)

    def _do(self, work: Callable[[Any, Callable[[bool], Any]], None]) -> None:
        if self._doc is None:
            self._doc = self._parse(self.text)
        before = self._text
        try:
            work(self.data, lambda _: {})
        except (TypeError, KeyError, IndexError, AttributeError) as error:
            self.data = read_toml(self._doc.as_string() if before is None else before)
            what = "the candidate has another shape here: `show` it, `delete` what is wrong, or load a good one"
            raise ConfigError("candidate", what) from error
        self._text = None
        if self._doc is not None:
            try:
                work(self._doc, _tomlkit_table)
            except Exception:  # whatever it cannot do: the data is the truth, the text is written anew
                self._doc = None

    @staticmethod
    def _parse(text: str) -> Any:
        try:
            return comments.parse(text)
        except Exception:
            return None

    def _write(self) -> str:
        if self._doc is not None:
            try:
                text = str(self._doc.as_string())
                for candidate in (_BEFORE_HEADER.sub(r"\1\n\n\2", text), text):
                    if tomllib.loads(candidate) == self.data:
                        return candidate
            except Exception:
                pass  # as below
        self.comments_lost = True
        self._doc = None
        return canonical(self.data)


def _tomlkit_table(inline: bool) -> Any:
    import tomlkit

    return tomlkit.inline_table() if inline else tomlkit.table()


def _assign(root: Any, style: Callable[[bool], Any], path: Path, value: Any) -> None:
    here, node, depth = root, shape.ROOT, 0
    walk: Node = node
    for part in path[:-1]:
        here, walk = _enter(here, walk, part, style, depth)
        depth += 1
    last = path[-1]
    if isinstance(walk, Tables) or isinstance(value, dict):
        here, walk = _enter(here, walk, last, style, depth)
        for key, each in value.items():
            here[key] = each
        return
    here[last] = value


def _enter(here: Any, node: Node, part: str | int, style: Callable[[bool], Any], depth: int) -> tuple[Any, Node]:
    """The table behind one part of a path, made where it is missing."""
    if isinstance(node, Tables):
        index = key_path.index_of(here, node, part)
        if index is None:
            inline = depth > 1 or not _is_aot(here)
            item = style(inline)
            if node.key:
                item[node.key] = part
            here.append(item)
            index = len(here) - 1
        return here[index], node.item
    assert isinstance(node, Table)
    child = node.keys[str(part)]
    if part not in here:
        here[part] = _new_list(style, depth) if isinstance(child, Tables) else style(depth > 0)
    return here[part], child


def _is_aot(here: Any) -> bool:
    """A list that is written [[name]]; plain data has no style."""
    return type(here).__name__ in ("AoT", "list")


def _new_list(style: Callable[[bool], Any], depth: int) -> Any:
    if style(True) == {} and type(style(True)) is dict:
        return []
    import tomlkit

    return tomlkit.array() if depth > 0 else tomlkit.aot()


def _delete(root: Any, path: Path, styled: bool) -> None:
    here, node = root, shape.ROOT
    walk: Node = node
    trail: list[tuple[Any, Any]] = []  # (container, key) of everything passed
    for part in path:
        if isinstance(walk, Tables):
            index = key_path.index_of(here, walk, part)
            if index is None:
                raise KeyError(part)
            trail.append((here, index))
            here, walk = here[index], walk.item
        else:
            assert isinstance(walk, Table)
            trail.append((here, part))
            here, walk = here[part], walk.keys[str(part)]
    container, key = trail[-1]
    loose = comments.loosen(here) if styled else ""
    del container[key]
    comments.keep(root, loose, container[key] if isinstance(key, int) and key < len(container) else None)
    if isinstance(container, list) and not container and len(trail) > 1:
        owner, name = trail[-2]
        del owner[name]  # [[rule]] without rules is no key at all


def _move(root: Any, path: Path, index: int, styled: bool) -> None:
    tables = root[path[0]]
    node = shape.ROOT.keys[str(path[0])]
    assert isinstance(node, Tables)
    old = key_path.index_of(tables, node, path[1])
    if old is None:
        raise KeyError(path[1])
    item = tables[old]
    loose = comments.loosen(item) if styled else ""
    del tables[old]
    comments.keep(root, loose, tables[old] if old < len(tables) else None)
    tables.insert(index, item)
    if styled and index + 1 < len(tables):
        comments.part(item, tables[index + 1])


def _flat(path: Path, node: Node, data: Any) -> list[Assign]:
    """The assignments that make `data`."""
    if isinstance(node, Table) and isinstance(data, dict):
        made: list[Assign] = [] if len(path) < 2 or data else [Assign(path, {})]
        for key, value in data.items():
            child = node.keys.get(key)
            if child is None:
                close = hint(key[:100], node.keys)
                raise ConfigError(where(path) if path else "configuration", f'has no "{key[:40]}"{close}')
            made += _flat((*path, key), child, value)
        return made
    if isinstance(node, Tables) and isinstance(data, list) and all(isinstance(item, dict) for item in data):
        if not node.key:
            return [Assign(path, data)]
        made = []
        for number, item in enumerate(data, 1):
            name = item.get(node.key)
            if not isinstance(name, str):
                raise ConfigError(f"{where(path)} {number}", f"has no {node.key}, and so cannot be merged")
            made += [Assign((*path, name), {}), *_flat((*path, name), node.item, item)]
        return made
    return [Assign(path, data)]


def canonical(data: Data) -> str:
    """A configuration written from nothing: tables in the order of the structs, nested ones inline."""
    order = [key for key in shape.ROOT.keys if key in data] + [key for key in data if key not in shape.ROOT.keys]
    lines: list[str] = []
    for key in order:
        value = data[key]
        if isinstance(value, dict):
            lines += [f"[{_bare(key)}]", *_pairs(value), ""]
        elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            for item in value:
                lines += [f"[[{_bare(key)}]]", *_pairs(item), ""]
        else:
            lines = [f"{_bare(key)} = {_inline(value)}", *lines]
    return "\n".join(lines).rstrip("\n") + "\n" if lines else ""


def _pairs(table: dict[str, Any]) -> list[str]:
    return [f"{_bare(key)} = {_inline(value, len(key) + 3)}" for key, value in table.items()]


def _bare(key: str) -> str:
    import tomlkit

    plain = key and all(c.isascii() and (c.isalnum() or c in "_-") for c in key)
    return key if plain else tomlkit.item(key).as_string()


def _inline(value: Any, column: int = 0) -> str:
    import tomlkit

    if isinstance(value, dict):
        return (
            "{ " + ", ".join(f"{_bare(key)} = {_inline(each)}" for key, each in value.items()) + " }" if value else "{}"
        )
    if isinstance(value, list):
        items = [_inline(each) for each in value]
        line = f"[ {', '.join(items)} ]" if items and isinstance(value[0], dict) else f"[{', '.join(items)}]"
        if column + len(line) <= _WIDTH or not items:
            return line
        return "[\n" + "".join(f"  {item},\n" for item in items) + "]"
    return str(tomlkit.item(value).as_string())
