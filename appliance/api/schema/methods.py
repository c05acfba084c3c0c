# SPDX-License-Identifier: GPL-2.0-only
"""Which method answers with what, what it may be refused for, and what comes of the topics of events.subscribe.

Every method may be refused by the protocol itself (rpc.py: wrong parameters, the role); those errors are not repeated.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from appliance.api.schema import access, configuration, guests, state
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


class Answers(NamedTuple):
    """`result`: the type of a good answer."""

    result: Any
    errors: Errors = ()


class ConfigEvent(Answer):
    """What happens to the configuration."""

    event: str  # progress, held, taken, released, pending, committed, confirmed, reverted
    user: str
    text: str


_HOLD: Errors = (RefusedError,)  # somebody else edits, or nobody does
_EDIT: Errors = (ConfigError, RefusedError)
_COMMIT: Errors = (ConfigError, FilterError, GuestError, DatapathError, RefusedError)
_GUEST: Errors = (NotFoundError, RefusedError)

METHODS: dict[str, Answers] = {
    "api.schema": Answers(dict[str, Any]),
    "capture.counts": Answers(state.CaptureCounts, (NotFoundError,)),
    "capture.start": Answers(state.Capture, (NotFoundError, FilterError, RefusedError, UnreachableError)),
    "config.check": Answers(configuration.Checked, (ConfigError,)),
    "config.commit": Answers(configuration.Committed, _COMMIT),
    "config.compare": Answers(configuration.Compared, (NotFoundError,)),
    "config.complete": Answers(configuration.Completed),
    "config.confirm": Answers(configuration.Committed, _HOLD),
    "config.delete": Answers(configuration.Deleted, _EDIT),
    "config.edit": Answers(configuration.Edited, _HOLD),
    "config.end": Answers(configuration.Changes, _HOLD),
    "config.fields": Answers(list[configuration.Field]),
    "config.history": Answers(list[configuration.Commit]),
    "config.load": Answers(configuration.Loaded, _EDIT),
    "config.move": Answers(configuration.Moved, _EDIT),
    "config.revert": Answers(configuration.Committed, _COMMIT),
    "config.rollback": Answers(configuration.Changes, (NotFoundError, RefusedError)),
    "config.set": Answers(configuration.Set, _EDIT),
    "config.show": Answers(configuration.Shown, (ConfigError, NotFoundError, RefusedError)),
    "config.status": Answers(configuration.State),
    "counters.show": Answers(state.Counters, (UnreachableError,)),
    "crash-log.show": Answers(list[state.CrashRecord]),
    "events.show": Answers(list[state.Event]),
    "events.subscribe": Answers(state.Topics),
    "frames.explain": Answers(list[state.Explained], (ConfigError, DatapathError, RefusedError, UnreachableError)),
    "guest.command": Answers(Done, (NotFoundError, GuestError, UnreachableError)),
    "guest.console": Answers(guests.Console, _GUEST),
    "guest.drain": Answers(Done, _GUEST),
    "guest.log": Answers(guests.Log, (NotFoundError,)),
    "guest.pause": Answers(Done, (*_GUEST, UnreachableError)),
    "guest.resume": Answers(Done, (*_GUEST, UnreachableError)),
    "guest.show": Answers(guests.GuestDetails, (NotFoundError,)),
    "guest.start": Answers(Done, _GUEST),
    "guest.stop": Answers(Done, _GUEST),
    "guests.show": Answers(list[guests.Guest]),
    "image.cancel": Answers(guests.Job, (NotFoundError,)),
    "image.import": Answers(guests.Job, (RefusedError,)),
    "image.job": Answers(guests.Job, (NotFoundError,)),
    "image.receive": Answers(guests.Job, (RefusedError,)),
    "image.remove": Answers(Done, (NotFoundError, RefusedError)),
    "image.undo": Answers(Done, (NotFoundError, RefusedError)),
    "images.show": Answers(list[guests.Image]),
    "incident.export": Answers(guests.IncidentFrames, (NotFoundError,)),
    "incident.show": Answers(guests.IncidentDetails, (NotFoundError,)),
    "incidents.show": Answers(list[guests.Incident]),
    "management.show": Answers(access.Management),
    "management.unblock": Answers(Done, (NotFoundError, RefusedError, UnreachableError)),
    "quarantine.release": Answers(Done, (NotFoundError, DatapathError, UnreachableError)),
    "quarantine.show": Answers(list[guests.Quarantined]),
    "rules.show": Answers(state.Rules, (RefusedError,)),
    "segment.set": Answers(state.SegmentSet, (NotFoundError, RefusedError)),
    "segments.show": Answers(list[state.Segment]),
    "sessions.show": Answers(list[access.Session]),
    "status.show": Answers(state.Status),
    "support.bundle": Answers(state.Bundle, (RefusedError, UnreachableError)),
    "transitions.show": Answers(list[state.Transition]),
    "user.password": Answers(access.NewPassword, _COMMIT),
    "version.show": Answers(state.Version),
}

TOPICS: dict[str, tuple[Any, str]] = {  # -> (what comes, when)
    "transition": (state.Transition, "a segment, guest or the configuration changed its state"),
    "event": (state.Event, "something happened that a log server is told, transitions among it"),
    "config": (ConfigEvent, "somebody edits, commits, confirms; `progress` while a commit lasts"),
}


def published() -> tuple[dict[str, object], dict[str, object], dict[str, object]]:
    """(method -> JSON Schema of its result, topic -> of its events, what those refer to below `$defs`)."""
    wanted = [*(one.result for one in METHODS.values()), *(kind for kind, _ in TOPICS.values())]
    schemas, components = msgspec.json.schema_components(wanted, ref_template="#/$defs/{name}")
    found = list(schemas)
    results: dict[str, object] = dict(zip(METHODS, found, strict=False))
    events: dict[str, object] = {
        topic: {**schema, "description": TOPICS[topic][1]}
        for topic, schema in zip(TOPICS, found[len(METHODS) :], strict=True)
    }
    return results, events, dict(components)
