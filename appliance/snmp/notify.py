# SPDX-License-Identifier: GPL-2.0-only
"""Which notification tells a change, with what in it. Pure.

A port: linkUp and linkDown (RFC 2863). A relay: entStateOperEnabled while it is inline, entStateOperDisabled otherwise
(RFC 4268), with the state of its segment in words, the cause among them. A guest, a remote, the appliance itself:
mteTriggerFired (RFC 2981), which says that a named value changed: its result and its words. What snmpd says of itself
(coldStart, authenticationFailure) it sends by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final, NamedTuple

from appliance.snmp import mib
from appliance.snmp.agentx import Oid, Row, integer, oid, text
from appliance.snmp.facts import Alarm, Facts, Port, Relay, Result
from appliance.telemetry.subject import Kind, Severity
from appliance.telemetry.transitions import Entry

_TRAP_OID: Final = (1, 3, 6, 1, 6, 3, 1, 1, 4, 1, 0)
LINK_DOWN, LINK_UP = ((1, 3, 6, 1, 6, 3, 1, 1, 5, number) for number in (3, 4))
ENABLED, DISABLED = ((*mib.STATE, 0, number) for number in (1, 2))
_EVENT: Final = (*mib.MIB_2, 88, 2)
FIRED: Final = (*_EVENT, 0, 1)
_RESULT: Final = (*mib.EXTEND, 1, 4)
_TOLD: Final = (Kind.GUEST, Kind.REMOTE, Kind.SUPERVISOR, Kind.SYSTEM)


class Notification(NamedTuple):
    """What is sent; `name` for people."""

    name: str
    subject: str
    rows: tuple[Row, ...]


def alarm_of(severity: Severity) -> Alarm | None:
    """How bad a segment's state is; None: it is no alarm."""
    known = {Severity.CRITICAL: Alarm.CRITICAL, Severity.ERROR: Alarm.MAJOR, Severity.WARNING: Alarm.WARNING}
    return known.get(severity)


def result_of(severity: Severity) -> Result:
    """How bad an event is, for whoever knows results only."""
    if severity <= Severity.ERROR:
        return Result.CRITICAL
    return Result.WARNING if severity is Severity.WARNING else Result.OK


def words(entry: Entry) -> str:
    """An entry of the ledger in one line."""
    said = f"{entry.new}: {entry.cause}"
    return f"{said}: {entry.detail}" if entry.detail else said


def of_links(before: Mapping[str, bool], ports: tuple[Port, ...]) -> list[Notification]:
    """The ports whose link came or went. `before`: the links that were known, by port."""
    found = []
    for port in ports:
        link = port.link and not port.held
        if port.name not in before or before[port.name] == link:
            continue
        index = (port.index,)
        rows = (
            _trap(LINK_UP if link else LINK_DOWN),
            Row((*mib.IF_INDEX, *index), integer(port.index)),
            Row((*mib.IF_ADMIN, *index), mib.admin_status(port)),
            Row((*mib.IF_OPER, *index), mib.oper_status(port)),
            Row((*mib.IF_MIB, 1, 1, 1, 1, *index), text(port.name)),
        )
        found.append(Notification("linkUp" if link else "linkDown", f"port {port.name}", rows))
    return found


def of_entry(entry: Entry, severity: Severity, facts: Facts) -> Notification | None:
    """The notification of an entry of the ledger; None: it is not told."""
    subject = entry.subject
    if subject.kind is Kind.SEGMENT:
        relay = next((relay for relay in facts.relays if relay.segment == subject.name), None)
        return _of_segment(entry, severity, relay) if relay is not None else None
    if subject.kind not in _TOLD or severity > Severity.NOTICE:
        return None
    token = str(subject) if subject.name else "appliance"
    return _fired(token, words(entry), result_of(severity))


def _of_segment(entry: Entry, severity: Severity, relay: Relay) -> Notification | None:
    """Only what moves the relay: there are more states than two."""
    was, now = entry.old == "inline", entry.new == "inline"
    if was == now and not (entry.old == "starting" and entry.new in ("bypass", "disconnect")):
        return None
    locked = entry.cause in ("operator", "configured", "maintenance") and not now
    bad = replace(relay, alarm=None if now else alarm_of(severity))
    index = (relay.physical,)
    rows = (
        _trap(ENABLED if now else DISABLED),
        Row((*mib.STATE_ADMIN, *index), integer(2 if locked else 4)),
        Row((*mib.STATE_ALARM, *index), mib.alarm(bad)),
        Row((*mib.LINE, *mib.token(f"segment {relay.segment}")), text(words(entry))),
    )
    return Notification("entStateOperEnabled" if now else "entStateOperDisabled", str(entry.subject), rows)


def _fired(token: str, said: str, result: Result) -> Notification:
    index = mib.token(token)
    rows = (
        _trap(FIRED),
        Row((*_EVENT, 1, 1, 0), text(token)),
        Row((*_EVENT, 1, 2, 0), text("")),
        Row((*_EVENT, 1, 3, 0), text("")),
        Row((*_EVENT, 1, 4, 0), oid((*_RESULT, *index))),
        Row((*_EVENT, 1, 5, 0), integer(result)),
        Row((*mib.LINE, *index), text(said)),
    )
    return Notification("mteTriggerFired", token, rows)


def _trap(name: Oid) -> Row:
    return Row(_TRAP_OID, oid(name))
