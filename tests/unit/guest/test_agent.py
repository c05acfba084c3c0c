# SPDX-License-Identifier: GPL-2.0-only
"""The agent's requests: granted within the administrator's limits, refused with a reason, never a burden."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import msgspec
import pytest
from boardspec import REPO

from appliance.errors import BypassError, FilterError, NotFoundError, RefusedError, UnreachableError
from appliance.filter import untrusted
from appliance.guest.agent import conversation as agent_module
from appliance.guest.agent.channel import Accept, Bypass, Drain, Heartbeat, Hello, Inbox, Message, Result, Shunt, Tags
from appliance.guest.agent.conversation import CHECKS, Agent
from appliance.guest.agent.traffic_names import NAMES, filter_of
from appliance.steering.overlay import MAX_QUARANTINED, Overlay, Quarantined
from appliance.steering.overlay_editor import GuestPolicy, compile_filter


class Host:
    """A guest from the side of its agent."""

    def __init__(self) -> None:
        self.told: list[dict[str, object]] = []
        self.beats: list[str] = []
        self.done: list[tuple[object, ...]] = []
        self.refuse: BypassError | None = None
        self.deaf = False

    def send(self, message: dict[str, object]) -> None:
        if self.deaf:
            raise UnreachableError("it does not read")
        self.told.append(message)

    def greeting(self) -> dict[str, object]:
        return {"guest": "ips1", "accept": "ip", "tags": False, "heartbeat_ms": 100.0}

    def heartbeat(self, status: str, _: Mapping[str, int]) -> None:
        self.beats.append(status)

    def _do(self, *what: object) -> None:
        if self.refuse is not None:
            raise self.refuse
        self.done.append(what)

    def ask_bypass(self, on: bool, why: str) -> None:
        self._do("bypass", on, why)

    def ask_drain(self, on: bool) -> None:
        self._do("drain", on)

    def shunt(self, message: Shunt) -> None:
        self._do("shunt", message.lan, message.lan_port, message.on)

    async def narrow(self, text: str) -> None:
        await asyncio.sleep(0)
        self._do("accept", text)

    async def use_tags(self, on: bool) -> dict[str, int]:
        self._do("tags", on)
        return {"dpi": 2, "out": 0}


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    monkeypatch.setattr(agent_module, "ACCEPT_INTERVAL_S", 0.0)
    monkeypatch.setattr(agent_module, "STATE_INTERVAL_S", 0.0)
    return Host()


def run(body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(body())


async def settled(host: Host, answers: int) -> None:
    async with asyncio.timeout(10):
        while len(host.told) < answers:
            await asyncio.sleep(0)


def test_every_message_of_the_protocol_is_read() -> None:
    lines = (
        b'{"type":"hello","version":2,"agent":"a","capabilities":["check"],"id":1}\n'
        b'{"type":"accept","filter":"tcp port 80","id":2}\n{"type":"accept","filter":null}\n{"type":"accept"}\n'
        b'{"type":"drain"}\n{"type":"drain","on":false,"id":3}\n{"type":"bypass","why":"update","id":4}\n'
        b'{"type":"bypass","on":false}\n{"type":"tags","on":true}\n{"type":"result","id":5,"status":"ok"}\n'
    )
    inbox = Inbox()
    assert inbox.feed(0, lines) == [
        Hello(2, "a", ("check",), 1),
        Accept("tcp port 80", 2),
        Accept(None),
        Accept(None),
        Drain(True),
        Drain(False, 3),
        Bypass(True, "update", 4),
        Bypass(False),
        Tags(True),
        Result(5, "ok"),
    ]
    assert inbox.malformed == 0


def test_a_shunt_is_carried_out_at_once_and_answered(host: Host) -> None:
    """Any number within the limits of messages: it changes a table, not the policy."""
    agent = Agent("ips1", host)
    for port in (1, 2, 3):
        agent.on_message(Shunt("10.0.0.1", "192.0.2.1", port, 443, id=port))
    assert host.done == [("shunt", "10.0.0.1", port, True) for port in (1, 2, 3)]
    assert host.told == [{"type": "answer", "to": "shunt", "ok": True, "id": port} for port in (1, 2, 3)]
    host.refuse = RefusedError("no")
    agent.on_message(Shunt("10.0.0.1", "192.0.2.1", 4, 443, on=False))
    assert host.told[-1] == {"type": "answer", "to": "shunt", "ok": False, "why": "no"}


def test_hello_is_answered_with_what_the_agent_must_know(host: Host) -> None:
    agent = Agent("ips1", host)
    agent.on_message(Hello(version=7, agent="mine", id=3))
    assert host.told == [
        {
            "type": "answer", "to": "hello", "ok": True, "id": 3, "version": 1,
            "guest": "ips1", "accept": "ip", "tags": False, "heartbeat_ms": 100.0,
        }
    ]  # fmt: skip
    assert agent.hello.agent == "mine"


def test_heartbeats_get_no_answer(host: Host) -> None:
    Agent("ips1", host).on_message(Heartbeat("low memory"))
    assert (host.beats, host.told) == (["low memory"], [])


def test_wishes_are_carried_out_and_answered(host: Host) -> None:
    async def body() -> None:
        agent = Agent("ips1", host)
        messages: tuple[Message, ...] = (Drain(True, 1), Drain(False, 2), Bypass(True, "update", 3), Accept("ip", 4))
        for number, message in enumerate(messages, 1):
            agent.on_message(message)
            await settled(host, number)
        agent.on_message(Tags(True, 5))
        await settled(host, 5)
        agent.on_message(Accept(None, 6))
        await settled(host, 6)
        agent.close()

    run(body)
    assert host.done == [
        ("drain", True), ("drain", False), ("bypass", True, "update"), ("accept", "ip"), ("tags", True), ("accept", ""),
    ]  # fmt: skip
    assert [(told["id"], told["ok"]) for told in host.told] == [(n, True) for n in range(1, 7)]
    assert host.told[4]["hops"] == {"dpi": 2, "out": 0}


def test_a_refusal_says_why_and_changes_nothing(host: Host) -> None:
    host.refuse = RefusedError("not allowed here")

    async def body() -> None:
        agent = Agent("ips1", host)
        agent.on_message(Drain(True, 1))
        agent.on_message(Accept("ip", 2))
        await settled(host, 2)
        assert agent.accept == ""
        assert agent.accept_refused == "not allowed here"
        agent.close()

    run(body)
    assert [(told["ok"], told["why"]) for told in host.told] == [(False, "not allowed here")] * 2


def test_what_a_guest_takes_may_be_named(host: Host) -> None:
    """The names become one filter, once each; an unknown one, or a filter as well, changes nothing."""

    async def body() -> None:
        agent = Agent("ips1", host)
        requests: tuple[dict[str, object], ...] = (
            {"names": ["http", "dns", "http"]},
            {"names": ["http", "gopher"]},
            {"names": ["http"], "filter": "ip"},
        )
        for number, request in enumerate(requests, 1):
            agent.on_message(msgspec.convert({"type": "accept", "id": number, **request}, Accept))
            await settled(host, number)
            assert agent.accept == "tcp port 80 or port 53 or tcp port 853"
            assert agent.accept_names == ("http", "dns", "http")
        agent.on_message(Accept("tcp", 4))
        await settled(host, 4)
        assert (agent.accept, agent.accept_names) == ("tcp", ())
        agent.close()

    run(body)
    assert [told["ok"] for told in host.told] == [True, False, False, True]
    assert '"gopher" is no name of traffic; there are: ipv4' in str(host.told[1]["why"])
    assert host.told[2]["why"] == "either a filter or names"


@pytest.mark.parametrize("name", NAMES)
def test_a_name_may_be_asked_for(name: str) -> None:
    """Its filter is one that an agent could have sent, and compiles; so do all of them together."""
    for text in (filter_of([name]), filter_of(list(NAMES))):
        untrusted.check(text, compile_filter)


def test_every_name_is_documented() -> None:
    """In the protocol's description, and none that does not exist."""
    text = (REPO / "appliance/guest-agent/README.md").read_text()
    table = text.partition("#### Names of traffic")[2].partition("#### Shunts")[0]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    assert [name for row in rows for name in re.findall("`([a-z0-9]+)`", row.split("|")[1])] == list(NAMES)


def test_of_many_filters_only_the_newest_is_tried(host: Host) -> None:
    """A flood of registrations costs the agent its answers, but not one compilation of the policy each."""

    async def body() -> None:
        agent = Agent("ips1", host)
        for number in range(50):
            agent.on_message(Accept(f"tcp port {number}", number))
        await settled(host, 50)
        agent.close()

    run(body)
    assert host.done == [("accept", "tcp port 49")]
    assert sum(1 for told in host.told if not told["ok"]) == 49


def test_of_many_changes_of_state_only_the_newest_counts_each_second(host: Host) -> None:
    """The first is carried out at once. Of those that come within a second only the newest is, so 50 drains a second
    are one entry of the ledger, and the last word counts."""

    async def body() -> None:
        agent = Agent("ips1", host)
        for number in range(50):
            agent.on_message(Drain(number % 2 == 0, number))
        agent.on_message(Bypass(True, "update", 50))
        assert host.done == [("drain", True)]
        await settled(host, 51)
        agent.close()

    run(body)
    assert host.done == [("drain", True), ("drain", False), ("bypass", True, "update")]
    refused = [told["id"] for told in host.told if not told["ok"]]
    assert refused == list(range(1, 49)), "each of the others was told why"


def test_an_agent_that_does_not_read_is_counted(host: Host) -> None:
    host.deaf = True
    agent = Agent("ips1", host)
    agent.on_message(Hello())
    assert agent.unanswered == 1


def test_checks_are_asked_and_answered_by_number(host: Host) -> None:
    async def body() -> None:
        agent = Agent("ips1", host)
        first, second = asyncio.create_task(agent.ask("db")), asyncio.create_task(agent.ask("rules"))
        await settled(host, 2)
        assert [told["command"] for told in host.told] == ["db", "rules"]
        one, two = (int(str(told["id"])) for told in host.told)
        agent.on_message(Result(two, "outdated"))
        agent.on_message(Result(one))
        agent.on_message(Result(one))  # said twice
        agent.on_message(Result(999, "a lie"))
        assert (await first, await second) == ("ok", "outdated")
        waiting = [asyncio.create_task(agent.ask("x")) for _ in range(CHECKS)]
        await settled(host, 2 + CHECKS)
        with pytest.raises(RefusedError, match="already wait for its agent"):
            await agent.ask("one more")
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert not agent._checks

    run(body)


# -- filters that guests write


@pytest.mark.parametrize(
    "text",
    [
        "", "tcp port 80 or udp port 53", "ip and not icmp", "ip6 net 2001:db8::/32", "vlan 7 and ip",
        "ether host 02:00:00:00:00:01", "tcp[tcpflags] & tcp-syn != 0", "portrange 1000-2000", "src net 10.0.0.0/8",
        "ether[12:2] = 0x88b5", "icmp[icmptype] = icmp-echo", "greater 100", "ip proto \\tcp",
    ],
)  # fmt: skip
def test_filters_of_guests_that_are_taken(text: str) -> None:
    if text:
        untrusted.check(text, compile_filter)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("host www.example.com", '"www.example.com" is neither a keyword'),
        ("host gateway1", "names are not resolved"),
        ("host TCP", "names are not resolved"),
        ("host \\tcp", "names are not resolved"),
        ("tcp port http", "names are not resolved"),
        ("ip " * 400, "at most 1024"),
        ("ip\nor ip6", "plain ASCII"),
        ("ip and hüst", "plain ASCII"),
        ("ip", None),
    ],
)
def test_filters_of_guests_that_are_not(text: str, words: str | None) -> None:
    if words is None:
        with pytest.raises(RefusedError, match="instructions"):
            untrusted.check(text, lambda _: range(513))
    else:
        with pytest.raises(RefusedError, match=words):
            untrusted.check(text, compile_filter)


def test_libpcap_has_the_last_word() -> None:
    with pytest.raises(FilterError, match="syntax error"):
        untrusted.check("ip and and", compile_filter)
    with pytest.raises(FilterError, match="protochain"):
        untrusted.check("ip6 protochain 17", compile_filter)


# -- the policy


class Steered:
    def __init__(self) -> None:
        self.overlay = Overlay()
        self.changes = 0
        self.refuse = False

    async def lay_over(self, overlay: Overlay) -> None:
        if self.refuse:
            raise RefusedError("the kernel does not like it")
        self.overlay, self.changes = overlay, self.changes + 1


def flow(name: str, until: float = 100.0) -> Quarantined:
    return Quarantined(name, ("ips1",), "a flow", f"tcp port {name[-1]}", 0.0, until)


def test_the_policy_changes_once_for_each_change() -> None:
    async def body() -> None:
        steered = Steered()
        policy = GuestPolicy(steered, wall=lambda: 50.0)
        await policy.narrow("ips1", " tcp ")
        await policy.narrow("ips1", "tcp")
        assert (steered.overlay.accepts, steered.changes) == ({"ips1": "tcp"}, 1)
        await policy.use_tags("ips1", False)
        assert steered.overlay.no_tags == ("ips1",)
        await policy.forget("ips1")
        assert steered.overlay == Overlay()
        await policy.forget("ips1")
        assert steered.changes == 4

    run(body)


def test_what_is_refused_stays_as_it_was() -> None:
    async def body() -> None:
        steered = Steered()
        policy = GuestPolicy(steered)
        await policy.narrow("ips1", "tcp")
        steered.refuse = True
        with pytest.raises(RefusedError):
            await policy.narrow("ips1", "udp")
        assert steered.overlay.accepts == {"ips1": "tcp"}
        await policy.forget("ips1")  # logged, and nobody hurt

    run(body)


def test_quarantine_is_bounded_ends_and_can_be_released() -> None:
    async def body() -> None:
        steered, now = Steered(), 50.0
        policy = GuestPolicy(steered, wall=lambda: now)
        await policy.quarantine([flow("quarantine-1"), flow("quarantine-2", until=60.0)])
        assert policy.fresh_names(2) == ["quarantine-3", "quarantine-4"]
        await policy.quarantine([flow("quarantine-1", until=200.0)])  # the same flow again: counted anew
        assert {one.name: one.until for one in steered.overlay.quarantined} == {
            "quarantine-2": 60.0, "quarantine-1": 200.0,
        }  # fmt: skip
        now = 70.0
        assert [one.name for one in await policy.expire()] == ["quarantine-2"]
        assert await policy.expire() == []
        with pytest.raises(NotFoundError, match="there is: quarantine-1"):
            await policy.release("quarantine-9")
        assert (await policy.release("quarantine-1")).name == "quarantine-1"
        many = [Quarantined(f"q{n}", ("ips1",), "f", f"tcp port {n}", 0.0, 999.0) for n in range(40)]
        await policy.quarantine(many)
        assert [one.name for one in steered.overlay.quarantined] == [f"q{n}" for n in range(40 - MAX_QUARANTINED, 40)]

    run(body)
