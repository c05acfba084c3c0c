# SPDX-License-Identifier: GPL-2.0-only
"""Mirrors of rules: what names them, and where a hop cannot be one. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from appliance.config.check.finding import Finding
from appliance.config.schema import limits
from appliance.config.schema.model import Config, Rule
from appliance.config.schema.served import with_mirrors
from appliance.system.toml_lines import Path

Hint = Callable[[str, Iterable[str]], str]


def findings(config: Config, reach: Mapping[str, tuple[str, ...]], hint: Hint) -> Iterator[Finding]:
    """`reach`: by name in a path, the hops behind it. `hint`: the end of an error about an unknown word."""
    groups = {group.name for group in config.group}
    tagged = {guest.name for guest in config.guest if guest.tags}
    tagged |= {remote.name for remote in config.remote if remote.tags}
    for index, rule in enumerate(config.rule):
        if len(rule.mirrors) > limits.MAX_MIRRORS:
            what = f"{len(rule.mirrors)} are more than MAX_MIRRORS = {limits.MAX_MIRRORS}"
            yield Finding(f"rule {rule.name}: mirrors", ("rule", index, "mirrors"), what)
        inline = {hop: name for name in rule.path for hop in reach.get(name, ())}
        seen: set[str] = set()
        for number, mirror in enumerate(rule.mirrors):
            where = f"rule {rule.name}: mirrors {number + 1}"
            place: Path = ("rule", index, "mirrors", number)
            if what := _wrong_hop(mirror.hop, reach, groups, tagged, hint):
                yield Finding(f"{where}: hop", (*place, "hop"), what)
            elif mirror.hop in seen:
                yield Finding(f"{where}: hop", (*place, "hop"), f'"{mirror.hop}" is listed twice')
            elif mirror.hop in inline:
                yield Finding(f"{where}: hop", (*place, "hop"), f'"{mirror.hop}" is in the path, too')
            seen.add(mirror.hop)
            if mirror.beside and mirror.beside not in rule.path:
                what = f'"{mirror.beside}" is not in the path{hint(mirror.beside, rule.path)}'
                yield Finding(f"{where}: beside", (*place, "beside"), what)
    yield from _both(config, reach)
    mirrors = with_mirrors(config)
    for index, segment in enumerate(config.segment):
        if segment.attach == "xdp" and segment.name in mirrors:
            names = ", ".join(mirrors[segment.name])
            what = f'"xdp": XDP cannot copy frames to mirrors ({names}); set it to "auto" or "tc"'
            yield Finding(f"segment {segment.name}: attach", ("segment", index, "attach"), what)


def _wrong_hop(name: str, reach: Mapping[str, tuple[str, ...]], groups: set[str], tagged: set[str], hint: Hint) -> str:
    if name in groups:
        return f'"{name}" is a group; mirrors are guests and remotes only'
    if name not in reach:
        return f'no guest or remote is named "{name}"{hint(name, [hop for hop in reach if hop not in groups])}'
    if name in tagged:
        return f'"{name}" has tags = true: a mirror does not choose where frames go, and gets no tags'
    return ""


def _both(config: Config, reach: Mapping[str, tuple[str, ...]]) -> Iterator[Finding]:
    """Hops that are inline by one rule and a mirror by another one, in the same segment."""

    def shared(one: Rule, other: Rule) -> bool:
        return not one.segment or not other.segment or one.segment == other.segment

    inline = [(rule, {hop for name in rule.path for hop in reach.get(name, ())}) for rule in config.rule]
    for index, rule in enumerate(config.rule):
        for number, mirror in enumerate(rule.mirrors):
            for other, hops in inline:
                if other is not rule and mirror.hop in hops and shared(rule, other):
                    what = (
                        f'"{mirror.hop}" is inline by rule {other.name} in the same segment: what comes out of it does'
                        " not show whether it was a copy"
                    )
                    where = f"rule {rule.name}: mirrors {number + 1}: hop"
                    yield Finding(where, ("rule", index, "mirrors", number, "hop"), what)
                    break
