# SPDX-License-Identifier: GPL-2.0-only
"""Checks answers against JSON Schema, as far as the published schema uses it; returns problems with their location.

An unknown keyword fails, so that nothing goes unchecked unnoticed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,), "array": (list,), "string": (str,), "integer": (int,), "number": (int, float),
    "boolean": (bool,), "null": (type(None),),
}  # fmt: skip
_WORDS = {"title", "description", "type", "properties", "required", "additionalProperties", "items", "enum", "anyOf",
          "$ref", "minimum", "default"}  # fmt: skip


def problems(value: object, schema: dict[str, Any], root: dict[str, Any], where: str = "") -> list[str]:
    """All violations of `schema` in `value`; `root` has the definitions that it refers to."""
    return list(_problems(value, schema, root, where or "answer"))


def _problems(value: object, schema: dict[str, Any], root: dict[str, Any], where: str) -> Iterator[str]:
    unknown = set(schema) - _WORDS
    assert not unknown, f"{where}: the schema has {unknown}"
    if "$ref" in schema:
        name = schema["$ref"].removeprefix("#/$defs/")
        yield from _problems(value, root["$defs"][name], root, where)
    if "anyOf" in schema:
        found = [list(_problems(value, one, root, where)) for one in schema["anyOf"]]
        if all(found):
            yield min(found, key=len)[0]
    if "enum" in schema and value not in schema["enum"]:
        yield f"{where}: {value!r} is none of {schema['enum']}"
    if "type" in schema:
        kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        good = any(
            isinstance(value, _TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool)) for kind in kinds
        )
        if not good:
            yield f"{where}: {value!r} is no {' or '.join(kinds)}"
            return
    if "minimum" in schema and isinstance(value, int | float) and value < schema["minimum"]:
        yield f"{where}: {value} is less than {schema['minimum']}"
    if isinstance(value, dict):
        yield from _of_object(value, schema, root, where)
    if isinstance(value, list) and "items" in schema:
        for number, item in enumerate(value):
            yield from _problems(item, schema["items"], root, f"{where}[{number}]")


def _of_object(value: dict[str, Any], schema: dict[str, Any], root: dict[str, Any], where: str) -> Iterator[str]:
    known = schema.get("properties", {})
    for name in schema.get("required", []):
        if name not in value:
            yield f"{where}.{name}: is missing"
    for name, item in value.items():
        more = schema.get("additionalProperties", True)
        if name in known:
            yield from _problems(item, known[name], root, f"{where}.{name}")
        elif more is False:
            yield f"{where}.{name}: is not in the schema"
        elif isinstance(more, dict):
            yield from _problems(item, more, root, f"{where}.{name}")
