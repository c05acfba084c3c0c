# SPDX-License-Identifier: GPL-2.0-only
"""Puts the part "access" together and offers its methods: events, management, sessions.

Called once by the supervisor; everything made here lives as long as bypassd.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from appliance.api.rpc import Param, Params
from appliance.api.schema import methods, state
from appliance.api.schema.access import Management, Session
from appliance.api.schema.base import Done
from appliance.management.manager import Access
from appliance.supervisor.metrics import collect
from appliance.support.service import Support
from appliance.telemetry.metrics_server import Endpoint
from appliance.telemetry.subject import Severity
from appliance.telemetry.syslog import Syslog

if TYPE_CHECKING:
    from appliance.supervisor.supervisor import Supervisor

WORDS = tuple(severity.word for severity in Severity)


def compose(sup: Supervisor) -> Access:
    """The part, wired to the events and the control socket."""
    sup.events.listen(lambda event: sup.control.publish(methods.EVENT, event.answer()))
    space = sup.lan.space
    access = Access(
        sup.config,
        sup.board,
        sup.paths,
        sup.events,
        lan=sup.lan,
        endpoint=Endpoint(lambda: collect(sup), space),
        syslog=Syslog(sup.events, space, socket.gethostname, os.getpid()),
        opened=sup.control.open_to_group,
    )
    _register(sup, access)
    support = Support(sup.paths.run / "support", sup.paths.root, sup.registry, access.memory.secrets)
    sup.registry.add(methods.SUPPORT_BUNDLE, support.bundle, "operator", "collect everything that explains the state")
    return access


def _register(sup: Supervisor, access: Access) -> None:
    async def events(params: Params) -> list[state.Event]:
        count = int(params.get("count", 200))
        severity = Severity[str(params.get("severity", "info")).upper()]
        return [event.answer() for event in sup.events.newest(count if count > 0 else None, severity)]

    async def management(_: Params) -> Management:
        return access.show()

    async def sessions(_: Params) -> list[Session]:
        return access.logins.sessions.show()

    async def unblock(params: Params) -> Done:
        return Done(f"{await access.logins.unblock(str(params['address']))} may log in again")

    add = sup.registry.add
    count = Param("integer", "how many, the newest; 0: all in memory", required=False)
    least = Param("string", "this and what is worse", required=False, choices=WORDS)
    add(methods.EVENTS_SHOW, events, doc="events with cause and severity", params={"count": count, "severity": least})
    add(methods.MANAGEMENT_SHOW, management, doc="management port, SSH, users, metrics, syslog")
    add(methods.SESSIONS_SHOW, sessions, doc="who is logged in over SSH")
    address = {"address": Param("string", "an address that is shut out")}
    add(methods.MANAGEMENT_UNBLOCK, unblock, "admin", "let an address in again after failed logins", address)
