# SPDX-License-Identifier: GPL-2.0-only
"""Filters that mean something else than most people read in them: lint by what libpcap makes of the text.

Two traps. `vlan` and the like move what follows them (filter/shifting.py). And a filter means the frames that it can
read: `tcp port 80` takes no tagged frame and no later fragment, so that whoever sends those goes around the rule. The
second is found by trying: a frame that the rule takes, the same packet as other frames carry it, and where the rules
send that. Pure; bounded in time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from appliance.config.check.unreachable_rules import MAX_NAMED, Finding, compiled
from appliance.config.schema.model import Config, Rule
from appliance.filter import shifting

if TYPE_CHECKING:
    from appliance.filter.classic import ClassicFilter
    from appliance.filter.sample import Sampler

    Chain = tuple[tuple[Rule, ClassicFilter], ...]

SECONDS = 0.5  # of processor time; 1,024 rules of usual kinds would take four times as long
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
    from appliance.filter.sample import Sampler

    until, sampler = clock() + seconds, Sampler()
    filters = [compiled(rule.match) for rule in config.rule]
    found: dict[tuple[tuple[str, ...], bool], list[str]] = {}  # kinds of frames, and whether the rule blocks -> rules
    done: set[str] = set()
    chains = dict.fromkeys(
        tuple(
            (rule, filt)
            for rule, filt in zip(config.rule, filters, strict=True)
            if filt is not None and rule.segment in ("", segment.name)
        )
        for segment in config.segment
    )
    asked = [(way, *link) for way in (_Way(sampler, chain) for chain in chains) for link in way.chain]
    for way, rule, filt in asked:
        if not rule.path or filt.constant is not None or rule.name in done or any(shifting.shifted(rule.match)):
            continue
        if clock() > until:
            yield Finding("note", "rule", f"whether frames go around was not looked into from rule {rule.name} on")
            break
        if kinds := way.around(filt):
            done.add(rule.name)
            found.setdefault((kinds, rule.on_unavailable == "block"), []).append(rule.name)
    for (kinds, blocks), names in found.items():
        some = ", ".join(names[:MAX_NAMED]) + (" and more" if len(names) > MAX_NAMED else "")
        listed = ", ".join(kinds[:-1]) + (" and " if len(kinds) > 1 else "") + kinds[-1]
        what = f"the same packets in frames of other kinds pass by, uninspected: {listed}"
        yield Finding("warning" if blocks else "note", f"rule{'s' * (len(names) > 1)} {some}: match", what)


class _Way:
    """The rules of one segment, and where they send a frame."""

    def __init__(self, sampler: Sampler, chain: Chain) -> None:
        self._sampler, self.chain = sampler, chain
        self._takers: dict[tuple[int, ...], Chain] = {}  # traits of a frame -> the rules that may take it

    def around(self, filt: ClassicFilter) -> tuple[str, ...]:
        """The kinds of frames in which a packet that the filter takes goes straight to the other port."""
        from appliance.filter.sample import disguises

        frame = self._sampler.sample(filt)
        return () if frame is None else tuple(kind for kind, other in disguises(frame).items() if self._passes(other))

    def _passes(self, frame: bytes) -> bool:
        traits = self._sampler.traits(frame)
        takers = self._takers.get(traits)
        if takers is None:
            may = self._sampler.may_take
            takers = self._takers[traits] = tuple(link for link in self.chain if may(link[1], traits))
        taker = next((rule for rule, filt in takers if filt.matches(frame)), None)
        return taker is None or not taker.path
