# SPDX-License-Identifier: GPL-2.0-only
"""`test aaa USER`: ask for the password, then the servers, and tell what each said. Nobody is logged in."""

from __future__ import annotations

from appliance.errors import RefusedError
from console.line.outcome import GOOD, REFUSED, Outcome
from console.line.parse import Parsed
from console.session import Context
from console.terminal.prompt import Asker

WAIT_S = 60.0  # longer than bypassd asks servers


def test(parsed: Parsed, context: Context) -> Outcome:
    """`test aaa USER`. The exit code tells whether the user would get in by a server."""
    asker = Asker()
    try:
        with asker.unseen():
            password = asker.secret("Password")
    except EOFError:
        raise RefusedError("no password was given: standard input ended") from None
    found = context.client.call("aaa.test", {"user": parsed.args["USER"], "password": password}, WAIT_S)
    return Outcome(found, "aaa-test", GOOD if found.get("decision") == "accept" else REFUSED)
