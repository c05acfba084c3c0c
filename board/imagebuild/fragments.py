# SPDX-License-Identifier: GPL-2.0-only
"""Configuration fragments as kconfig reads them: of the kernel, busybox and Buildroot. Standard library alone."""

from __future__ import annotations

import re
from collections.abc import Iterable

from imagebuild.errors import BuildError

_SET = re.compile(r"^(\w+)=(.+)$")
_UNSET = re.compile(r"^# (\w+) is not set$")


def settings(fragments: Iterable[str]) -> dict[str, str]:
    """What a stack of fragments asks for: option -> value, "n" for "is not set"; the last fragment wins (pure)."""
    asked: dict[str, str] = {}
    for text in fragments:
        for number, line in enumerate(text.splitlines(), 1):
            if found := _SET.match(line):
                asked[found[1]] = found[2]
            elif found := _UNSET.match(line):
                asked[found[1]] = "n"
            elif line.strip() and not line.startswith("#"):
                raise BuildError(f"configuration fragment, line {number}: cannot read {line!r}")
    return asked


def lost(asked: dict[str, str], config: str) -> list[str]:
    """The lines of the fragments that are not in `.config` after kconfig's own resolution (pure)."""
    have = settings([config])
    return [
        f"{name}={value}" if value != "n" else f"# {name} is not set"
        for name, value in asked.items()
        if have.get(name, "n") != value
    ]


def unknown(asked: dict[str, str], symbols: set[str], prefix: str = "CONFIG_") -> list[str]:
    """Options that no Kconfig file declares: misspelt, or gone from this version (pure).

    kconfig itself drops such a line without a word, and of "is not set" nothing can ever be lost.
    """
    return [name for name in asked if name.removeprefix(prefix) not in symbols]
