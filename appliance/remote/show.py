# SPDX-License-Identifier: GPL-2.0-only
"""Remotes, and what is served to others, as the API shows them. Reads only; `now` is CLOCK_MONOTONIC in ns."""

from __future__ import annotations

import time
from collections.abc import Mapping

from msgspec import UNSET, UnsetType
from msgspec.structs import asdict

from appliance.api.schema import guests, remotes
from appliance.config.schema import encapsulations
from appliance.config.schema.model import Tunnel
from appliance.health.detector import milliseconds
from appliance.remote.ends import Ends
from appliance.remote.remote import Remote
from appliance.remote.serve import Serve
from appliance.remote.tunnels import Tunnels
from appliance.steering.kernel.encaps import BY_NAME
from appliance.steering.kernel.layout import Encapsulated, Side
from appliance.system import netdev

REFUSED = ("rx_errors", "rx_dropped")


def row(remote: Remote, now: int, unsent: dict[str, int] | UnsetType = UNSET) -> remotes.Remote:
    """What `show remotes` and `show status` need. `unsent`: frames that its tunnels did not take, by cause."""
    remaining = remote.hop.lease.remaining(now)
    tunnel = remote.config.tunnel
    return remotes.Remote(
        name=remote.name,
        hop=remote.hop_number,
        state=remote.state.value,
        cause=remote.hop.cause,
        detail=remote.hop.detail,
        lease_ms=round(remaining / 1e6, 1),
        lease=milliseconds(remaining) if remaining else "none",
        segment=remote.segment,
        tunnel=words(tunnel),
        far=tunnel.far,
        keys=keys(tunnel),
        way="" if remote.watch is None and not remote.way.trouble else remote.way.trouble or "up",
        unsent=unsent,
        warning=remote.tunnels.warning,
        by=by(remote.tunnels),
    )


def by(tunnels: Tunnels) -> str:
    """Who puts the outer headers on; the kernel with the reason, if it should be XDP: "kernel: XDP cannot send ..."."""
    if not tunnels.by_xdp:
        return "kernel"
    return f"kernel: {tunnels.not_by_xdp}" if tunnels.not_by_xdp else "xdp"


def words(tunnel: Tunnel) -> str:
    """Its kind with the options that it has: "gre-ethernet, sequence over WireGuard"."""
    options = [word.replace("_", " ") for word in ("sequence", "checksum", "mss_clamp") if getattr(tunnel, word)]
    return ", ".join([tunnel.kind, *options]) + (" over WireGuard" if tunnel.wireguard is not None else "")


def serve(one: Serve, now: int) -> remotes.Serve:
    """What `show serves` and `show status` need."""
    tunnel = one.config.tunnel
    return remotes.Serve(
        name=one.name,
        state=one.state.value,
        cause=one.cause,
        detail=one.detail,
        path=list(one.config.path),
        not_available=one.unavailable(now),
        tunnel=words(tunnel),
        far=tunnel.far,
        keys=keys(tunnel),
        way=one.way.trouble or ("up" if one.way.mtu else ""),
        warning=one.tunnels.warning,
    )


def serve_details(one: Serve, now: int) -> remotes.ServeDetails:
    """The same with its tunnels: what `show serve NAME` needs."""
    tunnel, way = one.config.tunnel, one.way
    return remotes.ServeDetails(
        **asdict(serve(one, now)),
        source=way.source,
        device=way.device,
        gateway=way.gateway,
        path_mtu=way.mtu,
        overhead_bytes=encapsulations.overhead(tunnel),
        secured=encapsulations.secured(tunnel),
        wireguard=_wireguard(tunnel, one.tunnels, time.time()),
        tunnels=_sides(tunnel, one.tunnels),
    )


def keys(tunnel: Tunnel) -> str:
    """The keys of both sides, with their UDP ports if they have any: "7 / 8", "7 port 4789 / 7 port 4790".

    Of tunnels without keys the far end's addresses.
    """
    if not encapsulations.KINDS[tunnel.kind].keyed:
        return " / ".join(tunnel.remotes)
    both = zip((tunnel.lan_key, tunnel.wan_key), encapsulations.ports(tunnel), strict=True)
    return " / ".join(f"{key} port {port}" if port else str(key) for key, port in both)


def details(
    remote: Remote, now: int, unsent: dict[str, int] | UnsetType = UNSET, *, dropped: int = 0
) -> remotes.RemoteDetails:
    """The same with the evidence of its checks and its tunnels: what `show remote NAME` needs.

    `dropped`: packets that the filters of the management port dropped.
    """
    watch, tunnel, way = remote.watch, remote.config.tunnel, remote.way
    verdict = watch.verdict if watch is not None else remote.hop.last_verdict
    return remotes.RemoteDetails(
        **asdict(row(remote, now, unsent)),
        source=way.source,
        device=way.device,
        gateway=way.gateway,
        path_mtu=way.mtu,
        overhead_bytes=encapsulations.overhead(tunnel),
        secured=encapsulations.secured(tunnel),
        wireguard=_wireguard(tunnel, remote.tunnels, time.time()),
        dropped_at_port=dropped,
        clamped=UNSET if (clamped := remote.tunnels.clamped()) is None else clamped,
        encapsulated=UNSET if (counts := remote.tunnels.encapsulated()) is None else _encapsulated(counts),
        tunnels=_sides(tunnel, remote.tunnels),
        flip_count=remote.hop.history.count,
        lease_renewals=remote.hop.lease.renewals,
        bypass=remote.hop.bypass_latency.summary(),
        flips=[
            guests.Flip(ago_ms=round((now - flip.at) / 1e6, 1), check=flip.check, to=flip.to, why=flip.why)
            for flip in remote.hop.history.flips
        ],
        checks=verdict.evidence(now) if verdict is not None else UNSET,
        latency_p50_ms=watch.latency_ms(0.5) if watch is not None else UNSET,
        latency_p99_ms=watch.latency_ms(0.99) if watch is not None else UNSET,
        heartbeats=watch.heartbeats() if watch is not None else UNSET,
        overload=watch.overload() if watch is not None else UNSET,
    )


def _encapsulated(counts: Mapping[Side, Mapping[Encapsulated, int]]) -> list[remotes.Encapsulated]:
    return [
        remotes.Encapsulated(
            side=side.name.lower(),
            by_xdp=found.get(Encapsulated.SENT, 0),
            by_kernel={name: found[what] for what, name in BY_NAME.items() if what in found},
            lost=found.get(Encapsulated.LOST, 0),
        )
        for side, found in counts.items()
    ]


def _wireguard(tunnel: Tunnel, ends: Ends, now: float) -> remotes.Wireguard | UnsetType:
    config, below = tunnel.wireguard, ends.secured
    session = below.session if below is not None else None
    if config is None or session is None:
        return UNSET
    return remotes.Wireguard(
        public_key=session.public_key,
        port=config.port,
        peer_public_key=config.public_key,
        peer_port=config.peer_port,
        preshared=bool(config.preshared_key),
        handshake_s=round(now - session.handshake, 1) if session.handshake else None,
        received_bytes=session.received,
        sent_bytes=session.sent,
        refused=session.refused,
    )


def _sides(tunnel: Tunnel, ends: Ends) -> list[remotes.TunnelSide]:
    counted = ends.counters()
    sides = zip(
        ("lan", "wan"),
        ends.names,
        tunnel.remotes,
        (tunnel.lan_key, tunnel.wan_key),
        encapsulations.ports(tunnel),
        strict=True,
    )
    return [
        remotes.TunnelSide(
            side=side,
            device=name,
            far=far,
            key=key,
            port=port,
            mtu=_mtu(name),
            refused=sum(counted[side].get(each, 0) for each in REFUSED),
            counters=dict(counted[side]),
        )
        for side, name, far, key, port in sides
    ]


def _mtu(name: str) -> int:
    try:
        return netdev.mtu(name)
    except OSError:
        return 0
