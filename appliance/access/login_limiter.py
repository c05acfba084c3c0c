# SPDX-License-Identifier: GPL-2.0-only
"""Limits failed logins: counts them by address, and decides which network to block and for how long. Pure.

An address with LIMIT failures within WINDOW is blocked for FIRST_BLOCK, then twice as long each time, up to LAST_BLOCK.
A successful login clears only the failures of the same user from that address, so that nobody with an account can
reset the count while guessing another's password. IPv6 addresses are counted by their /64, because one host has all of
it. Memory is bounded: beyond MAX_ADDRESSES, those that have been quiet longest are dropped.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

SECOND: Final = 1_000_000_000
LIMIT: Final = 6  # failed passwords or keys: two connections of three tries
WINDOW: Final = 120 * SECOND
FIRST_BLOCK: Final = 60 * SECOND
LAST_BLOCK: Final = 900 * SECOND
FORGET: Final = 3600 * SECOND  # after this long without a failure the next block is a first one again
MAX_ADDRESSES: Final = 1000


@dataclass(frozen=True)
class Block:
    """Block this network for `seconds`."""

    network: str
    seconds: int
    failures: int


@dataclass(frozen=True)
class Unblock:
    """Unblock this network."""

    network: str


Action = Block | Unblock


@dataclass
class _Record:
    failures: list[tuple[int, str]] = field(default_factory=list)  # time and user
    blocks: int = 0
    until: int = 0
    last: int = 0


def network_of(address: str) -> str:
    """The network for which an address counts: an IPv4 address, or the /64 of an IPv6 address; "" for other text."""
    try:
        found = ipaddress.ip_address(address.split("%", 1)[0])
    except ValueError:
        return ""
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return f"{found.ipv4_mapped}/32"
        return str(ipaddress.ip_network((int(found), 64), strict=False))
    return f"{found}/32"


class Limiter:
    """All addresses. Times are nanoseconds of CLOCK_MONOTONIC."""

    def __init__(self) -> None:
        self._records: OrderedDict[str, _Record] = OrderedDict()

    def failed(self, now: int, address: str, user: str) -> list[Action]:
        """A login of `user` from this address failed."""
        network = network_of(address)
        if not network:
            return []
        record = self._records.pop(network, None) or _Record()
        self._records[network] = record
        if now - record.last > FORGET:
            record.blocks = 0
        record.last = now
        record.failures = [(at, who) for at, who in record.failures if now - at < WINDOW] + [(now, user)]
        actions: list[Action] = []
        if len(record.failures) >= LIMIT and record.until <= now:
            length = min(FIRST_BLOCK << record.blocks, LAST_BLOCK)
            record.blocks = min(record.blocks + 1, 16)
            record.until = now + length
            actions.append(Block(network, length // SECOND, len(record.failures)))
            record.failures.clear()
        while len(self._records) > MAX_ADDRESSES:
            old, gone = self._records.popitem(last=False)
            if gone.until > now:
                actions.append(Unblock(old))
        return actions

    def succeeded(self, address: str, user: str) -> None:
        """`user` logged in from this address: its earlier failures do not count."""
        record = self._records.get(network_of(address))
        if record is not None:
            record.failures = [(at, who) for at, who in record.failures if who != user]

    def forget(self, address: str) -> None:
        """An administrator unblocks the address: clear all its counts."""
        self._records.pop(network_of(address), None)

    def tick(self, now: int) -> list[Action]:
        """The blocks that have expired by `now`."""
        actions: list[Action] = []
        for network, record in list(self._records.items()):
            if record.until and record.until <= now:
                record.until = 0
                actions.append(Unblock(network))
            if not record.until and now - record.last > FORGET:
                del self._records[network]
        return actions

    def blocked(self, now: int) -> dict[str, int]:
        """Blocked networks and the seconds that remain for each."""
        return {n: -((now - r.until) // SECOND) for n, r in self._records.items() if r.until > now}
