# SPDX-License-Identifier: GPL-2.0-only
"""The WireGuard device below the tunnels of a remote: what it is made from, and what it says of itself. Pure.

It is made in the namespace of the management port, by which its packets go, and then moved to one of its own, in which
the remote's tunnels are made. So what the far end sends inside WireGuard reaches the tunnels and nothing else, and
neither does anything of the appliance reach the network inside.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from appliance.config.schema.model import Tunnel, Wireguard

Words = list[str]

NAME = re.compile(r"wg\d+")
"""Of the namespaces, and of the one device in each."""
STALE_S = 180
"""The keys of a session are used for so long at most (WireGuard's REJECT_AFTER_TIME): no packet is taken any more."""


def device_name(hop: int) -> str:
    """Name of the device of `hop`, and of its namespace: "wg3"."""
    return f"wg{hop}"


def mark(tunnel: Tunnel) -> str:
    """Written into the device as its last step; "" without WireGuard. It tells every difference and no secret."""
    if tunnel.wireguard is None:
        return ""
    text = msgspec.json.encode((tunnel.wireguard, *ends(tunnel)))
    return f"wireguard {hashlib.sha256(text).hexdigest()[:24]}"


def ends(tunnel: Tunnel) -> list[str]:
    """The far end's addresses inside: one, or two where they tell the sides apart."""
    return list(dict.fromkeys(tunnel.remotes))


def settings(wireguard: Wireguard, far: Sequence[str], private_key: str) -> str:
    """The text for `wg setconf`. `far`: the far end's addresses inside, the only sources of packets that are taken."""
    peer = f"[{wireguard.peer}]" if ":" in wireguard.peer else wireguard.peer
    lines = [
        "[Interface]",
        f"PrivateKey = {private_key}",
        f"ListenPort = {wireguard.port}",
        "[Peer]",
        f"PublicKey = {wireguard.public_key}",
        *([f"PresharedKey = {wireguard.preshared_key}"] if wireguard.preshared_key else []),
        f"AllowedIPs = {', '.join(host(end) for end in far)}",
        f"Endpoint = {peer}:{wireguard.peer_port}",
    ]
    return "\n".join(lines) + "\n"


def host(address: str) -> str:
    """The address with the prefix of a single host."""
    return str(ipaddress.ip_network(address))


def addressing(name: str, wireguard: Wireguard, far: Sequence[str], mtu: int) -> list[Words]:
    """The arguments of `ip`, in the device's namespace, that bring it up and lead to the far end."""
    nodad = ["nodad"] if ":" in wireguard.address else []
    return [
        ["address", "add", host(wireguard.address), "dev", name, *nodad],
        ["link", "set", name, "mtu", str(mtu), "up"],
        *(["-6" if ":" in end else "-4", "route", "add", host(end), "dev", name] for end in far),
    ]


@dataclass(frozen=True)
class Session:
    """What a device says of itself. `handshake`: when the last one was (s since 1970), 0: there was none."""

    public_key: str
    handshake: int
    received: int  # bytes
    sent: int
    refused: int = 0  # packets inside, from another address than the far end's

    def trouble(self, peer: str, now: float) -> str:
        """Why no packet is taken; "" if nothing is known against it. `now`: s since 1970."""
        if not self.handshake:
            return f"no WireGuard handshake with {peer}: it has another key, or does not listen there"
        if now - self.handshake > STALE_S:
            return f"the last WireGuard handshake with {peer} was {now - self.handshake:.0f} s ago"
        return ""


def parse(dump: str, refused: int = 0) -> Session | None:
    """From `wg show DEVICE dump`; None if that is no answer. The keys in it that are secret go no further."""
    lines = [line.split("\t") for line in dump.splitlines()]
    if len(lines) != 2 or len(lines[0]) != 4 or len(lines[1]) != 8:
        return None
    try:
        handshake, received, sent = (int(word) for word in lines[1][4:7])
    except ValueError:
        return None
    return Session(lines[0][1], handshake, received, sent, refused)
