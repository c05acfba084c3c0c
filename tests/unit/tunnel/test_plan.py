# SPDX-License-Identifier: GPL-2.0-only
"""The arguments of `ip` for each kind of tunnel, and the mark by which a device is adopted."""

from __future__ import annotations

import itertools

import msgspec
import pytest

from appliance.config.schema.model import Tunnel, Wireguard
from appliance.tunnel.joint import joint
from appliance.tunnel.plan import NAME, Listener, device_name, listeners, plans

WIREGUARD = Wireguard(peer="198.51.100.7", public_key="k" * 43 + "=", address="192.0.2.1")
FOUR, SIX = "192.0.2.7", "2001:db8::7"


def made(**more: object) -> Tunnel:
    return Tunnel(**{"kind": "vxlan", "remote": FOUR, "lan_key": 7, "wan_key": 8, **more})  # type: ignore[arg-type]


def keyless(**more: object) -> Tunnel:
    return Tunnel(**{"kind": "ipip", "remote": FOUR, "wan_remote": "192.0.2.8", **more})  # type: ignore[arg-type]


ROWS = [
    (
        made(kind="gre-ethernet", local="192.0.2.1"),
        "type gretap pmtudisc ttl 64 remote 192.0.2.7 local 192.0.2.1 key 8",
    ),
    (
        made(kind="gre-ethernet", sequence=True, checksum=True),
        "type gretap pmtudisc ttl 64 remote 192.0.2.7 key 8 seq csum",
    ),
    (
        made(kind="gre-ethernet", remote=SIX),
        "type ip6gretap encaplimit none hoplimit 64 remote 2001:db8::7 key 8",
    ),
    (made(kind="gre-ip", checksum=True), "type gre pmtudisc ttl 64 remote 192.0.2.7 key 8 csum"),
    (made(kind="gre-ip", remote=SIX), "type ip6gre encaplimit none hoplimit 64 remote 2001:db8::7 key 8"),
    (
        made(kind="fou", sequence=True),
        (
            "type gretap pmtudisc ttl 64 remote 192.0.2.7 key 8 seq "
            "encap fou encap-sport auto encap-dport 4754 noencap-csum"
        ),
    ),
    (
        made(kind="fou", remote=SIX, wan_port=7),
        (
            "type ip6gretap encaplimit none hoplimit 64 remote 2001:db8::7 key 8 encap fou "
            "encap-sport auto encap-dport 7 encap-csum6"
        ),
    ),
    (made(), "type vxlan id 8 remote 192.0.2.7 dstport 4789 ttl 64 nolearning df set noudpcsum"),
    (
        made(checksum=True, wan_port=4790),
        "type vxlan id 8 remote 192.0.2.7 dstport 4790 ttl 64 nolearning df set udpcsum",
    ),
    (made(remote=SIX), "type vxlan id 8 remote 2001:db8::7 dstport 4789 ttl 64 nolearning"),
    (keyless(), "type ipip pmtudisc ttl 64 remote 192.0.2.8"),
    (
        keyless(remote=SIX, wan_remote="2001:db8::8", local="2001:db8::1"),
        "type ip6tnl mode any encaplimit none hoplimit 64 remote 2001:db8::8 local 2001:db8::1",
    ),
    (Tunnel(kind="vlan", port="eth2", lan_key=7, wan_key=8), "link eth2 name tr1.0w type vlan id 8"),
    (made(kind="geneve"), "type geneve id 8 remote 192.0.2.7 dstport 6081 ttl 64 df set noudpcsum"),
]


@pytest.mark.parametrize(("tunnel", "words"), ROWS, ids=[row[1][:40] for row in ROWS])
def test_the_device_of_the_wan_side(tunnel: Tunnel, words: str) -> None:
    """Outer packets are not fragmented, and do not inherit the inner packets' time to live."""
    named = [] if tunnel.port else ["tr1.0w"]
    assert plans(tunnel)[1].creation("tr1.0w", tunnel.port) == ["link", "add", *named, *words.split()]


@pytest.mark.parametrize(
    ("tunnel", "local"),
    [
        (made(kind="gre-ethernet", remote=SIX), "2001:db8::1"),
        (made(kind="gre-ip", remote=SIX, local="2001:db8::9"), "2001:db8::9"),
        (keyless(remote=SIX, wan_remote="2001:db8::8"), "2001:db8::1"),
        (keyless(), ""),
        (made(kind="gre-ethernet"), ""),
        (made(remote=SIX), ""),
    ],
)
def test_gre_over_ipv6_has_an_address_of_its_own(tunnel: Tunnel, local: str) -> None:
    """Without one the kernel sends nothing; the others follow the routes."""
    words = plans(tunnel)[0].creation("tr1.0l", "2001:db8::1")
    assert (words[words.index("local") + 1] if "local" in words else "") == local


def test_a_mark_tells_every_difference() -> None:
    """A device is adopted only if nothing of its tunnel has changed."""
    variants = [
        made(),
        made(kind="geneve"),
        made(remote="192.0.2.8"),
        made(local="192.0.2.1"),
        made(lan_key=9, wan_key=10),
        made(lan_port=5000, wan_port=5001),
        made(checksum=True),
        made(kind="gre-ethernet"),
        made(kind="fou"),
        made(kind="gre-ip"),
        keyless(),
        Tunnel(kind="vlan", port="eth2", lan_key=7, wan_key=8),
        Tunnel(kind="vlan", port="eth3", lan_key=7, wan_key=8),
        keyless(remote="192.0.2.9", wan_remote="192.0.2.10"),
        made(kind="gre-ethernet", sequence=True),
        made(wireguard=WIREGUARD),
        made(wireguard=msgspec.structs.replace(WIREGUARD, port=5)),
    ]
    marks = [plan.mark for tunnel in variants for plan in plans(tunnel)]
    assert len(set(marks)) == len(marks)
    assert max(map(len, marks)) < 256, "the kernel keeps no more"


def test_the_port_at_which_gre_is_taken_out_of_udp() -> None:
    """One for both sides; `ip` says which are open."""
    assert {plan.listener for plan in plans(made(kind="fou"))} == {Listener(4754, 4)}
    assert {plan.listener for plan in plans(made())} == {None}
    assert Listener(4754, 4).words("add") == ["fou", "add", "port", "4754", "ipproto", "47"]
    assert Listener(7, 6).words("del") == ["-6", "fou", "del", "port", "7"]
    said = '[{"port":4754,"ipproto":47},{"port":7,"ipproto":47,"family":"inet6"}]'
    assert listeners(said) == {Listener(4754, 4), Listener(7, 6)}
    assert listeners("RTNETLINK answers: Operation not supported\n") == listeners("") == listeners("{}") == set()


def test_names_are_told_from_those_of_guests() -> None:
    for hop, segment, side in itertools.product((1, 127), (0, 15), (0, 1)):
        name = device_name(hop, segment, side)
        assert all(NAME.fullmatch(each) for each in (name, joint(name).tunnel))
        assert not NAME.fullmatch(joint(name).pair), "it goes with the hop's device"
        assert len(name) <= 15
    assert not NAME.fullmatch("tw1.0l")
