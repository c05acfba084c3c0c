# SPDX-License-Identifier: GPL-2.0-only
"""Which segments a hop serves, derived from the rules and groups of a configuration. Pure."""

from __future__ import annotations

from appliance.config.schema.model import Config, Remote


def segments_of(config: Config, hop: str) -> list[str]:
    """The segments with rules that use this hop, directly or in a group, in the order of the configuration."""
    everywhere = [segment.name for segment in config.segment]
    behind = {group.name: group.members for group in config.group}
    found: set[str] = set()
    for rule in config.rule:
        if any(hop in behind.get(name, (name,)) for name in rule.names):
            found.update([rule.segment] if rule.segment else everywhere)
    return [name for name in everywhere if name in found]


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


def with_remotes(config: Config) -> dict[str, list[str]]:
    """For each segment that has any, its remotes."""
    found: dict[str, list[str]] = {}
    for remote in config.remote:
        if segment := segment_of(config, remote):
            found.setdefault(segment, []).append(remote.name)
    return found
