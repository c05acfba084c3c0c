# SPDX-License-Identifier: GPL-2.0-only
"""Far ends of remotes for tests: plain Linux machines that join two tunnels by ordinary commands, those of
appliance/remote/README.md. They run none of our code.

A far end is a network namespace. The commands are words of `ip` and `tc`, so a test can run them here or on a board.
"""

from __future__ import annotations

import subprocess
from typing import NamedTuple

OUR4, FAR4, OUR6, FAR6 = "192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"
SECOND4, SECOND6 = "192.0.2.3", "2001:db8::3"
"""Other addresses of the far end, for tunnels without keys."""
LAN_KEY, WAN_KEY = 17, 18
UNDERLAY_MTU = 1700
INSIDE = ("10.9.0.2", "10.9.0.1")
"""Inside WireGuard: the far end, and the appliance."""
SPARE = "up2"
"""The far end's end of the cable to the port of VLANs."""
DEVICES = ("far-lan", "far-wan", "joint")


class Kind(NamedTuple):
    """One kind of tunnel: our configuration without keys, and what the far end adds to `ip link add`."""

    tunnel: dict[str, str | bool]
    device: str
    six: bool = False

    @property
    def toml(self) -> str:
        """The configuration with its keys, as the inside of an inline table."""
        keys = {} if self.tunnel["kind"] == "ipip" else {"lan_key": LAN_KEY, "wan_key": WAN_KEY}
        return ", ".join(
            f'{key} = "{value}"' if isinstance(value, str) else f"{key} = {str(value).lower()}"
            for key, value in {**self.tunnel, **keys}.items()
        )

    @property
    def ends(self) -> tuple[str, str]:
        """The addresses of the far end and of the appliance."""
        return (FAR6, OUR6) if self.six else (FAR4, OUR4)


KINDS = {
    "gre4": Kind({"kind": "gre-ethernet", "remote": FAR4}, "gretap"),
    "gre4-options": Kind(
        {"kind": "gre-ethernet", "remote": FAR4, "sequence": True, "checksum": True}, "gretap seq csum"
    ),
    "gre6": Kind({"kind": "gre-ethernet", "remote": FAR6}, "ip6gretap encaplimit none", six=True),
    "gre-ip4": Kind({"kind": "gre-ip", "remote": FAR4}, "gre"),
    "gre-ip6": Kind({"kind": "gre-ip", "remote": FAR6, "checksum": True}, "ip6gre csum encaplimit none", six=True),
    "ipip4": Kind({"kind": "ipip", "remote": FAR4, "wan_remote": SECOND4}, "ipip"),
    "ipip6": Kind({"kind": "ipip", "remote": FAR6, "wan_remote": SECOND6}, "ip6tnl mode any encaplimit none", six=True),
    "fou4": Kind({"kind": "fou", "remote": FAR4}, "gretap encap fou encap-sport auto encap-dport 4754"),
    "vlan": Kind({"kind": "vlan", "port": "spare0"}, "vlan"),
    "vxlan4": Kind({"kind": "vxlan", "remote": FAR4}, "vxlan dstport 4789"),
    "vxlan6": Kind({"kind": "vxlan", "remote": FAR6}, "vxlan dstport 4789", six=True),
    "geneve4": Kind({"kind": "geneve", "remote": FAR4}, "geneve"),
    "geneve6": Kind({"kind": "geneve", "remote": FAR6}, "geneve", six=True),
}


NETWORKED = [kind for kind in KINDS if kind != "vlan"]
"""The kinds that go by the management port."""


def device(kind: str, key: int, ends: tuple[str, str] | None = None) -> list[str]:
    """What makes one tunnel of the far end, after the name of the device and its MTU."""
    near, far = ends or KINDS[kind].ends
    which, *options = KINDS[kind].device.split()
    if kind == "vlan":
        return ["link", SPARE, "type", which, "id", str(key)]
    if not keyed(kind):
        return ["type", which, "local", near, "remote", far, *options]
    if "gre" in which:
        return ["type", which, "local", near, "remote", far, "key", str(key), *options]
    return ["type", which, "id", str(key), "remote", far, *options]


def joined(
    kind: str,
    *,
    lan: int = LAN_KEY,
    wan: int = WAN_KEY,
    ports: tuple[int, int] | None = None,
    ends: tuple[str, str] | None = None,
) -> list[list[str]]:
    """The far end: two tunnels and a bridge, or a filter at each that sends packets of IP on by the other.

    `ends`: inside WireGuard, the addresses of the far end and of ours.
    """
    bridge = ["ip", "link", "add", "joint", "type", "bridge", "forward_delay", "0", "mcast_snooping", "0"]
    made = [] if carries_ip(kind) else [bridge]
    for number, (side, key) in enumerate((("lan", lan), ("wan", wan))):
        second = str(KINDS[kind].tunnel.get("wan_remote", ""))
        words = device(kind, key, (second, KINDS[kind].ends[1]) if side == "wan" and second else ends)
        if ports is not None:
            words[words.index("dstport") + 1] = str(ports[number])
        made.append(["ip", "link", "add", f"far-{side}", "mtu", "1500", *words])
        made.append(["ip", "link", "set", f"far-{side}", *([] if carries_ip(kind) else ["master", "joint"]), "up"])
    if not carries_ip(kind):
        return [*made, ["ip", "link", "set", "joint", "up"]]
    for here, there in (("far-lan", "far-wan"), ("far-wan", "far-lan")):
        made.append(["tc", "qdisc", "add", "dev", here, "clsact"])
        redirect = f"tc filter add dev {here} ingress matchall action mirred egress redirect dev {there}"
        made.append(redirect.split())
    return made


def carries_ip(kind: str) -> bool:
    """Whether the tunnels carry packets of IP and no frames."""
    return KINDS[kind].tunnel["kind"] in ("gre-ip", "ipip")


def missing(kind: str) -> str:
    """Why this kernel cannot be the far end of such tunnels; "" if it can."""
    words = " ".join(["ip", "link", "add", "tried0", *device(kind, 1)])
    done = subprocess.run(["unshare", "-n", "sh", "-c", words], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return ""
    return f"this kernel has no tunnel device {KINDS[kind].device.split()[0]}: {done.stderr.strip()}"


def keyed(kind: str) -> bool:
    """Whether keys tell the two sides apart, and not addresses."""
    return KINDS[kind].tunnel["kind"] != "ipip"


def keys(kind: str) -> dict[str, int]:
    """What the configuration adds to `Kind.tunnel` for the two sides."""
    return {"lan_key": LAN_KEY, "wan_key": WAN_KEY} if keyed(kind) else {}


def opened(kind: str) -> list[list[str]]:
    """What the far end needs once before tunnels of this kind, and fails the second time: the port at which the kernel
    takes GRE out of UDP."""
    if "fou" not in KINDS[kind].device.split():
        return []
    return [["ip", "fou", "add", "port", "4754", "ipproto", "47"]]


def secured(public_key: str, key_file: str) -> list[str]:
    """WireGuard at the far end, as lines of a shell in its namespace: our public key, the file of its own."""
    near, far = INSIDE
    return [
        f"ip link add wg0 mtu {UNDERLAY_MTU - 60} type wireguard",
        f"wg set wg0 private-key {key_file} listen-port 51820 peer {public_key} allowed-ips {far}/32",
        f"ip address add {near}/24 dev wg0",
        "ip link set wg0 up",
    ]
