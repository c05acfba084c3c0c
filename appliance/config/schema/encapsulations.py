# SPDX-License-Identifier: GPL-2.0-only
"""The encapsulations of tunnels to remotes: what each carries, what it adds to a frame, its keys and ports. Pure.

appliance/remote/README.md has the same as a table (tests/unit/remote/test_encapsulations.py holds them together).
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final, NamedTuple

import msgspec

from appliance.config.schema.model import Guest, Probe, Remote, Routed, Tunnel

ETHERNET_MTU = 1500
FRAME_BEYOND_MTU = 18
"""Bytes that a frame may have beyond its segment's MTU: Ethernet header and one tag."""
WIREGUARD_KEY: Final = re.compile(r"[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=")
"""32 bytes in base64: a public, private or pre-shared key."""
ONLY_IP, ONLY_IPV4 = "ip or ip6", "ip"
"""The frames that a tunnel of IP can carry: without a tag, because on return nobody could tell the VLANs apart."""
IPV4_HEADER, IPV6_HEADER = 20, 40
WIREGUARD_HEADER = 8 + 16 + 16
"""UDP, type with receiver and counter, authentication tag. What pads a packet to 16 bytes never exceeds the MTU."""


HEARTBEATS: Final = Routed("198.18.0.1", "198.18.0.2")
"""Between which addresses heartbeats go through a tunnel of IP: of RFC 2544, which no network routes."""


class Encapsulation(NamedTuple):
    """One kind. `header`: bytes between the outer IP header and the frame, without options.

    `needs`: what the kernel must be built with, by version of IP outside.
    """

    carries: str
    header: int
    least_key: int
    most_key: int
    port: int  # of UDP; 0: not over UDP
    secured: str
    needs: dict[int, str]
    gre: bool = False  # numbers and sums its packets, and the kernel finds the device by addresses and key
    keyed: bool = True  # False: the far end has two addresses, by which the sides are told apart
    on_port: bool = False  # no network below: VLANs on a port of their own


KINDS: Final[dict[str, Encapsulation]] = {
    # RFC 2784 and 2890: four bytes, and four for the key, without which the sides could not be told apart
    "gre-ethernet": Encapsulation(
        "Ethernet", 8, 0, 0xFFFFFFFF, 0, "no", {4: "CONFIG_NET_IPGRE", 6: "CONFIG_IPV6_GRE"}, gre=True
    ),
    # The same with packets of IP in place of frames
    "gre-ip": Encapsulation("IP", 8, 0, 0xFFFFFFFF, 0, "no", {4: "CONFIG_NET_IPGRE", 6: "CONFIG_IPV6_GRE"}, gre=True),
    # RFC 2003, and RFC 2473 outside IPv6: a second IP header and nothing more
    "ipip": Encapsulation("IP", 0, 0, 0, 0, "no", {4: "CONFIG_NET_IPIP", 6: "CONFIG_IPV6_TUNNEL"}, keyed=False),
    # RFC 8086: Ethernet in GRE behind UDP
    "fou": Encapsulation(
        "Ethernet", 16, 0, 0xFFFFFFFF, 4754, "no", {4: "CONFIG_NET_FOU_IP_TUNNELS", 6: "CONFIG_IPV6_FOU"}, gre=True
    ),
    # RFC 7348: UDP and eight bytes
    "vxlan": Encapsulation("Ethernet", 16, 1, 0xFFFFFF, 4789, "no", dict.fromkeys((4, 6), "CONFIG_VXLAN")),
    # RFC 8926: UDP and eight bytes, no options
    "geneve": Encapsulation("Ethernet", 16, 1, 0xFFFFFF, 6081, "no", dict.fromkeys((4, 6), "CONFIG_GENEVE")),
    # IEEE 802.1Q: one more tag, and no IP around it
    "vlan": Encapsulation("Ethernet", 4, 1, 4094, 0, "no", {0: "CONFIG_VLAN_8021Q"}, on_port=True),
}


BY_XDP: Final = ("gre-ethernet", "vxlan", "geneve")
"""The kinds that XDP can put around a frame."""


def version(tunnel: Tunnel) -> int:
    """Of IP around the encapsulation: 4 or 6; 0: none. ValueError: the far end's address is none."""
    if KINDS[tunnel.kind].on_port:
        return 0
    return ipaddress.ip_address(tunnel.remote).version


def _ip_header(address: str) -> int:
    return IPV4_HEADER if ipaddress.ip_address(address).version == 4 else IPV6_HEADER


def overhead(tunnel: Tunnel) -> int:
    """Bytes that the tunnel adds to a frame, all outer IP headers included. ValueError as in `version`."""
    options = 4 * tunnel.sequence + 4 * tunnel.checksum if KINDS[tunnel.kind].gre else 0
    network = 0 if KINDS[tunnel.kind].on_port else _ip_header(tunnel.remote)
    return network + KINDS[tunnel.kind].header + options + wireguard_overhead(tunnel)


def wireguard_overhead(tunnel: Tunnel) -> int:
    """What WireGuard adds to a packet of the tunnel; 0 without it. ValueError as in `version`."""
    return _ip_header(tunnel.wireguard.peer) + WIREGUARD_HEADER if tunnel.wireguard is not None else 0


def secured(tunnel: Tunnel) -> str:
    """What encrypts and authenticates the packets; "no": nothing."""
    return "WireGuard" if tunnel.wireguard is not None else KINDS[tunnel.kind].secured


def outer_mtu(tunnel: Tunnel, mtu: int) -> int:
    """The MTU that the way to the far end must have, for the longest frames of a segment with this MTU.

    It counts neither Ethernet header nor one tag of the outer packets, as the MTU of a port.
    """
    return mtu + beyond_mtu(tunnel) + overhead(tunnel)


def inner_mtu(tunnel: Tunnel, outer: int) -> int:
    """The MTU of a segment whose longest frames cross a way with the MTU `outer` whole."""
    return outer - beyond_mtu(tunnel) - overhead(tunnel)


def beyond_mtu(tunnel: Tunnel) -> int:
    """Bytes of a frame that the tunnel carries and that its segment's MTU does not count."""
    return 0 if carries_ip(tunnel) or on_port(tunnel) else FRAME_BEYOND_MTU


def carries_ip(tunnel: Tunnel) -> bool:
    """Whether it carries packets of IP, and no frames."""
    return KINDS[tunnel.kind].carries == "IP"


def on_port(tunnel: Tunnel) -> bool:
    """Whether it is a pair of VLANs on a port of their own, with no network below."""
    return KINDS[tunnel.kind].on_port


def only_ipv4(tunnel: Tunnel) -> bool:
    """Whether it carries IPv4 and no IPv6: RFC 2003. ValueError as in `version`."""
    return tunnel.kind == "ipip" and version(tunnel) == 4


def accepted(hop: Guest | Remote) -> str:
    """The filter of frames that a hop can process: its `accept`, and what its tunnel can carry."""
    if isinstance(hop, Guest) or not carries_ip(hop.tunnel):
        return hop.accept
    carried = ONLY_IPV4 if only_ipv4(hop.tunnel) else ONLY_IP
    return f"({carried}) and ({hop.accept})" if hop.accept.strip() else carried


def probes(remote: Remote) -> tuple[Probe, ...]:
    """The checks of a remote, as they are made: in-band heartbeats where none are named, and packets of IP where its
    tunnel carries nothing else."""
    found = remote.probes or (Probe(kind="inband"),)
    if not carries_ip(remote.tunnel):
        return found
    return tuple(
        msgspec.structs.replace(probe, routed=HEARTBEATS) if probe.kind == "inband" and probe.routed is None else probe
        for probe in found
    )


def ports(tunnel: Tunnel) -> tuple[int, int]:
    """The UDP ports of the LAN side and the WAN side; 0: not over UDP."""
    own = KINDS[tunnel.kind].port
    return (tunnel.lan_port or own, tunnel.wan_port or own) if own else (0, 0)


def claims(tunnel: Tunnel) -> list[tuple[object, ...]]:
    """What each side takes for itself in the kernel: the LAN side, then the WAN side.

    Two tunnels with the same cannot exist. The kernel finds a VXLAN device by port and network alone, the others also
    by the far end's address, and GRE by address and key, whether it is behind UDP or not. IP-in-IP has the address
    alone.
    """
    if not KINDS[tunnel.kind].keyed:
        return [(tunnel.kind, str(ipaddress.ip_address(end)), 0, "") for end in tunnel.remotes]
    keys = (tunnel.lan_key, tunnel.wan_key)
    if on_port(tunnel):
        return [(tunnel.kind, tunnel.port, 0, key) for key in keys]
    far: object = version(tunnel) if tunnel.kind == "vxlan" else str(ipaddress.ip_address(tunnel.remote))
    if KINDS[tunnel.kind].gre:
        return [("GRE", far, 0, key) for key in keys]
    return [(tunnel.kind, far, port, key) for port, key in zip(ports(tunnel), keys, strict=True)]
