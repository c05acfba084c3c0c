# SPDX-License-Identifier: GPL-2.0-only
"""The machine itself: reboot and poweroff. Pure."""

from __future__ import annotations

from typing import Any

from console.render import BOLD, PLAIN, Style, cell, duration, generic, paint
from console.views.common import clock, hang, rows_of

_CANCEL = {"reboot": "`reboot cancel`", "poweroff": "`poweroff cancel`"}


def plan(data: Any, style: Style = PLAIN) -> str:
    """What a reboot or poweroff means, before it is asked for."""
    if not isinstance(data, dict):
        return generic(data, style)
    lines = [f"{cell(data.get('action')).capitalize()} of the appliance:"]
    for row in rows_of(data, "links"):
        lines += hang(f"  segment {cell(row.get('segment'))}: {cell(row.get('traffic'))}", style)
    for key, said in (("guests", "guests that are powered down"), ("sessions", "sessions that end")):
        if data.get(key):
            lines += hang(f"  {said}: {cell(data[key])}", style)
    for text in data.get("warnings") or ():
        lines += hang(f"  warning: {cell(text)}", style)
    return "\n".join(lines)


def due(power: Any) -> str:
    """`reboot in 4 min 10 s`, from status.show; empty when nothing is due."""
    if not isinstance(power, dict) or power.get("state", "none") == "none":
        return ""
    if power["state"] == "running":
        return f"{cell(power.get('action'))} is under way"
    return f"{cell(power.get('action'))} in {duration(power.get('seconds_left'))}"


def order(data: Any, style: Style = PLAIN) -> str:
    """`show reboot`."""
    if not isinstance(data, dict):
        return generic(data, style)
    if data.get("state") == "none":
        return "no reboot or poweroff is due"
    action, user = cell(data.get("action")), cell(data.get("user"))
    if data.get("state") == "running":
        return f"{paint(action, BOLD, style)} by order of {user} is under way"
    when = f"in {duration(data.get('seconds_left'))}, at {clock(data.get('when'))}"
    return f"{paint(action, BOLD, style)} {when}, by order of {user}; {_CANCEL.get(action, 'cancel')} withdraws it"
