# SPDX-License-Identifier: GPL-2.0-only
"""The banner at the start of a session, and the state in each prompt.

Separate from the shell, because the line editor takes seconds to import on a small board, and BYPASS must be readable
before that.
"""

from __future__ import annotations

import socket
import time
from typing import Any

from appliance.errors import BypassError, UnreachableError
from console.render import cell
from console.session import Context
from console.views.common import alarm
from console.views.state import banner, relay_word

WAIT = 3.0  # maximum seconds that a hung daemon delays a login
BOOT_S = 60.0  # a machine with a shorter uptime counts as starting
START_WAIT = 20.0  # maximum seconds that a starting daemon delays the first login
ASK_AGAIN = 0.3


def greet(context: Context, hint: str = "Type ? for help.") -> None:
    """Print name, version and state, or why the state is unknown; below it a hint."""
    try:
        text = _state(context)
    except UnreachableError as error:
        text = _await_start(context) or _unknown(context, error)
    except BypassError as error:
        text = _unknown(context, error)
    print(f"{text}\n{hint}" if hint else text, file=context.out, flush=True)


def _state(context: Context) -> str:
    status = context.client.call("status.show", wait=WAIT)
    return banner(status, context.style) if isinstance(status, dict) else ""


def _unknown(context: Context, error: BypassError) -> str:
    return f"{cell(socket.gethostname())}\n{alarm([cell(error)], context.style, 'STATE UNKNOWN')}"


def _await_start(context: Context) -> str:
    """Shortly after boot bypassd is still starting: say so and wait for it instead of raising an alarm."""
    if time.clock_gettime(time.CLOCK_BOOTTIME) > BOOT_S:
        return ""
    print("The appliance is starting; segments stay in bypass until they are verified.", file=context.out, flush=True)
    deadline = time.monotonic() + START_WAIT
    while time.monotonic() < deadline:
        time.sleep(ASK_AGAIN)  # no event reports that the socket exists
        try:
            return _state(context)
        except UnreachableError:
            continue
        except BypassError as error:
            return _unknown(context, error)
    return ""


def prompt_state(status: Any) -> tuple[str, bool]:
    """(text, whether it is an alarm) for the prompt, from status.show."""
    rows = status.get("segments") if isinstance(status, dict) else None
    rows = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    if not rows:
        return "no segment", True
    others = [row for row in rows if row.get("relay") != "inline"]
    if not others:
        return "inline", False
    if len(rows) == 1:
        return relay_word(rows[0].get("relay")), True
    return " ".join(f"{cell(row.get('name'))}:{relay_word(row.get('relay'))}" for row in others), True
