# SPDX-License-Identifier: GPL-2.0-only
"""Every method of the control socket with the type of its answer and its errors, and every topic of events.

Any method may also be refused by the protocol itself (rpc.py: wrong parameters, the role); those errors are not
repeated here. A handler is registered under one of these constants.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import msgspec

from appliance.api.schema import access, configuration, guests, machine, remotes, state
from appliance.api.schema.base import Answer, Done
from appliance.errors import (
    BypassError,
    ConfigError,
    DatapathError,
    FilterError,
    GuestError,
    NotFoundError,
    RefusedError,
    UnreachableError,
)

Errors = tuple[type[BypassError], ...]
T = TypeVar("T")


class Answers(Generic[T]):
    """The type of a method's answer, and the errors that it may raise.

    A handler is registered together with this object (`Registry.add`), so that mypy proves that it returns the type.
    """

    __slots__ = ("errors", "name", "result")

    def __init__(self, name: str, result: type[T], errors: Errors = ()) -> None:
        self.name, self.result, self.errors = name, result, errors


METHODS: dict[str, Answers[Any]] = {}


def _method(name: str, result: type[T], errors: Errors = ()) -> Answers[T]:
    METHODS[name] = found = Answers(name, result, errors)
    return found


class Topic(Generic[T]):
    """What the events of one topic of events.subscribe carry, and when they are sent."""

    __slots__ = ("doc", "kind", "name")

    def __init__(self, name: str, kind: type[T], doc: str) -> None:
        self.name, self.kind, self.doc = name, kind, doc


class ConfigEvent(Answer):
    """Something happened to the configuration."""

    event: str  # progress, held, taken, released, pending, committed, confirmed, reverted
    user: str
    text: str


_HOLD: Errors = (RefusedError,)  # another user edits, or the caller does not
_EDIT: Errors = (ConfigError, RefusedError)
_COMMIT: Errors = (ConfigError, FilterError, GuestError, DatapathError, RefusedError)
_GUEST: Errors = (NotFoundError, RefusedError)

AAA_SHOW = _method("aaa.show", access.Aaa)
AAA_TEST = _method("aaa.test", access.AaaTest, (RefusedError,))
API_SCHEMA = _method("api.schema", dict[str, Any])
BOARD_TEST = _method("board.test", state.BoardTest, (RefusedError,))
CAPTURE_COUNTS = _method("capture.counts", state.CaptureCounts, (NotFoundError,))
CAPTURE_START = _method("capture.start", state.Capture, (NotFoundError, FilterError, RefusedError, UnreachableError))
CONFIG_CHECK = _method("config.check", configuration.Checked, (ConfigError,))
CONFIG_COMMIT = _method("config.commit", configuration.Committed, _COMMIT)
CONFIG_COMPARE = _method("config.compare", configuration.Compared, (NotFoundError,))
CONFIG_COMPLETE = _method("config.complete", configuration.Completed)
CONFIG_CONFIRM = _method("config.confirm", configuration.Committed, _HOLD)
CONFIG_DELETE = _method("config.delete", configuration.Deleted, _EDIT)
CONFIG_EDIT = _method("config.edit", configuration.Edited, _HOLD)
CONFIG_END = _method("config.end", configuration.Changes, _HOLD)
CONFIG_FIELDS = _method("config.fields", list[configuration.Field])
CONFIG_HISTORY = _method("config.history", list[configuration.Commit])
CONFIG_LOAD = _method("config.load", configuration.Loaded, _EDIT)
CONFIG_MOVE = _method("config.move", configuration.Moved, _EDIT)
CONFIG_REVERT = _method("config.revert", configuration.Committed, _COMMIT)
CONFIG_ROLLBACK = _method("config.rollback", configuration.Changes, (NotFoundError, RefusedError))
CONFIG_SET = _method("config.set", configuration.Set, _EDIT)
CONFIG_SHOW = _method("config.show", configuration.Shown, (ConfigError, NotFoundError, RefusedError))
CONFIG_STATUS = _method("config.status", configuration.State)
COUNTERS_SHOW = _method("counters.show", state.Counters, (UnreachableError,))
COUNTERS_CLEAR = _method("counters.clear", Done, (UnreachableError,))
CRASH_COUNT_CLEAR = _method("crash-count.clear", Done)
CRASH_LOG_SHOW = _method("crash-log.show", list[state.CrashReport], (NotFoundError,))
DRILLS_SHOW = _method("drills.show", state.Drills)
DRILL_PLAN = _method("drill.plan", state.DrillPlan, (RefusedError, NotFoundError))
DRILL_RUN = _method("drill.run", Done, (RefusedError, NotFoundError))
DRILL_ABORT = _method("drill.abort", Done, (NotFoundError,))
DRILL_ANSWER = _method("drill.answer", Done, (NotFoundError, RefusedError))
BOOTS_SHOW = _method("boots.show", state.Boots)
EVENTS_SHOW = _method("events.show", list[state.Event])
EVENTS_SUBSCRIBE = _method("events.subscribe", state.Topics)
FRAMES_EXPLAIN = _method(
    "frames.explain", list[state.Explained], (ConfigError, DatapathError, RefusedError, UnreachableError)
)
GUEST_COMMAND = _method("guest.command", Done, (NotFoundError, GuestError, UnreachableError))
GUEST_CONSOLE = _method("guest.console", guests.Console, _GUEST)
GUEST_DRAIN = _method("guest.drain", Done, _GUEST)
GUEST_LOG = _method("guest.log", guests.Log, (NotFoundError,))
GUEST_PAUSE = _method("guest.pause", Done, (*_GUEST, UnreachableError))
GUEST_RESTART = _method("guest.restart", Done, _GUEST)
GUEST_RESUME = _method("guest.resume", Done, (*_GUEST, UnreachableError))
GUEST_SHOW = _method("guest.show", guests.GuestDetails, (NotFoundError,))
GUEST_START = _method("guest.start", Done, _GUEST)
GUEST_STOP = _method("guest.stop", Done, _GUEST)
GUESTS_SHOW = _method("guests.show", list[guests.Guest])
HOST_KEYS_READ = _method("host-keys.read", access.HostKeys, (RefusedError,))
HOST_KEYS_REPLACE = _method("host-keys.replace", Done, (RefusedError, UnreachableError))
IMAGE_CANCEL = _method("image.cancel", guests.Job, (NotFoundError,))
IMAGE_IMPORT = _method("image.import", guests.Job, (RefusedError,))
IMAGE_JOB = _method("image.job", guests.Job, (NotFoundError,))
IMAGE_RECEIVE = _method("image.receive", guests.Job, (RefusedError,))
IMAGE_REMOVE = _method("image.remove", Done, (NotFoundError, RefusedError))
IMAGE_UNDO = _method("image.undo", Done, (NotFoundError, RefusedError))
IMAGES_SHOW = _method("images.show", list[guests.Image])
INCIDENT_EXPORT = _method("incident.export", guests.IncidentFrames, (NotFoundError,))
INCIDENT_SHOW = _method("incident.show", guests.IncidentDetails, (NotFoundError,))
INCIDENTS_CLEAR = _method("incidents.clear", Done, (RefusedError,))
INCIDENTS_SHOW = _method("incidents.show", list[guests.Incident])
LICENCE_SHOW = _method("licence.show", machine.LicenceText, (NotFoundError,))
LICENCES_SHOW = _method("licences.show", list[machine.Licence])
LOCATE_SET = _method("locate.set", Done, (RefusedError,))
LOG_SHOW = _method("log.show", machine.Log, (NotFoundError, RefusedError, UnreachableError))
MANAGEMENT_SHOW = _method("management.show", access.Management)
MANAGEMENT_UNBLOCK = _method("management.unblock", Done, (NotFoundError, RefusedError, UnreachableError))
CLOCK_SET = _method("clock.set", Done, (RefusedError,))
CLOCK_SHOW = _method("clock.show", machine.Clock)
LLDP_SHOW = _method("lldp.show", machine.Lldp)
SNMP_SHOW = _method("snmp.show", machine.Snmp)
PORT_SHOW = _method("port.show", machine.PortDetails, (NotFoundError,))
PORTS_SHOW = _method("ports.show", list[machine.Port])
POWER_CANCEL = _method("power.cancel", Done, (NotFoundError, RefusedError))
POWER_ORDER = _method("power.order", Done, (RefusedError,))
POWER_PLAN = _method("power.plan", machine.PowerPlan)
POWER_SHOW = _method("power.show", machine.PowerOrder)
QUARANTINE_RELEASE = _method("quarantine.release", Done, (NotFoundError, DatapathError, UnreachableError))
QUARANTINE_SHOW = _method("quarantine.show", list[guests.Quarantined])
RELAYS_SHOW = _method("relays.show", list[state.BoardRelay])
_REACH: Errors = (RefusedError, UnreachableError)
REACH_HOP = _method("reach.hop", machine.Hop, _REACH)
REACH_NAME = _method("reach.name", machine.Resolved, _REACH)
REACH_PING = _method("reach.ping", machine.Echo, _REACH)
REACH_TCP = _method("reach.tcp", machine.Connected, _REACH)
REMOTE_BYPASS = _method("remote.bypass", Done, _GUEST)
REMOTE_DRAIN = _method("remote.drain", Done, _GUEST)
REMOTE_SHOW = _method("remote.show", remotes.RemoteDetails, (NotFoundError,))
REMOTE_START = _method("remote.start", Done, _GUEST)
REMOTE_STOP = _method("remote.stop", Done, _GUEST)
REMOTES_SHOW = _method("remotes.show", list[remotes.Remote])
SERVE_SHOW = _method("serve.show", remotes.ServeDetails, (NotFoundError,))
SERVES_SHOW = _method("serves.show", list[remotes.Serve])
GROUPS_SHOW = _method("groups.show", list[state.Group], (RefusedError,))
MIRRORS_SHOW = _method("mirrors.show", list[state.Mirror], (RefusedError,))
RULES_SHOW = _method("rules.show", state.Rules, (RefusedError,))
SEGMENT_SET = _method("segment.set", state.SegmentSet, (NotFoundError, RefusedError))
SEGMENTS_SHOW = _method("segments.show", list[state.Segment])
SESSION_END = _method("session.end", Done, (NotFoundError,))
SHUNTS_CLEAR = _method("shunts.clear", Done, (NotFoundError, RefusedError, DatapathError, UnreachableError))
SHUNTS_SHOW = _method("shunts.show", state.Shunts, (NotFoundError, DatapathError, UnreachableError))
SESSIONS_SHOW = _method("sessions.show", list[access.Session])
STATUS_SHOW = _method("status.show", state.Status)
SUPPORT_BUNDLE = _method("support.bundle", state.Bundle, (RefusedError, UnreachableError))
SYSTEM_SHOW = _method("system.show", machine.Machine)
TRANSITIONS_SHOW = _method("transitions.show", list[state.Transition])
USER_PASSWORD = _method("user.password", access.NewPassword, _COMMIT)
VERSION_SHOW = _method("version.show", state.Version)

TRANSITION = Topic("transition", state.Transition, "a segment, guest or the configuration changed its state")
EVENT = Topic("event", state.Event, "an event as sent to log servers, transitions included")
CONFIG = Topic("config", ConfigEvent, "a user edits, commits, confirms; `progress` during a commit")
TOPICS: tuple[Topic[Any], ...] = (TRANSITION, EVENT, CONFIG)


def published() -> tuple[dict[str, object], dict[str, object], dict[str, object]]:
    """(method -> JSON Schema of its result, topic -> schema of its events, definitions referred to as `$defs`)."""
    wanted = [*(one.result for one in METHODS.values()), *(topic.kind for topic in TOPICS)]
    schemas, components = msgspec.json.schema_components(wanted, ref_template="#/$defs/{name}")
    found = list(schemas)
    results: dict[str, object] = dict(zip(METHODS, found, strict=False))
    events: dict[str, object] = {
        topic.name: {**schema, "description": topic.doc}
        for topic, schema in zip(TOPICS, found[len(METHODS) :], strict=True)
    }
    return results, events, dict(components)
