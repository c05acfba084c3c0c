# SPDX-License-Identifier: GPL-2.0-only
"""`configure` in use: on a terminal, and as lines that are applied as one change. The configuration is real."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.api.schema.methods import Answers
from appliance.config.schema.secrets import HIDDEN
from console.client import Client
from tests.support.config_daemon import TEXT, ConfigDaemon
from tests.support.terminal import ROOT, Terminal, bypass


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[ConfigDaemon]:
    with ConfigDaemon(tmp_path) as made:
        assert isinstance(made, ConfigDaemon)
        yield made


@pytest.fixture(params=["dumb", "xterm"])
def terminal(request: pytest.FixtureRequest, daemon: ConfigDaemon) -> Iterator[Terminal]:
    made = Terminal(daemon.path, request.param, (24, 100))
    made.until("[inline]>")
    yield made
    made.close()


def test_on_a_terminal(terminal: Terminal, daemon: ConfigDaemon) -> None:
    """Levels, keys and names from bypassd, differences and their effects, a commit with its phases."""
    terminal.type("configure\r")
    terminal.until("[inline] configure#")
    terminal.type("edit ru\tw\t\r")
    terminal.until("configure rule web#")
    terminal.type("set ?")
    terminal.until("filter of the frames it applies to. Empty: every frame")
    terminal.type("ma\ttcp port 8080\r")
    terminal.until("rule web: match: tcp port 80 -> tcp port 8080")
    terminal.until("configure rule web*#")
    terminal.type("show\r")
    terminal.until("tcp port 8080")
    terminal.type("up\r")
    terminal.until("configure*#")
    terminal.type("edit rule web\r")
    terminal.until("configure rule web*#")
    terminal.type("top\r")
    terminal.until("configure*#")
    terminal.type("edit rule web\rexit\r")
    terminal.until("configure rule web*#")
    terminal.until("configure*#")
    terminal.type("compare | match ^[+-]\r")
    terminal.until('+match = "tcp port 8080"')
    terminal.type("commit check\r")
    terminal.until("immediately, hitless")
    terminal.type("commit comment another port\r")
    terminal.until("verifying that traffic flows")
    terminal.until("committed as ")
    terminal.until("configure#")
    terminal.type("history\r")
    terminal.until("another port")
    terminal.type("run show version\r")
    terminal.until("python")
    terminal.type("\x04")
    terminal.until("[inline]>")
    assert "tcp port 8080" in daemon.startup.read_text()
    assert "# the link to the provider" in daemon.startup.read_text()


def test_a_note_is_printed_by_the_first_commit_of_a_session(terminal: Terminal) -> None:
    """What a commit does not change would else be repeated by each; `commit check` says all, and data has all."""
    terminal.type("configure\rset guest spare image spare.qcow2\rcommit\r")
    note = "note: guest spare: is in no rule: it gets no traffic"
    assert note in terminal.until("committed as ")
    terminal.type("set system hostname wire3\rcommit\r")
    assert "is in no rule" not in terminal.until("committed as ")
    terminal.type("set system hostname wire4\rcommit check\r")
    terminal.until(note)
    terminal.type("commit | json | match spare\r")
    terminal.until('"where": "guest spare"')


def test_awaiting_confirmation(terminal: Terminal, daemon: ConfigDaemon) -> None:
    """The prompt counts down; an unconfirmed commit is rolled back, a confirmed one stays. The unit is shown."""
    terminal.type("configure\rset system hostname wire2\rcommit confirmed 600\r")
    terminal.until("note: 600 means 600 SECONDS; for minutes type 600min")
    terminal.until("committed provisionally; confirm within 600 s or it will be rolled back")
    terminal.until("CONFIRM WITHIN")
    terminal.type("commit confirmed 10 min\r")
    terminal.until("confirm within 600 s or it will be rolled back")
    terminal.until("CONFIRM WITHIN")
    terminal.type("revert\r")
    terminal.until("configure#")
    assert "wire2" not in daemon.startup.read_text()
    terminal.type("set system hostname wire3\rcommit confirmed 60\r")
    terminal.until("CONFIRM WITHIN")
    terminal.type("exit\r")
    assert "unless confirmed: `configuration confirm`" in " ".join(terminal.until("[inline] CONFIRM WITHIN").split())
    terminal.type("configure\rconfirm\r")
    terminal.until("confirmed: committed as")
    terminal.until("configure#")
    assert "wire3" in daemon.startup.read_text()


def test_two_administrators(daemon: ConfigDaemon) -> None:
    """The second user sees who holds the candidate and may take it over; the first one is told at the next command."""
    first, second = Terminal(daemon.path, "dumb"), Terminal(daemon.path, "dumb")
    for one in (first, second):
        one.until("[inline]>")
    first.type("configure\rset system hostname wire2\r")
    first.until("configure*#")
    second.type("configure\r")
    assert f"(process {first.child.pid})" in " ".join(second.until("[inline]>").split())
    second.type("configure takeover\r")
    second.until("1 uncommitted change by")
    second.until("configure*#")
    first.type("set system hostname wire4\r")
    first.until("error: ")
    first.until("(taken over by another user)")
    second.type("discard\rexit\r")
    second.until("[inline]>")
    for one in (first, second):
        one.close()
    assert daemon.startup.read_text() == TEXT


def test_load_typed_and_from_files(terminal: Terminal, daemon: ConfigDaemon, tmp_path: Path) -> None:
    """`save` then `load` gives the same; `load merge -` takes a typed text up to a full stop; bad files are refused."""
    saved = tmp_path / "saved.toml"
    terminal.type(f"configure\rsave {saved}\rexport {saved}2\r")
    terminal.until("saved to")
    terminal.until("saved to")
    assert saved.read_text() == Path(f"{saved}2").read_text() == TEXT
    terminal.type("load merge -\r")
    terminal.until("end with a line that contains only .")
    terminal.type('[system]\rhostname = "typed"\r.\r')
    terminal.until("configure*#")
    terminal.type("compare\r")
    terminal.until('+hostname = "typed"')
    terminal.type(f"load {saved}\r")
    terminal.until("configure#")
    terminal.type("load /nonexistent\r")
    terminal.until("cannot be read: No such file or directory")


def test_changes_on_standard_input(daemon: ConfigDaemon) -> None:
    """`ssh admin@box configure < changes`: committed at the end, quietly; what was there besides stays."""
    done = bypass(
        "configure", sock=daemon.path, stdin="# more\nset rule web match tcp port 8080\n\nmove rule dns first\n"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "committed as" in done.stdout
    text = daemon.startup.read_text()
    assert 'match = "tcp port 8080"' in text
    assert text.index('name = "dns"') < text.index('name = "web"')


def test_whoever_configures_is_told_of_crashes(daemon: ConfigDaemon) -> None:
    """On a terminal and in a script, beside the data; nothing is said where there is nothing to say."""
    alarm = "3 crashes within 1 h of operation"

    async def status(_: dict[str, Any]) -> object:
        return {"hostname": "wire1", "segments": daemon.segments(), "crashes": {"mode": "hold", "alarm": alarm}}

    line = "set rule web match tcp port 8080\n"
    assert "note" not in bypass("configure", sock=daemon.path, stdin=line).stderr
    daemon.registry.add(Answers("status.show", object), status)
    done = bypass("configure", sock=daemon.path, stdin=line.replace("8080", "8081"))
    assert (done.returncode, done.stderr) == (0, f"note: {alarm}\n")
    terminal = Terminal(daemon.path, "dumb")
    terminal.until("[inline]>")
    terminal.type("configure\r")
    terminal.until(f"note: {alarm}")
    terminal.until("configure#")
    terminal.close()


def test_hint_only_where_it_helps(daemon: ConfigDaemon) -> None:
    """A refused value has its own words; `commit check` is named where it can show more."""
    refused = bypass("configure", sock=daemon.path, stdin="set rule web nokey 1\n")
    assert "error: " in refused.stderr
    assert "hint:" not in refused.stderr
    assert "hint: `commit check`" in bypass("configure", sock=daemon.path, stdin="set rule web path nobody\n").stderr


ALL_OR_NOTHING = [
    # (lines, exit code, in standard error)
    ("set rule web match udp\nsett x y\n", 2, 'line 2: unknown command "sett"'),
    ("set rule web match udp\nset rule web path 'ips1\n", 2, "line 2: missing closing quote; nothing was changed"),
    ("set rule web match udp\nset rule web nokey 1\n", 1, "line 2 failed; uncommitted changes discarded"),
    ("set rule web match udp\nset rule web path nobody\n", 1, "commit failed; uncommitted changes discarded"),
    ("set rule web match udp\nset rule new path ips1\n", 1, "the kernel says no"),
    ("set rule web match udp\nload /nonexistent\n", 1, "line 2 failed"),
]


@pytest.mark.parametrize(("lines", "code", "says"), ALL_OR_NOTHING, ids=[says for _, _, says in ALL_OR_NOTHING])
def test_all_or_nothing(daemon: ConfigDaemon, lines: str, code: int, says: str) -> None:
    """If any line fails: the running, the startup and the candidate configuration are unchanged."""
    daemon.refuse = "the kernel says no"
    done = bypass("configure", sock=daemon.path, stdin=lines)
    assert (done.returncode, says in done.stderr) == (code, True), done
    assert daemon.startup.read_text() == TEXT
    assert "no uncommitted changes; edited by nobody" in bypass("show", "candidate", sock=daemon.path).stdout


@pytest.mark.parametrize(("change", "code"), [("delete rule web", 0), ("set rule web path nobody", 1)])
def test_a_script_that_ends_with_commit_check_is_a_dry_run(daemon: ConfigDaemon, change: str, code: int) -> None:
    """Its changes are checked, and neither committed nor left in the candidate; the exit code is that of the check."""
    done = bypass("configure", sock=daemon.path, stdin=f"{change}\ncommit check\n")
    assert done.returncode == code, done
    assert ("the changes were checked and not committed" in done.stderr) is (code == 0)
    assert "committed as" not in done.stdout
    assert daemon.startup.read_text() == TEXT
    assert "no uncommitted changes; edited by nobody" in bypass("show", "candidate", sock=daemon.path).stdout


def test_a_check_in_the_middle_of_a_script_still_commits(daemon: ConfigDaemon) -> None:
    done = bypass(
        "configure", sock=daemon.path, stdin="set system hostname wire5\ncommit check\nset rule web match udp\n"
    )
    assert done.returncode == 0, done
    assert "wire5" in daemon.startup.read_text()


def test_one_line(daemon: ConfigDaemon) -> None:
    """One command of the mode as arguments: looked at without a hold, committed when it changes something."""
    assert 'match = "tcp port 80"' in bypass("configure", "show", "rule", "web", sock=daemon.path).stdout
    assert bypass("configure", "set", "system", "hostname", "wire9", sock=daemon.path).returncode == 0
    assert 'hostname = "wire9"' in daemon.startup.read_text()
    assert bypass("configure", "rollback", "1", sock=daemon.path).returncode == 0
    assert daemon.startup.read_text() == TEXT
    assert "wire9" in bypass("configure", "compare", "1", "running", sock=daemon.path).stdout
    given = bypass("configure", "load", "-", sock=daemon.path, stdin=TEXT.replace("wire1", "wire7"))
    assert given.returncode == 0, given
    assert 'hostname = "wire7"' in daemon.startup.read_text()
    shown = bypass("show", "configuration", "as", "set", sock=daemon.path).stdout
    assert "set system hostname wire7" in shown


def test_history_has_the_numbers_that_rollback_takes(daemon: ConfigDaemon) -> None:
    """In `show commits` as in `history`, beside the number of the commit, which stays the same."""
    for name in ("wire5", "wire6", "wire7"):
        assert bypass("configure", "set", "system", "hostname", name, sock=daemon.path).returncode == 0
    outside, inside = (
        bypass(*words, sock=daemon.path).stdout for words in (("show", "commits"), ("configure", "history"))
    )
    assert outside == inside
    assert outside.split()[:2] == ["ROLLBACK", "COMMIT"]
    rows = json.loads(bypass("show", "commits", "--json", sock=daemon.path).stdout)
    assert [row["n"] for row in rows] == [0, 1, 2, 3]
    assert len({row["number"] for row in rows}) == 4
    assert bypass("configure", "rollback", "2", sock=daemon.path).returncode == 0
    assert 'hostname = "wire5"' in daemon.startup.read_text()
    later = json.loads(bypass("show", "commits", "--json", sock=daemon.path).stdout)
    assert [row["number"] for row in later[1:]] == [row["number"] for row in rows]


def test_somebody_elses_changes_are_not_committed_along(daemon: ConfigDaemon) -> None:
    """A script refuses to begin on a candidate with other changes, and says how to discard them."""
    terminal = Terminal(daemon.path, "dumb")
    terminal.until("[inline]>")
    terminal.type("configure\rset system hostname half\rexit\r")
    terminal.until("1 uncommitted change stays")
    terminal.until("[inline]>")
    done = bypass("configure", "set", "system", "hostname", "other", sock=daemon.path)
    assert done.returncode == 1
    assert "1 uncommitted change by" in done.stderr
    assert "would be committed too" in done.stderr
    assert bypass("configure", "discard", sock=daemon.path).returncode == 0
    assert bypass("configure", "set", "system", "hostname", "other", sock=daemon.path).returncode == 0
    terminal.close()


def test_a_script_that_is_killed_leaves_nothing(daemon: ConfigDaemon) -> None:
    """The hold ends with the process; what it had not committed is in no running configuration."""
    environ = {**os.environ, "BYPASS_SOCKET": str(daemon.path), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-m", "console", "configure"], stdin=subprocess.PIPE, env=environ)
    assert process.stdin is not None
    process.stdin.write(b"set system hostname half\n")
    process.stdin.flush()
    process.kill()
    process.wait(20)
    assert daemon.startup.read_text() == TEXT
    assert bypass("configure", "set", "system", "hostname", "next", sock=daemon.path).returncode == 0


def test_what_set_answers_has_no_secret(daemon: ConfigDaemon) -> None:
    """Neither the one before nor the new one, on the screen or as data."""
    client = Client(str(daemon.path))
    client.call("config.edit")
    for words in (
        "radius r1 secret hunter2", "radius r1 secret hunter3", "tacacs t1 secret hunter2",
        "snmp user mon auth_passphrase hunter2hunter2", "snmp user mon priv_passphrase hunter3hunter3",
    ):  # fmt: skip
        told = client.call("config.set", {"words": words.split()})
        assert (told["new"], told["old"] in (None, HIDDEN)) == (HIDDEN, True), words
    client.call("config.end", {"discard": True})


def test_200_rules_pasted(daemon: ConfigDaemon) -> None:
    """200 rules, 400 lines, typed ahead at once as a paste does: not one character is lost."""
    terminal = Terminal(daemon.path, "dumb")
    terminal.until("[inline]>")
    rules = [f"set rule r{n:03} match udp port {1000 + n}\rset rule r{n:03} path ips1" for n in range(200)]
    pasting = threading.Thread(
        target=lambda: terminal.type("configure\r" + "\r".join(rules) + "\rcommit\rexit\rexit\r")
    )
    pasting.start()
    terminal.until("logout")
    pasting.join(20)
    rows = tomllib.loads(daemon.startup.read_text())["rule"][2:]
    assert [row["match"] for row in rows] == [f"udp port {1000 + n}" for n in range(200)], terminal.seen[-2000:]
    terminal.close()


def test_comments_that_could_not_be_kept(daemon: ConfigDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever commits or checks a text that had to be written anew is told."""
    with monkeypatch.context() as patch:
        patch.setattr("appliance.config.edit.comments.parse", lambda text: 1 / 0)
        done = bypass("configure", sock=daemon.path, stdin="delete rule dns\ncommit check\n")
    assert "warning: candidate: its comments could not be kept" in done.stdout
    done = bypass("configure", sock=daemon.path, stdin="delete rule dns\ncommit check\n")
    assert "candidate: its comments" not in done.stdout


def test_the_last_administrator_is_not_lost_by_accident(daemon: ConfigDaemon) -> None:
    """Refused with what it means; the word that does it all the same is in the message."""
    made = "set user ann role admin password $6$salt1234$" + "x" * 86
    assert bypass("configure", sock=daemon.path, stdin=f"{made}\n").returncode == 0
    refused = bypass("configure", "delete", "user", "ann", sock=daemon.path)
    assert refused.returncode == 1
    assert "no administrator could log in any more (ann could)" in refused.stderr
    assert "ann" in daemon.startup.read_text()
    check = bypass("configure", sock=daemon.path, stdin="delete user ann\ncommit check\n")
    assert (check.returncode, "no administrator could log in" in check.stdout) == (1, True)
    for demotion in (("set", "user", "ann", "role", "viewer"), ("delete", "user", "ann", "password")):
        refused = bypass("configure", *demotion, sock=daemon.path)
        assert (refused.returncode, "(ann could)" in refused.stderr) == (1, True), demotion
        assert 'role = "admin"' in daemon.startup.read_text()
    both = f"{made.replace('ann', 'bob')}\nset user ann role operator\n"
    assert bypass("configure", sock=daemon.path, stdin=both).returncode == 0, "another administrator is left"
    back = "set user ann role admin\ndelete user bob\n"
    assert bypass("configure", sock=daemon.path, stdin=back).returncode == 0
    meant = bypass("configure", sock=daemon.path, stdin="delete user ann\ncommit without-administrator\n")
    assert meant.returncode == 0, meant.stderr
    assert "ann" not in daemon.startup.read_text()


def test_commands_of_the_shell_inside_configure(terminal: Terminal) -> None:
    """`run` and `do` take any of them with pipes and options, complete it, explain it, and stay at the level."""
    terminal.type("configure\redit rule web\r")
    terminal.until("configure rule web#")
    terminal.type("run show guests | match ips2\r")
    assert "ips1" not in terminal.until("image_unreadable")
    terminal.until("configure rule web#")
    terminal.type("do show guests --json\r")
    terminal.until('"image_unreadable"')
    terminal.until("configure rule web#")
    terminal.type("run sh\tgue\t")
    terminal.until("run show gue")
    terminal.type("\x03")
    terminal.until("configure rule web#")
    terminal.type("do show ver?")
    terminal.until("versions of the appliance")
    terminal.type("sion\r")
    terminal.until("configure rule web#")
    terminal.type("guest ips1 start\r")
    terminal.until("is a command of the shell: `run guest ips1 start`")
    terminal.type("show guests\r")
    terminal.until("hint: the state is shown by a command of the shell: `run show guests`")
    terminal.type("do conf t\rexit\r")
    terminal.until("[inline]>")


def test_what_was_shown_can_be_read_again(daemon: ConfigDaemon, tmp_path: Path) -> None:
    """A hidden password stays where the user exists, and is left out by name where there is none."""
    made = "$6$salt1234$" + "x" * 86
    lines = f"set user ann role admin password {made}\nset user ann keys []\nset user bob role viewer password {made}\n"
    assert bypass("configure", sock=daemon.path, stdin=lines).returncode == 0
    before = daemon.startup.read_text()
    shown = bypass("show", "configuration", sock=daemon.path).stdout
    assert "<hidden>" in shown
    for form in ("toml", "set"):
        text = bypass("show", "configuration", "as", form, sock=daemon.path).stdout
        words = ("configure", "load", "-") if form == "toml" else ("configure",)
        again = bypass(*words, sock=daemon.path, stdin=text)
        assert (again.returncode, again.stdout) == (0, "no changes\n"), again.stderr
    assert bypass("configure", "load", "merge", "-", sock=daemon.path, stdin=shown).stdout == "no changes\n"
    assert bypass("configure", "set", "user", "ann", "password", "<hidden>", sock=daemon.path).stdout == "no changes\n"
    assert daemon.startup.read_text() == before
    other = bypass("configure", "load", "-", sock=daemon.path, stdin=shown.replace('"bob"', '"eve"'))
    assert other.returncode == 0, other.stderr
    assert "warning: user eve: password: was hidden in the text and is not known here: it is left out" in other.stderr
    after = tomllib.loads(daemon.startup.read_text())["user"]
    assert [(user["name"], user.get("password")) for user in after] == [("ann", made), ("eve", None)]
    unknown = bypass("configure", "set", "user", "eve", "password", "<hidden>", sock=daemon.path)
    assert (unknown.returncode, "is hidden in the text and is not known here" in unknown.stderr) == (1, True)


def test_a_roll_back_is_told_where_one_looks(terminal: Terminal, daemon: ConfigDaemon) -> None:
    """At the idle prompt, which counts down where the terminal can; in status and history, until the next commit."""
    terminal.type("configure\rset rule web match udp\rcommit confirmed 4s\r")
    terminal.until("CONFIRM WITHIN")
    terminal.type("exit\r")
    terminal.until("[inline] CONFIRM WITHIN")  # outside configure too
    shown = terminal.until("note: the commit by root was rolled back to the previous configuration: not confirmed")
    if terminal.term == "xterm":
        assert "\x1b[0;1m1" in shown, "nobody pressed a key meanwhile"
    terminal.until("[inline]>")
    terminal.type("show status\r")
    terminal.until("configuration: the commit by root was rolled back at ")
    terminal.type("show commits\r")
    terminal.until("rolled back")
    terminal.until("not confirmed in time")
    terminal.type("configure set rule web match tcp\rshow status | count\r")
    terminal.until("committed as")
    assert daemon.engine.notice == ""
    rows = json.loads(bypass("show", "commits", "--json", sock=daemon.path).stdout)
    assert [row["how"] for row in rows] == ["commit", "rolled back", "installed"]
    assert (rows[1]["n"], rows[1]["user"]) == (None, "root")


def test_a_note_at_the_prompt_is_folded(daemon: ConfigDaemon) -> None:
    terminal = Terminal(daemon.path, "dumb", (60, 60))
    terminal.until("[inline]>")
    terminal.type("configure\rset rule web match udp\rcommit confirmed 2s\r")
    terminal.until("note: the commit by root was rolled back to the previous")
    assert terminal.until("not confirmed in time").lstrip("\r\n") == "    configuration: not confirmed in time"
    terminal.close()


def test_what_became_of_a_table_is_said(terminal: Terminal) -> None:
    terminal.type("configure\rmove rule dns first\r")
    terminal.until("rule dns: moved to place 1")
    terminal.type("delete rule web match\r")
    terminal.until("rule web: match: deleted")
    terminal.type("delete rule web\r")
    terminal.until("rule web: deleted")
    terminal.type("discard\r")  # not a table: nothing became of it
    assert "deleted" not in terminal.until("[inline] configure#").partition("discarded")[2]


def test_one_line_of_configure_is_completed_and_explained_in_the_shell(terminal: Terminal) -> None:
    """As inside the mode; what is no line of it yet is explained as a command of the shell."""
    terminal.type("configure set syste\thost\t?")
    terminal.until("configure set system hostname")
    terminal.until("letters, digits and - in the middle")
    terminal.type("\rconfigure set rule web path ?")
    terminal.until("list of: name (a lower-case letter, then at most 30 of a-z 0-9 _ -)")
    terminal.type("\rconfigure ?")
    terminal.until("one configure command, committed immediately")


def test_what_is_free_to_choose_is_explained(terminal: Terminal) -> None:
    """A new name, a value with its range, a filter with examples; none of it is inserted by Tab.

    Enter is offered only where the line is whole.
    """
    terminal.type("configure\rsho?")
    terminal.until("show the candidate, or a part of it")
    terminal.type("\r")
    terminal.until("udp port 53")
    terminal.type("set rule ?")
    assert re.search(r"web +match tcp port 80\s+dns .*\s+NAME +a new rule", terminal.until("a new rule"))
    terminal.type("\r")
    assert "<Enter>" not in terminal.until("is followed by the name of a rule")
    terminal.type("set rule web match ?")
    for text in ("a capture filter as for tcpdump", "EXAMPLE  tcp port 80", "EXAMPLE  src net", "EXAMPLE  vlan 100"):
        terminal.until(text)
    terminal.type("\r")
    assert "<Enter>" not in terminal.until("needs a value")
    terminal.type("set rule web match icmp ?")
    terminal.until("<Enter>  execute")
    terminal.type("\r")
    terminal.until("tcp port 80 -> icmp")
    terminal.type("set guest ips1 memory ?")
    terminal.until("size with unit")
    terminal.type("\r")
    terminal.until("needs a value")
    terminal.type("set rule web match \tudp\r")
    terminal.until("rule web: match: icmp -> udp")
