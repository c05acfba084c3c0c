# SPDX-License-Identifier: GPL-2.0-only
"""The datapath's counters and filter reports as answers of the API (api/schema/state.py).

Pure, except for the ports' own counters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from msgspec import UNSET, UnsetType, structs

from appliance.api.schema import state
from appliance.steering.kernel.layout import Loss, Outcome, Side
from appliance.steering.policy import on_overload
from appliance.system.netdev_facts import refused

if TYPE_CHECKING:
    from appliance.config.schema.model import Group, Mirror, Rule
    from appliance.filter.report import Report
    from appliance.steering.kernel.counters import Counters, DeviceCount, HopCount, RuleCount
    from appliance.steering.kernel.leases import Leases
    from appliance.steering.kernel.slots import Attachment


def counters(counts: Counters) -> state.Counters:
    """All counters."""
    return state.Counters(
        ports=_by_place(counts.ports),
        hops={name: _hop(count) for name, count in counts.hops.items()},
        rules={name: _rule(count) for name, count in counts.rules.items()},
        unknown=_device(counts.unknown),
    )


def rule(configured: Rule, why: str, count: RuleCount | None) -> state.Rule:
    """A rule with its counters, where the datapath has any. `why`: why it was added to the configuration."""
    return state.Rule(
        name=configured.name,
        segment=configured.segment or "all",
        match=configured.match or "every frame",
        through=list(configured.through),
        path=list(configured.path),
        on_unavailable=configured.on_unavailable,
        require=configured.require,
        on_overload=on_overload(configured),
        why=why,
        frames=UNSET if count is None else count.frames,
        bytes=UNSET if count is None else count.octets,
        to_hop=UNSET if count is None else count.to_hop,
        bypassed=UNSET if count is None else count.bypassed,
        blocked=UNSET if count is None else count.blocked,
        excess=UNSET if count is None else count.excess,
        keep_shunts=configured.keep_shunts,
        shunted=UNSET if count is None else count.shunted,
        mirrors=[state.RuleMirror(hop=mirror.hop, beside=_beside(configured, mirror)) for mirror in configured.mirrors],
    )


def _beside(configured: Rule, mirror: Mirror) -> str:
    """The hop or group whose frames the mirror gets; "" if the path has none."""
    return mirror.beside or next(iter(configured.path), "")


def mirror(
    hop: str, segments: Sequence[str], rules: Sequence[Rule], available: bool | UnsetType, count: HopCount | None
) -> state.Mirror:
    """A hop that is a mirror by these rules, with its counters, where the datapath has any."""
    besides = [_beside(rule, one) for rule in rules for one in rule.mirrors if one.hop == hop]
    shown = state.Mirror(
        name=hop,
        segments=list(segments),
        rules=[rule.name for rule in rules],
        beside=list(dict.fromkeys(beside for beside in besides if beside)),
        available=available,
    )
    if count is None:
        return shown
    return structs.replace(
        shown,
        copied_frames=count.copies,
        copied_bytes=count.copied_octets,
        lost=causes(count.unsent),
        skipped={reason.name.lower(): times for reason, times in count.skipped.items() if times},
        uncopied=count.uncopied,
        returned_frames=sum(tap.frames.get(Outcome.MIRROR, 0) for tap in count.taps.values()),
    )


def group(configured: Group, rules: Sequence[str], leases: Leases | None, now: int) -> state.Group:
    """A group and which of its members are available, where the datapath is up."""
    members = [
        state.GroupMember(
            name=name,
            spare=name in configured.spare,
            available=UNSET if leases is None else leases.available(name, now),
            draining=UNSET if leases is None else leases.draining(name),
        )
        for name in configured.members
    ]
    there = sum(member.available is True for member in members)
    return state.Group(
        name=configured.name,
        kind="balance" if configured.balance else "standby",
        members=members,
        minimum=configured.minimum,
        hash={"l4": "5-tuple", "l3": "2-tuple"}.get(configured.hash, configured.hash),
        on_member_failure=configured.on_member_failure,
        rules=list(rules),
        available=UNSET if leases is None else there >= configured.minimum,
    )


def _by_place(counts: dict[tuple[str, Side], DeviceCount]) -> dict[str, state.DeviceCounters]:
    return {f"{segment}/{side.name.lower()}": _device(count) for (segment, side), count in counts.items()}


def causes(counted: Mapping[Loss, int]) -> dict[str, int]:
    """Frames by the cause of their loss, without causes that never occurred."""
    return {loss.name.lower(): frames for loss, frames in counted.items() if frames}


def refused_frames(attached: Iterable[Attachment]) -> dict[tuple[str, str], dict[str, int]]:
    """By segment and side: frames on the wire that the port did not deliver, by cause. A port that is gone has none."""
    found = {}
    for port in attached:
        if not port.hop:
            with suppress(OSError):
                found[port.segment, port.side.name.lower()] = refused(port.device.name)
    return found


def _device(count: DeviceCount) -> state.DeviceCounters:
    """Frames by outcome, without outcomes that never occurred."""
    return state.DeviceCounters(
        frames=count.total,
        bytes=sum(count.octets.values()),
        dropped_frames=count.dropped,
        outcomes={
            outcome.name.lower(): state.Outcome(frames=frames, bytes=count.octets[outcome])
            for outcome, frames in count.frames.items()
            if frames
        },
        lost=causes(count.lost),
        unsent=causes(count.unsent),
    )


def _hop(count: HopCount) -> state.HopCounters:
    return state.HopCounters(
        to_frames=count.to_frames,
        to_bytes=count.to_octets,
        from_frames=count.from_frames,
        skipped={reason.name.lower(): times for reason, times in count.skipped.items() if times},
        bad_tag=count.bad_tag,
        returned_unmatched=count.returned_unmatched,
        unsent=causes(count.unsent),
        taps=_by_place(count.taps),
        copies=count.copies,
        copied_bytes=count.copied_octets,
        uncopied=count.uncopied,
    )


def _rule(count: RuleCount) -> state.RuleCounters:
    return state.RuleCounters(
        frames=count.frames,
        bytes=count.octets,
        to_hop=count.to_hop,
        bypassed=count.bypassed,
        blocked=count.blocked,
        excess=count.excess,
        shunted=count.shunted,
    )


def filters(
    report: Report, *, by: str, segments: list[str], rules: Sequence[str], cache: tuple[int, int]
) -> state.Filters:
    """One generated set of filters. `rules`: names by rank; empty for the `accept` filters of hops, whose ranks are
    shown. `cache`: hits and misses of the flow cache."""

    def name(rank: int) -> str:
        return rules[rank] if rank < len(rules) else str(rank)

    not_keyed = f" (rule {name(report.not_keyed)})" if report.not_keyed is not None else ""
    return state.Filters(
        by=by,
        segments=segments,
        of="rules" if segments else "accept",
        rules=report.rules,
        method=report.method,
        why=report.refused or report.why,
        programs=report.programs,
        joined=report.joined,
        instructions=report.instructions,
        table_bytes=report.table_bytes,
        graph_states=report.states,
        bit_vector_leaves=report.bit_vector_leaves,
        expected_ns=report.expected_ns,
        flow_cache=report.cached,
        why_flow_cache=report.why_cached + not_keyed,
        straight={name(rank): reason for rank, reason in report.straight.items()},
        hidden=[name(rank) for rank in report.unreachable],
        generate_ms=round(report.generate_s * 1000, 1),
        load_ms=round(report.load_s * 1000, 1),
        cache_hits=cache[0] if report.cached else UNSET,
        cache_misses=cache[1] if report.cached else UNSET,
    )
