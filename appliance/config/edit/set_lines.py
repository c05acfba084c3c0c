# SPDX-License-Identifier: GPL-2.0-only
"""A configuration as the `set` lines that make it, ready to be pasted into another appliance. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from appliance.config.edit import key_path
from appliance.config.schema import secrets, shape
from appliance.config.schema.shape import Node, Table, Tables

_PLAIN: Final = re.compile(r"(?!-)[A-Za-z0-9_.,:/@%+=\[\]-]+", re.ASCII)  # a word that begins with - may be an option
_ESCAPES: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\\": "\\\\", "'": "\\'"}
_DELETE, _DELETE_ESCAPED = "\x7f", "\\u007f"  # JSON may hold it as it is, TOML may not


def set_lines(data: key_path.Data) -> list[str]:
    """The `set` lines that make this configuration from an empty one. Keys that no configuration has are left out."""
    lines: list[str] = []
    for key, node in shape.ROOT.keys.items():
        _lines(node, (key,), data.get(key), lines)
    return lines


def _lines(node: Node, path: tuple[str, ...], here: Any, lines: list[str]) -> None:
    if here is None:
        return
    if isinstance(node, Tables):
        for index, name in enumerate(key_path.names(here, node) if isinstance(here, list) else []):
            item = here[index]
            if isinstance(item, Mapping):
                before = len(lines)
                _lines(node.item, (*path, name), {k: v for k, v in item.items() if k != node.key}, lines)
                if len(lines) == before:
                    lines.append("set " + " ".join(quote(part) for part in (*path, name)))
    elif isinstance(node, Table):
        if isinstance(here, Mapping):
            if not here and len(path) > 1:
                lines.append("set " + " ".join(quote(part) for part in path))
            for key, child in node.keys.items():
                _lines(child, (*path, key), here.get(key), lines)
    elif here == secrets.HIDDEN and path[-1] in secrets.SECRET_KEYS:
        lines.append(f"# {' '.join(quote(part) for part in path)} is not shown; it stays as it is where this is read")
    else:
        lines.append("set " + " ".join(quote(part) for part in (*path, *_value(here))))


def _value(here: Any) -> list[str]:
    """The words of a value."""
    if not isinstance(here, list):
        return [str(here).lower() if isinstance(here, bool) else str(here)]
    texts = [str(each) for each in here]
    if not texts or " ".join(texts).strip().startswith("["):  # what begins so is read as a list in TOML's form
        return [f"[{', '.join(json.dumps(each).replace(_DELETE, _DELETE_ESCAPED) for each in texts)}]"]
    return texts


def quote(word: str) -> str:
    """A word as the shell reads it back, on one line and in printable characters."""
    if _PLAIN.fullmatch(word):
        return word
    if word.isprintable():
        return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return "$'" + "".join(_escaped(letter) for letter in word) + "'"


def _escaped(letter: str) -> str:
    if letter in _ESCAPES or letter.isprintable():
        return _ESCAPES.get(letter, letter)
    return f"\\u{ord(letter):04x}" if ord(letter) < 1 << 16 else f"\\U{ord(letter):08x}"
