# SPDX-License-Identifier: GPL-2.0-only
"""The neighbours of the board that speak LACP: what they send, and how the time without a LACPDU is counted."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from scapy.contrib.lacp import LACP, SlowProtocol
from scapy.layers.l2 import Ether
from simulator import netns
from simulator.host import Host
from simulator.lacp import INTERVAL_NS, Lacp, longest_gap_ms, pdu

from tests.support.waiting import wait_until

S = 1_000_000_000


@pytest.mark.parametrize(
    ("arrivals", "gap_ms"),
    [
        ([1 * S, 2 * S, 3 * S], 1000),
        ([1 * S], 3000),  # nothing more until the end
        ([], 4000),
        ([3 * S], 3000),  # nothing from the begin on
        ([2 * S, 1 * S, 3 * S], 1000),
        ([-5 * S, 2 * S, 9 * S], 2000),  # what lies outside is not asked for
    ],
)
def test_the_longest_gap(arrivals: list[int], gap_ms: float) -> None:
    assert longest_gap_ms(arrivals, 0, 4 * S) == gap_ms


def test_what_is_sent() -> None:
    """A LACPDU that another implementation reads: fast timer, in sync, to the address of slow protocols."""
    frame = Ether(pdu(b"\2\0\0\0\0\1", b"\2\0\0\0\0\2"))
    assert frame.dst == "01:80:c2:00:00:02"
    assert frame[SlowProtocol].subtype == 1
    lacp = frame[LACP]
    assert (lacp.actor_system, lacp.partner_system) == ("02:00:00:00:00:01", "02:00:00:00:00:02")
    assert lacp.actor_state & 0x02  # short timeout
    assert len(frame) == 124


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    """Two hosts with a cable between them."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    prefix = f"lacp{os.getpid()}"
    spaces = [f"{prefix}-lan", f"{prefix}-wan"]
    made = []
    try:
        for space in spaces:
            netns.create(space)
        netns.run("ip", "-n", spaces[0], "link", "add", "eth0", "type", "veth", "peer", "eth0", "netns", spaces[1])
        for space in spaces:
            netns.run("ip", "-n", space, "link", "set", "eth0", "up")
        made = [Host(space, "", "") for space in spaces]
        yield made[0], made[1]
    finally:
        for host in made:
            host.close()
        for space in spaces:
            netns.run("ip", "netns", "del", space)


def test_both_hear_each_other(hosts: tuple[Host, Host]) -> None:
    """Once a second."""
    lacp = Lacp(*hosts)
    try:
        wait_until(lambda: all(len(stamps) >= 2 for stamps in lacp._arrivals.values()), "two LACPDUs each")
        heard = [stamps[-2:] for stamps in lacp._arrivals.values()]
        assert all(0.5 * INTERVAL_NS < after - before < 2 * INTERVAL_NS for before, after in heard)
        begin, end = min(stamps[0] for stamps in heard), max(stamps[1] for stamps in heard)
        assert lacp.longest_gap_ms(begin, end) < 2000
    finally:
        lacp.close()
