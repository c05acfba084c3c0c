# SPDX-License-Identifier: GPL-2.0-only
"""The presentation of each kind of data: columns, words, alarms. Pure.

A view accepts whatever a handler returned: data of an unexpected shape is shown generically, never refused. There is
one module per topic; a new view is a function in one of them and a line in `_WHERE`.
"""

from __future__ import annotations

import importlib
from typing import Any

from console.render import PLAIN, Style, generic

# view in the command table -> function. Modules are imported on demand: one-shot commands must start quickly.
_WHERE: dict[str, str] = {
    "status": "state.status",
    "segments": "state.segments",
    "board-test": "relays.board_test",
    "relays": "relays.table_of_all",
    "transitions": "state.transitions",
    "crash": "crashes.reports",
    "boots": "crashes.boots",
    "drills": "drills.drills",
    "guests": "guests.table_of_all",
    "guest": "guests.one",
    "remotes": "remotes.table_of_all",
    "remote": "remotes.one",
    "serves": "remotes.table_of_served",
    "serve": "remotes.serve",
    "images": "guests.images",
    "guest-log": "guests.log",
    "incidents": "incidents.table_of_all",
    "incident": "incidents.one",
    "quarantine": "incidents.quarantine",
    "shunts": "shunts.table_of_all",
    "groups": "traffic.groups",
    "mirrors": "traffic.mirrors",
    "canary": "canary.compared",
    "rules": "traffic.rules",
    "rules-detail": "traffic.rules_detail",
    "counters": "traffic.counters",
    "explain": "traffic.explain",
    "management": "access.management",
    "sessions": "access.sessions",
    "events": "access.events",
    "packets": "traffic.packets",
    "traffic-compared": "configuration.traffic",
    "config-compare": "configuration.compare",
    "config-changed": "configuration.changed",
    "config-check": "configuration.check",
    "config-commit": "configuration.commit",
    "config-found": "configuration.found",
    "config-history": "configuration.history",
    "config-status": "configuration.status",
    "clock": "machine.clock",
    "aaa": "aaa.aaa",
    "aaa-test": "aaa.tried",
    "lldp": "access.lldp",
    "snmp": "snmp.snmp",
    "ports": "ports.table_of_all",
    "port": "ports.one",
    "reach-ping": "machine.ping",
    "system": "machine.system",
    "licences": "machine.licences",
    "licence": "machine.licence",
    "power-plan": "machine.plan",
    "power-order": "machine.order",
    "done": "common.done",
    "lines": "common.lines",
    "log-lines": "common.log_lines",
    "json": "common.as_json",
}


def render(view: str, data: Any, style: Style = PLAIN) -> str:
    """`data` as text in this view, without a trailing newline."""
    if view not in _WHERE:
        return generic(data, style)
    module, _, function = _WHERE[view].partition(".")
    text: str = getattr(importlib.import_module(f"console.views.{module}"), function)(data, style)
    return text
