# SPDX-License-Identifier: GPL-2.0-only
"""Answers about the machine itself: reboot and poweroff, its clock, its ports, and what it reaches."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, UnsetType

from appliance.api.schema.base import Answer, Detail, Ms, Relay, When


class LinkPlan(Answer):
    """What a segment's traffic gets while the appliance is down."""

    segment: str
    relay: Relay
    traffic: Annotated[str, Meta(description="one sentence for a person")]


class PowerPlan(Answer):
    """What a reboot or poweroff means now: for traffic, guests and users. `warnings`: what would be lost."""

    action: Annotated[str, Meta(description="reboot or poweroff")]
    links: list[LinkPlan]
    guests: Annotated[list[str], Meta(description="guests that run now, and are powered down")]
    sessions: Annotated[list[str], Meta(description="users whose sessions end, with their address")]
    warnings: list[str]


class PowerOrder(Answer):
    """The reboot or poweroff that is due. `state` is none while there is no order; then the rest is missing."""

    state: Annotated[str, Meta(description="none, waiting or running")]
    action: Annotated[str, Meta(description="reboot or poweroff")] | UnsetType = UNSET
    user: str | UnsetType = UNSET
    seconds_left: int | UnsetType = UNSET
    when: Annotated[When, Meta(description="by the present time of the appliance")] | UnsetType = UNSET


class NtpSource(Answer):
    """A time server. `answers`: of the last eight questions; `offset_s`: how far the clock was ahead of it."""

    server: str
    state: Annotated[str, Meta(description="used, combined, not combined, no answer, false or too variable")]
    stratum: int
    answers: int
    offset_s: float
    last_s: Annotated[int | None, Meta(description="since the last answer; null: none yet")]


class Clock(Answer, kw_only=True):
    """The appliance's clock. `offset_s`: how far it is ahead of NTP time; at most `error_s` wrong."""

    now: Annotated[str, Meta(description="ISO 8601, in the time zone of the appliance")]
    utc: When
    zone: str
    state: Annotated[str, Meta(description="synchronized, not synchronized, off (no server) or failed")]
    detail: Detail
    servers_from: Annotated[str, Meta(description="configuration, dhcp or none")]
    servers: list[NtpSource]
    source: str | UnsetType = UNSET
    stratum: int | UnsetType = UNSET
    offset_s: float | UnsetType = UNSET
    error_s: float | UnsetType = UNSET
    chip: Annotated[When | None, Meta(description="the board's clock chip; null where the kernel shows none")]
    chip_ahead_s: float | UnsetType = UNSET


class LldpNeighbour(Answer):
    """A neighbour at the management port; all texts are its own words. `ttl_s`: it is forgotten after so long."""

    name: str
    chassis: Annotated[str, Meta(description="its chassis id, a MAC address as a rule")]
    port: Annotated[str, Meta(description="its port at the other end of the cable")]
    port_description: str
    description: str
    addresses: Annotated[list[str], Meta(description="where it is managed")]
    capabilities: Annotated[list[str], Meta(description="what it is: bridge, router, station, ...")]
    vlans: list[str]
    age_s: Annotated[int, Meta(description="since it has been there")]
    ttl_s: int


class Lldp(Answer):
    """LLDP on the management port, never on data ports."""

    state: Annotated[str, Meta(description="off, receive, on (sends and receives) or failed")]
    detail: Detail
    port: str
    neighbours: list[LldpNeighbour]


class SnmpUser(Answer):
    """A user of SNMPv3."""

    name: str
    access: Annotated[str, Meta(description="read, or notify: only to sign notifications")]
    auth: str
    priv: str
    refused: Annotated[int, Meta(description="messages with a wrong passphrase, since bypassd started")]


class SnmpReceiver(Answer):
    """Who gets notifications."""

    name: str
    address: str
    port: int
    kind: Annotated[str, Meta(description="trap or inform")]
    user: str


class SnmpSent(Answer):
    """A notification."""

    name: Annotated[str, Meta(description="linkDown, entStateOperDisabled, mteTriggerFired, ...")]
    subject: Annotated[str, Meta(description='what it tells of: "port lan0", "segment main"')]
    when: When


class Snmp(Answer):
    """SNMPv3 on the management port. `boots`: starts of the engine; `lost`: too frequent, or not taken by snmpd."""

    state: Annotated[str, Meta(description="off, listening or failed")]
    detail: Detail
    port: int
    engine: Annotated[str, Meta(description="engine id, hexadecimal; empty: it was never on")]
    boots: int
    users: list[SnmpUser]
    receivers: list[SnmpReceiver]
    requests: Annotated[int, Meta(description="that snmpd passed on to bypassd")]
    sent: Annotated[dict[str, int], Meta(description="notifications since bypassd started, by name")]
    lost: int
    waiting: int
    last: SnmpSent | None


class Port(Answer, kw_only=True):
    """A port of the board. `segment`: "main/lan". Counters are the kernel's, since the device exists."""

    name: str
    role: Annotated[str, Meta(description="data or management")]
    device: str
    segment: str
    link: Annotated[str, Meta(description="up, down, off (set down) or missing")]
    detail: Detail = ""
    speed_mbps: int | None = None
    duplex: Annotated[str, Meta(description="full or half; empty where the driver does not say")] = ""
    negotiates: bool | None = None
    medium: str = ""
    mac: str = ""
    mtu: int = 0
    driver: str = ""
    rx_frames: int = 0
    tx_frames: int = 0
    rx_errors: int = 0
    tx_errors: int = 0
    rx_dropped: int = 0
    tx_dropped: int = 0


class PortDetails(Answer):
    """One port. `errors`: the kernel's counters of faults that are not 0; `counters`: the driver's own; `module`: the
    transceiver, its diagnostics and alarms."""

    port: Port
    errors: dict[str, int]
    firmware: str
    bus: str
    rings: Annotated[dict[str, str], Meta(description='entries in use, as "256 of 4096"')]
    module: dict[str, str]
    counters: dict[str, int]


class Resolved(Answer):
    """The addresses of a name; an address is its own."""

    host: str
    addresses: list[str]
    ms: Ms


class Echo(Answer):
    """One echo request. `ms`: null where no reply came, and `detail` says why."""

    address: str
    ms: Ms | None
    ttl: int | None
    detail: Detail


class Hop(Answer):
    """A router on the way. `last`: there is nothing behind it; `mark`: why, as traceroute writes it (!H, !N, !X)."""

    hop: int
    address: str
    ms: Ms | None
    mark: str
    last: bool


class Connected(Answer):
    """A TCP connection that was opened, and closed at once."""

    address: str
    port: int
    ms: Ms


class Log(Answer):
    """The newest lines of a log. `cursor`: for `after` of the next question; `lost`: lines before these are missing."""

    lines: list[str]
    cursor: str
    lost: bool


class Disk(Answer):
    """A file system. `bound`: what holds its use down."""

    place: Annotated[str, Meta(description="data (the data partition), run or tmp")]
    kind: str
    total_bytes: int
    available_bytes: Annotated[int, Meta(description="for guests and users; what is reserved is not in it")]
    bound: str


class BootSlot(Answer):
    """One of the two slots of the disk, each a whole firmware."""

    name: Annotated[str, Meta(description="a or b")]
    booted: Annotated[bool, Meta(description="the appliance runs from it")]
    state: Annotated[str, Meta(description="good, or why the boot loader would not take it")]
    next: Annotated[bool, Meta(description="the next boot begins with it")]


class Machine(Answer):
    """The machine. What its kernel or board does not tell is empty."""

    board: str
    vendor: str
    model: str
    serial: str
    firmware: str
    uptime_s: int
    processors: int
    load: Annotated[list[float], Meta(description="mean of 1, 5 and 15 minutes")]
    memory: Annotated[dict[str, int], Meta(description="total and available in bytes; huge pages")]
    disks: list[Disk]
    temperatures: Annotated[dict[str, float], Meta(description="degrees Celsius")]
    fans: Annotated[dict[str, int], Meta(description="turns a minute")]
    slots: Annotated[list[BootSlot], Meta(description="empty where the machine was not booted from a slot")]


class Licence(Answer):
    """A component of the image. `licence`: as its package names it; empty where only its text says it."""

    name: str
    version: str
    licence: str
    source: Annotated[str, Meta(description="own, kernel, Python, Debian or Buildroot")]


class LicenceText(Answer):
    """The licence text that came with a component."""

    name: str
    text: str
