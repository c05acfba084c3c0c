# SPDX-License-Identifier: GPL-2.0-only
"""A flow as the shunts know it: the same in both directions, and as the datapath keeps it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import RefusedError
from appliance.steering.kernel import layout
from appliance.steering.kernel.layout import Side
from appliance.steering.kernel.shunted_flow import ShuntedFlow, flow_of, vlan_of
from appliance.steering.shunts_api import _end
from tests.support.frames import KINDS, tcp, udp

PORTS = st.integers(0, 65535)


TAGS = st.one_of(
    st.just(0), st.builds(lambda n, service: vlan_of(n, service=service), st.integers(0, 4095), st.booleans())
)
ADDRESSES = st.one_of(
    st.tuples(st.ip_addresses(v=4), st.ip_addresses(v=4)), st.tuples(st.ip_addresses(v=6), st.ip_addresses(v=6))
)
FLOWS = st.builds(
    lambda segment, protocol, ends, ports, vlan: ShuntedFlow(
        segment, protocol, ends[0], ports[0], ends[1], ports[1], vlan
    ),
    st.integers(0, layout.MAX_SEGMENTS - 1),
    st.sampled_from([6, 17]),
    ADDRESSES,
    st.tuples(PORTS, PORTS),
    TAGS,
)


@given(FLOWS)
def test_a_key_is_read_back(flow: ShuntedFlow) -> None:
    assert ShuntedFlow.of(flow.key()) == flow


def test_both_directions_are_one_flow() -> None:
    for there, back in ((tcp(), tcp(back=True)), (udp(), udp(back=True))):
        assert flow_of(there, 2, Side.LAN) == flow_of(back, 2, Side.WAN)
        assert flow_of(there, 2, Side.LAN) != flow_of(there, 2, Side.WAN)
        assert flow_of(there, 2, Side.LAN) != flow_of(there, 1, Side.LAN)


@pytest.mark.parametrize(
    "name", ["sctp", "ip options", "icmp error", "vxlan behind two tags", "no vxlan", "gre", "arp"]
)
def test_what_cannot_be_shunted(name: str) -> None:
    assert flow_of(KINDS[name], 0, Side.LAN) is None


def test_truncated_frames_have_no_flow() -> None:
    for length in range(len(tcp())):
        assert flow_of(tcp()[:length], 0, Side.LAN) is None or length >= 48


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("10.0.0.1", ("10.0.0.1", None)),
        ("10.0.0.1:443", ("10.0.0.1", 443)),
        ("fd00::1", ("fd00::1", None)),
        ("[fd00::1]:80", ("fd00::1", 80)),
        ("[fd00::1]", ("fd00::1", None)),
    ],
)
def test_ends_that_an_operator_names(text: str, found: tuple[str, int | None]) -> None:
    assert _end(text) == found


@pytest.mark.parametrize("text", ["", "server", "10.0.0.1:x", "10.0.0.1:70000", ":80"])
def test_ends_that_are_none(text: str) -> None:
    with pytest.raises(RefusedError):
        _end(text)
