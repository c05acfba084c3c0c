# SPDX-License-Identifier: GPL-2.0-only
"""The first lines of a session, and the state in each prompt.

Apart from the shell, because the line editor takes seconds to import on a small board, and whoever logs in at night
should read BYPASS before that.
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

WAIT = 3.0  # seconds that a hung daemon may delay a login
BOOT_S = 60.0  # a machine that has been up for less is still starting
START_WAIT = 20.0  # seconds that a starting daemon may delay the first login
ASK_AGAIN = 0.3


def greet(context: Context, hint: str = "Type ? for help.") -> None:
    """Name, version and state, or why the state is not known; below it what to do now."""
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
    """Just after the machine's start bypassd is on its way: say so, and wait for it instead of raising an alarm."""
    if time.clock_gettime(time.CLOCK_BOOTTIME) > BOOT_S:
        return ""
    print("The appliance is starting; the link is in bypass until it has proved itself.", file=context.out, flush=True)
    deadline = time.monotonic() + START_WAIT
    while time.monotonic() < deadline:
        time.sleep(ASK_AGAIN)  # there is no socket yet on which to wait for one
        try:
            return _state(context)
        except UnreachableError:
            continue
        except BypassError as error:
            return _unknown(context, error)
    return ""


def prompt_state(status: Any) -> tuple[str, bool]:
    """(text, is it alarming) for the prompt, from status.show."""
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
