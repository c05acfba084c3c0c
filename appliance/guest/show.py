# SPDX-License-Identifier: GPL-2.0-only
"""A guest as the API shows it. Reads only; `now` is CLOCK_MONOTONIC in nanoseconds."""

from __future__ import annotations

from msgspec import UNSET, UnsetType
from msgspec.structs import asdict

from appliance.api.schema import guests
from appliance.guest.guest import Guest
from appliance.health.detector import milliseconds


def row(guest: Guest, now: int, unsent: dict[str, int] | UnsetType = UNSET) -> guests.Guest:
    """What `show guests` and `show status` need. `unsent`: frames that its taps did not deliver, by cause."""
    run = guest.current_run
    record = run.record if run is not None else None
    remaining = guest.hop.lease.remaining(now)
    return guests.Guest(
        name=guest.name,
        hop=guest.hop_number,
        state=guest.state.value,
        cause=guest.hop.cause,
        detail=guest.hop.detail,
        lease_ms=round(remaining / 1e6, 1),
        lease=milliseconds(remaining) if remaining else "none",
        pid=run.pid if run is not None else None,
        accel=record.accel if record is not None else "",
        restarts=guest.restarts.count,
        uptime_s=round((now - record.since) / 1e9, 1) if record is not None else None,
        application=guest.application,
        unsent=unsent,
        warning="; ".join(guest.warnings),
    )


def details(guest: Guest, now: int, unsent: dict[str, int] | UnsetType = UNSET) -> guests.GuestDetails:
    """The same with the evidence of its checks: what `show guest NAME` needs."""
    run = guest.current_run
    watch = run.watch if run is not None else None
    verdict = watch.verdict if watch is not None else guest.hop.last_verdict  # None: it never ran
    return guests.GuestDetails(
        **asdict(row(guest, now, unsent)),
        taps=[guests.Taps(segment=pair.label, lan=pair.lan, wan=pair.wan) for pair in guest.pairs],
        queues=[
            guests.Queues(tap=tap, queues=run.queues, used=run.used_queues.get(tap))
            for pair in guest.pairs
            for tap in (pair.lan, pair.wan)
        ]
        if run is not None and run.queues > 1
        else UNSET,
        management=guest.management.where if guest.management is not None else "",
        flip_count=guest.hop.history.count,
        lease_renewals=guest.hop.lease.renewals,
        agent=_agent(guest),
        bypass=guest.hop.bypass_latency.summary(),
        qmp_events=list(guest.qmp_events),
        qmp_dropped=guest.current_run.monitor.dropped if guest.current_run is not None else UNSET,
        flips=[
            guests.Flip(ago_ms=round((now - flip.at) / 1e6, 1), check=flip.check, to=flip.to, why=flip.why)
            for flip in guest.hop.history.flips
        ],
        ended_ms=round((now - guest.hop.ended_at) / 1e6, 1) if watch is None and verdict is not None else UNSET,
        checks=verdict.evidence(now) if verdict is not None else UNSET,
        latency_p50_ms=watch.latency_ms(0.5) if watch is not None else UNSET,
        latency_p99_ms=watch.latency_ms(0.99) if watch is not None else UNSET,
        heartbeats=watch.heartbeats() if watch is not None else UNSET,
        overload=watch.overload() if watch is not None else UNSET,
        dry_run_falls=verdict.would_falls if verdict is not None and verdict.dry_run else UNSET,
    )


def _agent(guest: Guest) -> guests.Agent:
    agent = guest.agent
    inbox = guest.current_run.channel.inbox if guest.current_run is not None else None
    return guests.Agent(
        name=agent.hello.agent,
        version=agent.hello.version,
        capabilities=list(agent.hello.capabilities),
        accept=agent.accept,
        accept_names=list(agent.accept_names),
        accept_refused=agent.accept_refused,
        tags=agent.tags,
        unanswered=agent.unanswered,
        counters=guest.counters,
        accepted=inbox.accepted if inbox is not None else 0,
        malformed=inbox.malformed if inbox is not None else 0,
        oversized=inbox.oversized if inbox is not None else 0,
        too_frequent=inbox.too_frequent if inbox is not None else 0,
    )
