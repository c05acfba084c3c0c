# SPDX-License-Identifier: GPL-2.0-only
"""The tunnel device of one side of a remote: its name, and the arguments of `ip` that make it. Pure.

A device is made in the namespace of the management port and then moved to that of the data path. The kernel goes on
sending and receiving its outer packets where it was made, so the frames of the link and the network of the tunnels have
no route, address or device in common.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from appliance.config.schema import encapsulations
from appliance.config.schema.model import Tunnel
from appliance.tunnel import wireguard

Words = list[str]

NAME = re.compile(r"t(?:[rux]\d+\.|s)\d+[lw]")
"""Of hops' devices, of tunnels behind them (joint.py), of what XDP sends by (xdp_pair.py), and of tunnels by which
others are served."""
HOPS = "64"
"""Time to live of the outer packets; that of the inner ones must not end a tunnel's."""


def device_name(hop: int, segment: int, side: int) -> str:
    """Name of the device of `hop` at `side` (0 LAN, 1 WAN) of the segment with this index: "tr3.0l"."""
    return f"tr{hop}.{segment}{'lw'[side]}"


def served_name(segment: int, side: int) -> str:
    """Name of the device at `side` of what the segment with this index serves: "ts3l"."""
    return f"ts{segment}{'lw'[side]}"


@dataclass(frozen=True)
class Plan:
    """One device: the tunnel of one side. `remote`, `key`, `port`: of this side; `version`: of IP outside."""

    tunnel: Tunnel
    remote: str
    key: int
    port: int
    version: int

    @property
    def mark(self) -> str:
        """Written into the device as its last step: a device with this mark is ours, complete and as planned."""
        tunnel = self.tunnel
        options = [word for word in ("sequence", "checksum", "mss_clamp") if getattr(tunnel, word)]
        options += ["xdp"] * (tunnel.way == "xdp")
        ends = f"{tunnel.local or 'any'} {self.remote}"
        below = wireguard.mark(tunnel)
        words = ["throughwire", tunnel.kind, ends, str(self.key), str(self.port), *options, *([below] if below else [])]
        return " ".join(words)

    @property
    def carries_ip(self) -> bool:
        """Whether it is no Ethernet device, so that others have to be between it and the datapath (joint.py)."""
        return encapsulations.carries_ip(self.tunnel)

    @property
    def on_port(self) -> bool:
        """Whether it is a VLAN of a data port, and so in no other namespace."""
        return encapsulations.on_port(self.tunnel)

    @property
    def listener(self) -> Listener | None:
        """What must be open before the device gets packets."""
        kind = encapsulations.KINDS[self.tunnel.kind]
        return Listener(self.port, self.version) if kind.gre and kind.port else None

    def creation(self, name: str, source: str = "") -> Words:
        """The arguments of `ip` that make the device, down, in the present namespace.

        `source`: our address by the routes, without which the kernel sends neither GRE nor IP in IPv6. The outer
        packets must not be fragmented: what does not fit is dropped and counted where it would not fit. Of VLANs
        `source` is the device of the port.
        """
        if self.on_port:
            return ["link", "add", "link", source, "name", name, "type", "vlan", "id", str(self.key)]
        tunnel, six, which_kind = self.tunnel, self.version == 6, encapsulations.KINDS[self.tunnel.kind]
        local = tunnel.local or (source if six and (which_kind.gre or not which_kind.keyed) else "")
        ends = ["remote", self.remote, *(["local", local] if local else [])]
        made = ["link", "add", name, "type"]
        if not which_kind.keyed:
            # With mode any, IPv6 outside carries IPv4 as well as IPv6; IPv4 outside carries IPv4 alone.
            kind = ["ip6tnl", "mode", "any", "encaplimit", "none", "hoplimit"] if six else ["ipip", "pmtudisc", "ttl"]
            return [*made, *kind, HOPS, *ends]
        if which_kind.gre:
            options = [*(["seq"] if tunnel.sequence else []), *(["csum"] if tunnel.checksum else [])]
            if self.port:
                # The source port follows the flow, so that the far end's queues share. IPv6 wants a checksum in UDP.
                options += ["encap", "fou", "encap-sport", "auto", "encap-dport", str(self.port)]
                options += ["encap-csum6"] if six else ["noencap-csum"]
            # Without "encaplimit none" every packet has eight bytes more, for an option that routers need not heed.
            which = "" if encapsulations.carries_ip(tunnel) else "tap"
            kind = [f"ip6gre{which}", "encaplimit", "none", "hoplimit"] if six else [f"gre{which}", "pmtudisc", "ttl"]
            return [*made, *kind, HOPS, *ends, "key", str(self.key), *options]
        whole = [] if six else ["df", "set", "udpcsum" if tunnel.checksum else "noudpcsum"]
        number = ["id", str(self.key), *ends, "dstport", str(self.port), "ttl", HOPS]
        learns = ["nolearning"] if tunnel.kind == "vxlan" else []
        return [*made, tunnel.kind, *number, *learns, *whole]


@dataclass(frozen=True)
class Listener:
    """A UDP port at which the kernel takes GRE out of UDP, for all tunnels of a namespace. `version`: of IP."""

    port: int
    version: int

    def words(self, verb: str) -> Words:
        """The arguments of `ip` that open ("add") or close ("del") it."""
        return [*(["-6"] if self.version == 6 else []), "fou", verb, "port", str(self.port), *_FOU[verb]]


_GRE = "47"  # protocol of IP
_FOU = {"add": ["ipproto", _GRE], "del": list[str]()}


def listeners(text: str) -> set[Listener]:
    """Those that `ip -j fou show` prints; none where it printed an error instead."""
    try:
        found = json.loads(text or "[]")
    except ValueError:
        return set()
    rows = [row for row in found if isinstance(row, dict) and "port" in row] if isinstance(found, list) else []
    return {Listener(int(row["port"]), 6 if row.get("family") == "inet6" else 4) for row in rows}


def plans(tunnel: Tunnel) -> tuple[Plan, Plan]:
    """The devices of the LAN side and of the WAN side. ValueError: the far end's address is none."""
    keys, version = (tunnel.lan_key, tunnel.wan_key), encapsulations.version(tunnel)
    sides = zip(tunnel.remotes, keys, encapsulations.ports(tunnel), strict=True)
    lan, wan = (Plan(tunnel, remote, key, port, version) for remote, key, port in sides)
    return lan, wan
