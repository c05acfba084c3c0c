# SPDX-License-Identifier: GPL-2.0-only
"""`backup` and `restore`: what is in the file, who can read it, and what becomes of one that is damaged."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest

from appliance.api.schema.methods import Answers
from appliance.api.server import Param
from appliance.errors import RefusedError
from console.commands import sealed
from tests.support.config_daemon import ConfigDaemon
from tests.support.terminal import PATIENCE_S, ROOT, bypass

PHRASE = "the phrase of a test"
KEY = b"a host key"
HASH = "$6$salt1234$" + "x" * 86


class Box(ConfigDaemon):
    """With SSH host keys, and one image."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.keys = {"host_ed25519": KEY}
        self.refuses = ""

        async def read(_: dict[str, Any]) -> object:
            return {"keys": [f"{name} {base64.b64encode(data).decode()}" for name, data in self.keys.items()]}

        async def replace(params: dict[str, Any]) -> object:
            if self.refuses:
                raise RefusedError(self.refuses)
            self.keys = {n: base64.b64decode(d) for n, _, d in (text.partition(" ") for text in params["keys"])}
            return {"message": "1 SSH host key restored; new sessions see them"}

        async def images(_: dict[str, Any]) -> object:
            return [{"name": "other.qcow2"}]

        self.registry.add(Answers("host-keys.read", object), read, role="admin")
        keys = {"keys": Param("array")}
        self.registry.add(Answers("host-keys.replace", object), replace, role="admin", params=keys)
        self.registry.add(Answers("images.show", object), images)


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    (tmp_path / "box").mkdir()
    with Box(tmp_path / "box") as made:
        assert isinstance(made, Box)
        lines = f"set user ann role admin password {HASH}\n"
        assert bypass("configure", sock=made.path, stdin=lines).returncode == 0
        yield made


def run(box: Box, *words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    environ = {**os.environ, "BYPASS_SOCKET": str(box.path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "console", *words]
    return subprocess.run(command, input=stdin, capture_output=True, env=environ, timeout=60, check=False)


def seal(data: bytes) -> bytes:
    with tempfile.TemporaryFile() as file:
        with sealed.sealing(PHRASE, file.fileno()) as stream:
            stream.write(data)
        file.seek(0)
        return file.read()


def change(box: Box) -> None:
    done = bypass("configure", sock=box.path, stdin="delete rule dns\nset system hostname changed\n")
    assert done.returncode == 0
    box.keys = {}


@pytest.mark.parametrize("streamed", [False, True])
def test_what_was_there_is_there_again(box: Box, tmp_path: Path, streamed: bool) -> None:
    """Passwords, comments of the file and host keys too; by a file, or over standard input and output."""
    before = box.startup.read_text()
    file = tmp_path / "one.backup"
    made = run(box, "backup", "-" if streamed else str(file), stdin=f"{PHRASE}\n".encode())
    assert made.returncode == 0, made.stderr
    assert b"images are not included: ips1.qcow2" in (made.stderr if streamed else made.stdout)
    if streamed:
        file.write_bytes(made.stdout)
    else:
        assert file.stat().st_mode & 0o777 == 0o600
    assert KEY not in file.read_bytes()
    change(box)
    stdin = f"{PHRASE}\n".encode() + (file.read_bytes() if streamed else b"")
    done = run(box, "restore", "-" if streamed else str(file), "--json", stdin=stdin)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["missing_images"] == ["ips1.qcow2"]
    assert (box.startup.read_text(), box.keys) == (before, {"host_ed25519": KEY})
    history = json.loads(bypass("show", "commits", "--json", sock=box.path).stdout)
    assert history[0]["comment"].startswith("restored from the backup of wire1 from 20")


def test_any_computer_reads_it_with_the_usual_tools(box: Box, tmp_path: Path) -> None:
    made = run(box, "backup", "-", stdin=f"{PHRASE}\n".encode())
    words = ["gpg", "--homedir", str(tmp_path), "--batch", "--pinentry-mode", "loopback", "--passphrase", PHRASE, "-d"]
    plain = subprocess.run(words, input=made.stdout, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(plain)) as archive:
        assert sorted(archive.getnames()) == ["about.json", "config.toml", "ssh/host_ed25519"]


def test_one_that_cannot_be_trusted_changes_nothing(box: Box, tmp_path: Path) -> None:
    """Another passphrase, a bit that changed, an end that is missing, and what is no backup at all."""
    made = run(box, "backup", "-", stdin=f"{PHRASE}\n".encode()).stdout
    text = box.startup.read_text()
    changed = made[:-40] + bytes([made[-40] ^ 1]) + made[-39:]
    empty = io.BytesIO()
    with tarfile.open(fileobj=empty, mode="w:gz"):
        pass
    for data, phrase, why in (
        (made, "another phrase", b"the passphrase is wrong"),
        (changed, PHRASE, b"manipulated"),
        (made[:-9], PHRASE, b"cannot be decrypted"),
        (b"no backup", PHRASE, b"cannot be decrypted"),
        (b"", PHRASE, b"cannot be decrypted"),
        (seal(b"something else"), PHRASE, b"not a backup of an appliance"),
        (seal(empty.getvalue()), PHRASE, b"not a backup of an appliance"),
        (made, "", b"no passphrase was given"),
    ):
        done = run(box, "restore", "-", stdin=f"{phrase}\n".encode() + data)
        assert (done.returncode, why in done.stderr) == (1, True), done.stderr
    assert run(box, "restore", str(tmp_path / "none"), stdin=b"x\n").returncode == 1
    assert (box.startup.read_text(), box.keys) == (text, {"host_ed25519": KEY})


def test_a_restore_can_be_provisional_and_leave_the_host_keys(box: Box, tmp_path: Path) -> None:
    file = str(tmp_path / "one.backup")
    assert run(box, "backup", file, stdin=f"{PHRASE}\n".encode()).returncode == 0
    change(box)
    text = box.startup.read_text()
    words = ("restore", file, "--configuration-only", "--confirmed", "10min")
    done = run(box, *words, stdin=f"{PHRASE}\n".encode())
    assert done.returncode == 0, done.stderr
    assert b"confirm within 600 s" in done.stdout
    assert box.keys == {}
    assert bypass("configuration", "revert", sock=box.path).returncode == 0
    assert box.startup.read_text() == text


def test_host_keys_that_are_refused_are_an_error_though_the_configuration_holds(box: Box, tmp_path: Path) -> None:
    file = str(tmp_path / "one.backup")
    run(box, "backup", file, stdin=f"{PHRASE}\n".encode())
    change(box)
    box.refuses = "the disk is full"
    done = run(box, "restore", file, stdin=f"{PHRASE}\n".encode())
    assert (done.returncode, b"the disk is full" in done.stderr) == (1, True)
    assert 'hostname = "wire1"' in box.startup.read_text()


def test_a_file_that_is_there_and_a_short_phrase_are_refused(box: Box, tmp_path: Path) -> None:
    file = tmp_path / "one.backup"
    short = run(box, "backup", str(file), stdin=b"short\n")
    assert (short.returncode, b"8 to 1000 characters" in short.stderr) == (1, True)
    assert b"no passphrase was given" in run(box, "backup", str(file)).stderr
    file.write_text("mine")
    again = run(box, "backup", str(file), stdin=f"{PHRASE}\n".encode())
    assert (again.returncode, b"already exists" in again.stderr, file.read_text()) == (1, True, "mine")


def test_on_a_terminal_the_phrase_is_asked_for_and_not_shown(box: Box, tmp_path: Path) -> None:
    """Twice for a new backup; a restore asks before it replaces everything, and no is the default."""
    env = {**os.environ, "BYPASS_SOCKET": str(box.path), "PYTHONPATH": str(ROOT), "TERM": "dumb"}
    file = str(tmp_path / "one.backup")

    def spawn(*words: str) -> Any:
        command = ["-m", "console", *words]
        return pexpect.spawn(sys.executable, command, env=env, timeout=PATIENCE_S, encoding="utf-8")

    def ended(child: Any) -> tuple[int, str]:
        child.expect(pexpect.EOF)
        child.close()
        return int(child.exitstatus), str(child.before)

    child = spawn("backup", file)
    for question, answer in (("Passphrase of the backup: ", PHRASE), ("Confirm passphrase: ", "something else")):
        child.expect_exact(question)
        child.sendline(answer)
    code, shown = ended(child)
    assert (code, "do not match" in shown, PHRASE in shown) == (1, True, False)
    child = spawn("backup", file)
    for question in ("Passphrase of the backup: ", "Confirm passphrase: "):
        child.expect_exact(question)
        child.sendline(PHRASE)
    assert ended(child)[0] == 0
    change(box)
    for answer, code in (("", 1), ("yes", 0)):
        child = spawn("restore", file)
        child.expect_exact("Passphrase of the backup: ")
        child.sendline(PHRASE)
        child.expect_exact("This is the backup of wire1 from 20")
        child.expect_exact("Restore it? (yes/no) [no]: ")
        child.sendline(answer)
        assert ended(child)[0] == code
        assert ("wire1" in box.startup.read_text()) is (code == 0)
    child = spawn("backup", "-")
    assert ended(child) == (
        1,
        "error: a backup is binary: use `ssh USER@BOX backup - < PASSPHRASE-FILE > box.backup`\r\n",
    )
