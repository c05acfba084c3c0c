# SPDX-License-Identifier: GPL-2.0-only
"""`guest NAME start|stop|restart`: give the order, and with --wait follow the guest until it is carried out.

What happens is heard from bypassd, not asked for again and again; Ctrl-C ends the waiting, not the order.
"""

from __future__ import annotations

import select
import time
from typing import Any, Final

from appliance.errors import RefusedError
from console.client import Client, Follow
from console.line.outcome import Outcome
from console.line.parse import Parsed, UsageError, seconds
from console.render import cell
from console.session import Context

WAIT_S: Final = 120.0  # longer than a guest takes to power down before it is killed
_DONE: Final = {
    "start": ("available", "overloaded"),
    "restart": ("available", "overloaded"),
    "stop": ("stopped", "defined"),
}
_FAILED: Final = ("failed",)


def order(parsed: Parsed, context: Context) -> Outcome:
    """The order; with `--wait` the state that it led to."""
    name, verb = parsed.args["NAME"], str(parsed.command.words[2])
    longest = parsed.options.get("--timeout")
    if longest is not None and "--wait" not in parsed.options:
        raise UsageError("--timeout has a meaning with --wait only")
    if "--wait" not in parsed.options:
        return Outcome(context.client.call(f"guest.{verb}", {"name": name}, WAIT_S), "done")
    follow = context.client.follow(["transition"])  # before the order, so that nothing is missed
    try:
        said = context.client.call(f"guest.{verb}", {"name": name}, WAIT_S)
        context.say(cell(said.get("message")))
        limit = float(seconds(longest[0])) if longest else WAIT_S
        guest = _until(verb, name, context.client, follow, time.monotonic() + limit)
    finally:
        follow.close()
    state = str(guest.get("state"))
    if state not in _DONE[verb]:
        why = cell(guest.get("detail") or guest.get("cause"))
        late = "" if state in _FAILED else f" after {limit:g} s"
        raise RefusedError(f"guest {name} is {state}{late}: {why}", f"`show guest {name}` has its checks")
    return Outcome({"message": f"guest {name} is {state}", "name": name, "state": state}, "done")


def _until(verb: str, name: str, client: Client, follow: Follow, deadline: float) -> dict[str, Any]:
    """The guest when the order is carried out or has failed, or at the deadline (monotonic, seconds)."""
    while True:
        guest: dict[str, Any] = client.call("guest.show", {"name": name})
        left = deadline - time.monotonic()
        if guest.get("state") in (*_DONE[verb], *_FAILED):
            return guest
        if left <= 0 or not select.select([follow], [], [], left)[0]:
            return guest
        follow.read()
