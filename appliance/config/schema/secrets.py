# SPDX-License-Identifier: GPL-2.0-only
"""Which values of a configuration are secret, and texts without them. Pure.

A field of type `Secret` in model.py is secret: it stays in the file and appears in no table, comparison, log or support
bundle. Values are found by key in any text that looks like TOML, valid or not, because people look at broken files
too.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from appliance.config.schema.model import Config

HIDDEN: Final = "<hidden>"


def _fields(kind: Any, seen: set[type]) -> Iterator[tuple[str, Any]]:
    """Every (key, type) of a struct and of the structs in it."""
    for arm in typing.get_args(kind) if typing.get_origin(kind) in (tuple, types.UnionType) else (kind,):
        if isinstance(arm, type) and issubclass(arm, msgspec.Struct) and arm not in seen:
            seen.add(arm)
            for field in msgspec.structs.fields(arm):
                yield field.encode_name, field.type
                yield from _fields(field.type, seen)


def _is_secret(kind: Any) -> bool:
    metas = getattr(kind, "__metadata__", ())
    return any(isinstance(meta, msgspec.Meta) and (meta.extra or {}).get("secret") for meta in metas)


SECRET_KEYS: Final = frozenset(key for key, kind in _fields(Config, set()) if _is_secret(kind))
_KEY = "|".join(sorted(SECRET_KEYS))
# `password = "..."` anywhere, also in an inline table and after the + or - of a comparison; the string may be cut off
_TEXT = r'''"""(?:.*?"""|.*\Z)|\'\'\'(?:.*?\'\'\'|.*\Z)|"(?:[^"\\\n]|\\.)*"?|\'[^\'\n]*\'?'''
_VALUE = re.compile(rf"""((?<![A-Za-z0-9_-])["']?(?:{_KEY})["']?\s*=\s*)({_TEXT})""", re.DOTALL)
_CRYPT = re.compile(r"\$(?:y|gy|7|6|5|1|2[abxy])\$[./A-Za-z0-9$=,]+")
_USERINFO = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^/\s\"'@]+@")


def redact(text: str) -> str:
    """The text with every secret value replaced, also hashes and passwords in URLs elsewhere."""
    text = _VALUE.sub(rf'\1"{HIDDEN}"', text)
    text = _CRYPT.sub(HIDDEN, text)
    return _USERINFO.sub(rf"\1{HIDDEN}@", text)


def hide(data: Any) -> Any:
    """The same for data that will be JSON: secret keys by name, texts by `redact`."""
    if isinstance(data, dict):
        return {k: HIDDEN if k in SECRET_KEYS and v else hide(v) for k, v in data.items()}
    if isinstance(data, list | tuple):
        return [hide(item) for item in data]
    return redact(data) if isinstance(data, str) else data
