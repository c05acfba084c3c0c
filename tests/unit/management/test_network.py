# SPDX-License-Identifier: GPL-2.0-only
"""The management port: commands from the present to the wanted state; when SSH listens, and how it is started."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from appliance.access import ssh
from appliance.config.schema.model import Management, User
from appliance.management.network import Seen, commands, parse, parse_lease
from appliance.units import Duration

STATIC = Management(address="192.0.2.10/24", gateway="192.0.2.1")
UP = Seen(True, True, True, "02:00:00:00:00:01", ("192.0.2.10/24",), ("192.0.2.1",))


def words(wanted: Management, seen: Seen) -> list[str]:
    return [" ".join(command).replace("-n mgmt ", "") for command in commands(wanted, "mgmt0", seen)]


def test_from_nothing_and_nothing_more_to_do() -> None:
    assert words(STATIC, Seen(True)) == [
        "link set mgmt0 up",
        "address replace 192.0.2.10/24 dev mgmt0",
        "-4 route replace default via 192.0.2.1 dev mgmt0",
    ]
    assert words(STATIC, UP) == []


def test_new_address_comes_before_the_old_one_goes() -> None:
    other = Management(address="192.0.2.11/24", gateway="192.0.2.1")
    assert words(other, UP) == ["address replace 192.0.2.11/24 dev mgmt0", "address del 192.0.2.10/24 dev mgmt0"]


def test_gateway_comes_and_goes_alone() -> None:
    assert words(Management(address="192.0.2.10/24"), UP) == ["-4 route del default"]
    moved = Management(address="192.0.2.10/24", gateway="192.0.2.254")
    assert words(moved, UP) == ["-4 route replace default via 192.0.2.254 dev mgmt0"]


def test_ipv6_beside_ipv4() -> None:
    both = Management(address="192.0.2.10/24", address6="2001:DB8::10/64", gateway6="fe80::1")
    assert words(both, Seen(True, True)) == [
        "address replace 192.0.2.10/24 dev mgmt0",
        "address replace 2001:db8::10/64 dev mgmt0 nodad",
        "-6 route replace default via fe80::1 dev mgmt0",
    ]


def test_dhcp_leaves_what_the_client_set() -> None:
    assert words(Management(address="dhcp"), UP) == []
    both = Seen(True, True, True, "", ("192.0.2.10/24", "2001:db8::10/64"), ("192.0.2.1",))
    assert words(Management(address="dhcp"), both) == ["address del 2001:db8::10/64 dev mgmt0"]


def test_no_address_takes_the_port_down() -> None:
    assert words(Management(), UP) == ["address flush dev mgmt0", "link set mgmt0 down"]
    assert words(Management(), Seen(True)) == []


def test_what_iproute2_says() -> None:
    link = [
        {
            "ifname": "mgmt0",
            "flags": ["BROADCAST", "UP", "LOWER_UP"],
            "address": "02:00:00:00:00:01",
            "addr_info": [
                {"local": "192.0.2.10", "prefixlen": 24, "scope": "global"},
                {"local": "fe80::1", "prefixlen": 64, "scope": "link"},
            ],
        }
    ]
    assert parse(json.dumps(link), '[{"dst":"default","gateway":"192.0.2.1"}]', "[]") == UP
    assert parse("", "", "") == Seen()
    assert parse("[{}]", "not json", "{}") == Seen()


def test_lease_file() -> None:
    assert parse_lease("state=bound\naddress=10.0.0.5/24\ngateway=\nnonsense\n") == {
        "state": "bound",
        "address": "10.0.0.5/24",
    }


KEY_USER = User(name="noc", keys=("ssh-ed25519 AAAA",))


@pytest.mark.parametrize(
    ("management", "users", "why"),
    [
        (STATIC, [], "no user can log in"),
        (STATIC, [User(name="a")], "no user can log in"),
        (Management(), [KEY_USER], "no address"),
        (Management(address="dhcp", ssh=False), [KEY_USER], "switched off"),
        (STATIC, [KEY_USER], ""),
    ],
)
def test_when_ssh_listens(management: Management, users: list[User], why: str) -> None:
    found = ssh.why_off(management, users)
    assert (why in found) if why else found == ""


def test_the_server_lets_no_root_in_and_forwards_nothing() -> None:
    keys = [ssh.HostKey(Path("/k"), "ed25519", "SHA256:x")]
    line = ssh.command(STATIC, [KEY_USER], keys, Path("/p"))
    assert {"-w", "-j", "-k", "-s"} <= set(line), "no root, no forwarding; without passwords none is asked for"
    assert line[line.index("-T") + 1] == "3"
    assert line[line.index("-G") + 1] == "bypass"
    assert line[line.index("-I") + 1] == "3600"
    never = Management(address="dhcp", idle_timeout=Duration(0), ssh_port=2222)
    line = ssh.command(never, [User(name="a", password="$6$abcdefgh$x")], keys, Path("/p"))
    assert "-s" not in line
    assert (line[line.index("-I") + 1], line[line.index("-p") + 1]) == ("0", "2222")
