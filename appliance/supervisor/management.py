# SPDX-License-Identifier: GPL-2.0-only
"""Assembles the part "access" and registers its methods: events, management, sessions.

Called once, when the part is due to start; everything created here lives as long as bypassd.
"""

from __future__ import annotations

import base64
import os
import socket
from pathlib import Path

from appliance.api.rpc import Param, Params, caller
from appliance.api.schema import methods, state
from appliance.api.schema.access import Aaa, AaaTest, HostKeys, Management, Session
from appliance.api.schema.base import Done
from appliance.api.schema.machine import Clock, Lldp, Snmp
from appliance.counted import counted
from appliance.errors import NotFoundError, RefusedError
from appliance.management.manager import Access
from appliance.management.reach import Reach
from appliance.supervisor.machine import Machine
from appliance.supervisor.metrics import collect
from appliance.supervisor.snmp_facts import facts
from appliance.supervisor.system import System
from appliance.support.licences import Licences
from appliance.support.logs import Logs
from appliance.support.service import Support
from appliance.telemetry.metrics_server import Endpoint
from appliance.telemetry.subject import Kind, Notice, Severity, Subject
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
        facts=lambda items: facts(system, items=items),
    )
    system.transitions.listen(access.snmp.entry)
    _register(system, access)
    Reach(space).register(system.registry)
    support = Support(system.paths.run / "support", system.paths.root, system.registry, access.secrets)
    add = system.registry.add
    add(methods.SUPPORT_BUNDLE, support.bundle, "operator", "collect diagnostic data into one file")

    def guest_log(name: str) -> Path:
        if system.guests is None:
            raise NotFoundError("the guests' part is not up")
        return system.guests.guest(name).console.log_file

    Logs(system.paths.root / "run/log", guest_log, access.secrets).register(system.registry)
    Machine(system).register(system.registry)
    Licences(system.paths.root).register(system.registry)
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

    async def end(params: Params) -> Done:
        ended = access.logins.sessions.end_one(int(params["id"]))
        if ended is None:
            raise NotFoundError(f"there is no session {params['id']}: `show sessions` lists them")
        by = caller().user or f"uid {caller().uid}"
        text = f"session from {ended.address} ended by {by}"
        system.events.record(Notice.SESSIONS_ENDED, Subject(Kind.USER, ended.user), text)
        return Done(f"session {ended.pid} of {ended.user} from {ended.address} ended")

    async def unblock(params: Params) -> Done:
        return Done(f"{await access.logins.unblock(str(params['address']))} may log in again")

    async def clock(_: Params) -> Clock:
        return await access.time.show()

    async def clock_set(params: Params) -> Done:
        return Done(await access.time.set(str(params["when"]), caller().user or f"uid {caller().uid}"))

    async def lldp(_: Params) -> Lldp:
        return await access.lldp.show()

    async def snmp(_: Params) -> Snmp:
        return await access.snmp.show()

    async def keys(_: Params) -> HostKeys:
        found = await access.host_keys()
        return HostKeys([f"{name} {base64.b64encode(data).decode()}" for name, data in found.items()])

    async def replace_keys(params: Params) -> Done:
        pairs = (text.partition(" ") for text in params["keys"])
        try:
            found = {name: base64.b64decode(data, validate=True) for name, _, data in pairs}
        except ValueError as error:
            raise RefusedError(f"keys: not Base64: {error}") from error
        if not (others := await access.replace_host_keys(found)):
            return Done("the SSH host keys are those of the backup already")
        return Done(f"{counted(others, 'SSH host key')} restored; new sessions see them")

    add = system.registry.add

    async def aaa(_: Params) -> Aaa:
        return access.aaa.show()

    async def aaa_test(params: Params) -> AaaTest:
        return await access.aaa.test(str(params["user"]), str(params["password"]))

    system.registry.acted = lambda who, name, params: access.aaa.accounting.command(who.user, name, params)
    add(methods.AAA_SHOW, aaa, doc="who decides about logins, and how the servers do")
    asked = {"user": Param("string", "the user's name"), "password": Param("string", "the password")}
    add(methods.AAA_TEST, aaa_test, "admin", "ask the servers as for a login; nobody is logged in", asked)
    add(methods.HOST_KEYS_READ, keys, "admin", "the SSH host keys, private halves included, for a backup")
    given = {"keys": Param("array", "as host-keys.read gives them")}
    add(methods.HOST_KEYS_REPLACE, replace_keys, "admin", "use the SSH host keys of a backup", given)
    when = {"when": Param("string", "local time: YYYY-MM-DD HH:MM[:SS]")}
    add(methods.CLOCK_SHOW, clock, doc="the clock, its time zone, and what keeps it")
    add(methods.LLDP_SHOW, lldp, doc="LLDP on the management port, and the neighbours there")
    add(methods.SNMP_SHOW, snmp, doc="SNMPv3: state, engine, users, receivers, notifications")
    add(methods.CLOCK_SET, clock_set, "admin", "set the clock by hand, where no time server keeps it", when)
    count = Param("integer", "how many of the newest; 0: all in memory", required=False)
    least = Param("string", "this severity and worse", required=False, choices=WORDS)
    add(methods.EVENTS_SHOW, events, doc="events with cause and severity", params={"count": count, "severity": least})
    add(methods.MANAGEMENT_SHOW, management, doc="management port, SSH, users, metrics, syslog")
    add(methods.SESSIONS_SHOW, sessions, doc="who is logged in over SSH")
    number = {"id": Param("integer", "the pid of a session in sessions.show")}
    add(methods.SESSION_END, end, "admin", "end one session, of whomever", number)
    address = {"address": Param("string", "an address that is blocked")}
    add(methods.MANAGEMENT_UNBLOCK, unblock, "admin", "let an address in again after failed logins", address)
