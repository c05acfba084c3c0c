# SPDX-License-Identifier: GPL-2.0-only
"""How ports are attached: by XDP where it loses nothing, otherwise by tc. Pure."""

from __future__ import annotations

import pytest

from appliance.config.schema import limits
from appliance.guest.port.tap import TAP_MTU
from appliance.steering.kernel.attach_mode import (
    AUTO_MTUS,
    Choice,
    PortFacts,
    auto_mtus,
    choose,
    in_several_buffers,
    longest,
    needs_tc,
    refusal,
)

BOTH = Choice(("xdp", "tc"))


def port(
    name: str = "wan0", driver: str = "igb", mtu: int = 1500, altering: tuple[str, ...] = (), *, several: bool = False
) -> PortFacts:
    return PortFacts(name, driver, mtu, several, altering)


LAN = port("lan0")


def test_a_tunnel_of_the_kernel_takes_tc() -> None:
    """From the start, so that a restart never tries XDP while frames are on their way to it; XDP by order stays."""
    why = needs_tc(("dpi", "ips"), ("canary",))
    assert why == "XDP cannot send to the tunnels of dpi, ips"
    assert choose("auto", [LAN, port()], (), why) == Choice(("tc",), why)
    assert choose("xdp", [LAN, port()], (), why) == Choice(("xdp",))


def test_copies_take_tc() -> None:
    """XDP has no way to copy a frame to a device; without mirrors nothing changes."""
    assert needs_tc((), ("canary", "ids")) == "XDP cannot copy frames to mirrors: canary, ids"
    assert needs_tc((), ()) == ""


@pytest.mark.parametrize("hops", [(), ("ips",)])
@pytest.mark.parametrize("side", [0, 1])
def test_what_hardware_changes_takes_tc(side: int, hops: tuple[str, ...]) -> None:
    """Tags stripped, or packets merged, for good at one port are enough; XDP that is asked for is refused."""
    ports = [port("lan0"), port("wan0")]
    ports[side] = port(ports[side].name, "r8169", altering=("stripped VLAN tags", "merged packets (LRO)"))
    choice = choose("auto", ports, hops)
    assert choice.tried == ("tc",)
    what = f"{ports[side].name} (r8169) delivers stripped VLAN tags and merged packets (LRO)"
    assert choice.reason.startswith(what)
    assert refusal("xdp", ports).startswith(what)
    assert refusal("tc", ports) == refusal("auto", ports) == ""


@pytest.mark.parametrize(
    ("wan", "hops", "expected"),
    [
        (port(), ("ips",), BOTH),
        (port(mtu=9000), ("ips",), BOTH),  # its driver takes XDP only where a frame lies in one buffer
        (port(driver="virtio_net", mtu=3480, several=True), ("ips",), BOTH),
        (port(driver="virtio_net", mtu=3481, several=True), (), BOTH),
        (port(driver="ice", mtu=1582, several=True), ("ips",), BOTH),
        (port(driver="ice", mtu=9000, several=True), (), BOTH),
    ],
)
def test_xdp_where_it_loses_nothing(wan: PortFacts, hops: tuple[str, ...], expected: Choice) -> None:
    assert choose("auto", [LAN, wan], hops) == expected


@pytest.mark.parametrize(
    ("wan", "bytes_in_one"),
    [
        (port(driver="virtio_net", mtu=3481, several=True), 3498),
        (port(driver="ice", mtu=1583, several=True), 1600),
        (port(driver="ice", mtu=9000, several=True), 1600),
    ],
)
def test_long_frames_go_through_guests(wan: PortFacts, bytes_in_one: int) -> None:
    """Where frames may come in several buffers, a guest has them by tc only; the mode that is asked for is kept."""
    choice = choose("auto", [LAN, wan], ("ips",))
    assert choice.tried == ("tc",)
    assert f"frames longer than {bytes_in_one} bytes come in several buffers" in choice.reason
    assert choose("xdp", [LAN, wan], ("ips",)) == Choice(("xdp",))
    assert in_several_buffers([LAN, wan])
    assert not in_several_buffers([LAN])


def test_what_is_tried_lies_in_one_buffer() -> None:
    """A guest that comes later must not make the segment leave XDP."""
    assert auto_mtus([LAN, port()]) == AUTO_MTUS
    assert auto_mtus([LAN, port(driver="virtio_net", several=True)]) == AUTO_MTUS
    for mtu in auto_mtus([LAN, port(driver="ice", several=True)]):
        assert not in_several_buffers([port(driver="ice", mtu=mtu, several=True)])
    assert auto_mtus([LAN, port(driver="ice", several=True)])[0] == 1582


def test_sizes() -> None:
    """What is tried goes down to Ethernet's own and holds a pile of tags before; a tap takes what any port does."""
    assert list(AUTO_MTUS) == sorted(AUTO_MTUS, reverse=True)
    assert AUTO_MTUS[-1] == limits.MIN_MTU == 1500
    tags = 4 * 4 + 8 * 4
    assert longest(AUTO_MTUS[-2]) >= longest(1500) + tags
    assert TAP_MTU >= limits.MAX_MTU
