# SPDX-License-Identifier: GPL-2.0-only
"""Writes a compiled policy into the kernel's tables: rules, hops, groups, buckets, continuations. Stateless."""

from __future__ import annotations

from ctypes import c_uint64
from typing import Any

from appliance.steering.groups import pack
from appliance.steering.kernel import layout
from appliance.steering.kernel.maps import Map
from appliance.steering.policy import CompiledHop, Policy


def _hop_flags(hop: CompiledHop) -> int:
    chosen = ((hop.tracked, layout.HOP_TRACKED), (hop.recorded, layout.HOP_RECORDED), (hop.tags, layout.HOP_TAGS),
              (hop.shunts is not None, layout.HOP_SHUNTS))  # fmt: skip
    return sum(flag for on, flag in chosen if on)


def _segment_flags(policy: Policy, segment: int) -> int:
    link_local = layout.SEGMENT_LINK_LOCAL if segment in policy.link_local else 0
    fragments = layout.SEGMENT_FRAGMENTS if segment in policy.fragments else 0
    return link_local | fragments | (layout.SEGMENT_DRY_RUN if segment in policy.dry_run else 0)


def write_policy(maps: dict[str, Map[Any, Any]], policy: Policy, half: int) -> None:
    """Fill one half (0 or 1) of the tables; the caller ensures that no frame uses it."""
    rules: dict[int, layout.RuleValue] = {}
    for index, rule in enumerate(policy.rules):
        value = layout.RuleValue(length=len(rule.path), flags=rule.flags, counter=rule.counter, shunts=rule.shunts)
        for position, (kind, number) in enumerate(rule.path):
            value.path[position].kind, value.path[position].id = kind, number
        for place, (position, hop) in enumerate(rule.mirrors):
            value.mirrors[place] = position << 8 | hop
        rules[half * layout.MAX_RULES + index] = value
    maps["rules"].set_all(rules)
    maps["segments"].set_all(
        {
            half * layout.MAX_SEGMENTS + number: layout.SegmentValue(
                constant_rule=policy.constant(number),
                flags=_segment_flags(policy, number),
            )
            for number in policy.chains
        }
    )
    by_id = {hop.id: hop for hop in policy.hops.values()}
    maps["hops"].set_all(
        {
            half * layout.MAX_HOPS + number: layout.HopValue(
                accept_bit=by_id[number].accept_bit if number in by_id else layout.NO_ACCEPT_BIT,
                flags=_hop_flags(by_id[number]) if number in by_id else 0,
            )
            for number in range(layout.MAX_HOPS)
        }
    )
    for group in policy.groups.values():
        place = half * layout.MAX_GROUPS + group.id
        ids = {name: policy.hops[name].id for name in group.members}
        members = sum(1 << number for number in ids.values())
        entry = layout.GroupValue(hold_down=group.hold_down, flags=group.flags, hash=group.hash, minimum=group.minimum)
        entry.members[0], entry.members[1] = members & 0xFFFFFFFFFFFFFFFF, members >> 64
        maps["groups"].set(place, entry)
        maps["buckets"].set_all(
            {
                place * layout.BUCKETS + bucket: c_uint64(pack([ids[name] for name in order]))
                for bucket, order in enumerate(group.orders)
            }
        )
    # Every entry is written: those of an earlier policy must not remain.
    continuations = {
        place: layout.ContinuationValue()
        for place in range(half * layout.MAX_HOPS * 32, (half + 1) * layout.MAX_HOPS * 32)
    }
    for (hop, segment, direction), goes_on in policy.continuations.items():
        place = ((half * layout.MAX_HOPS + hop) * layout.MAX_SEGMENTS + segment) * 2 + direction
        continuations[place] = layout.ContinuationValue(rule=goes_on.rule, position=goes_on.position, kind=goes_on.kind)
    maps["continuations"].set_all(continuations)
