# SPDX-License-Identifier: GPL-2.0-only
"""What each kind of data looks like: which columns, in which words, and what must not be missed. Pure.

A view takes what a handler returned, whatever it is: data of an unexpected shape is shown as it is, never refused.
One module a topic; a new view is a function in one of them and a line in `_WHERE`.
"""

from __future__ import annotations

import importlib
from typing import Any

from console.render import PLAIN, Style, generic

# view of the command table -> function. A module is imported when it is needed: one-shot commands start quickly.
_WHERE: dict[str, str] = {
    "status": "state.status",
    "segments": "state.segments",
    "transitions": "state.transitions",
    "crash": "state.crash",
    "guests": "guests.table_of_all",
    "guest": "guests.one",
    "images": "guests.images",
    "guest-log": "guests.log",
    "incidents": "incidents.table_of_all",
    "incident": "incidents.one",
    "quarantine": "incidents.quarantine",
    "rules": "traffic.rules",
    "counters": "traffic.counters",
    "explain": "traffic.explain",
    "management": "access.management",
    "sessions": "access.sessions",
    "events": "access.events",
    "packets": "traffic.packets",
    "config-compare": "configuration.compare",
    "config-changed": "configuration.changed",
    "config-check": "configuration.check",
    "config-commit": "configuration.commit",
    "config-found": "configuration.found",
    "config-history": "configuration.history",
    "config-status": "configuration.status",
    "done": "common.done",
    "lines": "common.lines",
}


def render(view: str, data: Any, style: Style = PLAIN) -> str:
    """`data` as the view shows it, without a newline at the end."""
    if view not in _WHERE:
        return generic(data, style)
    module, _, function = _WHERE[view].partition(".")
    text: str = getattr(importlib.import_module(f"console.views.{module}"), function)(data, style)
    return text
