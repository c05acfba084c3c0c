# SPDX-License-Identifier: GPL-2.0-only
"""The subject of a ledger entry or event, what happened to it, and how severe that is.

Writers name one member of `Change` (a ledger entry) or `Notice` (only an event); kind of subject, severity and cause
follow from the two tables below, never from the text of an entry. Pure data.
"""

from __future__ import annotations

from enum import Enum, IntEnum, StrEnum, auto

from msgspec import Struct

from appliance.causes import Cause


class Severity(IntEnum):
    """Numbered as in RFC 5424, without the levels that an appliance does not use."""

    CRITICAL = 2
    ERROR = 3
    WARNING = 4
    NOTICE = 5
    INFO = 6

    @property
    def word(self) -> str:
        """Its name in the console and the configuration."""
        return self.name.lower()


class Kind(StrEnum):
    """Kinds of subject. The value is stored, displayed, and used as metrics label and as MSGID of syslog messages."""

    SEGMENT = "segment"
    PORT = "port"
    GUEST = "guest"
    REMOTE = "remote"
    SERVE = "serve"
    FLOW = "flow"
    CONFIGURATION = "configuration"
    SUPERVISOR = "supervisor"
    SYSTEM = "system"
    USER = "user"
    CONSOLE = "console"
    SSH = "ssh"
    MANAGEMENT = "management"
    SYSLOG = "syslog"
    AAA = "aaa"
    SNMP = "snmp"
    UNKNOWN = ""  # written by a version that knows more kinds; the whole text is the name


class Subject(Struct, frozen=True):
    """One thing that has a state; `name` is empty if there is only one of its kind."""

    kind: Kind
    name: str = ""

    def __str__(self) -> str:
        return " ".join(part for part in (self.kind.value, self.name) if part)

    @property
    def source(self) -> Subject:
        """The source to which its entries in a bounded list are charged. Names of flows and of users that try to log in
        are arbitrary, so each of these kinds is one source."""
        return Subject(self.kind) if self.kind in (Kind.FLOW, Kind.USER) else self

    @classmethod
    def stored(cls, kind: str, name: str) -> Subject:
        """The subject that was stored as `kind` and `name`."""
        try:
            return cls(Kind(kind), name)
        except ValueError:
            return cls(Kind.UNKNOWN, f"{kind} {name}".rstrip())


class Change(Enum):
    """What a transition means. The states belong to the state machines, which map each transition to a change."""

    SEGMENT_INLINE = auto()
    SEGMENT_BYPASSED = auto()
    SEGMENT_OTHER = auto()
    PORT_UP = auto()
    PORT_DOWN = auto()
    PORT_REPAIRED = auto()
    GUEST_AVAILABLE = auto()
    GUEST_SUSPECT = auto()
    GUEST_OVERLOADED = auto()
    GUEST_DRY_RUN = auto()
    GUEST_FAILED = auto()
    GUEST_OTHER = auto()
    REMOTE_AVAILABLE = auto()
    REMOTE_SUSPECT = auto()
    REMOTE_FAILED = auto()
    REMOTE_OTHER = auto()
    SERVE_UP = auto()
    SERVE_DOWN = auto()
    FLOW_QUARANTINED = auto()
    FLOW_RELEASED = auto()
    CONFIGURATION_CHANGED = auto()
    SUPERVISOR_RESTARTED = auto()
    SYSTEM_STARTED = auto()
    SYSTEM_LOST_POWER = auto()
    SYSTEM_RESET = auto()
    SYSTEM_CRASHED = auto()
    SYSTEM_SAFE = auto()

    @property
    def kind(self) -> Kind:
        """The kind of subject that this applies to."""
        return _CHANGES[self][0]

    def severity(self, cause: str) -> Severity:
        """Its severity; highest for a link that should be inspected but is not."""
        if self is Change.SEGMENT_BYPASSED:
            return _BYPASSED.get(cause, Severity.ERROR)
        return _CHANGES[self][1]


_CHANGES: dict[Change, tuple[Kind, Severity]] = {
    Change.SEGMENT_INLINE: (Kind.SEGMENT, Severity.NOTICE),
    Change.SEGMENT_BYPASSED: (Kind.SEGMENT, Severity.ERROR),
    Change.SEGMENT_OTHER: (Kind.SEGMENT, Severity.INFO),
    Change.PORT_UP: (Kind.PORT, Severity.NOTICE),
    Change.PORT_DOWN: (Kind.PORT, Severity.WARNING),
    Change.PORT_REPAIRED: (Kind.PORT, Severity.WARNING),
    Change.GUEST_AVAILABLE: (Kind.GUEST, Severity.NOTICE),
    Change.GUEST_SUSPECT: (Kind.GUEST, Severity.WARNING),
    Change.GUEST_OVERLOADED: (Kind.GUEST, Severity.WARNING),
    Change.GUEST_DRY_RUN: (Kind.GUEST, Severity.WARNING),
    Change.GUEST_FAILED: (Kind.GUEST, Severity.ERROR),
    Change.GUEST_OTHER: (Kind.GUEST, Severity.INFO),
    Change.REMOTE_AVAILABLE: (Kind.REMOTE, Severity.NOTICE),
    Change.REMOTE_SUSPECT: (Kind.REMOTE, Severity.WARNING),
    Change.REMOTE_FAILED: (Kind.REMOTE, Severity.ERROR),
    Change.REMOTE_OTHER: (Kind.REMOTE, Severity.INFO),
    Change.SERVE_UP: (Kind.SERVE, Severity.NOTICE),
    Change.SERVE_DOWN: (Kind.SERVE, Severity.WARNING),
    Change.FLOW_QUARANTINED: (Kind.FLOW, Severity.WARNING),
    Change.FLOW_RELEASED: (Kind.FLOW, Severity.NOTICE),
    Change.CONFIGURATION_CHANGED: (Kind.CONFIGURATION, Severity.NOTICE),
    Change.SUPERVISOR_RESTARTED: (Kind.SUPERVISOR, Severity.ERROR),
    Change.SYSTEM_STARTED: (Kind.SYSTEM, Severity.NOTICE),
    Change.SYSTEM_LOST_POWER: (Kind.SYSTEM, Severity.ERROR),
    Change.SYSTEM_RESET: (Kind.SYSTEM, Severity.ERROR),
    Change.SYSTEM_CRASHED: (Kind.SYSTEM, Severity.CRITICAL),
    Change.SYSTEM_SAFE: (Kind.SYSTEM, Severity.CRITICAL),
}

_BYPASSED: dict[str, Severity] = {  # by cause; any other cause is an error
    **dict.fromkeys(
        (Cause.OPERATOR, Cause.CONFIGURED, Cause.DRILL, Cause.STARTING, Cause.STOPPING, Cause.REARMING, Cause.NONE),
        Severity.WARNING,
    ),
    **dict.fromkeys(
        (
            Cause.RELAY_FAULT,
            Cause.RELAY_BUS_ERROR,
            Cause.RELAY_NO_ANSWER,
            Cause.RELAY_UNSUPPORTED,
            Cause.SUPERVISOR_LOST,
            Cause.CONFIG_INVALID,
            Cause.DATAPATH_FAULT,
            Cause.SAFE_MODE,
        ),
        Severity.CRITICAL,
    ),
}


class Notice(Enum):
    """What an event means that is not a transition."""

    LOGIN = auto()
    LOGOUT = auto()
    LOGIN_FAILED = auto()
    NETWORK_BLOCKED = auto()
    SESSIONS_ENDED = auto()
    HOST_KEY_RENEWED = auto()
    MANAGEMENT_FAILED = auto()
    MANAGEMENT_WORKS = auto()
    EVENTS_LOST = auto()
    AAA_FAILED = auto()
    AAA_WORKS = auto()
    SNMP_FAILED = auto()
    SNMP_WORKS = auto()
    SNMP_REFUSED = auto()
    POWER = auto()
    CLOCK_SET = auto()
    BUTTON = auto()
    DRILL = auto()
    DRILL_FAILED = auto()

    @property
    def severity(self) -> Severity:
        """Its severity."""
        return _NOTICES[self][0]

    @property
    def cause(self) -> Cause | None:
        """Its cause, if there is one."""
        return _NOTICES[self][1]


_NOTICES: dict[Notice, tuple[Severity, Cause | None]] = {
    Notice.LOGIN: (Severity.NOTICE, Cause.LOGIN),
    Notice.LOGOUT: (Severity.INFO, Cause.LOGIN),
    Notice.LOGIN_FAILED: (Severity.WARNING, Cause.LOGIN_FAILED),
    Notice.NETWORK_BLOCKED: (Severity.WARNING, Cause.LOGIN_BLOCKED),
    Notice.SESSIONS_ENDED: (Severity.NOTICE, Cause.LOGIN),
    Notice.HOST_KEY_RENEWED: (Severity.ERROR, Cause.HOST_KEY_DAMAGED),
    Notice.MANAGEMENT_FAILED: (Severity.ERROR, Cause.ACCESS_FAULT),
    Notice.MANAGEMENT_WORKS: (Severity.NOTICE, Cause.HEALTHY),
    Notice.AAA_FAILED: (Severity.WARNING, Cause.AAA_FAULT),
    Notice.AAA_WORKS: (Severity.NOTICE, Cause.HEALTHY),
    Notice.SNMP_FAILED: (Severity.WARNING, Cause.SNMP_FAULT),
    Notice.SNMP_WORKS: (Severity.NOTICE, Cause.HEALTHY),
    Notice.SNMP_REFUSED: (Severity.WARNING, Cause.LOGIN_FAILED),
    Notice.EVENTS_LOST: (Severity.WARNING, None),
    Notice.POWER: (Severity.WARNING, Cause.STOPPING),
    Notice.CLOCK_SET: (Severity.WARNING, Cause.OPERATOR),
    Notice.BUTTON: (Severity.WARNING, Cause.OPERATOR),
    Notice.DRILL: (Severity.NOTICE, Cause.DRILL),
    Notice.DRILL_FAILED: (Severity.ERROR, Cause.DRILL),
}
