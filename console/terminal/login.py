# SPDX-License-Identifier: GPL-2.0-only
"""The login on the console (serial line): user name and password, then a session with the rights of that user.

Runs as root, before any session, and works without bypassd. The banner with the state of the relay precedes each login
prompt. After a session ends, by `exit` or by the idle timeout, init starts the next one here.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Final

from appliance.access.groups import GROUPS
from appliance.access.serial_login import Account, Gate, note, read
from appliance.errors import BypassError
from appliance.paths import Paths
from appliance.system import password
from console.session import Context
from console.terminal.banner import greet
from console.terminal.door import ask
from console.terminal.prompt import Asker

PASSWORD_S: Final = 60  # timeout of the password prompt
FIRST_WAIT, LAST_WAIT = 1.0, 30.0  # delay in seconds after a wrong password; doubles each time
GREETED: Final = "BYPASS_GREETED"
"""Set in the environment of a session whose banner was printed above its login."""


class Login:
    """The login prompts of one line. `fits` compares a password with a hash, `log` records (kind, user), `remote` asks
    the servers about a name that is not in the configuration: users that are log in without any server."""

    def __init__(
        self,
        gate: Gate,
        asker: Asker,
        fits: Callable[[str, str], bool],
        log: Callable[[str, str], None],
        remote: Callable[[str, str], Account | None] = lambda _, __: None,
    ) -> None:
        self._gate, self._asker, self._fits, self._log = gate, asker, fits, log
        self._remote = remote
        self._wait = FIRST_WAIT

    def ask(self, host: str) -> Account | None:
        """Ask once. None: no login; after a wrong password the delay has passed. EOFError: end of input."""
        with suppress(TimeoutError):
            name = self._asker.line(f"{host} login")
            if not name:
                return None
            with _limit(PASSWORD_S):
                typed = self._asker.secret("Password")
            account = self._gate.accounts.get(name)
            # an unknown user name takes as long as a known one
            made = account.password if account else next(iter(self._gate.accounts.values())).password
            if self._fits(typed, made) and account is not None:
                self._log("login", name)
                return account
            if account is None and self._gate.servers and (account := self._remote(name, typed)) is not None:
                self._log("login", name)
                return account
            account = self._gate.accounts.get(name)
            # an unknown name is not logged: it may be a password typed at the wrong prompt
            self._log("failed", name if account else "")
            time.sleep(self._wait)
            self._wait = min(2 * self._wait, LAST_WAIT)
            self._asker.say("Login incorrect.")
        return None


class _limit:
    """Raise TimeoutError in the block after this many seconds."""

    def __init__(self, seconds: int) -> None:
        self._seconds = seconds

    def __enter__(self) -> None:
        def late(_: int, __: FrameType | None) -> None:
            raise TimeoutError

        self._before = signal.signal(signal.SIGALRM, late)
        signal.alarm(self._seconds)

    def __exit__(self, *_: object) -> None:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, self._before)


def environment(account: Account, now: Mapping[str, str]) -> dict[str, str]:
    """The environment of the session: the user and the terminal, nothing else of root's."""
    kept = {key: now[key] for key in ("TERM", "LC_ALL", "PATH", "NO_COLOR") if key in now}
    home = account.home or str(Paths().state / "home" / account.name)
    return {**kept, "HOME": home, "USER": account.name, "LOGNAME": account.name, GREETED: "1"}


def become(account: Account) -> None:
    """Drop root permanently and become this user."""
    group = GROUPS["bypass"]
    os.setgroups([group, GROUPS[f"bypass-{account.role}"]])
    os.setresgid(group, group, group)
    os.setresuid(account.uid, account.uid, account.uid)


def banner(folder: Path) -> str:
    """The text that is shown before a login; empty where there is none (appliance/access/ssh.py writes it)."""
    for path in folder.glob("banner-*"):
        with suppress(OSError):
            return path.read_text(encoding="utf-8", errors="replace").rstrip("\n")
    return ""


def serve(context: Context) -> None:
    """Print the banner. Return if the line needs no login; else ask until a user logs in, and become that session."""
    memory, log = Paths().state / "access.json", Paths().root / "run/log/serial.log"
    login: Login | None = None
    seen: Gate | None = None
    while True:
        found = read(memory)
        if found.why_open:
            greet(context)
            if found.accounts:
                context.say(f"No login required on this line: {found.why_open}.")
            return
        if login is None or found != seen:  # first round, or accounts have changed
            asker = Asker(out=context.out)
            login = Login(
                found,
                asker,
                _fits,
                lambda kind, user: note(log, kind, user, os.getpid()),
                partial(ask, Paths().run / "access/door"),
            )
            seen = found
        greet(context, hint="")
        for line in banner(Paths().run / "access").splitlines():
            context.say(line)
        try:
            if found.why_closed:
                context.say(f"Nobody can log in: {found.why_closed}")
                asker.line("Press Enter to check again")
                continue
            account = login.ask(socket.gethostname())
        except EOFError:
            raise SystemExit(0) from None  # Ctrl-D or a disconnected line: init starts the next one
        if account is None or read(memory) != found:  # the account may have changed meanwhile
            continue
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        become(account)
        with suppress(OSError):
            os.chdir(Path(environment(account, {})["HOME"]))
        program = "/usr/bin/bypass"
        os.execve(program, [program], environment(account, os.environ))


def _fits(typed: str, made: str) -> bool:
    try:
        return password.fits(typed, made)
    except (BypassError, ValueError):
        return False
