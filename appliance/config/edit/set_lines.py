# SPDX-License-Identifier: GPL-2.0-only
"""A configuration as the `set` lines that produce it, ready to be pasted into another appliance. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from appliance.config.edit import key_path
from appliance.config.schema import shape
from appliance.config.schema.shape import Node, Table, Tables


def set_lines(data: key_path.Data) -> list[str]:
    """The `set` lines that produce this configuration from an empty one, without what no line can express."""
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
    else:
        values = [str(each) for each in here] if isinstance(here, list) else [_text(here)]
        lines.append("set " + " ".join(quote(part) for part in (*path, *(values or ["[]"]))))


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def quote(word: str) -> str:
    """A word quoted so that the shell reads it back."""
    if re.fullmatch(r"[A-Za-z0-9_.,:/@%+=\[\]-]+", word):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'
