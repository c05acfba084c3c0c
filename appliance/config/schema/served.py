# SPDX-License-Identifier: GPL-2.0-only
"""Which segments a hop serves, derived from the rules and groups of a configuration. Pure.

A [[serve]] is to the datapath a segment whose ports are tunnels, with one rule.
"""

from __future__ import annotations

import msgspec

from appliance.config.schema.model import Config, Remote, Rule, Segment


def segments(config: Config) -> tuple[Segment, ...]:
    """All segments of the datapath: those with ports, and one for each [[serve]], without any."""
    made = (
        Segment(name=one.name, lan="", wan="", on_link_loss="ignore", attach="tc", mtu=one.mtu, link_local="rules")
        for one in config.serve
    )
    return (*config.segment, *made)


def rule_of(serve: str) -> str:
    """The name of the rule for a [[serve]]; no name of a table has a space."""
    return f"serve {serve}"


def expanded(config: Config) -> Config:
    """The same with a segment and a rule for each [[serve]]. Its frames are dropped while its hops are not available:
    the other appliance bypasses them then, and would take what comes back for inspected."""
    rules = (
        Rule(name=rule_of(one.name), segment=one.name, path=one.path, on_unavailable="block", require="all")
        for one in config.serve
    )
    return msgspec.structs.replace(config, segment=segments(config), rule=(*rules, *config.rule))


def segments_of(config: Config, hop: str) -> list[str]:
    """The segments with rules that use this hop, directly or in a group, in the order of the configuration, and then
    what serves other appliances with it."""
    everywhere = [segment.name for segment in config.segment]
    behind = {group.name: group.members for group in config.group}
    found: set[str] = set()
    for rule in config.rule:
        if any(hop in behind.get(name, (name,)) for name in rule.names):
            found.update([rule.segment] if rule.segment else everywhere)
    served_by = [one.name for one in config.serve if any(hop in behind.get(name, (name,)) for name in one.path)]
    return [name for name in everywhere if name in found] + served_by


def served(config: Config) -> dict[str, list[str]]:
    """For each guest, the segments with rules that use it, directly or in a group; all segments when no rule does."""
    everywhere = [segment.name for segment in config.segment]
    return {guest.name: segments_of(config, guest.name) or everywhere for guest in config.guest}


def segment_of(config: Config, remote: Remote) -> str:
    """The one segment that a remote serves; "" where there is no segment. The checks refuse several."""
    found = segments_of(config, remote.name) or [segment.name for segment in config.segment]
    return remote.segment or (found[0] if found else "")


def with_mirrors(config: Config) -> dict[str, list[str]]:
    """For each segment that has any, the hops that are mirrors there."""
    found: dict[str, list[str]] = {}
    for rule in config.rule:
        names = [mirror.hop for mirror in rule.mirrors]
        for segment in ([rule.segment] if rule.segment else [one.name for one in config.segment]) if names else ():
            found[segment] = list(dict.fromkeys([*found.get(segment, ()), *names]))
    return found


def mirrored(config: Config) -> dict[str, list[str]]:
    """For each hop that is a mirror, the segments in which it is one."""
    found: dict[str, list[str]] = {}
    for segment, hops in with_mirrors(config).items():
        for hop in hops:
            found.setdefault(hop, []).append(segment)
    return found


def with_remotes(config: Config, way: str = "") -> dict[str, list[str]]:
    """For each segment that has any, its remotes; those whose tunnels have this `way` only, if it is given."""
    found: dict[str, list[str]] = {}
    for remote in config.remote:
        if way not in ("", remote.tunnel.way):
            continue
        if segment := segment_of(config, remote):
            found.setdefault(segment, []).append(remote.name)
    return found
