# SPDX-License-Identifier: GPL-2.0-only
"""A segment and its ports as the API shows them. Reads only; `now` is CLOCK_MONOTONIC in nanoseconds."""

from __future__ import annotations

from enum import StrEnum

from msgspec import UNSET, UnsetType

from appliance.api.schema import state
from appliance.hardware.links import Links
from appliance.segment.machine import Machine, State
from appliance.segment.unit import Unit


class Link(StrEnum):
    """The link of a port, by the API's names."""

    UP = "up"
    DOWN = "down"
    HELD_DOWN = "held down"  # by us, because of on_link_loss = "propagate"
    MISSING = "missing"


def link(links: Links, port: str) -> Link:
    """The link of a port."""
    known = links.ports.get(port)
    if known is None:
        return Link.MISSING
    if port in links.downed:
        return Link.HELD_DOWN
    return Link.UP if known.link else Link.DOWN


def row(unit: Unit, links: Links, now: int) -> state.Segment:
    """One segment, for `show segments`."""
    return state.Segment(
        name=unit.config.name,
        relay=unit.machine.relay or "unknown",
        state=unit.machine.state,
        want=unit.machine.want,
        cause=unit.machine.cause,
        detail=unit.machine.detail,
        also=[
            f"{cause}: {text}"
            for cause, text in {**unit.orders, **unit.faults}.items()
            if cause is not unit.machine.cause
        ],
        mode=unit.asked or unit.config.mode,
        order_ends_ms=_until_order_ends(now, unit),
        lan=unit.config.lan,
        lan_link=link(links, unit.config.lan),
        wan=unit.config.wan,
        wan_link=link(links, unit.config.wan),
        on_link_loss=unit.config.on_link_loss,
        link_local=unit.config.link_local,
        dry_run=unit.config.dry_run,
        rearm_delay_ms=unit.machine.delay // 1_000_000,
        since_mono_ns=unit.machine.since,
        next_attempt_ms=_until_attempt(now, unit.machine),
        lan_sent=unit.evidence.ports["lan"].kept,
        wan_sent=unit.evidence.ports["wan"].kept,
        sent_detail="; ".join(port.detail for port in unit.evidence.ports.values() if port.detail),
        link_loss_limit_ms=int(unit.config.link_loss_limit) // 1_000_000,
    )


def _until_order_ends(now: int, unit: Unit) -> int | UnsetType:
    until = unit.inline_until if unit.asked == "inline" else unit.maintenance_until
    return max(0, until - now) // 1_000_000 if until else UNSET


def _until_attempt(now: int, machine: Machine) -> int | UnsetType:
    due = machine.deadline()
    return max(0, due - now) // 1_000_000 if machine.state is State.REARMING and due is not None else UNSET
