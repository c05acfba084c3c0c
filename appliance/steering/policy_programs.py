# SPDX-License-Identifier: GPL-2.0-only
"""The generated half of a policy: the programs that find rules and accepts, loaded and put into their slots.

The programs come from `appliance.filter`. Owns their descriptors until `close`; a program in a slot lives on.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Set
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from appliance.config.check.lint import Finding
from appliance.filter import compiler as pcap
from appliance.filter.frame_reader import Kind
from appliance.filter.linkage import Host
from appliance.filter.report import Report
from appliance.steering.kernel import layout
from appliance.steering.kernel.maps import Map
from appliance.steering.kernel.objects import Kernel
from appliance.steering.kernel.splice import Template
from appliance.steering.policy import Policy

_KINDS: tuple[tuple[Kind, str, int], ...] = (
    ("xdp", "xdp_programs", 2),
    ("tc", "tc_programs", 0),
)  # XDP_PASS, TC_ACT_OK
OWN_PORTS = 4
"""A set gets a program for each of so many ports; more share one, because each is verified by itself."""


@dataclass
class Compiled:
    """The result for one set of filters: the rules of some segments (numbers), or the `accept` filters (none)."""

    kind: Kind
    segments: tuple[int, ...]
    report: Report


@dataclass
class Generated:
    """The loaded programs: each set with the array it belongs to and the slots of its entry.

    `others`: sets whose second program (frames in pieces, or with the tag beside) belongs into these slots too.
    `before`: (array, slot, descriptor) of core programs that stand before a set: those of the flow cache.
    """

    sets: list[tuple[str, pcap.LoadedSet, tuple[int, ...]]] = field(default_factory=list)
    others: list[tuple[str, pcap.LoadedSet, tuple[int, ...]]] = field(default_factory=list)
    before: list[tuple[str, int, int]] = field(default_factory=list)
    compiled: list[Compiled] = field(default_factory=list)
    attached: dict[int, int] = field(default_factory=dict)  # by slot of a port: what to attach to it by XDP
    own: set[int] = field(default_factory=set)  # slots in `attached` whose program is for this port alone
    constant: list[int] = field(default_factory=list)  # those for segments without filters, which belong to no set

    def install(self, maps: dict[str, Map[Any, Any]], generation: int) -> None:
        """Put the programs into their slots; slots of this half that stay empty are cleared.

        They run as soon as the policy word has their generation.
        """
        entries = {layout.program_policy(generation, segment) for segment in range(layout.MAX_SEGMENTS)}
        for place in (layout.program_filters, layout.program_decide):
            entries |= {place(generation, segment) for segment in range(layout.MAX_SEGMENTS)}
        entries.add(layout.program_accept(generation))
        for _, name, _ in _KINDS:
            filled = {slot for array, _, slots in self.sets if array == name for slot in slots}
            filled |= {slot for array, slot, _ in self.before if array == name}
            filled |= {slot for array, _, slots in self.others if array == name for slot in slots}
            for slot in entries - filled:
                maps[name].delete(slot)
        for array, loaded, slots in self.sets:
            loaded.place_parts(maps[array].fd)
            for slot in slots:
                maps[array].set(slot, loaded.entry_fd)
        for array, loaded, slots in self.others:
            for slot in slots:
                if loaded.parts:
                    maps[array].set(slot, loaded.parts[0][1])
        for array, slot, fd in self.before:
            maps[array].set(slot, fd)

    def remarks(self, segments: Mapping[int, str]) -> list[Finding]:
        """Remarks on the sets before they are used, once for XDP and tc. `segments`: number -> name."""
        found: dict[str, str] = {}
        for one in self.compiled:
            if remark := one.report.remark():
                names = ", ".join(segments.get(number, str(number)) for number in one.segments)
                found.setdefault(f"segment {names}" if names else "guests: accept", remark)
        return [Finding("note", where, what) for where, what in found.items()]

    def close(self) -> None:
        """Close the descriptors."""
        for _, loaded, _ in self.sets:
            loaded.close()
        for fd in self.constant:
            os.close(fd)
        self.sets, self.constant = [], []

    def attach(self, hosts: Iterable[_Attached], fds: Iterable[int]) -> None:
        """Note for which ports the loaded programs are."""
        for (slots, own, _), fd in zip(hosts, fds, strict=False):
            self.attached |= dict.fromkeys(slots, fd)
            self.own |= slots if own else set()


class _Attached(NamedTuple):
    """A program to attach to ports. `own`: made for the only one of them."""

    slots: frozenset[int]
    own: bool
    host: Host


def _attached(
    templates: Mapping[str, Template],
    segments: Collection[int],
    generation: int,
    several: Set[int],
    *,
    fragments: bool,
    shunts: bool,
    dry_run: bool,
) -> list[_Attached]:
    """The programs for the ports of segments with the same rules: one for each port, where that is possible.

    `shunts`: a hop of their paths may shunt flows. `dry_run`: one of them only counts what its rules would do.
    """
    ports = {layout.slot(0, segment, side) for segment in segments for side in layout.Side}
    # A program for one port has a way to the first hop, which a dry run must not take.
    own = ports - several if len(ports) <= OWN_PORTS and not dry_run else set()
    hosts = [
        _Attached(
            frozenset((port,)),
            True,
            templates["own_shunting_xdp" if shunts else "own_xdp"].of(generation, fragments=fragments, slot=port),
        )
        for port in sorted(own)
    ]
    if ports - own:
        shared = templates["attached_xdp"].of(generation, fragments=fragments)
        hosts.append(_Attached(frozenset(ports - own), False, shared))
    return hosts


def load_programs(kernel: Kernel, policy: Policy, generation: int, several: Set[int] = frozenset()) -> Generated:
    """Compile the filters and load what the policy needs.

    `several`: slots of ports that deliver frames in several buffers, which a program for one port cannot handle.
    FilterError names the rule or guest whose filter is wrong; DatapathError when the kernel refuses a program.
    """
    rules = [
        pcap.compile_filter(rule.match, where=f"rule {rule.name}: match", through=rule.through) for rule in policy.rules
    ]
    owner = {hop.accept_bit: hop.name for hop in reversed(policy.hops.values())}
    accepts = [
        pcap.compile_filter(text, where=f"guest {owner[bit]}: accept") for bit, text in enumerate(policy.accepts)
    ]
    alike: dict[tuple[int, ...], list[int]] = {}
    for segment, chain in policy.chains.items():
        if chain and policy.constant(segment) == layout.NO_MATCH:
            alike.setdefault(chain, []).append(segment)
    generated = Generated()
    maps = kernel.maps
    everything = tuple((name, opened.fd) for name, opened in maps.items())
    try:
        for segment, chain in policy.chains.items():
            if chain and policy.constant(segment) == layout.NO_MATCH:
                continue
            for one in _attached(
                kernel.templates,
                (segment,),
                generation,
                several,
                fragments=False,
                shunts=policy.may_shunt(segment),
                dry_run=segment in policy.dry_run,
            ):
                generated.constant.append(pcap.load_constant(one.host, dict(everything), policy.constant(segment)))
                generated.attach((one,), generated.constant[-1:])
        for kind, array, fallback in _KINDS:

            def linkage(parts: range, then: int, array: str = array, fallback: int = fallback) -> pcap.Linkage:
                return pcap.Linkage(
                    scratch_fd=maps["scratch"].fd,
                    programs_fd=maps[array].fd,
                    match_slot=then,
                    miss_slot=then,
                    part_slots=tuple(parts),
                    fallback=fallback,
                )

            for chain, segments in alike.items():
                wanted = [rules[index] if index in chain else None for index in range(len(rules))]
                link = linkage(layout.policy_parts(generation, segments[0]), layout.PROGRAM_DISPATCH)
                fragments = segments[0] in policy.fragments  # as all of the same rules
                host = kernel.templates[f"decide_{kind}"].of(generation, fragments=fragments)
                hosts = (
                    _attached(
                        kernel.templates,
                        segments,
                        generation,
                        several,
                        fragments=fragments,
                        shunts=policy.may_shunt(segments[0]),
                        dry_run=bool(policy.dry_run.intersection(segments)),
                    )
                    if kind == "xdp"
                    else []
                )
                link = replace(link, host=host, attached=tuple(one.host for one in hosts), host_maps=everything)
                behind = linkage(layout.policy_parts(generation, segments[0]), layout.PROGRAM_REMEMBER)
                loaded = pcap.load_classifier(wanted, kind=kind, linkage=link, cached=behind)
                slots = tuple(layout.program_policy(generation, segment) for segment in segments)
                if loaded.report.cached:
                    generated.before += [(array, slot, kernel.programs[f"recall_{kind}"]) for slot in slots]
                    slots = tuple(layout.program_filters(generation, segment) for segment in segments)
                generated.attach(hosts, loaded.attached_fds)
                if loaded.report.joined:
                    elsewhere = tuple(layout.program_filters(generation, segment) for segment in segments)
                    generated.others.append((array, loaded, elsewhere))
                    slots += tuple(layout.program_decide(generation, segment) for segment in segments)
                generated.sets.append((array, loaded, slots))
                generated.compiled.append(Compiled(kind, tuple(segments), loaded.report))
            if accepts:
                link = linkage(layout.accept_parts(generation), layout.PROGRAM_WALK)
                loaded = pcap.load_accept(accepts, kind=kind, linkage=link)
                generated.sets.append((array, loaded, (layout.program_accept(generation),)))
                generated.compiled.append(Compiled(kind, (), loaded.report))
    except BaseException:
        generated.close()
        raise
    return generated
