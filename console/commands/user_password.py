# SPDX-License-Identifier: GPL-2.0-only
"""`user NAME password`: ask twice, hash here, commit the hash; the new password itself never leaves this process.

Administrators may set any user's password. All others may change their own, after entering the current one.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager

from appliance.access.groups import GROUPS
from appliance.errors import RefusedError
from appliance.system import password
from console.commands.one_commit import COMMIT_WAIT, Change, apply, running
from console.line.outcome import Outcome
from console.line.parse import Parsed
from console.session import Context
from console.terminal.prompt import Asker

TRIES = 3


@contextmanager
def _given() -> Iterator[None]:
    """RefusedError where standard input ends before a password; nothing is changed then."""
    try:
        yield
    except EOFError:
        raise RefusedError("no password was given: standard input ended; nothing was changed") from None


def ask_password(asker: Asker, name: str, question: str = "New password") -> str:
    """The hash of a password that was typed twice. RefusedError after three tries."""
    with asker.unseen(), _given():
        for _ in range(TRIES):
            first = asker.secret(question)
            if why := password.trouble(first, name):
                if not asker.terminal:
                    raise RefusedError(why)
                asker.say(f"Invalid: {why}.")
                continue
            if asker.terminal and asker.secret("Confirm password") != first:
                asker.say("Passwords do not match.")
                continue
            return password.hashed(first, name)
    raise RefusedError(f"no password set after {TRIES} attempts")


def user_password(parsed: Parsed, context: Context) -> Outcome:
    """`user NAME password`."""
    name = parsed.args["NAME"]
    if name == _own_name() and not _administrator():
        return _own_password(name, context)
    users = [str(user.get("name")) for user in running(context.client).get("user", [])]
    if name not in users:
        there = ", ".join(users) or "none"
        raise RefusedError(
            f'no user is named "{name}" (users: {there}); to add it: configure set user {name} role admin'
        )
    made = ask_password(Asker(), name)
    done = apply(context.client, [Change("set", ("user", name, "password", made))], f"password of {name}")
    return Outcome({"message": f"password of {name} changed; {done.get('message', '')}"}, "done")


def _own_password(name: str, context: Context) -> Outcome:
    asker = Asker()
    with asker.unseen(), _given():
        present = asker.secret("Current password")
        made = ask_password(asker, name)
    done = context.client.call("user.password", {"present": present, "password": made}, COMMIT_WAIT)
    return Outcome({"message": f"password of {name} changed; {done.get('message', '')}"}, "done")


def _own_name() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return ""


def _administrator() -> bool:
    """Whether the control socket treats this user as an administrator."""
    return os.getuid() == 0 or GROUPS["bypass-admin"] in os.getgroups()
