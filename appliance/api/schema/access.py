# SPDX-License-Identifier: GPL-2.0-only
"""Answers about the management port, users and sessions."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from appliance.api.schema.base import Answer, Detail


class HostKey(Answer):
    """A host key of the SSH server."""

    kind: str
    fingerprint: str


class HostKeys(Answer):
    """The files of the SSH server's host keys."""

    keys: Annotated[list[str], Meta(description="the name of each file, a blank, and its content in Base64")]


class ShutOut(Answer):
    """A network that is blocked after too many failed logins."""

    network: str
    seconds_left: float


class Ssh(Answer):
    """The SSH server. `failed_logins` since bypassd started."""

    state: Annotated[str, Meta(description="listening, off or failed")]
    detail: Detail
    port: int
    host_keys: list[HostKey]
    failed_logins: int
    shut_out: list[ShutOut]


class User(Answer):
    """A user. `password`: set or none; `keys`: how many."""

    name: str
    role: str
    password: str
    keys: int


class SnmpState(Answer):
    """SNMPv3; `snmp.show` has the rest."""

    state: Annotated[str, Meta(description="off, listening or failed")]
    detail: Detail
    port: int


class Metrics(Answer):
    """The OpenMetrics endpoint. `port` is 0 while it is off."""

    state: str
    port: int


class Syslog(Answer):
    """A syslog server, and how many events it was sent."""

    server: str
    sent: int
    waiting: int
    lost: int
    detail: Detail


class Management(Answer):
    """The management port and what listens on it. `dhcp`: the lease."""

    state: Annotated[str, Meta(description="up, off or failed")]
    detail: Detail
    port: str
    mac: str
    link: str
    configured: str
    addresses: list[str]
    gateways: list[str]
    dhcp: dict[str, str]
    ssh: Ssh
    users: list[User]
    serial_line: Annotated[str, Meta(description="asks for a login, or why it is open")]
    metrics: Metrics
    snmp: SnmpState
    syslog: list[Syslog]


class Session(Answer):
    """A login session. `by`: password or key; where a server let the user in, also which and the role."""

    user: str
    address: str
    by: str
    seconds: float
    pid: int


class AaaServer(Answer):
    """A RADIUS or TACACS+ server, and how it did since bypassd started. `skipped_s`: it is not asked for so long."""

    name: str
    method: Annotated[str, Meta(description="radius or tacacs")]
    address: str
    port: int
    state: Annotated[str, Meta(description="answers, not asked yet, or why its answers are missing or worth nothing")]
    seconds_ago: Annotated[float | None, Meta(description="since that was seen")]
    skipped_s: float
    latency_ms: Annotated[float | None, Meta(description="how long its last answer took")]
    accepted: int
    refused: int
    failed: int
    reported: int
    unreported: int


class Aaa(Answer):
    """Who decides about logins. `waiting` and `lost`: reports to the servers."""

    order: list[str]
    state: Annotated[str, Meta(description="on, off (local users alone) or failed")]
    detail: Detail
    accounting: str
    waiting: int
    lost: int
    servers: list[AaaServer]


class AaaStep(Answer):
    """A server that was asked."""

    server: str
    result: str
    seconds: float


class AaaTest(Answer):
    """What a login with these words would lead to, in the order of asking."""

    decision: Annotated[str, Meta(description="accept, refuse or local (the hash in the configuration decides)")]
    role: str
    why: str
    steps: list[AaaStep]


class NewPassword(Answer):
    """The caller's password was changed by commit `number`."""

    message: str
    number: int
