# SPDX-License-Identifier: GPL-2.0-only
"""The serial line: when it requires a login, what it accepts, whose session follows, and what is logged."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from appliance.access import serial_login
from appliance.access.groups import GROUPS
from appliance.access.serial_login import Account, Gate
from appliance.access.sessions import Sessions
from appliance.access.sshlog import SshEvent
from appliance.access.state import Memory
from appliance.config.schema.model import Aaa, Config, Management, User
from appliance.hardware import data_partition
from appliance.system import password
from console.terminal import login
from console.terminal.login import Login, environment
from console.terminal.prompt import Asker

HASH = "$y$j9T$abcdefgh$abcdefgh"
ADMIN, VIEWER = User(name="admin", role="admin", password=HASH), User(name="noc", password=HASH)
KEYS = User(name="keys", role="admin", keys=("ssh-ed25519 AAAA",))
ACCOUNT = Account("admin", "admin", 2000, HASH)
REMOTE = Account("ann", "viewer", 3000, "", "/run/bypass/home/ann")


def remembered(tmp_path: Path, *users: User, asks: bool = True) -> Gate:
    """The line's state after the part "access" has applied a configuration."""
    path = tmp_path / "access.json"
    config = Config(management=Management(serial_login=asks), user=users)
    Memory(path).keep({user.name: 2000 + number for number, user in enumerate(users)}, config)
    return serial_login.gate(path.read_text(), recovery=False)


def test_it_asks_once_an_administrator_has_a_password(tmp_path: Path) -> None:
    assert remembered(tmp_path, ADMIN, VIEWER, KEYS) == Gate(
        "", {"admin": ACCOUNT, "noc": Account("noc", "viewer", 2001, HASH)}
    )
    for users in ((), (VIEWER,), (KEYS,)):
        assert remembered(tmp_path, *users).why_open == "no administrator has a password"
    assert remembered(tmp_path, ADMIN, asks=False).why_open == "management serial_login is false"


def test_the_boot_loader_leads_back_in(tmp_path: Path) -> None:
    remembered(tmp_path, ADMIN)
    text = (tmp_path / "access.json").read_text()
    assert "bypass.recovery" in serial_login.gate(text, recovery=True).why_open
    line = tmp_path / "cmdline"
    line.write_text("console=ttyS0 bypass.recovery quiet\n")
    assert serial_login.recovery(line)
    line.write_text("console=ttyS0 bypass.recovery=0 quiet\n")
    assert not serial_login.recovery(line)


def test_no_memory_is_a_new_appliance() -> None:
    assert serial_login.gate(None, recovery=False).why_open == "no administrator has a password"
    text = '{"uids": {"admin": 2000}, "config": {"management": {}, "user": [{"name": "admin"}]}}'
    assert serial_login.gate(text, recovery=False).why_open == "no administrator has a password"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"uids": {}, "config": {"user": []}}', "null"])
def test_a_damaged_memory_closes_the_line(text: str) -> None:
    """If it is unknown who has a password, that does not mean that nobody has one."""
    closed = serial_login.gate(text, recovery=False)
    assert closed.why_open == ""
    assert "damaged" in closed.why_closed
    assert "bypass.recovery" in closed.why_closed
    assert serial_login.gate(text, recovery=True).why_open


@pytest.mark.parametrize("state", ["absent", "unusable", "nonsense"])
def test_a_lost_data_partition_closes_the_line(state: str, tmp_path: Path) -> None:
    """The default configuration without users is in force then, but the line stays closed."""
    record = tmp_path / "data-partition"
    record.write_text(f"{state}\n/dev/vdb: no superblock\n")
    for memory in (None, '{"uids": {}, "config": {"management": {}, "user": []}}'):
        closed = serial_login.gate(memory, recovery=False, partition=data_partition.read(record))
        assert closed.why_open == ""
        assert "bypass.recovery" in closed.why_closed
    assert serial_login.gate(None, recovery=True, partition=data_partition.read(record)).why_open


@pytest.mark.parametrize(
    "text", ["kept\n\n", "kept\n/dev/vdb was blank and is now the data partition\n", "read-only\nwhy\n"]
)
def test_a_data_partition_that_can_be_read_says_who_may_log_in(text: str, tmp_path: Path) -> None:
    record = tmp_path / "data-partition"
    record.write_text(text)
    found = data_partition.read(record)
    assert serial_login.gate(None, recovery=False, partition=found).why_open == "no administrator has a password"
    assert bool(found.alarm) == text.startswith("read-only")
    assert data_partition.read(tmp_path / "none").state == "unknown"


def test_nobody_becomes_root_by_a_number_in_the_memory() -> None:
    user = {"name": "admin", "role": "admin", "password": HASH}
    data = {"uids": {"admin": 0}, "config": {"management": {}, "user": [user]}}
    found = serial_login.gate(json.dumps(data), recovery=False)
    assert (found.accounts, found.why_open) == ({}, "")


class Line:
    """A user at the line who types `text`; "good" is the password of all users."""

    def __init__(self, text: str, monkeypatch: pytest.MonkeyPatch, *, servers: bool = False) -> None:
        self.waits: list[float] = []
        self.log: list[tuple[str, str]] = []
        self.out, self.compared = io.StringIO(), 0
        monkeypatch.setattr(time, "sleep", self.waits.append)

        def fits(typed: str, made: str) -> bool:
            self.compared += 1
            return typed == "good" and made == HASH

        there = Gate("", {"admin": ACCOUNT}, servers=servers)
        asker = Asker(io.StringIO(text), self.out)
        self.asked: list[str] = []
        self.login = Login(there, asker, fits, lambda kind, user: self.log.append((kind, user)), self.remote)

    def remote(self, name: str, typed: str) -> Account | None:
        self.asked.append(name)
        return REMOTE if (name, typed) == ("ann", "far") else None

    def ask(self) -> Account | None:
        return self.login.ask("wire1")


def test_who_has_the_password_comes_in(monkeypatch: pytest.MonkeyPatch) -> None:
    line = Line("admin\ngood\n", monkeypatch)
    assert line.ask() == ACCOUNT
    assert (line.log, line.waits) == ([("login", "admin")], [])


def test_who_has_not_waits_longer_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    line = Line("admin\nbad\n" * 7, monkeypatch)
    for _ in range(7):
        assert line.ask() is None
    assert line.waits == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert line.log == [("failed", "admin")] * 7
    assert line.out.getvalue().count("Login incorrect.") == 7


def test_an_unknown_name_takes_as_long_and_is_not_written_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be a password typed at the wrong prompt."""
    line = Line("my secret\ngood\n", monkeypatch)
    assert line.ask() is None
    assert (line.log, line.compared) == ([("failed", "")], 1)


def test_servers_are_asked_about_unknown_names_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Local users get in whatever the servers say, and a wrong local password is no reason to ask anybody."""
    line = Line("admin\ngood\nadmin\nfar\nann\nfar\nann\nbad\n", monkeypatch, servers=True)
    assert [line.ask() for _ in range(4)] == [ACCOUNT, None, REMOTE, None]
    assert line.asked == ["ann", "ann"]
    assert line.log == [("login", "admin"), ("failed", "admin"), ("login", "ann"), ("failed", "")]
    assert environment(REMOTE, {})["HOME"] == "/run/bypass/home/ann"
    off = Line("ann\nfar\n", monkeypatch)
    assert (off.ask(), off.asked) == (None, [])


def test_the_line_knows_whether_servers_are_asked(tmp_path: Path) -> None:
    path = tmp_path / "access.json"
    for aaa, asked in ((Aaa(), False), (Aaa(order=("local", "tacacs")), True)):
        Memory(path).keep({"admin": 2000}, Config(user=(ADMIN,), aaa=aaa))
        assert serial_login.gate(path.read_text(), recovery=False).servers == asked


def test_return_shows_the_state_again_and_the_end_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    line = Line("\n", monkeypatch)
    assert line.ask() is None
    assert line.compared == 0
    with pytest.raises(EOFError):
        line.ask()


def test_a_password_that_nobody_types_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(*_: object) -> str:
        raise TimeoutError

    line = Line("admin\n", monkeypatch)
    monkeypatch.setattr(Asker, "secret", late)
    assert line.ask() is None
    assert line.log == []


def test_a_hash_that_is_none_lets_nobody_in() -> None:
    made = password.hashed("good phrase")
    assert login._fits("good phrase", made)
    for typed, there in (("bad", made), ("", ""), ("x", "!"), ("x\0y", made)):
        assert not login._fits(typed, there)


def test_the_session_has_the_users_rights_and_nothing_of_roots() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    code = (
        "import os; from console.terminal.login import become; from appliance.access.serial_login import Account; "
        "become(Account('noc', 'operator', 2007, '')); print(os.getresuid(), os.getresgid(), sorted(os.getgroups()))"
    )
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    groups = [GROUPS["bypass"], GROUPS["bypass-operator"]]
    assert said.split("\n")[0] == f"(2007, 2007, 2007) {(groups[0],) * 3} {groups}"
    kept = environment(ACCOUNT, {"TERM": "vt100", "BYPASS_SERIAL": "1", "HOME": "/root", "PYTHONPATH": "/tmp"})
    assert kept == {"TERM": "vt100", "HOME": "/var/lib/bypass/home/admin", "USER": "admin", "LOGNAME": "admin",
                    "BYPASS_GREETED": "1"}  # fmt: skip


def test_what_is_written_down_is_read_back(tmp_path: Path) -> None:
    log = tmp_path / "serial.log"
    serial_login.note(log, "failed", "adm in\x1b", 7)
    serial_login.note(log, "failed", "", 7)
    serial_login.note(log, "login", "admin", 8)
    serial_login.note(tmp_path / "missing" / "log", "login", "admin", 8)  # no reason to refuse a login
    assert [serial_login.parse(line) for line in log.read_text().splitlines()] == [
        SshEvent("failed", "adm?in?", serial_login.LINE, "password", 7),
        SshEvent("failed", "", serial_login.LINE, "password", 7),
        SshEvent("login", "admin", serial_login.LINE, "password", 8),
    ]
    assert serial_login.parse("nonsense") is None


def test_the_end_of_a_session_there_is_noticed() -> None:
    """No log reports it, so its process is checked."""
    sessions = Sessions()
    code = "import time; open('/proc/self/comm', 'w').write('bypass'); print(flush=True); time.sleep(100)"
    shell = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert shell.stdout is not None
        shell.stdout.readline()
        sessions.note(SshEvent("login", "admin", serial_login.LINE, "password", shell.pid))
        assert sessions.left() == []
        assert [(row.user, row.address) for row in sessions.show()] == [("admin", serial_login.LINE)]
    finally:
        shell.kill()
        shell.wait()
    assert sessions.left() == ["admin"]
    assert sessions.show() == []
