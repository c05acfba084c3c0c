# SPDX-License-Identifier: GPL-2.0-only
"""The fleet collection's side of the controller, against the real shell and the real configuration code.

Only SSH is a fake: a command is run by the shell in this process, and a test decides when connections fail.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance import __version__
from console.__main__ import main
from console.fleet.plugins.plugin_utils import appliance, changes
from console.fleet.plugins.plugin_utils.appliance import RefusedError, Reply, UnreachableError
from console.fleet.plugins.plugin_utils.changes import Clock, Wanted
from tests.support.config_daemon import TEXT, ConfigDaemon
from tests.support.terminal import ROOT
from tests.support.waiting import wait_until

WEB = Wanted(["set rule web match 'tcp port 8080'"])


def shell(daemon: ConfigDaemon, command: str, stdin: bytes = b"") -> Reply:
    """What the shell prints for a command of an SSH session."""
    out, err = io.BytesIO(), io.BytesIO()
    streams = [io.TextIOWrapper(data, encoding="utf-8") for data in (io.BytesIO(stdin), out, err)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BYPASS_SOCKET", str(daemon.path))
        for name, stream in zip(("stdin", "stdout", "stderr"), streams, strict=True):
            patch.setattr(sys, name, stream)
        code = main(["-c", command])
    for stream in streams[1:]:
        stream.flush()
    return Reply(code, out.getvalue(), err.getvalue())


class Ssh:
    """SSH to the shell beside a daemon. `when` is asked before each command and may raise; `after` follows it."""

    def __init__(self, daemon: ConfigDaemon) -> None:
        self.daemon, self.ran, self.renewed = daemon, list[tuple[str, str]](), 0
        self.when: Callable[[str, str], None] = lambda command, stdin: None
        self.after: Callable[[str, str], None] = lambda command, stdin: None

    def run(self, command: str, stdin: bytes) -> Reply:
        self.ran.append((command, stdin.decode()))
        self.when(*self.ran[-1])
        reply = shell(self.daemon, command, stdin)
        self.after(*self.ran[-1])
        return reply

    def renew(self) -> None:
        self.renewed += 1


class Time:
    """A clock that only sleeping moves. `waits` has each sleep; `at` is called when it is over."""

    def __init__(self) -> None:
        self.time, self.waits = 0.0, list[float]()
        self.at: Callable[[float], None] = lambda now: None
        self.clock = Clock(lambda: self.time, self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.time += seconds
        self.at(self.time)


@pytest.fixture
def ssh(tmp_path: Path) -> Iterator[Ssh]:
    with ConfigDaemon(tmp_path) as made:
        assert isinstance(made, ConfigDaemon)
        yield Ssh(made)


def running(ssh: Ssh) -> str:
    return shell(ssh.daemon, "show configuration").out.decode()


def typed(ssh: Ssh, lines: str) -> None:
    reply = shell(ssh.daemon, "configure", lines.encode())
    assert reply.code == 0, reply.err


def test_a_change_is_confirmed_over_a_new_connection_and_is_none_the_second_time(ssh: Ssh) -> None:
    order: list[str] = []
    ssh.when = lambda command, stdin: order.append(stdin.splitlines()[-1].split()[0:2][-1])
    done = changes.change(ssh, WEB, "say why", 60, clock=Time().clock)
    assert (done.changed, done.commit) == (True, 2)
    assert [(row["where"], row["old"], row["new"]) for row in done.changes] == [
        ("rule web: match", "tcp port 80", "tcp port 8080")
    ]
    assert order[1:3] == ["check", "confirmed"]
    assert order[-1] == "confirm"
    assert ssh.renewed == 2, "for the commit, and for what confirms it"
    assert shell(ssh.daemon, "show commits").out.count(b"say why") == 1
    before = len(ssh.ran)
    again = changes.change(ssh, WEB, "say why", 60)
    assert (again.changed, again.commit, again.changes) == (False, 2, [])
    assert len(ssh.ran) == before + 2, "it is asked for the state and for a check"


def test_a_dry_run_says_what_would_change_and_changes_nothing(ssh: Ssh) -> None:
    would = changes.change(ssh, WEB, "why", 60, dry=True)
    assert would.changed
    assert changes.shown(would.changes) == (
        "@@ rule web: match  (immediately, hitless)\n-tcp port 80\n+tcp port 8080\n"
    )
    assert ssh.daemon.startup.read_text() == TEXT
    assert ssh.renewed == 0


def test_secrets_are_hidden(ssh: Ssh) -> None:
    lines = ["set snmp user nms auth_passphrase 'correct horse' priv_passphrase 'battery staple'"]
    would = changes.change(ssh, Wanted(lines), "why", 60, dry=True)
    shown = changes.shown(would.changes)
    assert "nms" in shown
    assert "<hidden>" in shown
    changes.change(ssh, Wanted(lines), "why", 0)
    kept = re.findall(r"0x[0-9a-f]{64}", ssh.daemon.startup.read_text())
    found, _ = appliance.facts(ssh)
    assert len(kept) == 2
    for secret in ("correct horse", "battery staple", *kept):
        assert secret not in shown
        assert secret not in str(found)


def test_a_whole_configuration(ssh: Ssh) -> None:
    """It replaces or is added; the appliance's own text, loaded again, is no change."""
    text = TEXT.replace("tcp port 80", "tcp port 8080").replace('name = "dns"', 'name = "names"')
    done = changes.change(ssh, Wanted(text=text), "why", 60, clock=Time().clock)
    assert {row["where"] for row in done.changes} == {"rule web: match", "rule dns", "rule names"}
    assert not changes.change(ssh, Wanted(text=running(ssh)), "why", 60).changed
    more = '[[rule]]\nname = "more"\nmatch = "icmp"\npath = ["ips1"]\n'
    assert changes.change(ssh, Wanted(text=more, merge=True), "why", 0).changed
    assert "more" in running(ssh)
    assert "names" in running(ssh)
    with pytest.raises(RefusedError, match="a single full stop"):
        changes.change(ssh, Wanted(text='[system]\nbanner = """\n.\n"""\n'), "why", 60)


def test_deleting_what_is_not_there_is_no_change(ssh: Ssh) -> None:
    typed(ssh, "set rule web path [ips1]\nset management allow 192.0.2.0/24 198.51.100.0/24\n")
    lines = ["delete rule dns", "delete management allow 192.0.2.0/24", "set rule web match 'tcp port 80'"]
    assert changes.change(ssh, Wanted(lines), "why", 0).changed
    left = running(ssh)
    assert "dns" not in left
    assert "198.51.100.0/24" in left
    assert "192.0.2.0/24" not in left
    again = changes.change(ssh, Wanted(lines), "why", 0)
    assert not again.changed
    absent = ["delete rule web segment", "delete rule nobody path ips1", "delete rule web path ips2", "delete remote x"]
    assert not changes.change(ssh, Wanted(absent), "why", 0).changed
    for line, why in (("delete nonsense web", "nonsense"), ("delete rule web colour", "colour")):
        with pytest.raises(RefusedError, match=why):
            changes.change(ssh, Wanted([line]), "why", 0)


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (["set rule web path nobody"], r'^rule web: .*"nobody"'),
        (["set rule web match 'tcp prot 80'"], '"prot" is no keyword'),
        (["set rule web match 'tcp"], "^line 1: missing closing quote; nothing was changed$"),
        (["set rule web colour red"], "colour"),
    ],
)
def test_an_error_is_one_sentence_and_changes_nothing(ssh: Ssh, lines: list[str], why: str) -> None:
    with pytest.raises(RefusedError, match=why) as refused:
        changes.change(ssh, Wanted(lines), "why", 60)
    assert "\n" not in str(refused.value)
    assert ssh.daemon.startup.read_text() == TEXT


@pytest.mark.parametrize("line", ["commit", "comm", "run reboot now", "rollback 1", "edit rule web", "confirm"])
def test_only_changes_are_lines(line: str) -> None:
    with pytest.raises(RefusedError, match="lines begin with set, delete or move"):
        changes.checked(["set rule web match udp\n\n# a remark", f"  {line}"])


def test_work_of_others_is_left_alone(ssh: Ssh) -> None:
    typed(ssh, "set rule web match icmp\ncommit confirmed 600\n")
    with pytest.raises(RefusedError, match="commit 2 by root awaits confirmation"):
        changes.change(ssh, WEB, "why", 60)
    typed(ssh, "revert\n")
    asked = {"method": "config.edit"}, {"method": "config.set", "params": {"words": ["rule", "web", "match", "icmp"]}}
    assert all("result" in one for one in appliance.ask(ssh, *asked))
    with pytest.raises(RefusedError, match="uncommitted change"):
        changes.change(ssh, WEB, "why", 60)


def cut_after_commit(ssh: Ssh, *, answered: bool) -> None:
    """From the commit on nothing gets through, and its answer only if `answered`."""

    def refuse(*_: str) -> None:
        raise UnreachableError("connect to host 192.0.2.10 port 22: Connection timed out")

    def after(_: str, stdin: str) -> None:
        if "commit confirmed" in stdin:
            ssh.when, ssh.after = refuse, lambda *_: None
            if not answered:
                refuse()

    ssh.after = after


@pytest.mark.parametrize("answered", [True, False])
def test_an_appliance_that_cannot_be_reached_rolls_back_by_itself(ssh: Ssh, answered: bool) -> None:
    """The task fails and says so; the pauses grow, because refused keys block their sender."""
    cut_after_commit(ssh, answered=answered)
    time = Time()

    def later(now: float) -> None:
        if now > 60:
            revert(ssh)
            ssh.when, time.at = lambda *_: None, lambda _: None

    time.at = later
    with pytest.raises(RefusedError, match=r"no new connection after the commit \(.* timed out\); it was rolled back$"):
        changes.change(ssh, WEB, "why", 60, clock=time.clock)
    assert sum(time.waits) >= 60
    assert len(time.waits) <= 8
    assert "8080" not in running(ssh)


def revert(ssh: Ssh) -> None:
    """As the appliance does when the time is over."""
    assert shell(ssh.daemon, "configuration revert").code == 0


def test_the_time_on_the_appliance_is_that_of_the_task(ssh: Ssh) -> None:
    """bypassd itself rolls back when nobody confirms in time."""
    cut_after_commit(ssh, answered=True)
    with pytest.raises(RefusedError, match="does not answer yet: see its serial line"):
        changes.change(ssh, WEB, "why", 1, clock=Time().clock)
    ssh.when = lambda *_: None
    wait_until(lambda: appliance.ask(ssh, {"method": "config.status"})[0]["result"]["confirm"] is None, "the rollback")
    assert "8080" not in running(ssh)


def test_a_commit_whose_answer_was_lost_is_confirmed(ssh: Ssh) -> None:
    """The change broke its own connection, and a new one works."""
    cut_after_commit(ssh, answered=False)
    time = Time()
    time.at = lambda _: setattr(ssh, "when", lambda *_: None)
    done = changes.change(ssh, WEB, "why", 60, clock=time.clock)
    assert (done.changed, done.commit) == (True, 2)
    assert "8080" in running(ssh)
    assert appliance.ask(ssh, {"method": "config.status"})[0]["result"]["confirm"] is None


def test_a_commit_that_somebody_else_reverted_is_not_called_changed(ssh: Ssh) -> None:
    def after(_: str, stdin: str) -> None:
        if "commit confirmed" in stdin:
            revert(ssh)

    ssh.after = after
    with pytest.raises(RefusedError, match="commit 2 was rolled back by somebody else"):
        changes.change(ssh, WEB, "why", 60, clock=Time().clock)


def test_facts(ssh: Ssh) -> None:
    """What the appliance does not answer is named, the rest is there."""
    found, missing = appliance.facts(ssh)
    assert found["status"]["hostname"] == "wire1"
    assert found["segments"][0]["relay"] == "inline"
    assert found["configuration"]["rule"][0]["match"] == "tcp port 80"
    assert found["commits"]["number"] == 1
    assert any(text.startswith("relays: ") for text in missing)
    assert len(ssh.ran) == 1


def answered_with(code: int, out: bytes, err: bytes) -> Any:
    class Answer:
        def run(self, command: str, stdin: bytes) -> Reply:
            return Reply(code, out, err)

        def renew(self) -> None:
            raise AssertionError

    return Answer()


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (
            (0, b"Welcome to another\nsystem", b""),
            'no Throughwire appliance: `api` was answered by "Welcome to another sy',
        ),
        ((127, b"", b"sh: api: not found\n"), "^sh: api: not found$"),
        ((3, b"", b"error: bypassd does not answer\nhint: look at its log\n"), "^bypassd does not answer$"),
        ((4, b"", b""), "exit code 4 and gave no reason"),
        (
            (1, b"", b"note: x\nerror: one\nerror: two\nerror: line 3 failed; uncommitted changes discarded"),
            r"^one \(and 1 more\)$",
        ),
    ],
)
def test_what_is_no_appliance_is_said_in_one_sentence(reply: tuple[int, bytes, bytes], why: str) -> None:
    for asked in (appliance.facts, lambda link: changes.change(link, WEB, "why", 60)):
        with pytest.raises(RefusedError, match=why):
            asked(answered_with(*reply))


def test_a_backup_is_what_the_appliance_sent(ssh: Ssh) -> None:
    made = appliance.backup(answered_with(0, b"\x8c\x0d binary", b"configuration and SSH host keys"), "a phrase")
    assert made == b"\x8c\x0d binary"
    with pytest.raises(RefusedError, match="one line"):
        appliance.backup(ssh, "two\nlines")
    with pytest.raises(RefusedError, match="too easy"):
        appliance.backup(answered_with(1, b"", b"error: the passphrase is too easy\n"), "a")


def test_the_collection_has_the_version_of_the_appliance() -> None:
    assert f"\nversion: {__version__}\n" in (ROOT / "console/fleet/galaxy.yml").read_text()
