# SPDX-License-Identifier: GPL-2.0-only
"""The first lines of a session, and the state in each prompt.

Apart from the shell, because the line editor takes seconds to import on a small board, and whoever logs in at night
should read BYPASS before that.
"""

from __future__ import annotations

import socket
from typing import Any

from appliance.errors import BypassError
from console.execute import Context
from console.render import cell
from console.views.common import alarm
from console.views.state import banner, relay_word

WAIT = 3.0  # seconds that a hung daemon may delay a login


def greet(context: Context) -> None:
    """Name, version and state, or why the state is not known."""
    try:
        status = context.client.call("status.show", wait=WAIT)
        text = banner(status, context.style) if isinstance(status, dict) else ""
    except BypassError as error:
        text = f"{cell(socket.gethostname())}\n{alarm([cell(error)], context.style, 'STATE UNKNOWN')}"
    print(f"{text}\nType ? for help.", file=context.out, flush=True)


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
