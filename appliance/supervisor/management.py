# SPDX-License-Identifier: GPL-2.0-only
"""Puts the part "access" together and offers its methods: events, management, sessions.

Called once, when the part's turn comes; everything made here lives as long as bypassd.
"""

from __future__ import annotations

import base64
import os
import socket

from appliance.api.rpc import Param, Params
from appliance.api.schema import methods, state
from appliance.api.schema.access import HostKeys, Management, Session
from appliance.api.schema.base import Done
from appliance.counted import counted
from appliance.errors import RefusedError
from appliance.management.manager import Access
from appliance.supervisor.metrics import collect
from appliance.supervisor.system import System
from appliance.support.service import Support
from appliance.telemetry.metrics_server import Endpoint
from appliance.telemetry.subject import Severity
from appliance.telemetry.syslog import Syslog

WORDS = tuple(severity.word for severity in Severity)


def compose(system: System) -> Access:
    """The part, wired to the events and the control socket."""
    system.events.listen(lambda event: system.control.publish(methods.EVENT, event.answer()))
    space = system.lan.space
    access = Access(
        system.config,
        system.board,
        system.paths,
        system.events,
        lan=system.lan,
        endpoint=Endpoint(lambda: collect(system), space),
        syslog=Syslog(system.events, space, socket.gethostname, os.getpid()),
        opened=system.control.open_to_group,
    )
    _register(system, access)
    support = Support(system.paths.run / "support", system.paths.root, system.registry, access.memory.secrets)
    add = system.registry.add
    add(methods.SUPPORT_BUNDLE, support.bundle, "operator", "collect everything that explains the state")
    return access


def _register(system: System, access: Access) -> None:
    async def events(params: Params) -> list[state.Event]:
        count = int(params.get("count", 200))
        severity = Severity[str(params.get("severity", "info")).upper()]
        return [event.answer() for event in system.events.newest(count if count > 0 else None, severity)]

    async def management(_: Params) -> Management:
        return await access.show()

    async def sessions(_: Params) -> list[Session]:
        return access.logins.sessions.show()

    async def unblock(params: Params) -> Done:
        return Done(f"{await access.logins.unblock(str(params['address']))} may log in again")

    async def keys(_: Params) -> HostKeys:
        found = await access.host_keys()
        return HostKeys([f"{name} {base64.b64encode(data).decode()}" for name, data in found.items()])

    async def replace_keys(params: Params) -> Done:
        pairs = (text.partition(" ") for text in params["keys"])
        try:
            found = {name: base64.b64decode(data, validate=True) for name, _, data in pairs}
        except ValueError as error:
            raise RefusedError(f"keys: not Base64: {error}") from error
        await access.replace_host_keys(found)
        return Done(f"{counted(len(found), 'SSH host key')} restored; new sessions see them")

    add = system.registry.add
    add(methods.HOST_KEYS_READ, keys, "admin", "the SSH host keys, private halves included, for a backup")
    given = {"keys": Param("array", "as host-keys.read gives them")}
    add(methods.HOST_KEYS_REPLACE, replace_keys, "admin", "use the SSH host keys of a backup", given)
    count = Param("integer", "how many, the newest; 0: all in memory", required=False)
    least = Param("string", "this and what is worse", required=False, choices=WORDS)
    add(methods.EVENTS_SHOW, events, doc="events with cause and severity", params={"count": count, "severity": least})
    add(methods.MANAGEMENT_SHOW, management, doc="management port, SSH, users, metrics, syslog")
    add(methods.SESSIONS_SHOW, sessions, doc="who is logged in over SSH")
    address = {"address": Param("string", "an address that is blocked")}
    add(methods.MANAGEMENT_UNBLOCK, unblock, "admin", "let an address in again after failed logins", address)
