# SPDX-License-Identifier: GPL-2.0-only
"""Answers about remotes and their tunnels."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, UnsetType

from appliance.api.schema.base import Answer, Cause, Detail, Ms
from appliance.api.schema.guests import Bypassed, Check, Flip, Heartbeats, Overload, State


class Remote(Answer, kw_only=True):
    """A remote. Until the part "remotes" is up, only name, state and cause are known."""

    name: str
    hop: int | UnsetType = UNSET
    state: State
    cause: Cause
    detail: Detail | UnsetType = UNSET
    lease_ms: Ms | UnsetType = UNSET
    lease: str | UnsetType = UNSET
    segment: str | UnsetType = UNSET
    tunnel: Annotated[str, Meta(description="encapsulation, with its options")] | UnsetType = UNSET
    far: Annotated[str, Meta(description="address of the far end")] | UnsetType = UNSET
    keys: (
        Annotated[
            str, Meta(description="of the LAN side and the WAN side, with UDP ports; without keys, the addresses")
        ]
        | UnsetType
    ) = UNSET
    way: Annotated[str, Meta(description='"up", or why packets do not reach the far end')] | UnsetType = UNSET
    unsent: Annotated[dict[str, int], Meta(description="frames that its tunnels did not take")] | UnsetType = UNSET
    warning: Detail | UnsetType = UNSET
    by: (
        Annotated[str, Meta(description='who puts the outer headers on: "kernel", "xdp", or "kernel:" and why not XDP')]
        | UnsetType
    ) = UNSET


class Encapsulated(Answer):
    """What became of frames for a tunnel with way = "xdp". `by_kernel`: those that went by the kernel's tunnel, by
    reason. `lost`: dropped, because the port was changed at that moment."""

    side: str
    by_xdp: int
    by_kernel: dict[str, int]
    lost: int


class TunnelSide(Answer):
    """One tunnel. `far`: the address at which it ends. `key`: 0 where the kind has none. `mtu`: without Ethernet header
    and tag. `refused`: packets with a bad checksum (`rx_crc_errors`), out
    of sequence (`rx_fifo_errors`) or otherwise not usable; `counters`: of the device, by the kernel's names."""

    side: str
    device: str
    far: str
    key: int
    port: int
    mtu: int
    refused: int
    counters: dict[str, int]


class Serve(Answer, kw_only=True):
    """What is served to another appliance. `not_available`: names of its path; while there are any, its frames are
    dropped. Until the part "remotes" is up, only name, state and cause are known."""

    name: str
    state: Annotated[str, Meta(description="starting, up or down: the tunnels")]
    cause: Cause
    detail: Detail | UnsetType = UNSET
    path: list[str] | UnsetType = UNSET
    not_available: list[str] | UnsetType = UNSET
    tunnel: str | UnsetType = UNSET
    far: Annotated[str, Meta(description="address of the other appliance")] | UnsetType = UNSET
    keys: str | UnsetType = UNSET
    way: str | UnsetType = UNSET
    warning: Detail | UnsetType = UNSET


class Wireguard(Answer):
    """WireGuard below the tunnels. `public_key`: ours, which the far end must know. `handshake_s`: since the last one;
    none: there was none. `refused`: packets inside from another address than the far end's."""

    public_key: str
    port: int
    peer_public_key: str
    peer_port: int
    preshared: bool
    handshake_s: float | None
    received_bytes: int
    sent_bytes: int
    refused: int


class RemoteDetails(Remote, kw_only=True):
    """A remote with the evidence. `source`, `device`, `path_mtu`: of the outer packets. `dropped_at_port`: packets that
    the filters of the management port dropped: of no tunnel's far end and key, or of networks that may not log in."""

    source: str | UnsetType = UNSET
    device: str | UnsetType = UNSET
    gateway: str | UnsetType = UNSET
    path_mtu: int | UnsetType = UNSET
    overhead_bytes: int | UnsetType = UNSET
    secured: str | UnsetType = UNSET
    wireguard: Wireguard | UnsetType = UNSET
    dropped_at_port: int | UnsetType = UNSET
    clamped: Annotated[int, Meta(description="SYNs whose segment size was lowered")] | UnsetType = UNSET
    encapsulated: list[Encapsulated] | UnsetType = UNSET
    tunnels: list[TunnelSide] | UnsetType = UNSET
    flip_count: int | UnsetType = UNSET
    lease_renewals: int | UnsetType = UNSET
    bypass: list[Bypassed] | UnsetType = UNSET
    flips: list[Flip] | UnsetType = UNSET
    checks: list[Check] | UnsetType = UNSET
    latency_p50_ms: Ms | UnsetType | None = UNSET
    latency_p99_ms: Ms | UnsetType | None = UNSET
    heartbeats: list[Heartbeats] | UnsetType = UNSET
    overload: list[Overload] | UnsetType = UNSET


class ServeDetails(Serve, kw_only=True):
    """The same with its tunnels. `source`, `device`, `path_mtu`: of the outer packets."""

    source: str
    device: str
    gateway: str
    path_mtu: int
    overhead_bytes: int
    secured: str
    wireguard: Wireguard | UnsetType = UNSET
    tunnels: list[TunnelSide]
