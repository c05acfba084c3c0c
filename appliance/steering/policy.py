# SPDX-License-Identifier: GPL-2.0-only
"""From the configuration to the tables of the datapath. Pure, except for the numbers from `Names`.

Checks what only steering can know (loops, limits, names in paths), each error with table and key, and computes how a
frame that comes back from a hop continues (steer.h: "How a frame keeps its path across a hop").
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from appliance.config.schema.encapsulations import accepted
from appliance.config.schema.model import Config, Group, Guest, Remote, Rule, Shunts
from appliance.config.schema.served import expanded
from appliance.errors import ConfigError, FilterError
from appliance.filter.classic import asks_for_first_fragments
from appliance.filter.compiler import compile_filter
from appliance.steering import groups as grouping
from appliance.steering.kernel import layout
from appliance.steering.kernel.layout import Continuation, Item
from appliance.steering.names import Names


@dataclass(frozen=True)
class CompiledHop:
    """A guest or remote."""

    name: str
    id: int
    accept: str
    accept_bit: int  # NO_ACCEPT_BIT: takes every frame
    tags: bool
    remote: bool = False
    tracked: bool = True
    recorded: bool = False
    shunts: Shunts | None = None  # it may shunt flows


@dataclass(frozen=True)
class CompiledGroup:
    """A group with its members in configured order, and the order of preference of each bucket."""

    name: str
    id: int
    members: tuple[str, ...]
    flags: int
    hold_down: int  # ns
    hash: layout.GroupHash
    minimum: int
    orders: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class CompiledRule:
    """A rule; its index is its position in `Policy.rules`."""

    name: str
    match: str
    path: tuple[tuple[Item, int], ...]
    flags: int
    counter: int
    segments: frozenset[int]
    through: tuple[str, ...] = ()
    shunts: int = 0  # SHUNTS_POSSIBLE, SHUNTS_KEPT
    link_down: bool = False  # while it blocks for want of hops, the segment's ports are held down
    mirrors: tuple[tuple[int, int], ...] = ()  # position in the path, and hop: it gets copies of what passes there

    @property
    def strictness(self) -> int:
        """The rule's flags if it requires all of its hops, else 0: how it acts if a later hop is not available.

        Also whether shunts of a later hop count then.
        """
        kept = (self.shunts & layout.SHUNTS_KEPT) << 8
        return kept | (self.flags & (layout.RULE_ALL | layout.RULE_BLOCK) if self.flags & layout.RULE_ALL else 0)


@dataclass(frozen=True)
class GoesOn:
    """How a frame continues after a hop."""

    kind: Continuation
    rule: int = 0
    position: int = 0


@dataclass(frozen=True)
class Policy:
    """A compiled policy.

    `chains`: the rules of each segment that can be reached, in order, as indexes. `link_local`: segments whose
    link-local control frames enter no hop. `fragments`: segments in which later fragments match the rule of their
    first one. `dry_run`: segments whose rules are only counted. `mirrors`: (hop, segment), hops that get copies there.
    """

    segments: dict[str, int]
    hops: dict[str, CompiledHop]
    groups: dict[str, CompiledGroup]
    rules: tuple[CompiledRule, ...]
    chains: dict[int, tuple[int, ...]]
    accepts: tuple[str, ...]
    continuations: dict[tuple[int, int, int], GoesOn] = field(default_factory=dict)  # (hop, segment, direction)
    link_local: frozenset[int] = frozenset()
    fragments: frozenset[int] = frozenset()
    dry_run: frozenset[int] = frozenset()
    mirrors: frozenset[tuple[int, int]] = frozenset()

    def constant(self, segment: int) -> int:
        """Index of the rule that matches every frame of the segment, or NO_MATCH if filters must be run."""
        chain = self.chains[segment]
        return chain[0] if chain and not self.rules[chain[0]].match else layout.NO_MATCH

    def may_shunt(self, segment: int) -> bool:
        """Whether a hop of a path of the segment's rules may shunt flows."""
        return any(self.rules[index].shunts for index in self.chains[segment])

    def ids(self, item: tuple[Item, int]) -> frozenset[int]:
        """The hops that one item of a path stands for."""
        kind, number = item
        if kind is not Item.GROUP:
            return frozenset((number,) if kind is Item.HOP else ())
        group = next(group for group in self.groups.values() if group.id == number)
        return frozenset(self.hops[name].id for name in group.members)


def _unique(kind: str, names: Iterable[str]) -> None:
    for name, times in Counter(names).items():
        if times > 1:
            raise ConfigError(f"{kind} {name}", f"there are {times} of this name")


_HASHES = {
    "5-tuple": layout.GroupHash.FIVE,
    "l4": layout.GroupHash.FIVE,
    "3-tuple": layout.GroupHash.THREE,
    "2-tuple": layout.GroupHash.TWO,
    "l3": layout.GroupHash.TWO,
    "source": layout.GroupHash.SOURCE,
    "destination": layout.GroupHash.DESTINATION,
}
_ON_MEMBER_FAILURE = {"rehash": 0, "keep": layout.GROUP_KEEP, "reset": layout.GROUP_RESET}


def _group(config: Group, number: int, hops: dict[str, CompiledHop]) -> CompiledGroup:
    where = f"group {config.name}"
    if bool(config.balance) == bool(config.standby):
        raise ConfigError(where, "needs either `balance` or `standby`")
    if config.spare and not config.balance:
        raise ConfigError(f"{where}: spare", "needs `balance`")
    members = config.members
    if config.minimum > len(members):
        raise ConfigError(f"{where}: minimum", f"{config.minimum}, and it has {len(members)}")
    key = "balance" if config.balance else "standby"
    if len(members) > layout.MAX_MEMBERS:
        raise ConfigError(f"{where}: {key}", f"{len(members)} members, the most is {layout.MAX_MEMBERS}")
    for name, times in Counter(members).items():
        if name not in hops:
            raise ConfigError(f"{where}: {key}", f'there is no guest or remote "{name}"')
        if times > 1:
            raise ConfigError(f"{where}: {key}", f'"{name}" is in it {times} times')
    if config.balance:
        shares = [(member.hop, member.weight) for member in config.balance]
        orders = grouping.with_spares(shares, config.spare)
    else:
        orders = grouping.standby(config.standby)
    by = _HASHES[config.hash]
    flags = 0 if config.balance else layout.GROUP_STANDBY
    flags |= layout.GROUP_LONG if by is not layout.GroupHash.FIVE or config.minimum > 1 else 0
    flags |= _ON_MEMBER_FAILURE[config.on_member_failure]
    held = 0 if config.balance and not config.spare else int(config.hold_down)
    return CompiledGroup(config.name, number, members, flags, held, by, config.minimum, tuple(orders))


_ON_OVERLOAD = {
    "bypass-excess": 0,
    "block-excess": layout.RULE_EXCESS_BLOCK,
    "bypass-all": layout.RULE_OVERLOAD_BYPASS,
}


def on_overload(rule: Rule) -> str:
    """The rule's setting, with "auto" resolved: a rule that fails closed also blocks the excess."""
    if rule.on_overload != "auto":
        return rule.on_overload
    return "block-excess" if rule.fails_closed else "bypass-excess"


def _path(
    rule: Rule, hops: dict[str, CompiledHop], groups: dict[str, CompiledGroup]
) -> tuple[tuple[tuple[Item, int], ...], int]:
    where = f"rule {rule.name}: path"
    if len(rule.path) > layout.MAX_PATH:
        raise ConfigError(where, f"{len(rule.path)} hops, the most is {layout.MAX_PATH}")
    path: list[tuple[Item, int]] = []
    seen: dict[str, str] = {}
    flags = layout.RULE_BLOCK if rule.fails_closed else 0
    flags |= layout.RULE_ALL if rule.require == "all" else 0
    flags |= _ON_OVERLOAD[on_overload(rule)]
    for name in rule.path:
        if name in hops:
            members: tuple[str, ...] = (name,)
            path.append((Item.HOP, hops[name].id))
        elif name in groups:
            members = groups[name].members
            path.append((Item.GROUP, groups[name].id))
            flags |= layout.RULE_HASH
            flags |= layout.RULE_RESET if groups[name].flags & layout.GROUP_RESET else 0
        else:
            raise ConfigError(where, f'there is no guest, remote or group "{name}"')
        for member in members:
            if member in seen:
                raise ConfigError(
                    where, f'a loop: "{member}" is reached by "{seen[member]}" and again by "{name}"; name it once'
                )
            seen[member] = name
            if hops[member].accept_bit != layout.NO_ACCEPT_BIT:
                flags |= layout.RULE_ACCEPT
            if hops[member].tracked:
                flags |= layout.RULE_HASH
    if rule.mirrors and not path:  # walked for its mirrors only: nothing is missing, so nothing is blocked
        path.append((Item.NONE, 0))
        flags = 0
    if any(hops[mirror.hop].accept_bit != layout.NO_ACCEPT_BIT for mirror in rule.mirrors if mirror.hop in hops):
        flags |= layout.RULE_ACCEPT
    return tuple(path), flags


def _mirrors(rule: Rule, hops: dict[str, CompiledHop]) -> tuple[tuple[int, int], ...]:
    """The rule's mirrors: beside which position of the path, and the hop."""
    where = f"rule {rule.name}: mirrors"
    if len(rule.mirrors) > layout.MAX_MIRRORS:
        raise ConfigError(where, f"{len(rule.mirrors)}, the most is {layout.MAX_MIRRORS}")
    found = []
    for mirror in rule.mirrors:
        if mirror.hop not in hops:
            raise ConfigError(where, f'there is no guest or remote "{mirror.hop}"')
        if mirror.beside and mirror.beside not in rule.path:
            raise ConfigError(where, f'"{mirror.beside}" is not in the path')
        found.append((rule.path.index(mirror.beside) if mirror.beside else 0, hops[mirror.hop].id))
    return tuple(found)


def _shunts(rule: Rule, hops: dict[str, CompiledHop], groups: dict[str, CompiledGroup]) -> int:
    """Whether hops of the rule's path may shunt flows, and whether that counts while they are not available."""
    members = (member for name in rule.path for member in (groups[name].members if name in groups else (name,)))
    if not any(hops[member].shunts for member in members):
        return 0
    return layout.SHUNTS_POSSIBLE | (layout.SHUNTS_KEPT if rule.keep_shunts else 0)


def _hops(config: Config, names: Names) -> tuple[dict[str, CompiledHop], tuple[str, ...]]:
    found: tuple[Guest | Remote, ...] = (*config.guest, *config.remote)
    ids = names.ensure("hop", [hop.name for hop in found])
    accepts: list[str] = []
    hops: dict[str, CompiledHop] = {}
    for hop in found:
        bit = layout.NO_ACCEPT_BIT
        accept = accepted(hop)
        if accept.strip():
            if accept not in accepts:
                accepts.append(accept)
            bit = accepts.index(accept)
            if bit >= layout.MAX_ACCEPTS:
                raise ConfigError(
                    f"guest {hop.name}: accept", f"more than {layout.MAX_ACCEPTS} different accept filters"
                )
        remote = isinstance(hop, Remote)
        recorded = isinstance(hop, Guest) and hop.recorder.frames > 0
        shunts = hop.shunts if isinstance(hop, Guest) and hop.shunts.max else None
        hops[hop.name] = CompiledHop(
            hop.name, ids[hop.name], accept, bit, hop.tags, remote, recorded=recorded, shunts=shunts
        )
    return hops, tuple(accepts)


def _remainders(policy: Policy, segment: int, hop: int, direction: int) -> list[tuple[GoesOn, tuple[object, ...]]]:
    """For each rule of the segment that holds the hop: where it does, and what of its path is left behind it."""
    found: list[tuple[GoesOn, tuple[object, ...]]] = []
    for index in policy.chains[segment]:
        path = policy.rules[index].path
        for position, item in enumerate(path):
            if hop in policy.ids(item):
                rest = path[position + 1 :] if direction == 0 else tuple(reversed(path[:position]))
                ahead = 1 if direction == 0 else -1
                mirrors = tuple(
                    (steps, mirror)
                    for at, mirror in policy.rules[index].mirrors
                    if (steps := (at - position) * ahead) > 0
                )
                # What becomes of a frame for which one of these is missing tells rules apart, too.
                strict = policy.rules[index].strictness if rest else 0
                found.append((GoesOn(Continuation.STATIC, index, position), (rest, strict, mirrors)))
    return found


def _continuations(policy: Policy) -> dict[tuple[int, int, int], GoesOn]:
    result: dict[tuple[int, int, int], GoesOn] = {}
    for segment in policy.chains:
        for hop in (h.id for h in policy.hops.values()):
            for direction in (0, 1):
                if (hop, segment) in policy.mirrors:
                    result[hop, segment, direction] = GoesOn(Continuation.MIRROR)
                    continue
                found = _remainders(policy, segment, hop, direction)
                if not found:
                    continue
                first = found[0][0]
                if len({rest for _, rest in found}) > 1:
                    goes_on = GoesOn(Continuation.CLASSIFY, first.rule, first.position)
                elif found[0][1][0]:
                    goes_on = first
                else:
                    goes_on = GoesOn(Continuation.END, first.rule, first.position)
                result[hop, segment, direction] = goes_on
    return result


def _tells_fragments_apart(rule: CompiledRule) -> bool:
    """Whether its filter asks for what only the first fragment of a datagram shows. Of a wrong one: no."""
    try:
        return asks_for_first_fragments(compile_filter(rule.match, through=rule.through))
    except FilterError:
        return False


def compile_policy(config: Config, names: Names, silent: frozenset[tuple[str, str]] = frozenset()) -> Policy:
    """Check the configuration's steering and make the tables.

    `silent`: (hop, segment) whose frames are dropped there, as those of a mirror, although it gets no copies.
    ConfigError names the table and key that is wrong; `names` may have learned new names by then, which is harmless.
    What is wrong in a filter's text is found elsewhere.
    """
    no_ports, config = {one.name for one in config.serve}, expanded(config)
    hop_names = [hop.name for hop in config.guest] + [hop.name for hop in config.remote]
    _unique("segment", (segment.name for segment in config.segment))
    _unique("rule", (rule.name for rule in config.rule))
    _unique("guest, remote or group", [*hop_names, *(group.name for group in config.group)])
    segments = names.ensure("segment", [segment.name for segment in config.segment])
    hops, accepts = _hops(config, names)
    if len(config.group) > layout.MAX_GROUPS:
        raise ConfigError("group", f"{len(config.group)} are configured, the most is {layout.MAX_GROUPS}")
    groups = {group.name: _group(group, number, hops) for number, group in enumerate(config.group)}
    counters = names.ensure("rule", [rule.name for rule in config.rule])
    rules: list[CompiledRule] = []
    for rule in config.rule:
        if rule.segment and rule.segment not in segments:
            raise ConfigError(f"rule {rule.name}: segment", f'there is no segment "{rule.segment}"')
        path, flags = _path(rule, hops, groups)
        everywhere = (number for name, number in segments.items() if name not in no_ports)
        where = frozenset((segments[rule.segment],)) if rule.segment else frozenset(everywhere)
        match = rule.match.strip()
        down = rule.on_unavailable == "link-down"
        shunts = _shunts(rule, hops, groups)
        rules.append(
            CompiledRule(
                rule.name,
                match,
                path,
                flags,
                counters[rule.name],
                where,
                rule.through,
                shunts=shunts,
                link_down=down,
                mirrors=_mirrors(rule, hops),
            )
        )
    chains: dict[int, tuple[int, ...]] = {}
    for segment in segments.values():
        chain: list[int] = []
        for index, compiled in enumerate(rules):
            if segment in compiled.segments:
                chain.append(index)
                if not compiled.match:
                    break  # nothing behind it can be reached
        chains[segment] = tuple(chain)
    link_local = frozenset(segments[segment.name] for segment in config.segment if segment.link_local == "straight")
    fragments = frozenset(
        segment for segment, chain in chains.items() if any(_tells_fragments_apart(rules[index]) for index in chain)
    )
    dry_run = frozenset(segments[segment.name] for segment in config.segment if segment.dry_run)
    mirrors = frozenset(
        (hop, segment) for compiled in rules for segment in compiled.segments for _, hop in compiled.mirrors
    ) | {(hops[hop].id, segments[segment]) for hop, segment in silent if hop in hops and segment in segments}
    policy = Policy(
        segments, hops, groups, tuple(rules), chains, accepts,
        link_local=link_local, fragments=fragments, dry_run=dry_run, mirrors=mirrors,
    )  # fmt: skip
    policy.continuations.update(_continuations(policy))
    return policy
