# SPDX-License-Identifier: GPL-2.0-only
"""`reboot` and `poweroff`: say what they mean for traffic, guests and users, ask, then order them.

On a terminal every form but `now` asks. Without one, `now`, `in` or `at` is required: a script must not reboot by
accident. Where bypassd does not answer, whoever is at the console has init do it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Any

from appliance.errors import RefusedError, UnreachableError
from console.line.outcome import Outcome
from console.line.parse import Parsed, seconds
from console.session import Context
from console.terminal.prompt import Asker
from console.views.machine import plan

ERASED = "configuration, users, host keys, history, logs, crash records, files of users"
ANSWER_S = 20.0
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_SCRIPTS = {
    "reboot": "`reboot now` does it without asking; `reboot in 10min` and `reboot at 03:30` later",
    "poweroff": "`poweroff now` does it without asking; `poweroff in 10min` and `poweroff at 03:30` later",
}


def power(parsed: Parsed, context: Context) -> Outcome:
    """`reboot [now | in TIME | at WHEN]`, and the same with `poweroff`."""
    action, *how = (word for word in parsed.command.words if isinstance(word, str))
    params: dict[str, object] = {"action": action}
    if "TIME" in parsed.args:
        params["in_s"] = seconds(parsed.args["TIME"], parsed.args.get("UNIT", ""))
    if "WHEN" in parsed.args:
        params["at"] = parsed.args["WHEN"]
    if "force" in parsed.options:
        params["force"] = True
    asker = Asker(style=context.style)
    if not how and not asker.terminal:
        raise RefusedError(_SCRIPTS[action])
    asks = asker.terminal and how != ["now"]
    try:
        if asks and not _agreed(action, asker, context, context.client.call("power.plan", {"action": action})):
            raise RefusedError(f"{action} cancelled")
        return Outcome(context.client.call("power.order", params, ANSWER_S), "done")
    except UnreachableError as error:
        return Outcome(_through_init(action, asker, str(error), later=bool(how) and how != ["now"]), "done")


def _agreed(action: str, asker: Asker, context: Context, meaning: dict[str, Any]) -> bool:
    asker.say(plan(meaning, context.style))
    try:
        return asker.yes(f"{action.capitalize()}?", False)
    except (EOFError, KeyboardInterrupt):
        asker.say()
        return False


def _through_init(action: str, asker: Asker, why: str, *, later: bool) -> dict[str, str]:
    """Without bypassd the keeper still closes the relays first, when init ends it (rootfs/etc/init.d/rcK)."""
    program = shutil.which(action, path=PATH)
    at_the_console = os.getuid() == 0 and "BYPASS_SERIAL" in os.environ  # no other computer is ever meant
    if not at_the_console or later or program is None:
        raise UnreachableError(f"{why}; on a console without a login {action} works without bypassd")
    asker.say(f"{why}.\nWithout bypassd init closes the relays, ends the guests and does the {action}.")
    if asker.terminal and not asker.yes(f"{action.capitalize()}?", False):
        raise RefusedError(f"{action} cancelled")
    subprocess.run([program], check=True)
    return {"message": f"{action}: under way"}


def factory_reset(parsed: Parsed, context: Context) -> Outcome:
    """`factory-reset [all | keep-images]`: ask what to keep, and whether; then reboot, which erases it."""
    asker = Asker(style=context.style)
    what = parsed.args.get("WHAT", "")
    if not asker.terminal and not (what and "now" in parsed.options):
        raise RefusedError("`factory-reset keep-images now` and `factory-reset all now` do it without asking")
    if "now" not in parsed.options:
        what = _what(asker, context, what)
    params: dict[str, object] = {"action": "reboot", "reset": what}
    return Outcome(context.client.call("power.order", params, ANSWER_S), "done")


def _what(asker: Asker, context: Context, what: str) -> str:
    host = str(context.client.call("status.show").get("hostname", "")) or "bypass"
    meaning = context.client.call("power.plan", {"action": "reboot"})
    try:
        if not what:
            what = "keep-images" if asker.yes("Keep the guest images?", True) else "all"
        asker.say(plan(meaning, context.style))
        asker.say(f"The next start erases {ERASED}{', guest images' if what == 'all' else ''}. It cannot be undone.")
        if asker.line(f"Type the name of the appliance ({host}) to erase it") == host:
            return what
    except (EOFError, KeyboardInterrupt):
        asker.say()
    raise RefusedError("factory reset cancelled")
