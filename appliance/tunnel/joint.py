# SPDX-License-Identifier: GPL-2.0-only
"""What stands between Ethernet and a tunnel that carries IP: a pair of veth devices.

    datapath -> tr1.0l ══ tp1.0l: header off -> tu1.0l (tunnel)
    datapath <- tr1.0l ══ tp1.0l <- header on: tu1.0l

The programs that take headers off and put them on are the datapath's (bpf/headers.h). Names follow that of the hop's
device. The devices outlive bypassd.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from appliance.errors import UnreachableError
from appliance.system import netdev
from appliance.system.command import run

LIMIT_S = 5.0
Words = list[str]


class Joint(NamedTuple):
    """The devices behind a hop's device `name`: the other end of its pair, and the tunnel."""

    name: str
    pair: str
    tunnel: str

    @property
    def indexes(self) -> tuple[int, int]:
        """Those of the two, as the kernel numbers them. OSError: one is not there."""
        return socket.if_nametoindex(self.pair), socket.if_nametoindex(self.tunnel)

    @property
    def present(self) -> tuple[int, ...]:
        """The same for those that are there."""
        there = {name: index for index, name in socket.if_nameindex()}
        return tuple(there[name] for name in (self.pair, self.tunnel) if name in there)


def joint(name: str) -> Joint:
    """That of a hop's device: "tr1.0l" has "tp1.0l" and "tu1.0l"."""
    return Joint(name, f"tp{name[2:]}", f"tu{name[2:]}")


async def make(name: str) -> None:
    """Make the pair, down. UnreachableError: the kernel refuses."""
    pair = joint(name).pair
    await _do(["ip", "link", "add", name, "type", "veth", "peer", "name", pair])
    try:
        netdev.disable_ipv6(pair)
        netdev.change_flags(pair, netdev.IFF_NOARP)
    except OSError as error:
        raise UnreachableError(f"{pair} cannot be set up: {error.strerror}") from error


async def attach(name: str, strip: Path, restore: Path) -> None:
    """Attach the programs, which are pinned there, in place of earlier ones. UnreachableError: the kernel refuses."""
    parts = joint(name)
    for device, program in ((parts.pair, strip), (parts.tunnel, restore)):
        for words in attachment(device, program):
            await _do(words)


async def attach_egress(device: str, program: Path) -> None:
    """Attach a pinned program to what leaves by a device. UnreachableError: the kernel refuses."""
    for words in attachment(device, program, "egress"):
        await _do(words)


def attachment(device: str, program: Path, way: str = "ingress") -> list[Words]:
    """The commands that have a pinned program take what arrives at a device, or leaves by it. Pure; idempotent."""
    where = ["dev", device, way, "protocol", "all", "pref", "1", "handle", "1"]
    return [
        ["tc", "qdisc", "replace", "dev", device, "clsact"],
        ["tc", "filter", "replace", *where, "bpf", "direct-action", "object-pinned", str(program)],
    ]


def up(name: str) -> None:
    """Bring both up, the hop's own device excepted. OSError: the kernel refuses."""
    parts = joint(name)
    for device in (parts.pair, parts.tunnel):
        netdev.change_flags(device, netdev.IFF_UP)


async def _do(words: Sequence[str]) -> None:
    status, text = await run(words, LIMIT_S)
    if status != 0:
        raise UnreachableError(f"{words[0]} {' '.join(words[1:4])}: {' '.join(text.split())}")
