# SPDX-License-Identifier: GPL-2.0-only
"""Failed logins: parsing the server's log, who is blocked and for how long."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.access.login_limiter import (
    FIRST_BLOCK,
    FORGET,
    LAST_BLOCK,
    LIMIT,
    MAX_ADDRESSES,
    SECOND,
    WINDOW,
    Block,
    Limiter,
    Unblock,
    network_of,
)
from appliance.access.logins import Logins
from appliance.access.sessions import Session
from appliance.access.sshlog import LIMIT as LOG_LIMIT
from appliance.access.sshlog import SshEvent, Tail, parse
from appliance.telemetry.events import Events
from appliance.telemetry.subject import Severity

STAMP = "[412] Nov 24 18:40:01 "
LINES = [
    ("Bad password attempt for 'admin' from 10.88.0.1:50122",
     SshEvent("failed", "admin", "10.88.0.1", "password", 412)),
    ("Login attempt for nonexistent user from fd88::1:50122", SshEvent("failed", "", "fd88::1", "no such user", 412)),
    ("Password auth succeeded for 'admin' from 10.88.0.1:50122",
     SshEvent("login", "admin", "10.88.0.1", "password", 412)),
    ("Pubkey auth succeeded for 'noc' with ssh-ed25519 key SHA256:abc from 10.88.0.1:50122",
     SshEvent("login", "noc", "10.88.0.1", "key", 412)),
    ("Exit (admin) from <10.88.0.1:50122>: Disconnect received",
     SshEvent("logout", "admin", "10.88.0.1", "Disconnect received", 412)),
    ("Bad password attempt for 'x' from 1.1.1.1:1' from 10.88.0.1:50122",
     SshEvent("failed", "x' from 1.1.1.1:1", "10.88.0.1", "password", 412)),
    ("Bad password attempt for '\x1b[2J' from 10.88.0.1:1", SshEvent("failed", "?[2J", "10.88.0.1", "password", 412)),
    ("Child connection from 10.88.0.1:50122", None),
    ("Exit before auth from <10.88.0.1:50122>: Exited normally", None),
    ("", None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), LINES)
def test_lines(text: str, expected: SshEvent | None) -> None:
    assert parse(STAMP + text) == expected


@given(st.text())
def test_any_line_is_survived(text: str) -> None:
    parse(text)
    parse(STAMP + text)


def test_tail_gives_whole_lines_once_and_empties_long_files(tmp_path: Path) -> None:
    path = tmp_path / "ssh.log"
    tail = Tail(path)
    assert list(tail.lines()) == []
    with path.open("a") as file:
        file.write("one\ntwo\nthr")
        file.flush()
        assert list(tail.lines()) == ["one", "two"]
        file.write("ee\n")
        file.flush()
        assert list(tail.lines()) == ["three"]
        file.write("x" * 100 + "\n")
        file.write("y" * LOG_LIMIT + "\n")
        file.flush()
        assert len(list(tail.lines())) == 2
        assert path.stat().st_size == 0
        file.write("after\n")
        file.flush()
        assert list(tail.lines()) == ["after"]
    path.unlink()
    path.write_text("anew\n")
    assert list(tail.lines()) == ["anew"]


def test_limit_block_and_release() -> None:
    limiter, now = Limiter(), 10 * SECOND
    for _ in range(LIMIT - 1):
        assert limiter.failed(now, "10.88.0.1", "admin") == []
    assert limiter.failed(now, "10.88.0.1", "admin") == [Block("10.88.0.1/32", 60, LIMIT)]
    assert limiter.failed(now, "10.88.0.1", "admin") == [], "what was on its way counts once"
    assert limiter.blocked(now) == {"10.88.0.1/32": 60}
    assert limiter.tick(now + FIRST_BLOCK - 1) == []
    assert limiter.tick(now + FIRST_BLOCK) == [Unblock("10.88.0.1/32")]
    assert limiter.blocked(now + FIRST_BLOCK) == {}


def test_slow_failures_and_good_logins_block_nobody() -> None:
    limiter, now = Limiter(), 10 * SECOND
    for step in range(20):
        assert limiter.failed(now + step * WINDOW // (LIMIT - 1), "10.88.0.1", "admin") == []
    for _ in range(20):
        assert limiter.failed(now, "10.88.0.2", "admin") == []
        limiter.succeeded("10.88.0.2", "admin")


def test_an_account_of_ones_own_clears_no_guesses() -> None:
    """A user who logs in between two guesses of the administrator's password is blocked like anybody else."""
    limiter, now = Limiter(), 10 * SECOND
    guesses = 0
    while not limiter.blocked(now):
        limiter.failed(now, "10.88.0.1", "viewer")
        limiter.succeeded("10.88.0.1", "viewer")
        limiter.failed(now, "10.88.0.1", "admin")
        guesses += 1
        assert guesses <= LIMIT
    limiter.succeeded("10.88.0.1", "admin")
    assert limiter.blocked(now), "nor does a session that was just being opened end the block"
    limiter.forget("10.88.0.1")
    assert not limiter.blocked(now)


def test_many_users_from_one_address_are_one_guesser() -> None:
    limiter, now = Limiter(), 10 * SECOND
    actions = [action for user in range(LIMIT) for action in limiter.failed(now, "10.88.0.1", f"user{user}")]
    assert actions == [Block("10.88.0.1/32", 60, LIMIT)]


def test_blocks_double_to_a_limit_and_are_forgotten() -> None:
    limiter, now, lengths = Limiter(), 10 * SECOND, []
    for _ in range(7):
        actions = [action for _ in range(LIMIT) for action in limiter.failed(now, "10.88.0.1", "admin")]
        lengths += [action.seconds for action in actions if isinstance(action, Block)]
        now += LAST_BLOCK
        limiter.tick(now)
    assert lengths == [60, 120, 240, 480, 900, 900, 900]
    now += FORGET + 1
    limiter.tick(now)
    first = [action for _ in range(LIMIT) for action in limiter.failed(now, "10.88.0.1", "admin")]
    assert first == [Block("10.88.0.1/32", 60, LIMIT)]


def test_memory_is_bounded_and_nobody_stays_shut_out() -> None:
    limiter = Limiter()
    for _ in range(LIMIT):
        limiter.failed(SECOND, "10.0.0.1", "admin")
    actions = [
        a
        for number in range(MAX_ADDRESSES)
        for a in limiter.failed(SECOND, f"10.1.{number >> 8}.{number & 255}", "admin")
    ]
    assert Unblock("10.0.0.1/32") in actions
    assert limiter.blocked(SECOND) == {}


def test_who_counts_as_one() -> None:
    assert network_of("10.88.0.1") == "10.88.0.1/32"
    assert network_of("2001:db8:1:2:3::4") == "2001:db8:1:2::/64"
    assert network_of("fe80::1%mgmt0") == "fe80::/64"
    assert network_of("::ffff:10.88.0.1") == "10.88.0.1/32"
    assert network_of("no address") == ""


def test_a_single_command_is_one_event(tmp_path: Path) -> None:
    """The login; the end of a longer session is an event too."""
    ssh = tmp_path / "ssh.log"
    ssh.touch()

    class Open:
        async def shut_out(self, name: str) -> None: ...

        async def let_in(self, name: str) -> None: ...

    events = Events()
    logins = Logins(ssh, tmp_path / "serial.log", Open(), events)

    def add(pid: int, text: str, now: int) -> None:
        with ssh.open("a") as file:
            file.write(f"[{pid}] Nov 24 18:40:01 {text}\n")
        asyncio.run(logins.follow(now))

    for pid, seconds in ((1, 2), (2, 60)):
        add(pid, "Password auth succeeded for 'admin' from 10.88.0.1:50122", SECOND)
        add(pid, "Exit (admin) from <10.88.0.1:50122>: Disconnect received", (1 + seconds) * SECOND)
    add(3, "Exit (admin) from <10.88.0.1:50122>: Disconnect received", 90 * SECOND)  # it began before this bypassd
    said = [event.text.partition(" from")[0] for event in events.newest(None, Severity.INFO)]
    assert said == ["logged in", "logged in", "logged out", "logged out"]


class Decided:
    """Servers decided about the passwords of process 1."""

    def __init__(self, *told: tuple[str, bool]) -> None:
        self.queue, self.sessions = list(told), list[str]()

    def told(self, pid: int) -> tuple[str, bool] | None:
        return self.queue.pop(0) if pid == 1 and self.queue else None

    def begun(self, session: Session) -> None:
        self.sessions.append(f"{session.user} {session.how}")

    def found(self, session: Session) -> None:
        self.sessions.append(f"{session.user} found")


def test_what_servers_decided(tmp_path: Path) -> None:
    """Events say who decided; only passwords that somebody looked at are failed guesses."""
    ssh = tmp_path / "ssh.log"
    ssh.touch()
    blocked: list[str] = []

    class Port:
        async def shut_out(self, name: str) -> None:
            blocked.append(name)

        async def let_in(self, name: str) -> None: ...

    events = Events()
    logins = Logins(ssh, tmp_path / "serial.log", Port(), events)
    dead, wrong = ("no server decided", False), ("radius server r1: refused", True)
    let_in = ("password, radius server r1, role viewer", True)
    logins.decisions = decided = Decided(*[dead] * LIMIT, *[wrong] * (LIMIT - 1), let_in)

    def add(text: str, times: int, pid: int = 1) -> None:
        with ssh.open("a") as file:
            file.write(f"[{pid}] Nov 24 18:40:01 {text} from 10.88.0.1:50122\n" * times)
        asyncio.run(logins.follow(SECOND))

    add("Bad password attempt for 'ann'", LIMIT)
    assert blocked == []
    add("Too-long password attempt for 'ann'", 1, pid=2)  # nobody was asked about it
    add("Bad password attempt for 'ann'", LIMIT - 1)
    assert blocked == ["10.88.0.1/32"]
    add("Password auth succeeded for 'ann'", 1)
    said = [event.text for event in events.newest(None, Severity.INFO)]
    assert said[0] == "login from 10.88.0.1 failed: no server decided"
    assert said[LIMIT] == "login from 10.88.0.1 failed: password is too long"
    assert said[LIMIT + 1] == "login from 10.88.0.1 failed: radius server r1: refused"
    assert said[-1] == "logged in from 10.88.0.1 by password, radius server r1, role viewer"
    assert decided.sessions == ["ann password, radius server r1, role viewer"]
