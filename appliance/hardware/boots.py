# SPDX-License-Identifier: GPL-2.0-only
"""The boots of this machine: how many, and of the newest why each began. Pure.

The record lies in the mark of the last run (crashlog.py), which is written before anything is started. Times of the
wall clock are as the machine believed them at that boot, and empty if it did not know the time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

KEPT: Final = 64  # of the newest boots


class Boot(NamedTuple):
    """One boot: the reset before it, and for how long the run before had lasted (None: unknown)."""

    number: int
    when: str
    kind: str
    text: str
    version: str
    ran_s: int | None = None
    report: int = 0  # its crash report; 0: none


@dataclass(frozen=True)
class Boots:
    """`count` boots so far, `by_kind` of them, and the newest, oldest first."""

    count: int = 0
    by_kind: tuple[tuple[str, int], ...] = ()
    newest: tuple[Boot, ...] = ()


def add(boots: Boots, boot: Boot) -> Boots:
    """One more boot. Its number is the next one."""
    counts = dict(boots.by_kind)
    counts[boot.kind] = counts.get(boot.kind, 0) + 1
    newest = (*boots.newest, boot._replace(number=boots.count + 1))[-KEPT:]
    return Boots(boots.count + 1, tuple(sorted(counts.items())), newest)


def pack(boots: Boots) -> dict[str, object]:
    """The stored form."""
    return {"count": boots.count, "by_kind": dict(boots.by_kind), "newest": [list(boot) for boot in boots.newest]}


def unpack(data: object) -> Boots:
    """From the stored form; no boots if that is damaged."""
    if not isinstance(data, dict):
        return Boots()
    try:
        newest = tuple(
            Boot(int(number), str(when), str(kind), str(text), str(version), None if ran is None else int(ran), int(of))
            for number, when, kind, text, version, ran, of in data["newest"][-KEPT:]
        )
        counts = tuple(sorted((str(kind), int(count)) for kind, count in data["by_kind"].items()))
        return Boots(int(data["count"]), counts, newest)
    except (AttributeError, KeyError, TypeError, ValueError):
        return Boots()
