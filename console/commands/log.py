# SPDX-License-Identifier: GPL-2.0-only
"""`show log [SOURCE] [lines N] [match PATTERN] [follow]`: the end of a log, and what is added to it until Ctrl-C.

The pattern is applied here: it is the user's own time that a bad one costs. While it follows, a bypassd that is being
restarted is waited for, because its log is most wanted then.
"""

from __future__ import annotations

import re
import select
from collections.abc import Callable
from typing import Any

from appliance.errors import UnreachableError
from console.line.outcome import Outcome
from console.line.parse import Parsed, UsageError
from console.session import Context
from console.terminal.interrupt import Interrupt
from console.views.common import log_lines

LINES, SEARCHED = 40, 5000
LOOK_S = 0.5


def log(parsed: Parsed, context: Context) -> Outcome:
    """`show log`."""
    params: dict[str, object] = {"source": parsed.args.get("SOURCE", "supervisor")}
    if "NAME" in parsed.args:
        params = {"source": "guest", "guest": parsed.args["NAME"]}
    wanted = _matcher(parsed.options.get("match", [""])[0])
    count = int(parsed.options["lines"][0]) if "lines" in parsed.options else LINES
    found = context.client.call("log.show", {**params, "lines": SEARCHED if "match" in parsed.options else count}, 10.0)
    shown = [line for line in found["lines"] if wanted(line)][-count:]
    if "follow" not in parsed.options:
        return Outcome({**found, "lines": shown} if "--json" in parsed.options else shown,
                       "generic" if "--json" in parsed.options else "log-lines")  # fmt: skip
    if "--json" in parsed.options or parsed.pipes:
        raise UsageError("`follow` prints lines as they come: use `match PATTERN`, and neither --json nor a pipe")
    _print(context, shown)
    _follow(context, params, str(found["cursor"]), wanted)
    return Outcome([], "lines")


def _follow(context: Context, params: dict[str, object], cursor: str, wanted: Callable[[str], bool]) -> None:
    gone = False
    with Interrupt() as stop:
        while not select.select([stop], [], [], LOOK_S)[0]:
            try:
                found: dict[str, Any] = context.client.call("log.show", {**params, "lines": SEARCHED, "after": cursor})
            except UnreachableError as error:
                if not gone:
                    context.say(f"waiting: {error}")
                gone = True
                continue
            gone, cursor = False, str(found["cursor"])
            if found["lost"]:
                context.say("lines are missing here: the log was emptied, or grew faster than it is read")
            _print(context, [line for line in found["lines"] if wanted(line)])


def _print(context: Context, lines: list[str]) -> None:
    if lines:
        print(log_lines(lines, context.style), file=context.out, flush=True)


def _matcher(pattern: str) -> Callable[[str], bool]:
    try:
        found = re.compile(pattern, re.IGNORECASE)
    except re.error as error:
        raise UsageError(f'"{pattern}" is not a valid regular expression: {error}') from error
    return lambda line: bool(found.search(line))
