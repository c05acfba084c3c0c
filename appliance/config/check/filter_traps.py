# SPDX-License-Identifier: GPL-2.0-only
"""Filters that mean something else than most people read in them: lint by what libpcap makes of the text.

Two traps. `vlan` and the like move what follows them (filter/shifting.py). And a filter means the frames that it can
read: `tcp port 80` takes no tagged frame and no later fragment, so that whoever sends those goes around the rule. The
second is found by trying: a frame that the rule takes, the same packet as other frames carry it, and where the rules
send that. Pure; bounded in time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from appliance.config.check.unreachable_rules import MAX_NAMED, Finding, compiled
from appliance.config.schema.model import Config, Rule
from appliance.filter import shifting

if TYPE_CHECKING:
    from appliance.filter.classic import ClassicFilter

SECONDS = 0.2  # of processor time
_SHOWN = 60  # characters of a filter


def traps(config: Config) -> Iterator[Finding]:
    """Everything worth saying about the filters of `config`."""
    for table, hops in (("guest", config.guest), ("remote", config.remote)):
        for hop in hops:
            yield from moved(f"{table} {hop.name}: accept", hop.accept)
    for rule in config.rule:
        yield from moved(f"rule {rule.name}: match", rule.match)
    yield from evaded(config)


def moved(where: str, text: str) -> Iterator[Finding]:
    """What stands behind `vlan` without being meant for tagged frames."""
    for word, rest, negated in shifting.shifted(text):
        shown = rest if len(rest) <= _SHOWN else f"{rest[:_SHOWN]} ..."
        before = f"not {word}" if negated else word
        what = f'`{before}` moves what follows it: "{shown}" is looked for in {shifting.WORDS[word]} only'
        better = "" if negated else f", or join it to `{word}` by `and` in parentheses"
        yield Finding("warning", where, f"{what}; put it before `{before}`{better}")


def evaded(
    config: Config, seconds: float = SECONDS, clock: Callable[[], float] = time.thread_time
) -> Iterator[Finding]:
    """Rules through guests that the same packets pass by, straight to the other port, in frames of another kind.

    A rule with parts that were moved is left out: its writer has to say first what it is meant for.
    """
    until = clock() + seconds
    filters = [compiled(rule.match) for rule in config.rule]
    chains = [
        [(rule, filt) for rule, filt in zip(config.rule, filters, strict=True) if filt and _is_for(rule, segment.name)]
        for segment in config.segment
    ]
    found: dict[tuple[tuple[str, ...], bool], list[str]] = {}  # kinds of frames, and whether the rule blocks -> rules
    done: set[str] = set()
    asked = [(rule, filt, chain) for chain in chains for rule, filt in chain if rule.path and filt.constant is None]
    for rule, filt, others in asked:
        if rule.name in done or any(shifting.shifted(rule.match)):
            continue
        if clock() > until:
            yield Finding("note", "rule", f"whether frames go around was not looked into from rule {rule.name} on")
            break
        if kinds := _around(filt, others):
            done.add(rule.name)
            found.setdefault((kinds, rule.on_unavailable == "block"), []).append(rule.name)
    for (kinds, blocks), names in found.items():
        some = ", ".join(names[:MAX_NAMED]) + (" and more" if len(names) > MAX_NAMED else "")
        listed = ", ".join(kinds[:-1]) + (" and " if len(kinds) > 1 else "") + kinds[-1]
        what = f"the same packets in frames of other kinds pass by, uninspected: {listed}"
        yield Finding("warning" if blocks else "note", f"rule{'s' * (len(names) > 1)} {some}: match", what)


def _is_for(rule: Rule, segment: str) -> bool:
    return rule.segment in ("", segment)


def _around(filt: ClassicFilter, chain: Sequence[tuple[Rule, ClassicFilter]]) -> tuple[str, ...]:
    """The kinds of frames in which a packet that the filter takes goes straight to the other port."""
    from appliance.filter import sample

    frame = sample.sample(filt)
    if frame is None:
        return ()
    found = []
    for kind, other in sample.disguises(frame).items():
        taker = next((rule for rule, each in chain if each.matches(other)), None)
        if taker is None or not taker.path:
            found.append(kind)
    return tuple(found)
