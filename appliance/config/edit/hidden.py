# SPDX-License-Identifier: GPL-2.0-only
"""What a text that was shown hides (`secrets.HIDDEN`), when it is read again: it stays as it is here, or is left out.

So a configuration that was shown, edited elsewhere and loaded keeps its passwords, and one of another appliance is
loaded without them, by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from appliance.config.edit import key_path
from appliance.config.edit.document import Document
from appliance.config.edit.key_path import Assign, Data, Path, where
from appliance.config.schema import secrets, shape
from appliance.config.schema.shape import Node, Table, Tables
from appliance.errors import ConfigError


def keep(document: Document, old: Data) -> list[ConfigError]:
    """Replace what `document` hides by what `old` has at the same place; returns what it does not have, by name.

    ConfigError: a text with a hidden part, such as the password in a URL, cannot be left out.
    """
    left: list[ConfigError] = []
    for path, value in list(_hidden((), shape.ROOT, document.data)):
        there = key_path.look(old, path)
        if there is not None and secrets.hide({path[-1]: there})[path[-1]] == value:
            document.assign(Assign(path, there))
        elif path[-1] in secrets.SECRET_KEYS:
            document.delete(path)
            left.append(ConfigError(where(path), "was hidden in the text and is not known here: it is left out"))
        else:
            raise ConfigError(where(path), "has a hidden part that is not known here: write it out")
    return left


def _hidden(path: Path, node: Node, here: Any) -> Iterator[tuple[Path, Any]]:
    if isinstance(node, Tables):
        for index, name in enumerate(key_path.names(here, node)):
            part = name if node.key else index + 1
            yield from _hidden((*path, part), node.item, here[index])
    elif isinstance(node, Table):
        if isinstance(here, Mapping):
            for key, child in node.keys.items():
                if key in here:
                    yield from _hidden((*path, key), child, here[key])
    elif secrets.HIDDEN in str(here):
        yield path, here
