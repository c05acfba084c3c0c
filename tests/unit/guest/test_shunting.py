# SPDX-License-Identifier: GPL-2.0-only
"""What a guest's agent may shunt: only flows that can be, as often and as long as its configuration says."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

import pytest

from appliance.config.schema.model import Guest, Shunts
from appliance.errors import RefusedError
from appliance.guest.agent.channel import Inbox, Message, Shunt
from appliance.guest.agent.shunting import AgentShunts
from appliance.steering.kernel.layout import SHUNT_AD, SHUNT_TAG
from appliance.steering.kernel.shunted_flow import ShuntedFlow
from appliance.units import Duration

SECOND = 10**9
CONFIG = Guest(name="ips1", shunts=Shunts(max=10, time=Duration(60 * SECOND), idle=Duration(5 * SECOND), rate=2))


class Table:
    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []

    def segment_id(self, name: str) -> int:
        return {"main": 0, "other": 3}[name]

    def shunt(self, hop: str, flow: ShuntedFlow, time_ns: int, idle_ns: int, directions: int) -> None:
        self.told.append((hop, flow, time_ns, idle_ns, directions))

    def unshunt(self, hop: str, flow: ShuntedFlow) -> None:
        self.told.append((hop, flow))


def shunts(table: Table, served: Sequence[str] = ("main",), now: Sequence[int] = (0,)) -> AgentShunts:
    times = iter((*now, *[now[-1]] * 100))
    return AgentShunts(table, lambda _: served, lambda: next(times))


def message(text: str) -> Message | None:
    found = Inbox().feed(0, text.encode() + b"\n")
    return found[0] if found else None


def ends(**more: object) -> Shunt:
    values: dict[str, object] = {"lan": "10.0.0.1", "lan_port": 5, "wan": "192.0.2.1", "wan_port": 443, **more}
    return Shunt(**values)  # type: ignore[arg-type]


def test_a_flow_is_shunted_and_no_longer() -> None:
    table = Table()
    agent = shunts(table)
    flow = ShuntedFlow(0, 6, ipaddress.IPv4Address("10.0.0.1"), 5, ipaddress.IPv4Address("192.0.2.1"), 443)
    agent.carry_out(CONFIG, ends())
    agent.carry_out(CONFIG, ends(on=False))
    assert table.told == [("ips1", flow, 60 * SECOND, 5 * SECOND, 3), ("ips1", flow)]


def test_what_a_message_may_say() -> None:
    """Its time only shortens the administrator's; tags, segments, directions."""
    table = Table()
    agent = shunts(table, ("main", "other"))
    six = {"lan": "fd00::1", "wan": "fd01::1", "protocol": "udp"}
    agent.carry_out(CONFIG, ends(**six, segment="other", vlan=5, service_tag=True, direction="to-lan", time_s=1.5))
    agent.carry_out(CONFIG, ends(segment="main", vlan=0, direction="to-wan", time_s=1e9))
    (_, first, *rest), (_, second, *others) = table.told
    assert isinstance(first, ShuntedFlow)
    assert isinstance(second, ShuntedFlow)
    assert (first.segment, first.protocol, first.vlan, rest) == (
        3, 17, SHUNT_TAG | SHUNT_AD | 5, [1_500_000_000, 5 * SECOND, 2],
    )  # fmt: skip
    assert (second.segment, second.vlan, second.tag, others[0]) == (0, SHUNT_TAG, 0, 60 * SECOND)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"lan": "server"}, "does not appear to be"),
        ({"lan": "fd00::1"}, "IPv4, the other one IPv6"),
        ({"lan": "fe80::1%eth0", "wan": "fe80::2"}, "zone"),
        ({"protocol": "udp", "wan_port": 4789}, "tunnel"),
        ({"segment": "side"}, 'no segment "side"'),
    ],
)
def test_what_is_no_such_flow(more: dict[str, object], says: str) -> None:
    table = Table()
    with pytest.raises(RefusedError, match=says):
        shunts(table).carry_out(CONFIG, ends(**more))
    assert table.told == []


def test_a_guest_of_several_segments_must_name_one() -> None:
    with pytest.raises(RefusedError, match="main, other"):
        shunts(Table(), ("main", "other")).carry_out(CONFIG, ends())


def test_a_guest_that_may_not() -> None:
    with pytest.raises(RefusedError, match="max = 0"):
        shunts(Table()).carry_out(Guest(name="ips1"), ends())


def test_no_more_than_its_rate() -> None:
    table = Table()
    agent = shunts(table, now=(0, 0, 0, SECOND))
    agent.carry_out(CONFIG, ends())
    agent.carry_out(CONFIG, ends())
    with pytest.raises(RefusedError, match="more than 2 in a second"):
        agent.carry_out(CONFIG, ends())
    agent.carry_out(CONFIG, ends())
    assert len(table.told) == 3


@pytest.mark.parametrize(
    "wrong",
    [
        '"lan":"10.0.0.1"',
        '"lan":"10.0.0.1","wan":"192.0.2.1","lan_port":70000,"wan_port":1',
        '"lan":"10.0.0.1","wan":"192.0.2.1","lan_port":1,"wan_port":1,"time_s":0',
        '"lan":"10.0.0.1","wan":"192.0.2.1","lan_port":1,"wan_port":1,"protocol":"icmp"',
        '"lan":"10.0.0.1","wan":"192.0.2.1","lan_port":1,"wan_port":1,"vlan":4096',
    ],
)
def test_what_is_no_message(wrong: str) -> None:
    assert message(f'{{"type":"shunt",{wrong}}}') is None
    right = '{"type":"shunt","lan":"10.0.0.1","wan":"192.0.2.1","lan_port":1,"wan_port":2}'
    assert message(right) == Shunt("10.0.0.1", "192.0.2.1", 1, 2)
