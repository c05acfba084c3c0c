# SPDX-License-Identifier: GPL-2.0-only
"""The door and what stands behind it: who may ask, numbers and accounts of remote users, what events get to know."""

from __future__ import annotations

import asyncio
import os
import re
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from appliance.aaa import service as module
from appliance.aaa.exchange import Exchange
from appliance.aaa.service import Service
from appliance.aaa.verdict import Accepted, Answer, NoAnswer, Rejected
from appliance.access import accounts, remote_users, ssh
from appliance.access.accounts import Texts
from appliance.access.groups import FIRST_REMOTE, GROUPS, LAST_REMOTE
from appliance.access.remote_users import RemoteUsers, usable
from appliance.config.check.verify_access import RESERVED
from appliance.config.schema import limits
from appliance.config.schema.model import Aaa, Config, Management, Radius, User
from appliance.errors import RefusedError
from appliance.management.people import People
from appliance.paths import Paths
from appliance.system.namespace import Namespace
from appliance.telemetry.events import Events
from console.terminal import door as console

LOCAL = User(name="rescue", role="admin", password="$y$j9T$abcdefgh$abcdefgh")
ON = Config(
    user=(LOCAL,),
    aaa=Aaa(order=("radius", "local")),
    radius=(Radius(name="r1", address="192.0.2.1", secret="a secret of many words"),),
)


class Desk:
    """A service whose only server answers what the test says."""

    def __init__(self, folder: Path, answer: Answer) -> None:
        self.answer, self.written, self.busy = answer, 0, set[int]()
        self.path = folder / "door"
        self.remote = RemoteUsers(folder / "home", lambda uid: uid in self.busy)
        self.people = People(self.remote, lambda: ON.user, self._write)
        self.events = Events()
        self.service = Service(Exchange(Namespace("none"), lambda: "w"), self.people, self.events, self.path)
        self.service.methods._ask = self._ask

    async def _write(self) -> None:
        self.written += 1

    async def _ask(self, *_: object) -> Answer:
        return self.answer


def talk(desk: Desk, *questions: tuple[str, ...]) -> list[str]:
    """The answers to questions on one connection."""

    def client() -> list[str]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as link:
            link.settimeout(10)
            link.connect(str(desk.path))
            found = []
            for parts in questions:
                link.sendall("\0".join(parts).encode())
                found.append(link.recv(1024).decode())
            return found

    return during(desk, lambda: asyncio.to_thread(client))


def during(desk: Desk, work: Callable[[], Awaitable[list[str]]]) -> list[str]:
    async def go() -> list[str]:
        desk.service.apply(ON)
        assert desk.path.stat().st_mode & 0o777 == 0o600, "root alone may ask"
        try:
            return await work()
        finally:
            desk.service.stop()

    return asyncio.run(go())


CHECK = ("check", "ann", "192.0.2.7", str(FIRST_REMOTE), "pw")


def test_the_questions_of_a_login(tmp_path: Path) -> None:
    desk = Desk(tmp_path, Accepted(("operator",)))
    home = tmp_path / "home/ann"
    assert talk(desk, ("name", "ann"), CHECK) == [
        f"uid {FIRST_REMOTE} {home}",
        f"accept {GROUPS['bypass-operator']} {FIRST_REMOTE} operator {home}",
    ]
    assert (home.stat().st_uid, home.stat().st_mode & 0o777, desk.written) == (FIRST_REMOTE, 0o700, 1)
    assert desk.service.told(os.getpid()) == ("password, radius server r1, role operator", True)
    assert desk.service.told(os.getpid()) is None
    talk(desk, CHECK)
    assert desk.written == 1, "a user who is known by now changes no file"


@pytest.mark.parametrize(
    ("answer", "user", "said"),
    [
        (Rejected("refused"), "ann", "refuse"),
        (NoAnswer("silence"), "ann", "refuse"),
        (NoAnswer("silence"), "rescue", "local"),
        (Accepted(("nonsense",)), "rescue", "refuse"),
    ],
)
def test_who_gets_no_account(tmp_path: Path, answer: Answer, user: str, said: str) -> None:
    desk = Desk(tmp_path, answer)
    assert talk(desk, ("check", user, "192.0.2.7", "0", "pw")) == [said]
    assert (desk.written, desk.remote.users) == (0, {})


def test_what_is_no_question_is_refused(tmp_path: Path) -> None:
    desk = Desk(tmp_path, Accepted(("admin",)))
    wrong = [
        ("check", "ann", "a", "-1", "pw"),
        ("check", "ann", "a", "pw"),
        ("what",),
        ("check", "x" * 900, "", "", ""),
    ]
    assert talk(desk, *wrong) == ["refuse"] * 4
    assert talk(desk, ("name", "root"), ("name", "rescue"), ("name", "../x"), ("name", "a:b")) == ["none"] * 4
    # a number that is not of this kind, or that of somebody else
    assert talk(desk, ("check", "ann", "a", "0", "pw"), ("check", "ann", "a", "2000", "pw")) == ["refuse"] * 2
    assert talk(desk, ("name", "bob"), CHECK) == [f"uid {FIRST_REMOTE} {tmp_path}/home/bob", "refuse"]
    assert desk.remote.users == {}


def test_the_console_asks_the_same(tmp_path: Path) -> None:
    desk = Desk(tmp_path, Accepted(("viewer",)))

    async def ask() -> list[str]:
        found = await asyncio.to_thread(console.ask, desk.path, "ann", "pw")
        assert found is not None
        return [found.name, found.role, str(found.uid), found.home]

    assert during(desk, ask) == ["ann", "viewer", str(FIRST_REMOTE), f"{tmp_path}/home/ann"]
    assert console.ask(desk.path, "ann", "pw") is None, "without bypassd nobody is let in"


def test_numbers_are_free_again(tmp_path: Path) -> None:
    """An attempt holds one; accepted users keep theirs until all are in use: then who has nothing running goes."""
    users = RemoteUsers(tmp_path, lambda uid: uid == FIRST_REMOTE)
    held: set[int] = set()
    first = users.take("ann", held)
    other: set[int] = set()
    assert users.take("ann", other) == first, "two attempts of one user share it"
    users.give_back(held)
    assert users.take("bob", set()) != first
    users.give_back(other)
    assert users.take("eve", set()) == first
    users = RemoteUsers(tmp_path, lambda uid: uid == FIRST_REMOTE)
    for number in range(LAST_REMOTE - FIRST_REMOTE + 1):
        mine: set[int] = set()
        uid = users.take(f"user{number}", mine)
        assert uid is not None
        assert users.admit(f"user{number}", uid)
        users.give_back(mine)
    assert users.take("late", set()) == FIRST_REMOTE + 1, "user0 is busy"
    assert "user1" not in users.users
    everybody = RemoteUsers(tmp_path, lambda _: True)
    everybody.users = {f"user{uid}": uid for uid in range(FIRST_REMOTE, LAST_REMOTE + 1)}
    assert everybody.take("late", set()) is None


def test_accounts_of_remote_users() -> None:
    """They stand in passwd with a locked password and in no group, are found again, and go with the local user."""
    base = Texts("root:x:0:0::/:/bin/sh\n", "root:*:1::::::\n", "")
    made = accounts.texts(base, [LOCAL], {"rescue": 2000}, {"ann": 3004})
    assert "ann:x:3004:900:remote:/run/bypass/home/ann:/usr/bin/bypass\n" in made.passwd
    assert "ann:*:1" in made.shadow
    assert "ann" not in made.group
    assert remote_users.known(made.passwd) == {"ann": 3004}
    assert "ann" not in accounts.texts(made, [LOCAL], {"rescue": 2000}).passwd
    both = accounts.texts(made, [User(name="ann")], {"ann": 2001}, {"ann": 3004})
    assert [line for line in both.passwd.splitlines() if line.startswith("ann:")] == [
        "ann:x:2001:900:viewer:/var/lib/bypass/home/ann:/usr/bin/bypass"
    ]


@pytest.mark.parametrize("name", ["ann", "j.smith", "J-S_1", "ann@example.net"])
def test_names_of_remote_users(name: str) -> None:
    assert usable(name, RESERVED)


@pytest.mark.parametrize(
    "name", ["", "root", "bypass", "chrony", "1ann", ".ann", "a/b", "a:b", "a b", "a\n", "x" * 32, "ä"]
)
def test_names_that_nobody_gets(name: str) -> None:
    assert not usable(name, RESERVED)


def test_the_test_command(tmp_path: Path) -> None:
    desk = Desk(tmp_path, Accepted(("admin",)))

    async def go(user: str = "ann", password: str = "pw") -> tuple[str, str, int]:
        found = await desk.service.test(user, password)
        return found.decision, found.role, len(found.steps)

    with pytest.raises(RefusedError, match="no server is asked"):
        asyncio.run(go())
    desk.service.methods.apply(ON)
    assert asyncio.run(go()) == ("accept", "admin", 1)
    assert (desk.written, desk.remote.users) == (0, {}), "nobody is logged in"
    with pytest.raises(RefusedError):
        asyncio.run(go(password="x" * 300))
    desk.answer = NoAnswer("silence")
    assert asyncio.run(go("rescue")) == ("local", "", 1)
    shown = desk.service.show()
    assert (shown.state, shown.order, shown.servers[0].state) == ("on", ["radius", "local"], "silence")
    assert "secret" not in str(shown)
    assert [f"{event.subject}: {event.text}" for event in desk.events.newest()] == ["aaa radius r1: 192.0.2.1: silence"]


def test_what_was_decided_is_kept_for_a_while(tmp_path: Path) -> None:
    desk = Desk(tmp_path, Rejected("no"))

    async def go() -> None:
        desk.service.methods.apply(ON)
        for pid in range(module.MAX_TOLD + 50):
            await desk.service.check("ann", "192.0.2.7", 0, "pw", pid)

    asyncio.run(go())
    assert desk.service.told(0) is None
    assert desk.service.told(module.MAX_TOLD) == ("radius server r1: no", True)


def test_the_hook_has_the_same_numbers() -> None:
    """The C side names the socket, the group and the numbers that the Python side has."""
    text = (Path(module.__file__).parents[1] / "login-hook/login_hook.c").read_text()
    found = dict(re.findall(r"^#define (\w+) (\S+)", text, re.MULTILINE))
    assert int(found["GROUP"]) == GROUPS["bypass"]
    assert {GROUPS[f"bypass-{role}"] for role in ("viewer", "operator", "admin")} == set(range(901, 904))
    assert (int(found["FIRST_REMOTE"]), int(found["LAST_REMOTE"])) == (FIRST_REMOTE, LAST_REMOTE)
    assert found["DOOR"].strip('"') == str(Paths().run / "access/door")
    assert found["SHELL"].strip('"') == accounts.SHELL
    assert int(found["WAIT_S"]) > limits.MAX_AAA / 1e9 < console.WAIT_S


def test_the_ssh_server_while_servers_are_asked() -> None:
    """The hook is loaded, passwords are asked for, and SSH listens although nobody here can log in; not otherwise."""
    port, keys_only = Management(address="192.0.2.10/24"), (User(name="noc", keys=("ssh-ed25519 AAAA noc",)),)
    words = ssh.command(port, keys_only, (), Path("/run/pid"), aaa=ON.aaa)
    assert words[:3] == ["env", f"LD_PRELOAD={ssh.HOOK}", "dropbear"]
    assert "-s" not in words
    plain = ssh.command(port, keys_only, (), Path("/run/pid"))
    assert (plain[0], "-s" in plain) == ("dropbear", True)
    assert ssh.why_off(port, (), ON.aaa) == ""
    assert "no user can log in" in ssh.why_off(port, ())
