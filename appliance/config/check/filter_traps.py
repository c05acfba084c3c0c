# SPDX-License-Identifier: GPL-2.0-only
"""Filters that mean something else than most people read in them: `vlan` and the like move what follows them
(filter/shifting.py). Frames that go around a rule are another matter (evaded_rules.py). Pure.
"""

from __future__ import annotations

from collections.abc import Iterator

from appliance.config.check.unreachable_rules import Finding
from appliance.config.schema.model import Config
from appliance.filter import shifting

_SHOWN = 60  # characters of a filter


def traps(config: Config) -> Iterator[Finding]:
    """Filters in which a word moves what follows it without being meant to."""
    for table, hops in (("guest", config.guest), ("remote", config.remote)):
        for hop in hops:
            yield from moved(f"{table} {hop.name}: accept", hop.accept)
    for rule in config.rule:
        yield from moved(f"rule {rule.name}: match", rule.match)


def moved(where: str, text: str) -> Iterator[Finding]:
    """What follows `vlan` without being meant for tagged frames."""
    for word, rest, negated in shifting.shifted(text):
        shown = rest if len(rest) <= _SHOWN else f"{rest[:_SHOWN]} ..."
        before = f"not {word}" if negated else word
        what = f'`{before}` moves what follows it: "{shown}" is looked for in {shifting.WORDS[word]} only'
        better = "" if negated else f", or join it to `{word}` by `and` in parentheses"
        yield Finding("warning", where, f"{what}; put it before `{before}`{better}")
