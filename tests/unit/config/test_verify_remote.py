# SPDX-License-Identifier: GPL-2.0-only
"""What is refused of [[remote]]: each row gives one change of a good configuration, and the one error that it gives."""

from __future__ import annotations

import re

import msgspec
import pytest

from appliance.config.check.lint import lint
from appliance.config.check.load import check, loads
from appliance.config.schema import encapsulations, served
from appliance.config.schema.model import Guest, Probe, Remote, Routed, Tunnel, Wireguard
from appliance.steering.names import Names
from appliance.steering.policy import compile_policy

GOOD = """\
[[segment]]
name = "main"
lan = "lan0"
wan = "wan0"

[management]
address = "192.0.2.1/24"
gateway = "192.0.2.254"
address6 = "2001:db8::1/64"
mtu = 1600

[[remote]]
name = "dpi"
tunnel = { kind = "vxlan", remote = "198.51.100.7", lan_key = 7, wan_key = 8 }

[[remote]]
name = "ips"
tunnel = { kind = "gre-ethernet", remote = "2001:db8::9", lan_key = 0, wan_key = 4294967295 }

[[rule]]
name = "all"
path = ["dpi", "ips"]
"""
SECOND = '[[segment]]\nname = "second"\nlan = "lan1"\nwan = "wan1"\n'


def errors(text: str) -> list[str]:
    return [str(error) for error in check(text, filters=False)]


def test_a_good_one_is_taken() -> None:
    assert errors(GOOD) == []


ROWS = [
    (
        '"gre-ethernet", remote = "2001',
        '"fou", remote = "2001',
        "2001:db8::9 is IPv6, over which GRE in UDP carries no",
    ),
    ('"198.51.100.7"', '"far.example"', 'dpi: tunnel: remote: "far.example" is not the address of a computer'),
    ('"198.51.100.7"', '"224.0.0.1"', 'dpi: tunnel: remote: "224.0.0.1" is not the address'),
    ('"198.51.100.7"', '"192.0.2.1"', "dpi: tunnel: remote: 192.0.2.1 is the address of the appliance itself"),
    ('gateway = "192.0.2.254"\n', "", "198.51.100.7 is not in 192.0.2.0/24, and no gateway leads there"),
    ('address6 = "2001:db8::1/64"\n', "", "2001:db8::9 is IPv6, and the management port has no such address"),
    ('"198.51.100.7"', '"198.51.100.7", local = "2001:db8::1"', "dpi: tunnel: local: 2001:db8::1 is IPv6 and the far"),
    ('"198.51.100.7"', '"198.51.100.7", local = "192.0.2.3"', "192.0.2.3 is not the address of the management port"),
    ('"vxlan"', '"geneve", local = "192.0.2.1"', "the kernel's Geneve has no local address"),
    (
        "lan_key = 7",
        "lan_key = 8",
        "dpi: tunnel: wan_key: the two sides cannot be told apart: give them different keys",
    ),
    ("lan_key = 0, wan_key = 4294967295", "lan_key = 5, wan_key = 5", "give them different keys"),
    ("lan_key = 7", "lan_key = 0", "dpi: tunnel: lan_key: 0 is not possible with vxlan: 1 to 16777215"),
    ("lan_key = 7", "lan_key = 16777216", "16777216 is not possible with vxlan: 1 to 16777215"),
    ("lan_key = 7", "lan_key = 7, sequence = true", "only GRE numbers its packets, not vxlan"),
    ("lan_key = 0", "lan_key = 0, lan_port = 7", "ips: tunnel: lan_port: gre-ethernet has no ports"),
    (
        "mtu = 1600",
        "mtu = 1553",
        "a frame of 1518 bytes becomes a packet of 1554 in the tunnel, and the management port ",
    ),
    ("mtu = 1600", "mtu = 1499", "management: mtu: 1499 is too small: at least 1500"),
    ('wan = "wan0"', 'wan = "wan0"\nattach = "xdp"', 'segment main has attach = "xdp", and XDP cannot send'),
    ('name = "dpi"', 'name = "dpi"\nsegment = "mian"', 'dpi: segment: no segment is named "mian"'),
    ('name = "dpi"', 'name = "dpi"\nprobes = [ { kind = "cpu" } ]', "a remote has no probes of kind cpu"),
    ('name = "dpi"', 'name = "dpi"\nprobes = [ { kind = "ping", target = "192.0.2.9" } ]', "must be of kind inband"),
    (
        'name = "dpi"',
        'name = "dpi"\nprobes = [ { kind = "inband", routed = { lan = "198.18.0.1", wan = "198.18.0.2" } } ]',
        "routed heartbeats need the addresses of a guest's ports",
    ),
    ("mtu = 1600", "mtu = 1500", "let everything on the way carry it, or set mss_clamp"),
    (
        '"vxlan"',
        '"fou", way = "xdp"',
        "dpi: tunnel: way: XDP makes no fou: use gre-ethernet, vxlan or geneve, or leave",
    ),
    ("lan_key = 7", 'lan_key = 7, way = "xdp", checksum = true', "way: only the kernel computes a checksum over the w"),
    ("lan_key = 7", 'lan_key = 7, way = "xdp", mss_clamp = true', "XDP sends beside it: leave out mss_clamp, or way"),
    ("lan_key = 0", 'lan_key = 0, way = "xdp", sequence = true', "ips: tunnel: way: only the kernel numbers packets"),
    (
        '"198.51.100.7", lan_key = 7',
        '"2001:db8::7", lan_key = 7, way = "xdp"',
        "way: UDP over IPv6 has a checksum over the whole packet, which only the kernel computes: use IPv4 or gre",
    ),
    ("lan_key = 7", 'lan_key = 7, way = "tc"', "way"),
]
KEY = "A" * 42 + "E="
SECURED = GOOD.replace(
    'remote = "198.51.100.7", lan_key = 7, wan_key = 8 }',
    'remote = "10.9.0.2", lan_key = 7, wan_key = 8, wireguard = { peer = "198.51.100.7", '
    f'public_key = "{KEY}", address = "10.9.0.1" }} }}',
).replace("mtu = 1600", "mtu = 1614")


@pytest.mark.parametrize(("old", "new", "what"), ROWS, ids=[row[1][:40] or row[0][:40] for row in ROWS])
def test_refused(old: str, new: str, what: str) -> None:
    """The message names the remote and the key, and says what to do."""
    assert old in GOOD
    found = errors(GOOD.replace(old, new, 1))
    assert any(what in error for error in found), found


SECURED_ROWS = [
    ('peer = "198.51.100.7"', 'peer = "far.example"', 'tunnel: wireguard: peer: "far.example" is not the address'),
    ('peer = "198.51.100.7"', 'peer = "192.0.2.1"', "wireguard: peer: 192.0.2.1 is the address of the appliance"),
    ('gateway = "192.0.2.254"\n', "", "wireguard: peer: 198.51.100.7 is not in 192.0.2.0/24, and no gateway"),
    ('remote = "10.9.0.2"', 'remote = "::"', 'dpi: tunnel: remote: "::" is not the address'),
    ('address = "10.9.0.1"', 'address = "fd00::1"', "wireguard: address: fd00::1 is IPv6 and the far end IPv4"),
    ('address = "10.9.0.1"', 'address = "10.9.0.2"', "wireguard: address: 10.9.0.2 is the far end's address"),
    ('remote = "10.9.0.2"', 'remote = "10.9.0.2", local = "10.9.0.1"', "it is the address of WireGuard: leave it out"),
    (KEY, KEY[:-2] + "B=", "wireguard: public_key: it is no key"),
    (KEY, f'{KEY}", preshared_key = "word', "wireguard: preshared_key: it is no key"),
    (KEY, f'{KEY}", private_key_file = "own.key', 'private_key_file: "own.key" is not a whole path'),
    (
        '"10.9.0.2"',
        '"10.9.0.2", way = "xdp"',
        "dpi: tunnel: way: only the kernel encrypts: leave out wireguard, or way",
    ),
    ("mtu = 1614", "mtu = 1613", "a frame of 1518 bytes becomes a packet of 1614 in the tunnel"),
    (
        '"2001:db8::9", lan_key = 0',
        '"2001:db8::9", lan_key = 9, lan_port = 51820',
        "51820 is already used for WireGuard",
    ),
]


@pytest.mark.parametrize(("old", "new", "what"), SECURED_ROWS, ids=[row[1][:40] or row[0][:40] for row in SECURED_ROWS])
def test_refused_of_wireguard(old: str, new: str, what: str) -> None:
    good = SECURED.replace('kind = "gre-ethernet"', 'kind = "vxlan"').replace("4294967295", "5").replace(
        "lan_key = 0", "lan_key = 9"
    ) if "lan_port" in new else SECURED  # fmt: skip
    old = old.replace("lan_key = 0", "lan_key = 9") if "lan_port" in new else old
    assert errors(good) == []
    assert old in good
    found = errors(good.replace(old, new, 1))
    assert any(what in error for error in found), found


def test_tunnels_inside_wireguard_do_not_overlap_with_others() -> None:
    """They are in a namespace of their own; two with the same UDP port for WireGuard are not possible."""
    second = SECURED[SECURED.index("[[remote]]") : SECURED.index('[[remote]]\nname = "ips"')].replace("dpi", "b")
    assert errors(SECURED + second.replace("address =", "port = 51821, address =")) == []
    assert any(
        "b: tunnel: wireguard: port: UDP port 51820 is already used" in error for error in errors(SECURED + second)
    )


def test_a_segment_goes_by_xdp_where_all_its_remotes_do() -> None:
    """What XDP can send to needs no tc, and may be demanded; what is served has the kernel's tunnels."""
    both = GOOD.replace("wan_key = 8 }", 'wan_key = 8, way = "xdp" }')
    both = both.replace("wan_key = 4294967295 }", 'wan_key = 4294967295, way = "xdp" }')
    wanted = both.replace('wan = "wan0"', 'wan = "wan0"\nattach = "xdp"')
    assert errors(both) == errors(wanted) == []
    one = wanted.replace('wan_key = 4294967295, way = "xdp"', "wan_key = 4294967295")
    assert any("remote ips: segment: segment main has attach" in error for error in errors(one))
    assert served.with_remotes(loads(both, "test"), "kernel") == {}
    assert served.with_remotes(loads(GOOD, "test"), "kernel") == {"main": ["dpi", "ips"]}
    table = '[[serve]]\nname = "b"\npath = ["dpi"]\n'
    tunnel = 'tunnel = { kind = "vxlan", remote = "198.51.100.9", lan_key = 17, wan_key = 18, way = "xdp" }\n'
    assert any(
        "serve b: tunnel: way: what is served goes by the kernel" in error for error in errors(GOOD + table + tunnel)
    )


def test_what_is_advised_is_not_refused_then() -> None:
    """XDP lowers no segment sizes, so a way that is too narrow for whole frames needs the kernel's tunnel for that."""
    narrow = GOOD.replace("mtu = 1600", "mtu = 1500").replace("lan_key = 7", 'lan_key = 7, way = "xdp"')
    assert any("or set mss_clamp and leave way out" in error for error in errors(narrow))


def test_tunnels_of_two_remotes_do_not_overlap() -> None:
    """VXLAN is found by network and port alone; GRE and Geneve also by the far end, so keys may be alike there."""
    more = '[[remote]]\nname = "{}"\ntunnel = {{ kind = "{}", remote = "{}", lan_key = 7, wan_key = 9{} }}\n'
    other = "198.51.100.99"
    twice = errors(GOOD + more.format("b", "vxlan", other, ""))
    assert [error for error in twice if "b: tunnel: lan_key: 7 on port 4789 is already a key of remote dpi" in error]
    assert errors(GOOD + more.format("b", "vxlan", other, ", lan_port = 5000, wan_port = 5000")) == []
    assert errors(GOOD + more.format("b", "geneve", other, "")) == []
    two = more.format("b", "geneve", other, "") + more.format("c", "geneve", "198.51.100.98", "")
    assert errors(GOOD + two) == []
    udp = '[[remote]]\nname = "d"\ntunnel = { kind = "fou", remote = "2001:db8::9", lan_key = 0, wan_key = 9 }\n'
    assert any("d: tunnel: lan_key: 0 is already a key of remote ips" in error for error in errors(GOOD + udp))
    same = udp.replace("lan_key = 0", "lan_key = 9, wan_port = 5000")
    assert any("the two sides cannot be told apart: give them different keys" in error for error in errors(GOOD + same))
    clash = errors(GOOD + more.format("b", "geneve", other, ", lan_port = 4789"))
    assert any("UDP port 4789 is already used for vxlan by remote dpi" in error for error in clash)


def test_a_remote_needs_a_segment_or_a_table_that_serves_others() -> None:
    alone = GOOD[GOOD.index("[management]") : GOOD.index("[[rule]]")]
    found = errors(alone)
    assert [error for error in found if "remote dpi: segment: there is no segment that it could serve" in error]
    table = '[[serve]]\nname = "b"\npath = ["dpi", "ips"]\n'
    tunnel = 'tunnel = { kind = "vxlan", remote = "198.51.100.9", lan_key = 17, wan_key = 18 }\n'
    assert errors(alone + table + tunnel) == []


def test_one_pair_of_tunnels_is_for_one_segment() -> None:
    found = errors(SECOND + GOOD)
    assert any(
        "it would serve main and second" in error or "it would serve second and main" in error for error in found
    )
    one = GOOD.replace('name = "all"', 'name = "all"\nsegment = "main"')
    assert errors(SECOND + one) == []
    astray = one.replace('name = "dpi"', 'name = "dpi"\nsegment = "second"', 1)
    assert any("it serves second, and rules of main lead to it" in error for error in errors(SECOND + astray))


def test_a_larger_segment_needs_a_larger_way() -> None:
    wide = GOOD.replace('wan = "wan0"', 'wan = "wan0"\nmtu = 9000', 1)
    (dpi, ips) = errors(wide)
    assert "set management mtu to 9054 or more" in dpi
    assert "set management mtu to 9066 or more" in ips
    assert errors(wide.replace("mtu = 1600", "mtu = 9066")) == []
    most = errors(GOOD.replace('wan = "wan0"', 'wan = "wan0"\nmtu = 16000', 1))
    assert all("no port carries more than 16000: give the segment a smaller mtu" in error for error in most)


def test_a_way_may_be_narrow_where_connections_are_made_to_fit() -> None:
    clamped = GOOD.replace("wan_key = 8 }", "wan_key = 8, mss_clamp = true }").replace("mtu = 1600", "mtu = 1500")
    (other,) = errors(clamped)
    assert "remote ips: tunnel: segment main" in other
    said = [one.what for one in lint(loads(clamped.replace("mtu = 1500", "mtu = 1600"), filters=False))]
    assert [what for what in said if what.startswith("TCP connections are made to fit; other frames that")]


def tunnel(kind: str, remote: str, **more: object) -> Tunnel:
    return Tunnel(kind=kind, remote=remote, lan_key=1, wan_key=2, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wanted", "made"),
    [
        (28, tunnel("gre-ethernet", "192.0.2.7")),
        (36, tunnel("gre-ethernet", "192.0.2.7", sequence=True, checksum=True)),
        (48, tunnel("gre-ethernet", "2001:db8::7")),
        (28, tunnel("gre-ip", "192.0.2.7")),
        (20, tunnel("ipip", "192.0.2.7")),
        (40, tunnel("ipip", "2001:db8::7")),
        (4, Tunnel(kind="vlan", port="eth2", lan_key=1, wan_key=2)),
        (36, tunnel("fou", "192.0.2.7")),
        (60, tunnel("fou", "2001:db8::7", sequence=True)),
        (36, tunnel("vxlan", "192.0.2.7")),
        (56, tunnel("vxlan", "2001:db8::7", checksum=True)),
        (36, tunnel("geneve", "192.0.2.7")),
        (36 + 60, tunnel("geneve", "192.0.2.7", wireguard=Wireguard("198.51.100.7", KEY, "192.0.2.1"))),
        (36 + 80, tunnel("geneve", "192.0.2.7", wireguard=Wireguard("2001:db8::1", KEY, "192.0.2.1"))),
    ],
)
def test_what_a_tunnel_adds(wanted: int, made: Tunnel) -> None:
    """The figures of RFC 2784, 2890, 7348, 8926: headers between the link's frame and the outer network."""
    assert encapsulations.overhead(made) == wanted
    assert encapsulations.inner_mtu(made, encapsulations.outer_mtu(made, 1500)) == 1500


IP = GOOD.replace('kind = "vxlan"', 'kind = "gre-ip"')


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("mtu = 1600", "mtu = 1527", "a packet of 1500 bytes becomes a packet of 1528 in the tunnel"),
        ('name = "dpi"', 'name = "dpi"\ntags = true', "dpi: tags: its tunnel carries IP and no tags"),
        (
            'name = "dpi"',
            'name = "dpi"\nprobes = [ { kind = "inband", frame = "ff" } ]',
            "its tunnel carries IP and no frames",
        ),
        ('name = "dpi"', 'name = "dpi"\nprobes = [ { kind = "negative" } ]', "its tunnel carries IP and no frames"),
    ],
)
def test_refused_of_a_tunnel_that_carries_ip(old: str, new: str, what: str) -> None:
    assert errors(IP) == []
    routed = 'probes = [ { kind = "inband", routed = { lan = "198.18.0.1", wan = "198.18.0.2" } } ]'
    assert errors(IP.replace('name = "dpi"', f'name = "dpi"\n{routed}', 1)) == []
    found = errors(IP.replace(old, new, 1))
    assert any(what in error for error in found), found


KEYLESS = GOOD.replace(
    'kind = "vxlan", remote = "198.51.100.7", lan_key = 7, wan_key = 8',
    'kind = "ipip", remote = "198.51.100.7", wan_remote = "198.51.100.8"',
)
OTHER = '[[remote]]\nname = "b"\ntunnel = { kind = "ipip", remote = "198.51.100.9", wan_remote = "198.51.100.7" }\n'


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        (
            ', wan_remote = "198.51.100.8"',
            "",
            "wan_remote: the two sides cannot be told apart: ipip has no keys: give the",
        ),
        ('"198.51.100.8"', '"198.51.100.7"', "wan_remote: the two sides cannot be told apart"),
        ('"198.51.100.8"', '"192.0.2.1"', "wan_remote: 192.0.2.1 is the address of the appliance itself"),
        ('"198.51.100.8"', '"2001:db8::8"', "wan_remote: 2001:db8::8 is IPv6, and remote IPv4: both have the same"),
        ('"198.51.100.8"', '"far"', 'wan_remote: "far" is not the address of a computer'),
        ('"198.51.100.8"', '"198.51.100.8", lan_key = 7', "lan_key: 7 is not possible with ipip: it has no keys"),
        ('"198.51.100.8"', '"198.51.100.8", sequence = true', "sequence: only GRE numbers its packets, not ipip"),
        ('"198.51.100.8"', '"198.51.100.8", checksum = true', "checksum: ipip has none: leave it out"),
        ('"198.51.100.8"', '"198.51.100.8", lan_port = 7', "lan_port: ipip has no ports"),
        ("[[rule]]", OTHER + "[[rule]]", "b: tunnel: wan_remote: at 198.51.100.7 a tunnel of remote dpi ends already"),
        (
            "lan_key = 0,",
            'wan_remote = "2001:db8::8", lan_key = 0,',
            "wan_remote: gre-ethernet tells the sides apart by",
        ),
        ("mtu = 1600", "mtu = 1519", "a packet of 1500 bytes becomes a packet of 1520 in the tunnel"),
        (
            'name = "dpi"',
            'name = "dpi"\nprobes = [ { kind = "inband", routed = { lan = "fd00::1", wan = "fd00::2" } } ]',
            "routed: its tunnel carries IPv4 only: name IPv4 addresses",
        ),
        (
            '"198.51.100.8"',
            f'"10.9.0.1", wireguard = {{ peer = "198.51.100.7", public_key = "{KEY}", address = "10.9.0.1" }}',
            "wan_remote: 10.9.0.1 is our address inside WireGuard",
        ),
    ],
)
def test_refused_of_tunnels_without_keys(old: str, new: str, what: str) -> None:
    assert errors(KEYLESS) == []
    assert old in KEYLESS
    found = errors(KEYLESS.replace(old, new, 1))
    assert any(what in error for error in found), found


VLANS = GOOD.replace(
    'kind = "vxlan", remote = "198.51.100.7", lan_key = 7, wan_key = 8',
    'kind = "vlan", port = "eth2", lan_key = 7, wan_key = 8',
).replace("mtu = 1600", 'mtu = 1600\nport = "mgmt0"')
MORE = '[[remote]]\nname = "b"\ntunnel = {{ kind = "vlan", port = "{}", lan_key = 9, wan_key = 7 }}\n'


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ('port = "eth2", ', "", "dpi: tunnel: port: is empty: name the port from the board's board.toml"),
        ('port = "eth2"', 'port = "wan0"', 'port: "wan0" is a port of segment main: a tunnel has one of its own'),
        ('port = "eth2"', 'port = "mgmt0"', 'port: "mgmt0" is the management port'),
        (
            'port = "eth2"',
            'port = "eth2", remote = "198.51.100.7"',
            "remote: there is no IP around a VLAN: leave it out",
        ),
        ('port = "eth2"', 'port = "eth2", local = "192.0.2.1"', "local: there is no IP around a VLAN"),
        (
            'port = "eth2"',
            f'port = "eth2", wireguard = {{ peer = "x", public_key = "{KEY}", address = "10.9.0.1" }}',
            "wireguard: there is no IP around a VLAN",
        ),
        ("lan_key = 7", "lan_key = 4095", "lan_key: 4095 is not possible with vlan: 1 to 4094"),
        ("wan_key = 8", "wan_key = 7", "wan_key: the two sides cannot be told apart: give them different keys"),
        (
            "[[rule]]",
            MORE.format("eth2") + "[[rule]]",
            "b: tunnel: wan_key: VLAN 7 of port eth2 is already a tunnel of",
        ),
        ("lan_key = 0,", 'port = "eth2", lan_key = 0,', "ips: tunnel: port: gre-ethernet goes by the management port"),
        (
            'wan = "wan0"',
            'wan = "wan0"\nmtu = 15997',
            "its port would need an MTU of 16001, and has 16000: give the seg",
        ),
    ],
)
def test_refused_of_vlans(old: str, new: str, what: str) -> None:
    """They go by no network, so the management port's MTU is no limit."""
    assert errors(VLANS) == []
    assert errors(VLANS.replace("[[rule]]", MORE.format("eth3") + "[[rule]]")) == []
    assert not [error for error in errors(VLANS.replace("mtu = 1600", "mtu = 1500")) if "dpi" in error]
    assert old in VLANS
    found = errors(VLANS.replace(old, new, 1))
    assert any(what in error for error in found), found


SERVED = GOOD.replace(
    "[[rule]]",
    '[[guest]]\nname = "ids"\nimage = "/g.raw"\n\n[[serve]]\nname = "for-b"\npath = ["ids"]\n'
    'tunnel = { kind = "vxlan", remote = "198.51.100.20", lan_key = 17, wan_key = 18 }\n\n[[rule]]',
)


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ('"198.51.100.20"', '"192.0.2.1"', "serve for-b: tunnel: remote: 192.0.2.1 is the address of the appliance"),
        ("lan_key = 17", "lan_key = 8", "serve for-b: tunnel: lan_key: 8 on port 4789 is already a key of remote dpi"),
        ("lan_key = 17", "lan_key = 18", "the two sides cannot be told apart"),
        ("lan_key = 17", "lan_key = 17, mss_clamp = true", "mss_clamp belongs to the other appliance's remote"),
        ('path = ["ids"]', "path = []", "serve for-b: path: is empty: name the guests that the other"),
        ('path = ["ids"]', 'path = ["idss"]', 'serve for-b: path: no guest, remote or group is named "idss"'),
        ('path = ["ids"]', 'path = ["ids", "ids"]', '"ids" is in the path twice: a loop'),
        ('path = ["ids"]', 'path = ["dpi"]', "dpi: segment: it would serve main and for-b, and has one pair"),
        ('name = "for-b"', 'name = "main"', 'serve main: name: "main" is already the name of a segment'),
        ('name = "for-b"', 'name = "for-b"\nmtu = 1600', "for-b: tunnel: a frame of 1618 bytes becomes a packet of 1"),
        (
            '"vxlan", remote = "198.51.100.20"',
            '"gre-ip", remote = "198.51.100.20"',
            "serve for-b: tunnel: gre-ip carries IP, and guests get frames",
        ),
    ],
)  # fmt: skip
def test_refused_of_what_is_served(old: str, new: str, what: str) -> None:
    assert errors(SERVED) == []
    assert old in SERVED
    found = errors(SERVED.replace(old, new, 1))
    assert any(what in error for error in found), found


def test_to_the_datapath_it_is_a_segment_with_one_rule_that_fails_closed() -> None:
    """Rules of every segment do not count in it."""
    config = loads(SERVED, filters=False)
    made = served.expanded(config)
    assert [segment.name for segment in made.segment] == ["main", "for-b"]
    rule = made.rule[0]
    assert (rule.name, rule.segment, rule.path, rule.on_unavailable, rule.require) == (
        "serve for-b", "for-b", ("ids",), "block", "all",
    )  # fmt: skip
    assert served.segments_of(config, "ids") == ["for-b"]
    assert served.segments_of(config, "dpi") == ["main"]
    policy = compile_policy(config, Names(None))
    number = policy.segments["for-b"]
    assert [policy.rules[index].name for index in policy.chains[number]] == ["serve for-b"]
    assert [policy.rules[index].name for index in policy.chains[policy.segments["main"]]] == ["all"]


@pytest.mark.parametrize(
    ("kind", "accept", "wanted"),
    [
        ("vxlan", "", ""),
        ("vxlan", "tcp", "tcp"),
        ("gre-ip", "", "ip or ip6"),
        ("ipip", "", "ip"),
        ("ipip", "tcp", "(ip) and (tcp)"),
        ("gre-ip", "tcp or vlan", "(ip or ip6) and (tcp or vlan)"),
    ],
)
def test_what_a_tunnel_can_carry_narrows_what_its_remote_accepts(kind: str, accept: str, wanted: str) -> None:
    assert encapsulations.accepted(Remote("dpi", tunnel(kind, "192.0.2.7"), accept=accept)) == wanted
    assert encapsulations.accepted(Guest("ips", accept=accept)) == accept
    over6 = encapsulations.accepted(Remote("dpi", tunnel("ipip", "2001:db8::7"), accept="tcp"))
    assert over6 == "(ip or ip6) and (tcp)"


def test_heartbeats_through_a_tunnel_of_ip_are_packets() -> None:
    chosen = Routed("192.0.2.1", "192.0.2.2")
    probes = (Probe(kind="inband"), Probe(kind="ping", target="192.0.2.1"), Probe(kind="inband", routed=chosen))
    made = Remote("dpi", tunnel("gre-ip", "192.0.2.7"), probes=probes)
    assert [probe.routed for probe in encapsulations.probes(made)] == [encapsulations.HEARTBEATS, None, chosen]
    assert [probe.routed for probe in encapsulations.probes(msgspec.structs.replace(made, probes=()))] == [
        encapsulations.HEARTBEATS
    ]
    plain = msgspec.structs.replace(made, tunnel=tunnel("vxlan", "192.0.2.7"))
    assert encapsulations.probes(plain) == probes


@pytest.mark.parametrize(
    ("text", "notes"),
    [
        (GOOD, ["dpi: tunnel: its packets are not encrypted", "ips: tunnel: its packets are not encrypted"]),
        (SECURED, ["ips: tunnel: its packets are not encrypted"]),
        (IP, ["dpi: tunnel: its packets", "dpi: tunnel: it carries IP: frames with a tag", "ips: tunnel: its packets"]),
        (VLANS, ["dpi: tunnel: its frames are not encrypted, and whoever can send in", "ips: tunnel: its packets"]),
        (
            KEYLESS,
            [
                "dpi: tunnel: its packets",
                "dpi: tunnel: it carries IPv4: frames with a tag, and those that are no IPv4",
                "ips: tunnel: its packets",
            ],
        ),
    ],
)
def test_what_lint_says_of_remotes(text: str, notes: list[str]) -> None:
    found = [f"{one.where}: {one.what}" for one in lint(loads(text, filters=False)) if one.where.startswith("remote")]
    assert [what in said for what, said in zip(notes, found, strict=True)] == [True] * len(notes), found


def test_the_readme_has_the_same_table() -> None:
    from tests.support.live import REPOSITORY

    text = (REPOSITORY / "appliance/remote/README.md").read_text()
    rows = re.findall(
        r"^\| `([a-z-]+)` \| ([^|]+) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \| ([^|]+) \|", text, re.MULTILINE
    )
    assert [row[0] for row in rows] == list(encapsulations.KINDS)
    for kind, carries, over4, over6, need4, need6, secured in rows:
        four, six = tunnel(kind, "192.0.2.7"), tunnel(kind, "2001:db8::7")
        assert (carries.strip(), secured.strip()) == (
            encapsulations.KINDS[kind].carries,
            encapsulations.KINDS[kind].secured,
        )
        assert (int(over4), int(over6)) == (encapsulations.overhead(four), encapsulations.overhead(six))
        needs = encapsulations.outer_mtu(four, 1500), encapsulations.outer_mtu(six, 1500)
        assert (int(need4), int(need6)) == needs
