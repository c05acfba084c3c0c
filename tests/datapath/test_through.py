# SPDX-License-Identifier: GPL-2.0-only
"""Rules that look through tags, PPPoE, labels, SNAP, extension headers and fragments: in the kernel as in the model."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.config.schema.model import Config, Guest, Rule, Segment
from appliance.steering.explain.model import Where
from appliance.steering.kernel.layout import Role, Side
from tests.support.frames import KINDS, labels, pppoe, tcp, typed
from tests.support.twin import Twin

pytestmark = pytest.mark.root

Way = Literal["vlan", "qinq", "pppoe", "mpls", "snap", "ip6ext", "fragments"]
WAYS: tuple[Way, ...] = ("vlan", "qinq", "pppoe", "mpls", "snap", "ip6ext", "fragments")
LAN = Where(Role.PORT, 0, Side.LAN)
GUESTS = tuple(Guest(name=name) for name in "ab")
SEGMENT = Segment(name="main", lan="lan0", wan="wan0")
INSIDE = tcp()[14:]
WRAPPED = {
    "vlan": typed(0x8100, b"\0\x0a\x08\0" + INSIDE),
    "qinq": typed(0x88A8, b"\0\x05\x81\0\0\x0a\x08\0" + INSIDE),
    "pppoe": typed(0x8864, pppoe(INSIDE)),
    "mpls": typed(0x8847, labels(100) + INSIDE),
    "snap": typed(64, b"\xaa\xaa\x03\0\0\0\x08\0" + INSIDE),
    "ip6ext": KINDS["ip6 routing, destination"],
    "fragments": KINDS["lone later fragment"][:23] + b"\x06" + KINDS["lone later fragment"][24:],
}


def twin(path: Path, *rules: Rule) -> Twin:
    made = Twin(path, Config(segment=(SEGMENT,), guest=GUESTS, rule=rules))
    made.attach(9100)
    made.supervise()
    for guest in GUESTS:
        made.lease(guest.name)
    return made


@pytest.mark.parametrize("kind", ["xdp", "tc"])
@pytest.mark.parametrize("way", WAYS)
def test_each_way(bpf_object: Path, way: Way, kind: str) -> None:
    """An encapsulated frame evades a port rule, and matches it with this `through` and with all of them."""
    ways: list[tuple[tuple[Way, ...], int | None]] = [((), None), ((way,), 0), (WAYS, 0)]
    for through, wanted in ways:
        made = twin(bpf_object, Rule(name="web", match="tcp port 80", through=through, path=("a",)))
        try:
            assert made.both(LAN, WRAPPED[way], kind).rule == wanted
            assert made.both(LAN, tcp(), kind).rule == 0
            assert made.both(LAN, tcp(dport=81), kind).rule is None
        finally:
            made.close()


@pytest.mark.parametrize("number", [1, 12])
def test_fragments_behind_what_the_rule_looks_through(bpf_object: Path, number: int) -> None:
    """The first fragment is recognised behind a tag or labels, and later ones follow it: by few rules and by many."""
    rules = [Rule(name=f"r{n}", match=f"udp port {n + 1}", path=()) for n in range(number - 1)]
    through: tuple[Way, ...] = ("vlan", "mpls")
    made = twin(bpf_object, *rules, Rule(name="dns", match="udp port 53", through=through, path=("a",)))
    try:
        for where in ("behind a tag", "behind labels"):
            first, later = (KINDS[f"a {which} fragment {where}"] for which in ("first", "later"))
            assert [made.both(LAN, frame).rule for frame in (later, first, later)][1:] == [number - 1, number - 1]
        made.tables_agree()
    finally:
        made.close()


TEXTS = ["tcp port 80", "udp port 53", "ip6 and udp", "not udp", "host 10.0.0.1 and port 80", "tcp[13] & 2 != 0", "arp"]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rules=st.lists(
        st.tuples(
            st.sampled_from(TEXTS),
            st.lists(st.sampled_from(WAYS), unique=True).map(tuple),
            st.sampled_from([(), ("a",), ("b", "a")]),
        ),
        min_size=1,
        max_size=9,
    ),
    frames=st.lists(
        st.one_of(
            st.sampled_from(sorted(KINDS.values())),
            st.tuples(st.sampled_from(sorted(KINDS.values())), st.integers(14, 90)).map(lambda p: p[0][: p[1]]),
            st.tuples(st.sampled_from(sorted(KINDS.values())), st.sampled_from([0x8100, 0x88A8, 0x9100])).map(
                lambda p: p[0][:12] + p[1].to_bytes(2, "big") + b"\0\x07" + p[0][12:]
            ),
        ),
        min_size=20,
        max_size=60,
    ),
    kind=st.sampled_from(["xdp", "tc"]),
)
def test_random_rules_and_frames(
    bpf_object: Path, rules: list[tuple[str, tuple[Way, ...], tuple[str, ...]]], frames: list[bytes], kind: str
) -> None:
    """Any rules that look through anything: kernel and model agree on every frame."""
    made = twin(
        bpf_object,
        *(Rule(name=f"r{n}", match=text, through=ways, path=path) for n, (text, ways, path) in enumerate(rules)),
    )
    try:
        for frame in frames:
            made.both(LAN, frame, kind)
        made.tables_agree()
    finally:
        made.close()
