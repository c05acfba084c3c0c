# SPDX-License-Identifier: GPL-2.0-only
"""What the console is told of a guest. Pure reading; units stand at the end of a key."""

from __future__ import annotations

from appliance.guest.guest import Guest
from appliance.health.detector import milliseconds


def row(guest: Guest, now: int) -> dict[str, object]:
    """One row of `show guests`."""
    run = guest.run_now
    record = run.record if run is not None else None
    return {
        "name": guest.name,
        "hop": guest.hop,
        "state": guest.state.value,
        "cause": str(guest.cause),
        "detail": guest.detail,
        "lease_ms": round(guest.lease.remaining(now) / 1e6, 1),
        "lease": milliseconds(guest.lease.remaining(now)) if guest.lease.remaining(now) else "none",
        "pid": run.pid if run is not None else None,
        "accel": record.accel if record is not None else "",
        "restarts": guest.restarts.count,
        "uptime_s": round((now - record.since) / 1e9, 1) if record is not None else None,
        "application": guest.application,
        "warning": "; ".join(guest.warnings),
    }


def details(guest: Guest, now: int) -> dict[str, object]:
    """`show guest NAME`: the row and the evidence."""
    run = guest.run_now
    inbox = run.channel.inbox if run is not None else None
    return {
        **row(guest, now),
        "taps": [{"segment": pair.label, "lan": pair.lan, "wan": pair.wan} for pair in guest.pairs],
        "management": guest.management.where if guest.management is not None else "",
        "flip_count": guest.history.count,
        "lease_renewals": guest.lease.renewals,
        "agent": {
            **guest.agent.summary(),
            "counters": guest.counters,
            "accepted": inbox.accepted if inbox is not None else 0,
            "malformed": inbox.malformed if inbox is not None else 0,
            "oversized": inbox.oversized if inbox is not None else 0,
            "too_frequent": inbox.too_frequent if inbox is not None else 0,
        },
        "bypass": guest.reaction.summary(),
        "qmp_events": list(guest.events),
        "flips": [
            {"ago_ms": round((now - flip.at) / 1e6, 1), "check": flip.check, "to": flip.to, "why": flip.why}
            for flip in guest.history.flips
        ],
        **(run.watch.summary(now) if run is not None else _at_its_end(guest, now)),
    }


def _at_its_end(guest: Guest, now: int) -> dict[str, object]:
    """What the checks said of the last process when it ended; nothing before the first."""
    if guest.last_verdict is None:
        return {}
    return {"ended_ms": round((now - guest.ended_at) / 1e6, 1), "checks": guest.last_verdict.evidence(now)}
