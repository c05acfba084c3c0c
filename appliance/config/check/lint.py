# SPDX-License-Identifier: GPL-2.0-only
"""What a configuration means for traffic, reported before it is committed. Nothing here refuses a commit.

Pure: takes a configuration and returns findings, the severe ones first. Rules are reported as never matching
(unreachable_rules.py) only when that is certain.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from appliance.config.check import verify_aaa
from appliance.config.check.evaded_rules import evaded
from appliance.config.check.filter_traps import traps
from appliance.config.check.unreachable_rules import Finding, never
from appliance.config.schema.limits import ONE_BUFFER_MTU
from appliance.config.schema.model import Config, Guest, Remote, Rule
from appliance.config.schema.served import served

__all__ = ["Finding", "lint"]

LINK_LOCAL: Final = (0x01, 0x80, 0xC2, 0x00, 0x00)  # the first bytes of the addresses that no bridge forwards
CONTROL_FRAMES: Final = (  # name, EtherType (STP: a length), last byte of the address
    ("STP", 0x0026, 0x00),
    ("LACP", 0x8809, 0x02),
    ("EAPOL", 0x888E, 0x03),
    ("LLDP", 0x88CC, 0x0E),
    ("PTP peer delay", 0x88F7, 0x0E),
)
NOBODY: Final[Mapping[str, str]] = MappingProxyType({})


def lint(config: Config, old: Config | None = None, down: Mapping[str, str] = NOBODY) -> list[Finding]:
    """All findings about `config`; with `old` also what the change itself does to the links.

    `down`: guests that have no traffic now, each with its state.
    """
    found = [
        *_moves(config, old),
        *_uninspected(config),
        *_long_frames(config),
        *_control_frames(config),
        *never(config),
        *traps(config),
        *evaded(config),
        *_blocks(config, down),
        *_overloads(config),
        *_unchecked(config),
        *_other_segments(config),
        *_unused(config),
        *verify_aaa.remarks(config),
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
        elif was.mtu != segment.mtu:
            yield Finding("warning", f"segment {name}: mtu", "the relay closes until its ports have the new MTU")
        if segment.mode not in (was.mode, "auto"):
            what = "the link is cut" if segment.mode == "disconnect" else "the relay closes: nothing is inspected"
            yield Finding("warning", f"segment {name}: mode", f'"{segment.mode}": {what}')


def _long_frames(config: Config) -> Iterator[Finding]:
    """What `attach = "xdp"` costs with frames that do not fit into one buffer."""
    for segment in config.segment:
        inspected = any(rule.path for rule in config.rule if rule.segment in ("", segment.name))
        if segment.attach == "xdp" and segment.mtu > ONE_BUFFER_MTU and inspected:
            what = f'by XDP, frames longer than {ONE_BUFFER_MTU} bytes or less skip guests; "auto" takes tc for them'
            yield Finding("warning", f"segment {segment.name}: attach", what)


def _uninspected(config: Config) -> Iterator[Finding]:
    """Traffic that passes uninspected: always, and when the relay closes."""
    for segment in config.segment:
        where = f"segment {segment.name}"
        rules = [rule for rule in config.rule if rule.segment in ("", segment.name)]
        inspected = [rule for rule in rules if rule.path]
        blocking = [rule.name for rule in inspected if rule.on_unavailable == "block"]
        if not inspected:
            yield Finding("warning", where, "no rule has a guest in its path: all traffic passes uninspected")
            continue
        names = ", ".join(rule.name for rule in inspected[:6]) + (" and more" if len(inspected) > 6 else "")
        what = f"if its relay closes, the traffic of these rules passes uninspected: {names}"
        yield Finding("note", where, what)
        if blocking:
            what = f"a closed relay also passes what these rules block: {', '.join(blocking[:6])}"
            yield Finding(
                "warning", where, f"{what} (a closed relay is a wire; mode disconnect cuts it where the board can)"
            )
        if all(rule.match or not rule.path for rule in rules):
            yield Finding("note", where, "frames that no rule matches go straight to the other port")


def _control_frames(config: Config) -> Iterator[Finding]:
    """Control frames of the link itself that a rule leads into a hop."""
    from appliance.filter.compiler import compile_filter

    for segment in config.segment:
        if segment.link_local != "rules":
            continue
        led: dict[str, list[str]] = {}  # rule -> what goes into its path
        for name, ethertype, last in CONTROL_FRAMES:
            frame = bytes((*LINK_LOCAL, last, 2, 0, 0, 0, 0, 1)) + ethertype.to_bytes(2, "big") + bytes(46)
            taking = (
                rule
                for rule in config.rule
                if rule.segment in ("", segment.name)
                and compile_filter(rule.match.strip(), through=rule.through).matches(frame)
            )
            rule = next(taking, None)
            if rule is not None and rule.path:
                led.setdefault(rule.name, []).append(name)
        for rule_name, names in led.items():
            what = f'"rules": {", ".join(names)} frames enter the path of rule {rule_name}'
            yield Finding(
                "warning",
                f"segment {segment.name}: link_local",
                f"{what}: a hop that drops them, as every bridge does, makes the neighbours take the link down",
            )


def _blocks(config: Config, down: Mapping[str, str]) -> Iterator[Finding]:
    """When rules block or bypass their path: at once, and what has to fail for it."""
    hops: dict[str, Guest | Remote] = {guest.name: guest for guest in config.guest}
    hops |= {remote.name: remote for remote in config.remote}
    reach = _reach(config)
    for rule in config.rule:
        blocks, strict = rule.on_unavailable == "block", rule.require == "all"
        where = f"rule {rule.name}: {'on_unavailable' if blocks else 'require'}"
        if not rule.path and (blocks or strict):
            yield Finding("note", where, "has no meaning with an empty path: the frames go straight to the other port")
            continue
        # What must not fail as a whole: the path, or each of its places.
        needed = [(name,) for name in rule.path] if strict else [rule.path]
        for names in needed if blocks else ():
            members = [hops[hop] for name in names for hop in reach.get(name, ()) if hop in hops]
            yield from _missing(where, names, members, down, required=strict and len(rule.path) > 1)
        if strict:
            yield from _all_required(where, rule, [hops[hop] for name in rule.path for hop in reach.get(name, ())])
        elif blocks and len(rule.path) > 1:
            what = "a hop that is not available is skipped while another one of the path is there"
            yield Finding("note", where, f'{what}; with require = "all" the rule blocks then')


def _missing(
    where: str, names: tuple[str, ...], members: Sequence[Guest | Remote], down: Mapping[str, str], *, required: bool
) -> Iterator[Finding]:
    """Whether a rule blocks without any of these hops, which it reaches by these names."""
    if not members:
        return
    quoted = ", ".join(f'"{name}"' for name in names)
    if not any(_starts(hop) for hop in members):
        subject = f"{quoted} is not" if len(names) == 1 else f"none of {quoted} is"
        yield Finding("warning", where, f"blocks: {subject} started with the appliance (autostart = false)")
    elif all(hop.name in down for hop in members):
        states = ", ".join(f"{hop.name} is {down[hop.name]}" for hop in members)
        yield Finding("warning", where, f"blocks from the commit on: no hop in path {quoted} is available: {states}")
    elif len(members) == 1:
        (hop,) = members
        inside = "the path" if names[0] == hop.name else quoted
        why = "is required" if required and names[0] == hop.name else f"is the only hop in {inside}"
        yield Finding("note", where, f'"{hop.name}" {why}: its failure blocks')


def _all_required(where: str, rule: Rule, hops: Sequence[Guest | Remote]) -> Iterator[Finding]:
    """What `require = "all"` means for a rule."""
    if rule.on_unavailable != "block":
        what = "the frames pass the whole path uninspected as soon as one of its hops is not available"
        yield Finding("note", where, f'"all": {what}')
    picky = [hop.name for hop in hops if hop.accept.strip()]
    if picky:
        what = f"is not required for frames that its accept filter does not take: {', '.join(picky)}"
        yield Finding("note", where, f'"all": a hop {what}')


def _overloads(config: Config) -> Iterator[Finding]:
    """Rules that open when there is more traffic than their hops can handle."""
    for rule in config.rule:
        where = f"rule {rule.name}: on_overload"
        if rule.on_overload == "auto":
            continue
        if not rule.path:
            yield Finding("note", where, "has no meaning with an empty path: the frames go straight to the other port")
        elif rule.on_overload == "bypass-all":
            what = "sending more than a hop of the path can handle switches the inspection of all its frames off"
            yield Finding("warning", where, what)
        elif rule.on_overload == "bypass-excess" and rule.on_unavailable == "block":
            what = 'what exceeds a hop of the path passes uninspected, although on_unavailable = "block"'
            yield Finding("warning", where, what)


def _starts(hop: Guest | Remote) -> bool:
    return hop.autostart


def _unchecked(config: Config) -> Iterator[Finding]:
    """Hops in a path that no check reaches on the way that the frames take."""
    reach = _reach(config)
    used = {hop for rule in config.rule for name in rule.path for hop in reach.get(name, ())}
    tables: tuple[tuple[str, tuple[Any, ...]], ...] = (("guest", config.guest), ("remote", config.remote))
    for table, hops in tables:
        for hop in hops:
            if hop.name not in used or any(probe.kind == "inband" for probe in hop.probes):
                continue
            if table == "remote" and not hop.probes:
                continue  # it has a heartbeat of its own
            others = [probe.kind for probe in hop.probes]
            if getattr(hop, "heartbeat", None) is not None:
                others.append("heartbeat")
            only = f"only {', '.join(others)}" if others else "nothing but its process"
            what = f"has no data-path check ({only}): a hop that runs but passes no frames goes unnoticed"
            yield Finding("warning", f"{table} {hop.name}: probes", f'{what}; add a probe of kind "inband"')


def _other_segments(config: Config) -> Iterator[Finding]:
    """Guests in the paths of several segments: one application sees both links."""
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
