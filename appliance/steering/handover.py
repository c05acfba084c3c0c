# SPDX-License-Identifier: GPL-2.0-only
"""What comes between two configurations when a hop changes between inline and mirror. Pure.

What comes out of a hop does not show whether it went in as a copy. So a mirror that becomes inline first gets no more
copies, and what it still sends is dropped, or those frames would leave twice; and an inline hop that becomes a mirror
first gets no more frames, and what it still sends leaves, or those frames would be lost. Each step lasts as long as a
hop may keep a frame.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from appliance.config.schema.model import Config, Rule
from appliance.config.schema.served import segments_of, with_mirrors

SETTLE_S = 0.25

Role = tuple[str, str]
"""A hop and a segment."""


class Step(NamedTuple):
    """A configuration for the time in between. `silent`: hops whose frames are dropped in a segment."""

    config: Config
    silent: frozenset[Role]


def between(old: Config, new: Config) -> list[Step]:
    """The steps from `old` to `new`, none if no hop changes its role; each lasts for SETTLE_S."""
    steps = []
    if promoted := _mirrors(old) & _inline(new):
        steps.append(Step(_without(old, promoted), promoted))
    if demoted := _inline(old) & _mirrors(new):
        steps.append(Step(_without(new, demoted), frozenset()))
    return steps


def _mirrors(config: Config) -> frozenset[Role]:
    return frozenset((hop, segment) for segment, hops in with_mirrors(config).items() for hop in hops)


def _inline(config: Config) -> frozenset[Role]:
    paths = _changed_rules(config, lambda rule: msgspec.structs.replace(rule, mirrors=()))
    hops = [guest.name for guest in config.guest] + [remote.name for remote in config.remote]
    return frozenset((hop, segment) for hop in hops for segment in segments_of(paths, hop))


def _without(config: Config, roles: frozenset[Role]) -> Config:
    """Without the copies for these, in every segment of their rules."""
    hops = {hop for hop, _ in roles}

    def fewer(rule: Rule) -> Rule:
        return msgspec.structs.replace(rule, mirrors=tuple(one for one in rule.mirrors if one.hop not in hops))

    return _changed_rules(config, fewer)


def _changed_rules(config: Config, change: Callable[[Rule], Rule]) -> Config:
    return msgspec.structs.replace(config, rule=tuple(change(rule) for rule in config.rule))
