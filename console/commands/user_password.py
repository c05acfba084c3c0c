# SPDX-License-Identifier: GPL-2.0-only
"""`user NAME password`: asks twice, hashes here, and commits the hash; the new password itself goes nowhere.

Administrators set anybody's. Everybody else may change the own one, and is asked for the present one first.
"""

from __future__ import annotations

import os
import pwd

from appliance.access.groups import GROUPS
from appliance.errors import RefusedError
from appliance.system import password
from console.commands.one_commit import COMMIT_WAIT, Change, apply, running
from console.line.outcome import Outcome
from console.line.parse import Parsed
from console.session import Context
from console.terminal.prompt import Asker

TRIES = 3


def ask_password(asker: Asker, name: str, question: str = "New password") -> str:
    """The hash of a password that was typed twice alike. RefusedError after three tries."""
    with asker.unseen():
        for _ in range(TRIES):
            first = asker.secret(question)
            if why := password.trouble(first, name):
                if not asker.terminal:
                    raise RefusedError(why)
                asker.say(f"Not taken: {why}.")
                continue
            if asker.terminal and asker.secret("The same again") != first:
                asker.say("The two differ.")
                continue
            return password.hashed(first, name)
    raise RefusedError("no password was set")


def user_password(parsed: Parsed, context: Context) -> Outcome:
    """`user NAME password`."""
    name = parsed.args["NAME"]
    if name == _own_name() and not _administrator():
        return _own_password(name, context)
    users = [str(user.get("name")) for user in running(context.client).get("user", [])]
    if name not in users:
        there = ", ".join(users) or "none"
        raise RefusedError(f'there is no user "{name}" (there is: {there}); configure, set user {name} role admin')
    made = ask_password(Asker(), name)
    done = apply(context.client, [Change("set", ("user", name, "password", made))], f"password of {name}")
    return Outcome({"message": f"password of {name} set; {done.get('message', '')}"}, "done")


def _own_password(name: str, context: Context) -> Outcome:
    asker = Asker()
    with asker.unseen():
        present = asker.secret("Present password")
        made = ask_password(asker, name)
    done = context.client.call("user.password", {"present": present, "password": made}, COMMIT_WAIT)
    return Outcome({"message": f"password of {name} set; {done.get('message', '')}"}, "done")


def _own_name() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return ""


def _administrator() -> bool:
    """As the control socket sees it."""
    return os.getuid() == 0 or GROUPS["bypass-admin"] in os.getgroups()
