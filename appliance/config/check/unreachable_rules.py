# SPDX-License-Identifier: GPL-2.0-only
"""Rules that can never match, and `accept` filters that match no frame: found by what filters mean, not by their text.

The work is done on the filters' decision graphs (filter/reach.py) within a time limit; what was not reached is
reported. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from appliance.config.schema.encapsulations import accepted
from appliance.config.schema.model import Config, Rule
from appliance.errors import FilterError

if TYPE_CHECKING:
    from appliance.filter.classic import ClassicFilter

MAX_NAMED = 4  # rules that are named as those that together leave nothing


class Finding(NamedTuple):
    """severity: warning (to be known before the commit) or note."""

    severity: str
    where: str
    what: str


def never(config: Config) -> Iterator[Finding]:
    """Rules to which earlier rules leave no frame in any of their segments; filters that match no frame."""
    from appliance.filter import reach

    filters = [compiled(rule.match, rule.through) for rule in config.rule]
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
        text = f"not all rules were checked for whether they can match: {len(open_)} are left, beginning with {first}"
        yield Finding("note", "rule", text)
    for table, hops in (("guest", config.guest), ("remote", config.remote)):
        for hop in hops:
            accept = compiled(accepted(hop))
            if accept is not None and reach.unreachable([accept]).hidden:
                yield Finding("warning", f"{table} {hop.name}: accept", "matches no frame: the guest gets no traffic")


def compiled(text: str, through: tuple[str, ...] = ()) -> ClassicFilter | None:
    """The compiled filter of a text; None when it is wrong, which is reported as an error elsewhere."""
    from appliance.filter.compiler import compile_filter

    try:
        return compile_filter(text.strip(), through=through)
    except FilterError:
        return None


def _why(rule: Rule, takers: Sequence[Rule]) -> str:
    if not takers:
        return "its filter matches no frame"
    if len(takers) > 1:
        names = ", ".join(taker.name for taker in takers[:MAX_NAMED]) + (" and more" if len(takers) > MAX_NAMED else "")
        return f"together, rules before it match all of its frames: {names}"
    (taker,) = takers
    if not taker.match.strip():
        return f"rule {taker.name} before it matches every frame"
    if rule.match.split() == taker.match.split() and rule.through == taker.through:
        return f"rule {taker.name} before it has the same match"
    return f"rule {taker.name} before it matches all of its frames"
