# SPDX-License-Identifier: GPL-2.0-only
"""Rules that can never match, and `accept` filters that fit no frame: lint by what the filters say, not by their texts.

The work is done on the filters' decision graphs (filter/reach.py), within a bound of time; what was not come to
is said. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from appliance.config.schema.model import Config, Rule
from appliance.errors import FilterError

if TYPE_CHECKING:
    from appliance.filter.classic import ClassicFilter

MAX_NAMED = 4  # rules that are named as those that together leave nothing


class Finding(NamedTuple):
    """severity: warning (somebody should know this before) or note."""

    severity: str
    where: str
    what: str


def never(config: Config) -> Iterator[Finding]:
    """Rules that the rules before them leave nothing, in every segment that they are for; filters that fit no frame."""
    from appliance.filter import reach

    filters = [compiled(rule.match) for rule in config.rule]
    why: dict[int, list[str]] = {}  # rule -> why it never matches, for each of its segments
    open_: dict[int, None] = {}
    known: dict[tuple[int, ...], reach.Reach] = {}
    for segment in config.segment:
        chain = tuple(
            number
            for number, rule in enumerate(config.rule)
            if rule.segment in ("", segment.name) and filters[number] is not None
        )
        if chain not in known:
            known[chain] = reach.unreachable([found for number in chain if (found := filters[number]) is not None])
        for place, takers in known[chain].hidden.items():
            rule = config.rule[chain[place]]
            text = _why(rule, [config.rule[chain[taker]] for taker in takers])
            why.setdefault(chain[place], []).append(text)
        open_ |= dict.fromkeys(chain[place] for place in known[chain].undecided)
    for number, texts in sorted(why.items()):
        rule = config.rule[number]
        if len(texts) == (1 if rule.segment else len(config.segment)):
            yield Finding("warning", f"rule {rule.name}", f"never matches: {texts[0]}")
    if open_:
        first = config.rule[min(open_)].name
        text = f"whether all can match was not looked into to the end: {len(open_)} are left, the first is {first}"
        yield Finding("note", "rule", text)
    for table, hops in (("guest", config.guest), ("remote", config.remote)):
        for hop in hops:
            accept = compiled(hop.accept)
            if accept is not None and reach.unreachable([accept]).hidden:
                yield Finding("warning", f"{table} {hop.name}: accept", "fits no frame: it gets no traffic")


def compiled(text: str) -> ClassicFilter | None:
    """The filter of a text; None: it is wrong, which is an error and not lint's business."""
    from appliance.filter.compiler import compile_filter

    try:
        return compile_filter(text.strip())
    except FilterError:
        return None


def _why(rule: Rule, takers: Sequence[Rule]) -> str:
    if not takers:
        return "no frame fits its filter"
    if len(takers) > 1:
        names = ", ".join(taker.name for taker in takers[:MAX_NAMED]) + (" and more" if len(takers) > MAX_NAMED else "")
        return f"the rules before it take all of its frames together: {names}"
    (taker,) = takers
    if not taker.match.strip():
        return f"rule {taker.name} before it takes every frame"
    if rule.match.split() == taker.match.split():
        return f"rule {taker.name} before it has the same match"
    return f"rule {taker.name} before it takes all of its frames"
