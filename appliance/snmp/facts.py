# SPDX-License-Identifier: GPL-2.0-only
"""What the appliance is and how it does, as far as SNMP tells it. The supervisor fills it in. Pure data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from typing import Final, NamedTuple

CHASSIS: Final = 1
RELAYS, PORTS, SENSORS = 100, 200, 300
"""The numbers of relays, ports and sensors (entPhysicalIndex) begin behind these: the places in board.toml follow, so
they are the same after a reboot and another configuration."""


class Alarm(IntEnum):
    """How bad it is (RFC 4268, EntityAlarmStatus): the number of its bit."""

    CRITICAL = 2
    MAJOR = 3
    MINOR = 4
    WARNING = 5


class Result(IntEnum):
    """How an item does, as monitoring plug-ins have it."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


@dataclass(frozen=True)
class Port:
    """A port of board.toml. `index`: its place there, from 1, which is its ifIndex. `device` "" = it is not there."""

    index: int
    name: str
    device: str
    role: str  # data or management
    alias: str  # what it is for: "main/lan"
    up: bool
    link: bool
    held: bool = False  # taken down on purpose

    @property
    def physical(self) -> int:
        """Its entPhysicalIndex."""
        return PORTS + self.index


@dataclass(frozen=True)
class Relay:
    """A relay of board.toml; `index`: its place there, from 1. `segment` "" = it is not used."""

    index: int
    name: str
    ports: tuple[str, str]
    segment: str
    position: str  # inline, bypass, disconnect or unknown
    locked: bool = False  # somebody wants it so
    testing: bool = False  # a drill is under way
    alarm: Alarm | None = None

    @property
    def physical(self) -> int:
        """Its entPhysicalIndex."""
        return RELAYS + self.index


class Item(NamedTuple):
    """Something with a state in words: "segment main", "guest ips1", "appliance"."""

    token: str
    text: str
    result: Result


@dataclass(frozen=True)
class Facts:
    """Everything at one moment."""

    board: str = ""
    version: str = ""
    ports: tuple[Port, ...] = ()
    relays: tuple[Relay, ...] = ()
    items: tuple[Item, ...] = ()


@dataclass(frozen=True)
class Machine:
    """What the kernel is asked for: identity (vendor, model, serial), degrees Celsius and turns a minute by sensor."""

    identity: Mapping[str, str] = field(default_factory=dict)
    temperatures: Mapping[str, float] = field(default_factory=dict)
    fans: Mapping[str, float] = field(default_factory=dict)


class Moment(NamedTuple):
    """When something was last seen to change: on CLOCK_MONOTONIC in ns, and as a date (UTC)."""

    mono_ns: int
    date: datetime
