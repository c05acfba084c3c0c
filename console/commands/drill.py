# SPDX-License-Identifier: GPL-2.0-only
"""`drill run` and `drill answer`: say what a drill means, ask, then order it.

On a terminal it asks unless `now` is given; without one `now` is required: a script must not drill by accident.
"""

from __future__ import annotations

from appliance.errors import RefusedError
from console.line.outcome import Outcome
from console.line.parse import Parsed
from console.session import Context
from console.terminal.prompt import Asker
from console.views.drills import plan

_SCRIPTS = {
    "relay": "`drill run relay now` does it without asking",
    "watchdog": "`drill run watchdog now` does it without asking",
    "power": "`drill run power now` does it without asking",
}


def run(parsed: Parsed, context: Context) -> Outcome:
    """`drill run KIND [--segment NAME] [now]`."""
    kind = parsed.args["KIND"]
    params: dict[str, object] = {"kind": kind}
    if segments := parsed.options.get("--segment"):
        params["segment"] = segments[0]
    asker = Asker(style=context.style)
    if "now" not in parsed.options:
        if not asker.terminal:
            raise RefusedError(_SCRIPTS[kind])
        meaning = context.client.call("drill.plan", params)
        asker.say(plan(meaning))
        try:
            agreed = asker.yes(f"Begin the {kind} drill?", False)
        except (EOFError, KeyboardInterrupt):
            asker.say()
            agreed = False
        if not agreed:
            raise RefusedError("drill cancelled")
    return Outcome(context.client.call("drill.run", params), "done")


def answer(parsed: Parsed, context: Context) -> Outcome:
    """`drill answer passed | failed`."""
    return Outcome(context.client.call("drill.answer", {"passed": parsed.args["WHAT"] == "passed"}), "done")
