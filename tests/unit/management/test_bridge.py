# SPDX-License-Identifier: GPL-2.0-only
"""The management port as a bridge: the commands that lead from the present to the wanted state."""

from __future__ import annotations

import json

import pytest

from appliance.management import bridge_filter
from appliance.management.bridge import Links, carrier, commands, hardware, parse

GUEST = {"twm1": "02:AA:00:00:00:01"}


def link(name: str, *flags: str, **more: str) -> dict[str, object]:
    return {"ifname": name, "flags": [*flags], "address": "02:00:00:00:07:01", **more}


def seen(*rows: dict[str, object]) -> Links:
    return parse(json.dumps(rows))


HARDWARE = link("mgmt0-hw", "UP", "LOWER_UP", master="mgmt0")
TAP = link("twm1", "UP", master="mgmt0", ifalias="02:aa:00:00:00:01")


def words(links: Links, guests: dict[str, str] | None = None, *, wanted: bool = True) -> list[str]:
    return [" ".join(one).replace("-n mgmt ", "") for one in commands("mgmt0", wanted, guests or {}, links, "mgmt")]


def test_from_the_hardware_port_to_the_bridge() -> None:
    """It takes over name and address of the port, without spanning tree; then nothing is left to do."""
    assert words(seen(link("mgmt0-hw"))) == [
        "ip link add name mgmt0 address 02:00:00:00:07:01 type bridge stp_state 0",
        "ip link set mgmt0-hw master mgmt0",
        "ip link set mgmt0-hw up",
    ]
    assert words(seen(HARDWARE, link("mgmt0"))) == []
    assert words(seen(HARDWARE, link("mgmt0")), wanted=False) == ["ip link set mgmt0-hw down"]


@pytest.mark.parametrize(("at", "bridge_at"), [(1500, 1500), (1600, 1500), (1500, 1600)])
def test_tunnels_need_a_larger_mtu_of_both(at: int, bridge_at: int) -> None:
    """What is as wanted is left alone; without a wish both go back to that of Ethernet."""
    links = seen({**HARDWARE, "mtu": at}, {**link("mgmt0"), "mtu": bridge_at})
    wanted = [f"ip link set {name} mtu 1600" for name, now in (("mgmt0-hw", at), ("mgmt0", bridge_at)) if now != 1600]
    made = commands("mgmt0", True, {}, links, "mgmt", mtu=1600)
    assert [" ".join(one).replace("-n mgmt ", "") for one in made] == wanted
    back = [f"ip link set {name} mtu 1500" for name, now in (("mgmt0-hw", at), ("mgmt0", bridge_at)) if now != 1500]
    assert words(links) == back


def test_another_card_at_the_port() -> None:
    """The bridge has the address of the one that is there."""
    new = {**link("mgmt0-hw", "UP"), "address": "02:00:00:00:07:02"}
    assert words(seen(new, link("mgmt0"))) == [
        "ip link set mgmt0 address 02:00:00:00:07:02",
        "ip link set mgmt0-hw master mgmt0",
    ]


def test_a_guest_joins_locked_before_it_is_up() -> None:
    links = seen(HARDWARE, link("mgmt0"), link("twm1"))
    assert words(links, GUEST) == [
        "ip link set twm1 down",
        "ip link set twm1 nomaster",
        "ip link set twm1 master mgmt0",
        "ip link set twm1 type bridge_slave locked on learning off flood off",
        "bridge fdb replace 02:aa:00:00:00:01 dev twm1 master static",
        *(" ".join(one).replace("-n mgmt ", "") for one in bridge_filter.commands("twm1", "mgmt")),
        "ip link set twm1 alias 02:aa:00:00:00:01",
        "ip link set twm1 up",
    ]


def test_a_guest_that_joined_is_left_alone_until_its_address_changes() -> None:
    links = seen(HARDWARE, link("mgmt0"), TAP)
    assert words(links, GUEST) == []
    assert "ip link set twm1 alias 02:aa:00:00:00:02" in words(links, {"twm1": "02:aa:00:00:00:02"})
    assert words(seen(HARDWARE, link("mgmt0")), GUEST) == [], "its tap is not there yet"


def test_a_guest_with_the_ports_own_address_stays_out() -> None:
    links = seen(HARDWARE, link("mgmt0"), link("twm1"))
    assert words(links, {"twm1": str(HARDWARE["address"]).upper()}) == []


def test_the_fence_is_on_both_sides_of_the_tap_before_it_is_up() -> None:
    made = words(seen(HARDWARE, link("mgmt0"), link("twm1")), GUEST)
    (inwards,) = (at for at, one in enumerate(made) if one.startswith("tc filter replace dev twm1 ingress"))
    (outwards,) = (at for at, one in enumerate(made) if one.startswith("tc filter replace dev twm1 egress"))
    assert max(inwards, outwards) < made.index("ip link set twm1 up")
    assert made[inwards].split("bytecode")[1] == made[outwards].split("bytecode")[1]


def test_the_cable_counts_and_not_the_guests() -> None:
    assert carrier(seen(HARDWARE), "mgmt0")
    assert not carrier(seen(link("mgmt0-hw", "UP"), link("mgmt0", "UP", "LOWER_UP")), "mgmt0")


def test_what_iproute2_says() -> None:
    assert parse("") == parse("[{}]") == parse("no JSON") == {}
    assert hardware("management-port") == "management-p-hw"
