# SPDX-License-Identifier: GPL-2.0-only
"""What the types cannot express: names that must exist, loops, limits, combinations that make no sense.

Pure: takes a configuration and returns findings; reads no file, board or daemon. Filters are compiled by the function
that the caller passes.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence

from appliance.config.check import verify_access, verify_machine, verify_mirror, verify_remote
from appliance.config.check import verify_probe as rules
from appliance.config.check.finding import Finding
from appliance.config.schema import limits, metadata, shape
from appliance.config.schema.model import Config, Group, Guest, Probe, Remote, Rule, Segment, Serve
from appliance.config.schema.shape import Table, Tables
from appliance.counted import counted
from appliance.errors import BypassError, ConfigError, FilterError
from appliance.system.toml_lines import Path
from appliance.units import Duration, Size

__all__ = ["CompileFilter", "Finding", "findings", "hint", "verify"]

CompileFilter = Callable[[str, tuple[str, ...]], object]
"""Filter, and what it looks through. Raises FilterError for a bad filter, another BypassError where it cannot tell."""


def verify(config: Config, compile_filter: CompileFilter | None = None, source: str = "") -> list[ConfigError]:
    """All errors of `config`, in the order of the file's tables; [] when it is good."""
    return [finding.error(source) for finding in findings(config, compile_filter)]


def findings(config: Config, compile_filter: CompileFilter | None = None) -> Iterator[Finding]:
    """As `verify`, with the place of each finding in the file."""
    yield from _limits(config)
    yield from _ranges(config)
    yield from _names(config)
    yield from _segments(config)
    for index, guest in enumerate(config.guest):
        yield from _guest(index, guest)
    for index, key, what in verify_machine.between(config.guest):
        yield Finding(f"guest {config.guest[index].name}: {key}", ("guest", index, key), what)
    for index, remote in enumerate(config.remote):
        yield from _probes("remote", index, remote.name, remote.probes)
    yield from _unserved(config)
    yield from _groups(config)
    yield from _rules(config)
    yield from verify_access.findings(config)
    yield from verify_remote.findings(config)
    if compile_filter is not None:
        yield from _filters(config, compile_filter)


def hint(word: str, known: Iterable[str]) -> str:
    """`; did you mean "x"?` or `; there are: a, b` or nothing: the end of an error about an unknown word."""
    known = list(known)
    if close := difflib.get_close_matches(word, known, 1, 0.6):
        return f'; did you mean "{close[0]}"?'
    return f"; there are: {', '.join(known)}" if 0 < len(known) <= 12 else ""


def _too_many(what: str, count: int, constant: str) -> str:
    return f"{count} {what} are more than {constant} = {getattr(limits, constant)}"


def _limits(config: Config) -> Iterator[Finding]:
    hops = len(config.guest) + len(config.remote)
    segments = "segments and serve tables" if config.serve else "segments"
    for table, what, count, constant in (
        ("segment", segments, len(config.segment) + len(config.serve), "MAX_SEGMENTS"),
        ("guest", "guests and remotes", hops, "MAX_HOPS"),
        ("group", "groups", len(config.group), "MAX_GROUPS"),
        ("rule", "rules", len(config.rule), "MAX_RULES"),
    ):
        if count > getattr(limits, constant):
            yield Finding(table, (table,), _too_many(what, count, constant))


def _unserved(config: Config) -> Iterator[Finding]:
    """Tables that the configuration knows and the appliance does not serve yet."""
    for key in metadata.UNSERVED:
        for index, item in enumerate(getattr(config, key)):
            what = "is not supported by this version, frames could not reach it: remove this table"
            yield Finding(f"{key} {item.name}", (key, index), what)


def _ranges(config: Config) -> Iterator[Finding]:
    """Times and sizes beyond their bounds, which stand in the table of keys."""
    for key, node in shape.ROOT.keys.items():
        value = getattr(config, key)
        if isinstance(node, Tables):
            for index, item in enumerate(value):
                yield from _ranges_in(node.item, item, f"{key} {item.name}", (key, index))
        elif isinstance(node, Table):
            yield from _ranges_in(node, value, key, (key,))


def _ranges_in(table: Table, here: object, where: str, path: Path) -> Iterator[Finding]:
    for key, node in table.keys.items():
        value = getattr(here, key)
        if isinstance(node, Tables):
            for index, item in enumerate(value):
                yield from _ranges_in(node.item, item, f"{where}: {key} {index + 1}", (*path, key, index))
        elif isinstance(node, Table):
            if value is not None:
                yield from _ranges_in(node, value, f"{where}: {key}", (*path, key))
        elif isinstance(value, Duration | Size) and (what := beyond(node.path, value)):
            yield Finding(f"{where}: {key}", (*path, key), what)


def beyond(key: str, value: Duration | Size) -> str:
    """Why a time or size is out of the bounds of its key; "" if it is not."""
    row = metadata.field(key)
    if row.least is None or row.most is None or (row.zero and not value):
        return ""
    small, large = ("short", "long") if isinstance(value, Duration) else ("small", "large")
    if value < row.least:
        zero = ", or 0s" if row.zero else ""
        unit = isinstance(value, Size) and 0 < value < 1 << 20 and value % 1024
        hint = f'; a number without a unit counts bytes: "{int(value)}M"?' if unit else ""
        return f"{value} is too {small}: at least {row.least}{zero}{hint}"
    return f"{value} is too {large}: at most {row.most}" if value > row.most else ""


def _names(config: Config) -> Iterator[Finding]:
    """Names are unique: segments and rules each among themselves; guests, remotes and groups together, for paths."""
    spaces: tuple[tuple[tuple[str, Sequence[object]], ...], ...] = (
        (("segment", config.segment),),
        (("guest", config.guest), ("remote", config.remote), ("group", config.group)),
        (("rule", config.rule),),
    )
    for space in spaces:
        seen: dict[str, str] = {}
        for table, items in space:
            for index, item in enumerate(items):
                name = str(getattr(item, "name", ""))
                if name in seen:
                    what = f'"{name}" is already the name of a {seen[name]}'
                    yield Finding(f"{table} {name}: name", (table, index, "name"), what)
                seen.setdefault(name, table)


def _segments(config: Config) -> Iterator[Finding]:
    owner: dict[str, str] = {}
    for index, segment in enumerate(config.segment):
        for key, port in (("lan", segment.lan), ("wan", segment.wan)):
            where, path = f"segment {segment.name}: {key}", ("segment", index, key)
            if not port:
                yield Finding(where, path, "is empty: name a port from the board's board.toml")
            elif key == "wan" and port == segment.lan:
                yield Finding(where, path, f'"{port}" is also the lan port; a segment joins two different ports')
            elif port in owner:
                yield Finding(where, path, f'port "{port}" is already used by segment {owner[port]}')
            if port:
                owner.setdefault(port, segment.name)
        yield from _mtu("segment", index, segment)


def _mtu(table: str, index: int, item: Segment | Guest) -> Iterator[Finding]:
    if what := mtu_trouble(item.mtu):
        yield Finding(f"{table} {item.name}: mtu", (table, index, "mtu"), what)


def mtu_trouble(mtu: int) -> str:
    """Why this is no MTU that a port can have; "" if it is one."""
    if mtu == 0 or mtu >= limits.MIN_MTU:
        return ""
    return f"{mtu} is less than {limits.MIN_MTU}, that of Ethernet; 0 leaves it to the appliance"


def _guest(index: int, guest: Guest) -> Iterator[Finding]:
    where = f"guest {guest.name}"
    yield from _mtu("guest", index, guest)
    if not guest.image and not guest.kernel:
        yield Finding(f"{where}: image", ("guest", index), "a guest needs an image (disk) or a kernel")
    for key, value in (("initrd", guest.initrd), ("cmdline", guest.cmdline)):
        if value and not guest.kernel:
            yield Finding(f"{where}: {key}", ("guest", index, key), "is used only with a kernel, and there is none")
    for key, what in verify_machine.faults(guest):
        yield Finding(f"{where}: {key}", ("guest", index, key), what)
    yield from _probes("guest", index, guest.name, guest.probes)
    for key, what in rules.guest_faults(guest):
        yield Finding(f"{where}: {key}", ("guest", index, key), what)


def _probes(table: str, index: int, name: str, probes: tuple[Probe, ...]) -> Iterator[Finding]:
    for number, probe in enumerate(probes):
        where = f"{table} {name}: probes {number + 1}"
        path: Path = (table, index, "probes", number)
        for key, what in rules.faults(probe):
            yield Finding(f"{where}: {key}", (*path, key) if getattr(probe, key) else path, what)


def _members(group: Group) -> list[tuple[str, str]]:
    """(key, hop) of every member."""
    tables = (("balance", [member.hop for member in group.balance]), ("standby", group.standby), ("spare", group.spare))
    return [(key, hop) for key, hops in tables for hop in hops]


def _groups(config: Config) -> Iterator[Finding]:
    hops = [guest.name for guest in config.guest] + [remote.name for remote in config.remote]
    groups = {group.name for group in config.group}
    for index, group in enumerate(config.group):
        where, members = f"group {group.name}", _members(group)
        if group.balance and group.standby:
            yield Finding(f"{where}: standby", ("group", index, "standby"), "give either balance or standby, not both")
        elif not members:
            yield Finding(f"{where}: balance", ("group", index), "a group needs members: balance or standby")
        if group.spare and not group.balance:
            what = "only a balanced group has spare members; those of a standby group are in `standby`"
            yield Finding(f"{where}: spare", ("group", index, "spare"), what)
        if group.minimum > max(len(members), 1):
            what = f"{group.minimum}, but it has only {counted(len(members), 'member')}: it would never be available"
            yield Finding(f"{where}: minimum", ("group", index, "minimum"), what)
        if len(members) > limits.MAX_MEMBERS:
            what = _too_many("members", len(members), "MAX_MEMBERS")
            yield Finding(f"{where}: {members[0][0]}", ("group", index, members[0][0]), what)
        seen: set[str] = set()
        for key, hop in members:
            place = (f"{where}: {key}", ("group", index, key))
            if hop in groups:
                loop = " (a loop)" if hop == group.name else ""
                yield Finding(*place, f'"{hop}" is a group{loop}; members are guests and remotes only')
            elif hop not in hops:
                yield Finding(*place, f'no guest or remote is named "{hop}"{hint(hop, hops)}')
            elif hop in seen:
                yield Finding(*place, f'"{hop}" is listed twice')
            seen.add(hop)


def _rules(config: Config) -> Iterator[Finding]:
    segments = [segment.name for segment in config.segment]
    hops = [guest.name for guest in config.guest] + [remote.name for remote in config.remote]
    reach: dict[str, tuple[str, ...]] = {hop: (hop,) for hop in hops}  # name in a path -> hops behind it
    reach |= {group.name: tuple(hop for _, hop in _members(group)) for group in config.group}
    for index, rule in enumerate(config.rule):
        where = f"rule {rule.name}"
        if rule.segment and rule.segment not in segments:
            what = f'no segment is named "{rule.segment}"{hint(rule.segment, segments)}'
            yield Finding(f"{where}: segment", ("rule", index, "segment"), what)
        yield from _path(f"{where}: path", ("rule", index, "path"), rule, reach)
    for index, serve in enumerate(config.serve):
        where, path = f"serve {serve.name}: path", ("serve", index, "path")
        if not serve.path:
            yield Finding(where, path, "is empty: name the guests that the other appliance's frames go through")
        yield from _path(where, path, serve, reach)
    yield from verify_mirror.findings(config, reach, hint)


def _path(where: str, path: Path, rule: Rule | Serve, reach: dict[str, tuple[str, ...]]) -> Iterator[Finding]:
    if len(rule.path) > limits.MAX_PATH:
        yield Finding(where, path, _too_many("hops", len(rule.path), "MAX_PATH"))
    passed: dict[str, str] = {}  # hop -> the name in the path that leads to it
    for name in rule.path:
        if name not in reach:
            yield Finding(where, path, f'no guest, remote or group is named "{name}"{hint(name, reach)}')
            continue
        for hop in dict.fromkeys(reach[name]):
            if hop not in passed:
                passed[hop] = name
                continue
            first, via = passed[hop], "" if name == hop else f' as a member of "{name}"'
            before = "" if first == hop else f' (first as a member of "{first}")'
            yield Finding(where, path, f'"{hop}" is in the path twice{via}{before}: a loop')
            break


def _filters(config: Config, compile_filter: CompileFilter) -> Iterator[Finding]:
    texts: list[tuple[str, Path, tuple[str, tuple[str, ...]]]] = []
    tables: tuple[tuple[str, tuple[Guest | Remote, ...]], ...] = (("guest", config.guest), ("remote", config.remote))
    for table, hops in tables:
        for index, hop in enumerate(hops):
            texts.append((f"{table} {hop.name}: accept", (table, index, "accept"), (hop.accept, ())))
    for index, rule in enumerate(config.rule):
        texts.append((f"rule {rule.name}: match", ("rule", index, "match"), (rule.match, rule.through)))
    verdicts: dict[tuple[str, tuple[str, ...]], FilterError | None] = {}  # what is wrong with it
    for where, path, text in texts:
        if text not in verdicts:
            try:
                if text[0]:
                    compile_filter(*text)
                verdicts[text] = None
            except FilterError as error:
                verdicts[text] = error
            except BypassError as error:  # not this filter's fault: say it once
                yield Finding(where, path, " ".join(str(error).split()))
                return
        if (wrong := verdicts[text]) is not None:
            yield Finding(where, path, " ".join(wrong.what.split()), wrong.pointer, wrong.place)
