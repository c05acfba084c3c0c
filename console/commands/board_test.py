# SPDX-License-Identifier: GPL-2.0-only
"""`board test`: says what it does, asks, tries the board and writes a report.

On a terminal it asks unless `now` is given; without one `now` is required: a script must not move relays by accident.
"""

from __future__ import annotations

from pathlib import Path

from appliance.errors import RefusedError
from console.commands.private_file import to_file, whole
from console.line.outcome import Outcome
from console.line.parse import Parsed
from console.session import Context
from console.terminal.prompt import Asker
from console.views.relays import report

MEANING = """\
- Every relay moves to bypass, inline and back, and to disconnect where the board has it: each link is interrupted \
for some seconds.
- The status LED blinks for five seconds: look at it.
- The watchdog is not provoked: `drill run watchdog` does that, and resets the machine."""


def board_test(parsed: Parsed, context: Context) -> Outcome:
    """`board test [FILE] [now]`."""
    name = to_file(parsed.args.get("FILE", ""))
    asker = Asker(style=context.style)
    if "now" not in parsed.options:
        if not asker.terminal:
            raise RefusedError("`board test now` does it without asking")
        asker.say(MEANING)
        try:
            agreed = asker.yes("Test the board?", False)
        except (EOFError, KeyboardInterrupt):
            asker.say()
            agreed = False
        if not agreed:
            raise RefusedError("test cancelled")
    if asker.terminal:
        asker.say("Testing: the relays one after the other, then the LED (5 s), then the ports ...")
    found = context.client.call("board.test", {}, 300.0)
    if not name:
        return Outcome(found, "board-test")
    with whole(Path(name)) as out:
        out.write(report(found).encode())
    context.say(f"{name}: {'nothing failed' if found['passed'] else 'FAILED: see the report'}")
    return Outcome([], "lines")
