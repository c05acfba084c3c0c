# SPDX-License-Identifier: GPL-2.0-only
"""What a configuration means for traffic, reported before it is committed. Nothing here refuses a commit.

Pure: takes a configuration and returns findings, the severe ones first. Rules are reported as never matching
(unreachable_rules.py) only when that is certain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from appliance.config.check import verify_aaa, verify_remote, verify_snmp
from appliance.config.check.evaded_rules import evaded
from appliance.config.check.filter_traps import traps
from appliance.config.check.unreachable_rules import Finding, never
from appliance.config.schema.limits import ONE_BUFFER_MTU
from appliance.config.schema.model import Config, Guest, Remote, Rule
from appliance.config.schema.served import served, with_mirrors
from appliance.counted import counted

__all__ = ["Finding", "lint"]

LINK_LOCAL: Final = (0x01, 0x80, 0xC2, 0x00, 0x00)  # the first bytes of the addresses that no bridge forwards
CONTROL_FRAMES: Final = (  # name, EtherType (STP: a length), last byte of the address
    ("STP", 0x0026, 0x00),
    ("LACP", 0x8809, 0x02),
    ("EAPOL", 0x888E, 0x03),
    ("LLDP", 0x88CC, 0x0E),
    ("PTP peer delay", 0x88F7, 0x0E),
)
FAST: Final = 5_000_000  # ns between heartbeats
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
        *_dry_runs(config),
        *_mirrors(config),
        *never(config),
        *traps(config),
        *evaded(config),
        *_blocks(config, down),
        *_groups(config),
        *_overloads(config),
        *_shunts(config),
        *_dry_checks(config),
        *_queues(config),
        *_fast_heartbeats(config),
        *_unchecked(config),
        *_other_segments(config),
        *_unused(config),
        *verify_aaa.remarks(config),
        *verify_remote.remarks(config),
        *verify_snmp.remarks(config),
    ]
    return sorted(found, key=lambda finding: finding.severity != "warning")


def _reach(config: Config) -> dict[str, tuple[str, ...]]:
    """Name in a path -> the guests and remotes behind it."""
    reach: dict[str, tuple[str, ...]] = {guest.name: (guest.name,) for guest in config.guest}
    reach |= {remote.name: (remote.name,) for remote in config.remote}
    for group in config.group:
        reach[group.name] = group.members
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
        blocking = [rule.name for rule in inspected if rule.fails_closed]
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


def _dry_runs(config: Config) -> Iterator[Finding]:
    """Segments whose rules are only counted."""
    for segment in config.segment:
        rules = [rule.name for rule in config.rule if rule.segment in ("", segment.name) and rule.path]
        if segment.dry_run:
            names = ", ".join(rules[:6]) + (" and more" if len(rules) > 6 else "")
            what = (
                f"nothing is inspected or blocked: {names} only count" if rules else "has no effect: no rule has a hop"
            )
            yield Finding("warning" if rules else "note", f"segment {segment.name}: dry_run", what)


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
    minimum = {group.name: group.minimum for group in config.group}
    for rule in config.rule:
        blocks, strict = rule.fails_closed, rule.require == "all"
        where = f"rule {rule.name}: {'on_unavailable' if blocks else 'require'}"
        if not rule.path and (blocks or strict):
            yield Finding("note", where, "has no meaning with an empty path: the frames go straight to the other port")
            continue
        # What must not fail as a whole: the path, or each of its places.
        needed = [(name,) for name in rule.path] if strict else [rule.path]
        for names in needed if blocks else ():
            places = [
                _Place(name, [hops[hop] for hop in reach.get(name, ()) if hop in hops], minimum.get(name, 1))
                for name in names
            ]
            yield from _missing(where, places, down, required=strict and len(rule.path) > 1)
        if rule.on_unavailable == "link-down":
            segments = [segment.name for segment in config.segment if rule.segment in ("", segment.name)]
            subject = f"segment {segments[0]}" if len(segments) == 1 else f"segments {', '.join(segments[:6])}"
            what = f"while it blocks, both ports of {subject} have no link, for the traffic of all rules"
            yield Finding("note", where, what)
        if strict:
            yield from _all_required(where, rule, [hops[hop] for name in rule.path for hop in reach.get(name, ())])
        elif blocks and len(rule.path) > 1:
            what = "a hop that is not available is skipped while another one of the path is there"
            yield Finding("note", where, f'{what}; with require = "all" the rule blocks then')


class _Place(NamedTuple):
    """A name in a path: a hop, or a group of which `minimum` are needed."""

    name: str
    members: Sequence[Guest | Remote]
    minimum: int

    def lacks(self, good: Callable[[Guest | Remote], bool]) -> bool:
        return sum(map(good, self.members)) < self.minimum


def _missing(where: str, places: Sequence[_Place], down: Mapping[str, str], *, required: bool) -> Iterator[Finding]:
    """Whether a rule blocks without any of these places of its path."""
    members = [hop for place in places for hop in place.members]
    if not members:
        return
    names = [place.name for place in places]
    quoted = ", ".join(f'"{name}"' for name in names)
    if all(place.lacks(_starts) for place in places):
        subject = f"{quoted} is not" if len(names) == 1 else f"none of {quoted} is"
        yield Finding("warning", where, f"blocks: {subject} started with the appliance (autostart = false)")
    elif all(place.lacks(lambda hop: hop.name not in down) for place in places):
        states = ", ".join(f"{hop.name} is {down[hop.name]}" for hop in members if hop.name in down)
        yield Finding("warning", where, f"blocks from the commit on: no hop in path {quoted} is available: {states}")
    elif len(members) == 1:
        (hop,) = members
        inside = "the path" if names[0] == hop.name else quoted
        why = "is required" if required and names[0] == hop.name else f"is the only hop in {inside}"
        yield Finding("note", where, f'"{hop.name}" {why}: its failure blocks')


def _groups(config: Config) -> Iterator[Finding]:
    """What groups do when members fail."""
    hops: list[Guest | Remote] = [*config.guest, *config.remote]
    starts = {hop.name for hop in hops if _starts(hop)}
    for group in config.group:
        where, number = f"group {group.name}", len(group.members)
        ready = sum(member in starts for member in group.members)
        if ready < group.minimum and ready:
            what = f"not available: only {ready} of {counted(number, 'member')} started with the appliance"
            yield Finding("warning", f"{where}: minimum", f"{group.minimum}: {what} (autostart = false)")
        elif group.minimum == number > 1:
            what = "the failure of any member makes the group unavailable; with a spare one it would not"
            yield Finding("note", f"{where}: minimum", f"{group.minimum}: {what}")
        used = [rule for rule in config.rule if group.name in rule.path]
        if group.on_member_failure == "keep":
            open_, closed = ([r.name for r in used if r.fails_closed is which] for which in (False, True))
            for names, fate in (
                (open_, "bypass the group uninspected"),
                (closed, "are blocked if the rest of the path is"),
            ):
                if names:
                    what = f'"keep": established flows of a failed member {fate} (rules {", ".join(names[:6])})'
                    yield Finding("note", f"{where}: on_member_failure", what)


def _all_required(where: str, rule: Rule, hops: Sequence[Guest | Remote]) -> Iterator[Finding]:
    """What `require = "all"` means for a rule."""
    if not rule.fails_closed:
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
        elif rule.on_overload == "bypass-excess" and rule.fails_closed:
            what = (
                f'what exceeds a hop of the path passes uninspected, although on_unavailable = "{rule.on_unavailable}"'
            )
            yield Finding("warning", where, what)


def _dry_checks(config: Config) -> Iterator[Finding]:
    """Guests whose checks decide nothing."""
    for guest in config.guest:
        if not guest.dry_run:
            continue
        if guest.probes or guest.heartbeat is not None:
            what = "its checks decide nothing: it keeps its traffic when it hangs"
            yield Finding("warning", f"guest {guest.name}: dry_run", what)
        else:
            yield Finding("note", f"guest {guest.name}: dry_run", "has no effect: it has no checks")


def _queues(config: Config) -> Iterator[Finding]:
    """Guests whose queues bring nothing, or may let frames overtake others."""
    for guest in config.guest:
        where = f"guest {guest.name}: queues"
        if guest.accel == "tcg" and (guest.queues > 1 or guest.queue_poll):
            what = 'bring nothing with accel = "tcg": without vhost QEMU moves the frames of all of them by itself'
            yield Finding("note", where, what)
        elif guest.queues > 1 and not guest.queue_pin:
            what = "without queue_pin: frames may overtake others of their flow when a queue's thread moves elsewhere"
            yield Finding("note", where, what)


def _fast_heartbeats(config: Config) -> Iterator[Finding]:
    """Heartbeats so frequent that a machine that is merely busy misses them."""
    for table, hops in (("guest", config.guest), ("remote", config.remote)):
        for hop in hops:
            fast = [probe.interval for probe in hop.probes if probe.kind == "inband" and probe.interval < FAST]
            if fast:
                what = f"heartbeats every {min(fast)}: a few ms without a processor look like a hang, here or there"
                yield Finding("note", f"{table} {hop.name}: probes", what)


def _shunts(config: Config) -> Iterator[Finding]:
    """Rules that keep shunts, and guests whose shunts count in spite of a rule that blocks."""
    reach = _reach(config)
    may = {guest.name for guest in config.guest if guest.shunts.max}
    for rule in config.rule:
        if not rule.keep_shunts:
            continue
        where = f"rule {rule.name}: keep_shunts"
        hops = [hop for name in rule.path for hop in reach.get(name, ()) if hop in may]
        if not hops:
            yield Finding("note", where, "has no effect: no hop of the path may shunt flows (guest NAME shunts max)")
        elif rule.on_unavailable != "block":
            yield Finding("note", where, 'has an effect only with on_unavailable = "block"')
        else:
            what = f'what {", ".join(hops)} has shunted passes while it is down, although on_unavailable = "block"'
            yield Finding("warning", where, what)


def _mirrors(config: Config) -> Iterator[Finding]:
    """What mirrors cost, and where they get nothing."""
    for segment, names in with_mirrors(config).items():
        where = f"segment {segment}: attach"
        what = f"its ports are attached by tc, which is slower than XDP, because of mirrors: {', '.join(names)}"
        yield Finding("note", where, what)
        if any(one.dry_run for one in config.segment if one.name == segment):
            yield Finding("note", f"segment {segment}: dry_run", f"mirrors get no copies: {', '.join(names)}")


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
    used = {hop for rule in config.rule for name in rule.names for hop in reach.get(name, ())}
    for guest, segments in zip(config.guest, served(config).values(), strict=True):
        if guest.name in used and len(segments) > 1:
            rules = [r.name for r in config.rule if any(guest.name in reach.get(name, ()) for name in r.names)]
            what = f"serves segments {' and '.join(segments)} (rules {', '.join(rules[:6])})"
            yield Finding("warning", f"guest {guest.name}", f"{what}: it must keep the links apart, and fails for both")


def _unused(config: Config) -> Iterator[Finding]:
    reach = _reach(config)
    named = [*(rule.names for rule in config.rule), *(serve.path for serve in config.serve)]
    used = {hop for names in named for name in names for hop in (name, *reach.get(name, ()))}
    for table, items in (("guest", config.guest), ("remote", config.remote), ("group", config.group)):
        for item in items:
            if item.name not in used:
                yield Finding("note", f"{table} {item.name}", "is in no rule: it gets no traffic")
