# SPDX-License-Identifier: GPL-2.0-only
"""An administrator: on the serial line of a new board, with OpenSSH in the management host's namespace, and changes."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pexpect
from simulator import Board, payload

from tests.support import board_console, board_harness

ADDRESS = "10.88.0.2"
PASSWORD = "correct horse battery"
PATIENCE_S = 60
READY_S = 120.0


@contextmanager
def new_board(artefacts: Path, directory: Path, append: str = "") -> Iterator[Board]:
    """A board at its first boot, up to its debug shell."""
    load = payload.image(artefacts, directory, debug=True, append=append)
    with Board(directory, load, accelerator=board_harness.accelerator(artefacts)) as made:
        made.power_on()
        made.sh("true", timeout=READY_S)
        yield made


@dataclass
class Reply:
    """The result of a command over SSH: its exit status and everything it printed."""

    status: int
    text: str


@dataclass
class Piped:
    """The result of a command in a pipe."""

    status: int
    out: bytes
    err: str


@dataclass
class Admin:
    """OpenSSH's client, with known hosts of its own."""

    board: Board
    folder: Path
    passwords: dict[str, str] = field(default_factory=dict)  # by user
    address: str = ADDRESS

    def words(self, user: str, *options: str) -> list[str]:
        """The client's command line; it accepts the first host key and refuses a different one later."""
        settings = ("StrictHostKeyChecking=accept-new", f"UserKnownHostsFile={self.folder}/known", "ConnectTimeout=10",
                    "IdentityAgent=none", "ServerAliveInterval=5")  # fmt: skip
        found = ["ssh", "-F", "/dev/null", *options]
        for setting in settings:
            found += ["-o", setting]
        return [*found, f"{user}@{self.address}"]

    def by_key(self, user: str, key: Path, *command: str, options: tuple[str, ...] = ()) -> Reply:
        """Run a command as a user with a key, without a password."""
        words = [*self.words(user, "-i", str(key), "-o", "BatchMode=yes", *options), *command]
        done = self.board.mgmt.run(words, timeout=self.board.pace.wait(PATIENCE_S), check=False)
        return Reply(done.returncode, done.stdout)

    def pipe(self, user: str, *command: str, stdin: bytes = b"", timeout: int = PATIENCE_S) -> Piped:
        """Run a command in a pipe, as `ssh ... | tshark` does, by password and without a terminal anywhere."""
        words = self.words(user, "-o", "PubkeyAuthentication=no", "-o", "NumberOfPasswordPrompts=1")
        return self._piped(user, [*words, *command], stdin, timeout)

    def copy(self, user: str, program: str, *arguments: str) -> Piped:
        """Run scp or sftp; what the client's command line has of ssh's settings comes before `arguments`."""
        _, *settings, _ = self.words(user, "-o", "PubkeyAuthentication=no", "-o", "NumberOfPasswordPrompts=1")
        return self._piped(user, [program, *settings, *arguments], b"", PATIENCE_S)

    def _piped(self, user: str, words: list[str], stdin: bytes, timeout: int) -> Piped:
        helper = self.folder / f"askpass-{user}"
        helper.write_text(f"#!/bin/sh\nprintf '%s\\n' {shlex.quote(self.passwords[user])}\n")
        helper.chmod(0o700)
        line = ["env", f"SSH_ASKPASS={helper}", "SSH_ASKPASS_REQUIRE=force", *words]
        child = self.board.mgmt.popen(line, stdin=-1, stdout=-1, stderr=-1)
        try:
            out, err = child.communicate(stdin, timeout=self.board.pace.wait(timeout))
        finally:
            self.board.mgmt.end(child)
        return Piped(child.returncode, out, err.decode(errors="replace"))

    def shell(self, user: str, term: str = "xterm", size: tuple[int, int] = (24, 100)) -> pexpect.spawn:
        """The console's shell, logged in, up to its first prompt."""
        child = self.open(user, options=("-tt",), term=term, size=size)
        child.expect(r"\[[^]\n]+\]> ?")
        return child

    def open(
        self,
        user: str,
        *command: str,
        options: tuple[str, ...] = (),
        term: str = "xterm",
        size: tuple[int, int] = (24, 100),
    ) -> pexpect.spawn:
        """A session on a terminal, logged in by password if one is requested."""
        words = self.words(user, "-o", "PubkeyAuthentication=no", "-o", "NumberOfPasswordPrompts=1", *options)
        line = ["netns", "exec", self.board.mgmt.namespace, *words, *command]
        child = pexpect.spawn(
            "ip", line, timeout=self.board.pace.wait(PATIENCE_S), encoding="utf-8", codec_errors="replace",
            dimensions=size, env={**os.environ, "TERM": term},
        )  # fmt: skip
        child.delaybeforesend = None
        child.expect("assword: ")
        child.sendline(self.passwords[user])
        return child

    def run(self, user: str, *command: str, options: tuple[str, ...] = ()) -> Reply:
        """Run a command as a user with a password."""
        child = self.open(user, *command, options=options)
        child.expect(pexpect.EOF)
        child.close()
        return Reply(child.exitstatus if child.exitstatus is not None else -1, child.before.strip())

    def attempt(self, user: str, password: str, tries: int = 1, timeout: float = 40) -> bool:
        """Whether a server answers and refuses this password `tries` times; False if none answers."""
        words = self.words(user, "-o", "PubkeyAuthentication=no", "-o", f"NumberOfPasswordPrompts={tries}")
        words[words.index("ConnectTimeout=10")] = "ConnectTimeout=3"
        line = ["netns", "exec", self.board.mgmt.namespace, *words, "show", "version"]
        timeout = self.board.pace.wait(timeout)
        child = pexpect.spawn("ip", line, timeout=timeout, encoding="utf-8")
        try:
            for _ in range(tries):
                if child.expect(["assword: ", "timed out|refused|No route|reset|closed", pexpect.EOF]) != 0:
                    return False
                child.sendline(password)
            child.expect("Permission denied|Too many|closed|disconnect|timed out", timeout=timeout)
            return True
        finally:
            child.close(force=True)

    def make_key(self, name: str) -> tuple[Path, str]:
        """A new key pair: the private file, and the public line."""
        path = self.folder / name
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(path)], check=True)
        return path, path.with_suffix(".pub").read_text().strip()

    def fingerprint(self) -> str:
        """The fingerprint of the server's host key, requested by a client."""
        scan = self.board.mgmt.run(["ssh-keyscan", "-t", "ed25519", self.address], check=False).stdout
        line = next(text for text in scan.splitlines() if " ssh-ed25519 " in text)
        shown = subprocess.run(["ssh-keygen", "-lf", "-"], input=line, capture_output=True, text=True, check=True)
        return shown.stdout.split()[1]


def commit(board: Board, *changes: tuple[str, ...], check: bool = True) -> str:
    """Commit changes, each a verb and its words, through the console's own code; returns its output."""
    rows = ", ".join(f"Change({words[0]!r}, {words[1:]!r})" for words in changes)
    imports = "from console.commands.one_commit import *; from console.client import Client"
    text = f"{imports}; apply(Client(), [{rows}], 'test')"
    # the last line has the reason of a failure
    result = board_console.code(board, text, 120, check)
    return "\n".join(result.output.splitlines()[-1:])


def log_in(board: Board, user: str, password: str) -> None:
    """Log in at the login prompt of the serial line."""
    board.console.expect("login: ")
    board.console.sendline(user)
    board.console.expect("Password: ")
    board.console.sendline(password)
