# SPDX-License-Identifier: GPL-2.0-only
"""The console as scripts and Ansible use it: what changed as JSON, - for standard input and output, plain output."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest

from appliance.api.schema.methods import Answers
from tests.support.config_daemon import TEXT, ConfigDaemon
from tests.support.terminal import PATIENCE_S, ROOT, bypass

CHANGE = "set rule web match tcp port 8080\n"


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[ConfigDaemon]:
    with ConfigDaemon(tmp_path) as made:
        assert isinstance(made, ConfigDaemon)
        yield made


def applied(daemon: ConfigDaemon, lines: str, *words: str) -> tuple[int, dict[str, Any]]:
    done = bypass("configure", *words, "--json", sock=daemon.path, stdin=lines)
    answer = json.loads(done.stdout)
    assert isinstance(answer, dict), done.stderr
    return done.returncode, answer


def test_a_file_applied_twice_changes_nothing_the_second_time(daemon: ConfigDaemon) -> None:
    first = bypass("configure", sock=daemon.path, stdin=CHANGE)
    again = bypass("configure", sock=daemon.path, stdin=CHANGE)
    assert (first.returncode, again.returncode) == (0, 0)
    assert "committed as" in first.stdout
    assert again.stdout == "no changes\n"
    assert bypass("configure", "load", "-", sock=daemon.path, stdin=daemon.startup.read_text()).stdout == "no changes\n"
    status = json.loads(bypass("show", "candidate", "--json", sock=daemon.path).stdout)
    assert (status["changes"], status["held_by"]) == (0, None)


def test_what_changed_is_one_object(daemon: ConfigDaemon) -> None:
    code, answer = applied(daemon, CHANGE + "show rule web\n")
    assert (code, answer["changed"], answer["errors"], answer["confirm"]) == (0, True, [], None)
    assert answer["changes"] == [
        {"where": "rule web: match", "old": "tcp port 80", "new": "tcp port 8080", "effect": "immediately, hitless"}
    ]
    assert answer["commit"] == 2
    code, answer = applied(daemon, CHANGE)
    assert (code, answer["changed"], answer["commit"], answer["changes"]) == (0, False, 2, [])
    code, answer = applied(daemon, "", "set", "rule", "dns", "match", "udp")
    assert (code, answer["changed"], answer["commit"]) == (0, True, 3)
    assert {warning["severity"] for warning in answer["warnings"]} == {"warning"}


def test_a_whole_configuration_in_a_script_ends_with_a_full_stop(daemon: ConfigDaemon) -> None:
    """So it can be tried, or committed with a time to confirm; without the full stop it ends with the script."""
    whole = "load -\n" + TEXT.replace("tcp port 80", "tcp port 8080")
    code, answer = applied(daemon, f"{whole}.\ncommit check\n")
    assert (code, answer["changed"], answer["commit"], len(answer["changes"])) == (0, True, 1, 1)
    code, answer = applied(daemon, f"{whole}.\nset rule dns match icmp\ncommit confirmed 600\n")
    assert (code, answer["changed"], len(answer["changes"]), bool(answer["confirm"])) == (0, True, 2, True)
    code, answer = applied(daemon, 'load merge -\n[[rule]]\nname = "more"\nmatch = "arp"\npath = ["ips1"]\n')
    assert (code, [row["where"] for row in answer["changes"]]) == (0, ["rule more"])


def test_a_dry_run_says_what_would_change(daemon: ConfigDaemon) -> None:
    code, answer = applied(daemon, CHANGE + "commit check\n")
    assert (code, answer["changed"], answer["commit"]) == (0, True, 1)
    assert daemon.startup.read_text() == TEXT
    code, answer = applied(daemon, "set rule web path nobody\ncommit check\n")
    assert (code, answer["changed"]) == (1, False)
    assert "nobody" in answer["errors"][0]["what"]
    code, answer = applied(daemon, "commit check\n")
    assert (code, answer["changed"]) == (0, False)


def test_what_failed_changed_nothing(daemon: ConfigDaemon) -> None:
    code, answer = applied(daemon, CHANGE + "set rule web path nobody\n")
    assert (code, answer["changed"], answer["changes"], answer["commit"]) == (1, False, [], 1)
    code, answer = applied(daemon, CHANGE + "commit confirmed 600\n")
    assert (code, answer["changed"], answer["confirm"]["user"]) == (0, True, "root")
    code, answer = applied(daemon, "confirm\n")
    assert (code, answer["changed"], answer["commit"]) == (0, True, 2)


def test_standard_input_and_output_are_a_dash(daemon: ConfigDaemon, tmp_path: Path) -> None:
    """No file named - appears anywhere."""
    made = tmp_path / "bundle"
    made.write_bytes(b"\x1f\x8b made")

    async def bundle(_: dict[str, Any]) -> object:
        return {"path": str(made)}

    daemon.registry.add(Answers("support.bundle", object), bundle)

    def run(*words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        environ = {**os.environ, "BYPASS_SOCKET": str(daemon.path), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "console", *words]
        return subprocess.run(command, input=stdin, capture_output=True, cwd=tmp_path, env=environ, check=False)

    assert b"valid: 1 segment" in run("check", "-", stdin=TEXT.encode()).stdout
    wrong = run("check", "-", stdin=TEXT.replace("tcp port", "tcp prot").encode())
    assert (wrong.returncode, wrong.stdout[:9]) == (1, b"-: rule w")
    frame = b"\xff" * 12 + b"\x08\x00" + bytes(46)
    pcap = bytes.fromhex("d4c3b2a10200040000000000000000000000040001000000") + b"\0" * 8 + b"\x3c\0\0\0" * 2 + frame
    (tmp_path / "config.toml").write_text(TEXT)
    words = ("explain", "--config", "config.toml", "--in", "lan", "--backend", "model")
    explained = run(*words, "--pcap", "-", stdin=pcap)
    assert explained.returncode == 0, explained.stderr
    both = run("explain", "--config", "-", "--in", "lan", "--pcap", "-")
    assert (both.returncode, b"cannot both be standard input" in both.stderr) == (2, True)
    assert run("support-bundle", "-").stdout == made.read_bytes()
    assert run("show", "version", "|", "save", "-").stdout == run("show", "version").stdout
    assert not (tmp_path / "-").exists()


def test_a_password_that_nobody_gives_is_refused(daemon: ConfigDaemon) -> None:
    bypass("configure", sock=daemon.path, stdin="set user op role operator\n")
    done = bypass("user", "op", "password", sock=daemon.path)
    assert (done.returncode, done.stderr) == (
        1,
        "error: no password was given: standard input ended; nothing was changed\n",
    )


def test_the_schema_is_json(daemon: ConfigDaemon) -> None:
    assert "methods" in json.loads(bypass("api", "schema", sock=daemon.path).stdout)


@pytest.mark.parametrize(("words", "folded"), [(["show", "guests"], False), (["--pretty", "show", "guests"], True)])
@pytest.mark.parametrize("as_line", [False, True])
def test_one_shot_output_is_plain_on_a_terminal_too(
    daemon: ConfigDaemon, words: list[str], folded: bool, as_line: bool
) -> None:
    """A script that runs `ssh -t` or a terminal multiplexer gets what a pipe would get."""
    env = {**os.environ, "BYPASS_SOCKET": str(daemon.path), "PYTHONPATH": str(ROOT), "TERM": "xterm"}
    command = ["-m", "console", *(["-c", " ".join(words)] if as_line else words)]
    child = pexpect.spawn(sys.executable, command, env=env, timeout=PATIENCE_S, dimensions=(24, 40), encoding="utf-8")
    child.expect(pexpect.EOF)
    shown = str(child.before)
    child.close()
    assert ("\x1b[" in shown) is folded
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert (max(map(len, plain.splitlines())) > 40) is not folded
