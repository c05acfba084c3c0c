# SPDX-License-Identifier: GPL-2.0-only
"""What a configuration means for traffic, said before it is committed. Nothing here refuses a commit.

Pure: the configuration goes in, findings come out, the severe ones first. What is said of rules that never match
(shadows.py) is certain, never a guess about frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

from appliance.config.check.unreachable_rules import Finding, never
from appliance.config.schema.model import Config, Guest, Remote
from appliance.config.schema.served import served

__all__ = ["Finding", "lint"]

NOBODY: Final[Mapping[str, str]] = MappingProxyType({})


def lint(config: Config, old: Config | None = None, down: Mapping[str, str] = NOBODY) -> list[Finding]:
    """Everything worth saying about `config`; with `old` also what the change itself does to the links.

    `down`: guests that have no traffic now, and the state that each is in.
    """
    found = [
        *_moves(config, old),
        *_uninspected(config),
        *never(config),
        *_blocks(config, down),
        *_overloads(config),
        *_unchecked(config),
        *_other_segments(config),
        *_unused(config),
    ]
    return sorted(found, key=lambda finding: finding.severity != "warning")


def _reach(config: Config) -> dict[str, tuple[str, ...]]:
    """Name in a path -> the guests and remotes behind it."""
    reach: dict[str, tuple[str, ...]] = {guest.name: (guest.name,) for guest in config.guest}
    reach |= {remote.name: (remote.name,) for remote in config.remote}
    for group in config.group:
        reach[group.name] = tuple(member.hop for member in group.balance) or group.standby
    return reach


def _moves(config: Config, old: Config | None) -> Iterator[Finding]:
    """What the change does to relays."""
    before = {segment.name: segment for segment in old.segment} if old else {}
    after = {segment.name: segment for segment in config.segment}
    for name in before:
        if name not in after:
            yield Finding("warning", f"segment {name}", "is removed: its relay closes, and its link is a bare wire")
    for name, segment in after.items():
        was = before.get(name)
        if was is None:
            continue
        if (was.lan, was.wan) != (segment.lan, segment.wan):
            yield Finding("warning", f"segment {name}", "gets other ports: the relay of the old ones closes")
        if segment.mode not in (was.mode, "auto"):
            what = "the link is cut" if segment.mode == "disconnect" else "the relay closes: nothing is inspected"
            yield Finding("warning", f"segment {name}: mode", f'"{segment.mode}": {what}')


def _uninspected(config: Config) -> Iterator[Finding]:
    """What passes uninspected: always, and when the relay closes."""
    for segment in config.segment:
        where = f"segment {segment.name}"
        rules = [rule for rule in config.rule if rule.segment in ("", segment.name)]
        inspected = [rule for rule in rules if rule.path]
        blocking = [rule.name for rule in inspected if rule.on_unavailable == "block"]
        if not inspected:
            yield Finding("warning", where, "no rule leads through a guest: all its traffic passes uninspected")
            continue
        names = ", ".join(rule.name for rule in inspected[:6]) + (" and more" if len(inspected) > 6 else "")
        what = f"if its relay closes, the traffic of these rules passes uninspected: {names}"
        yield Finding("note", where, what)
        if blocking:
            what = f"a closed relay passes also what these rules block: {', '.join(blocking[:6])}"
            yield Finding(
                "warning", where, f"{what} (the relay is a wire; mode disconnect cuts it where the board can)"
            )
        if all(rule.match or not rule.path for rule in rules):
            yield Finding("note", where, "frames that no rule matches go straight to the other port")


def _blocks(config: Config, down: Mapping[str, str]) -> Iterator[Finding]:
    """Rules that block while there is nobody to pass the frames to."""
    hops: dict[str, Guest | Remote] = {guest.name: guest for guest in config.guest}
    hops |= {remote.name: remote for remote in config.remote}
    reach = _reach(config)
    for rule in config.rule:
        if rule.on_unavailable != "block":
            continue
        where = f"rule {rule.name}: on_unavailable"
        if not rule.path:
            yield Finding("note", where, "has no meaning with an empty path: the frames go straight to the other port")
            continue
        for name in rule.path:
            members = [hops[hop] for hop in reach.get(name, ()) if hop in hops]
            if members and not any(_starts(hop) for hop in members):
                yield Finding(
                    "warning", where, f'blocks: "{name}" is not started with the appliance (autostart = false)'
                )
            elif members and all(hop.name in down for hop in members):
                states = ", ".join(f"{hop.name} is {down[hop.name]}" for hop in members)
                yield Finding(
                    "warning", where, f'blocks from the commit on: no hop in path "{name}" is available: {states}'
                )
            elif len(members) == 1:
                hop = f'"{members[0].name}" is the only hop in '
                inside = "the path" if name == members[0].name else f'"{name}"'
                yield Finding("note", where, f"{hop}{inside}: its failure blocks")


def _overloads(config: Config) -> Iterator[Finding]:
    """Rules that open when somebody sends more than their hops carry."""
    for rule in config.rule:
        where = f"rule {rule.name}: on_overload"
        if rule.on_overload == "auto":
            continue
        if not rule.path:
            yield Finding("note", where, "has no meaning with an empty path: the frames go straight to the other port")
        elif rule.on_overload == "bypass-all":
            what = "whoever sends more than a hop of the path carries switches the inspection of all its frames off"
            yield Finding("warning", where, what)
        elif rule.on_overload == "bypass-excess" and rule.on_unavailable == "block":
            what = 'what exceeds a hop of the path passes uninspected, although on_unavailable = "block"'
            yield Finding("warning", where, what)


def _starts(hop: Guest | Remote) -> bool:
    return not isinstance(hop, Guest) or hop.autostart


def _unchecked(config: Config) -> Iterator[Finding]:
    """Hops that a rule leads to and that nobody checks on the way that the frames take."""
    reach = _reach(config)
    used = {hop for rule in config.rule for name in rule.path for hop in reach.get(name, ())}
    tables: tuple[tuple[str, tuple[Any, ...]], ...] = (("guest", config.guest), ("remote", config.remote))
    for table, hops in tables:
        for hop in hops:
            if hop.name not in used or any(probe.kind == "inband" for probe in hop.probes):
                continue
            others = [probe.kind for probe in hop.probes]
            if getattr(hop, "heartbeat", None) is not None:
                others.append("heartbeat")
            only = f"only {', '.join(others)}" if others else "nothing but its process"
            what = f"has no data-path check ({only}): one that runs and passes nothing is not noticed"
            yield Finding("warning", f"{table} {hop.name}: probes", f'{what}; add a probe of kind "inband"')


def _other_segments(config: Config) -> Iterator[Finding]:
    """Guests that several segments lead to: one application sees both links."""
    reach = _reach(config)
    used = {hop for rule in config.rule for name in rule.path for hop in reach.get(name, ())}
    for guest, segments in zip(config.guest, served(config).values(), strict=True):
        if guest.name in used and len(segments) > 1:
            rules = [r.name for r in config.rule if any(guest.name in reach.get(name, ()) for name in r.path)]
            what = f"serves segments {' and '.join(segments)} (rules {', '.join(rules[:6])})"
            yield Finding("warning", f"guest {guest.name}", f"{what}: it must keep the links apart, and fails for both")


def _unused(config: Config) -> Iterator[Finding]:
    reach = _reach(config)
    used = {hop for rule in config.rule for name in rule.path for hop in (name, *reach.get(name, ()))}
    for table, items in (("guest", config.guest), ("remote", config.remote), ("group", config.group)):
        for item in items:
            if item.name not in used:
                yield Finding("note", f"{table} {item.name}", "is in no rule's path: it gets no traffic")
