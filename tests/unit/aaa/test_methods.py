# SPDX-License-Identifier: GPL-2.0-only
"""Order of methods, fallback, dead servers and time limits, roles: as pure decisions on a clock of their own."""

from __future__ import annotations

import asyncio

import pytest

from appliance.aaa.methods import Methods, Server
from appliance.aaa.roles import role_of
from appliance.aaa.tacacs import Where
from appliance.aaa.verdict import Accepted, Answer, NoAnswer, Rejected, Verdict
from appliance.config.schema.model import Aaa, Config, Radius, Tacacs
from appliance.units import Duration

RADIUS = tuple(Radius(name=name, address=f"192.0.2.{n}", secret="s") for n, name in enumerate(("r1", "r2"), 1))
TACACS = (Tacacs(name="t1", address="192.0.2.9", secret="s"),)


class World:
    """Servers with given answers, and a clock that they move."""

    def __init__(self, *order: str, **answers: Answer) -> None:
        self.now, self.answers, self.asked, self.said = 100.0, answers, list[str](), list[str]()
        self.seconds = 1.0
        self.methods = Methods(self.ask, self.say, self.clock)
        aaa = Aaa(order=order)  # type: ignore[arg-type]
        self.methods.apply(Config(aaa=aaa, radius=RADIUS, tacacs=TACACS))

    def say(self, server: Server, state: str) -> None:
        self.said.append(f"{server.wish.name} {state}")

    def clock(self) -> float:
        return self.now

    async def ask(self, server: Radius | Tacacs, _: Aaa, user: str, password: str, where: Where) -> Answer:
        self.asked.append(server.name)
        self.now += self.seconds
        return self.answers.get(server.name, NoAnswer("no answer"))

    def decide(self, *, local: bool = False) -> Verdict:
        self.asked.clear()
        return asyncio.run(self.methods.decide("ann", "pw", Where("ssh", "192.0.2.7"), local=local))


ADMIN = Accepted(("admin",))


@pytest.mark.parametrize(
    ("order", "answers", "local", "decision", "asked"),
    [
        (("local", "radius"), {}, True, "local", []),
        (("local", "radius"), {"r1": ADMIN}, False, "accept", ["r1"]),
        (("radius", "local"), {"r1": ADMIN}, True, "accept", ["r1"]),
        (("radius", "local"), {"r1": Rejected("no")}, True, "refuse", ["r1"]),
        (("radius", "local"), {"r2": ADMIN}, True, "accept", ["r1", "r2"]),
        (("radius", "local"), {}, True, "local", ["r1", "r2"]),
        (("radius", "local"), {}, False, "refuse", ["r1", "r2"]),
        (("radius", "tacacs", "local"), {"t1": ADMIN}, True, "accept", ["r1", "r2", "t1"]),
        (("radius", "local", "tacacs"), {"t1": ADMIN}, True, "local", ["r1", "r2"]),
        (("radius", "local", "tacacs"), {"t1": ADMIN}, False, "accept", ["r1", "r2", "t1"]),
        (("local",), {"r1": ADMIN}, False, "refuse", []),
    ],
)
def test_order(
    order: tuple[str, ...], answers: dict[str, Answer], local: bool, decision: str, asked: list[str]
) -> None:
    world = World(*order, **answers)
    assert world.decide(local=local).decision == decision
    assert world.asked == asked


def test_a_dead_server_is_waited_for_once() -> None:
    """The next logins of a local user skip it, until it is due again; the events tell the end and the return once."""
    world = World("radius", "local")
    assert world.decide(local=True).why.startswith("password (radius server r1: no answer")
    assert world.decide(local=True).decision == "local"
    assert world.asked == []
    world.now += 61
    world.answers = {"r1": ADMIN}
    assert world.decide(local=True).decision == "accept"
    assert world.said == ["r1 no answer", "r2 no answer", "r1 answers"]


def test_who_has_no_other_way_is_asked_about_all_the_same() -> None:
    world = World("radius", "local")
    world.decide()
    world.answers = {"r2": ADMIN}
    assert world.decide().decision == "accept", "skipped servers are asked where local cannot decide"
    assert world.asked == ["r1", "r2"]
    world.decide()
    assert world.asked == ["r2"], "the one that answers goes first"


def test_the_time_of_a_login_is_bounded() -> None:
    world = World("radius", "tacacs", "local")
    world.seconds = 11
    found = world.decide(local=True)
    assert (found.decision, world.asked) == ("local", ["r1"])
    assert "no time left" in found.why


def test_a_slow_server_is_cut_off() -> None:
    world = World("radius", "local")
    world.methods.aaa = Aaa(order=("radius", "local"), timeout=Duration(50_000_000))

    async def ask(*_: object) -> Answer:
        await asyncio.sleep(60)
        return ADMIN

    world.methods._ask = ask
    found = world.decide(local=True)
    assert found.decision == "local"
    assert "no answer within 50ms for all servers" in found.why


def test_no_server_looked_at_the_password() -> None:
    """Only then it is no failed attempt at guessing."""
    assert not World("radius", "local").decide().judged
    assert World("radius", "local", r1=Rejected("no")).decide().judged
    assert World("radius", "local", r1=Accepted(("janitor",))).decide().judged


def test_without_a_known_role_nobody_gets_in() -> None:
    found = World("radius", "local", r1=Accepted(("janitor\x1b",))).decide(local=True)
    assert found.decision == "refuse"
    assert found.why == 'radius server r1 gives no role that is known here: it sent "janitor?"'
    assert World("radius", "local", r1=Accepted()).decide().why.endswith("it sent nothing")


def test_servers_that_stay_keep_their_state() -> None:
    world = World("radius", "local")
    world.decide(local=True)
    changed = (RADIUS[0], Radius(name="r2", address="192.0.2.22", secret="s"))
    world.methods.apply(Config(aaa=world.methods.aaa, radius=changed, tacacs=TACACS))
    assert [server.state for server in world.methods.servers] == ["no answer", "not asked yet", "not asked yet"]
    assert isinstance(world.methods.servers[0], Server)


@pytest.mark.parametrize(
    ("answer", "role"),
    [
        (Accepted(("admin",)), "admin"),
        (Accepted(("noise", "operator")), "operator"),
        (Accepted(("admin", "viewer")), "viewer"),
        (Accepted(("shell:priv-lvl=15",)), "admin"),
        (Accepted(("shell:priv-lvl*8",)), "operator"),
        (Accepted(("shell:priv-lvl=99",)), ""),
        (Accepted(("shell:priv-lvl=15\n",)), ""),
        (Accepted((), 15), "admin"),
        (Accepted((), 7), "operator"),
        (Accepted((), 1), "viewer"),
        (Accepted((), 0), ""),
        (Accepted((), 16), ""),
        (Accepted(("admin",), 1), "viewer"),
        (Accepted(("Admin",)), ""),
        (Accepted(("root",)), ""),
        (Accepted(("",)), ""),
        (Accepted(), ""),
    ],
)
def test_roles(answer: Accepted, role: str) -> None:
    assert role_of(answer, Aaa()) == role
    assert role_of(Accepted(("NetAdmins",)), Aaa(admin=("NetAdmins",))) == "admin"
