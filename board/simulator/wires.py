# SPDX-License-Identifier: GPL-2.0-only
"""Connectors, relay contacts and links of the board, made of veth, tap and redirect filters in namespaces of its own.

`<prefix>-lan` and `<prefix>-wan` are the hosts on either side, `<prefix>-mgmt` the administrator's. `<prefix>-board`
holds the connectors (`lan`, `wan`, `mgmt`: the near ends of the hosts' cables) and the taps (`lan0`, `wan0`, `mgmt0`:
the appliance's ports). The pure functions on `Panel` decide what is joined; `Wires` only applies that. Everything lives
as long as the Wires object, and nothing reaches the machine's own network.
"""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from simulator import netns
from simulator.netlink import RTMGRP_LINK, Netlink

Side = Literal["lan", "wan"]
Position = Literal["bypass", "inline", "disconnect", "moving"]
SIDES: tuple[Side, Side] = ("lan", "wan")
QUEUES = 4  # two processors and as many queues again: native XDP then needs no locked transmit
ADDRESSES = {
    "lan": ("10.77.0.1/24", "fd77::1/64"),
    "wan": ("10.77.0.2/24", "fd77::2/64"),
    "mgmt": ("10.88.0.1/24", "fd88::1/64"),
}
MACS = {"lan": "02:77:00:00:00:01", "wan": "02:77:00:00:00:02", "mgmt": "02:88:00:00:00:01"}
LOCKS = Path("/run/simulator")


def other(side: Side) -> Side:
    return "wan" if side == "lan" else "lan"


@dataclass(frozen=True)
class Panel:
    """Position of the contacts, plugged cables, hosts that have their port up, and ports that have lost their link."""

    relay: Position = "bypass"
    plugged: frozenset[Side] = frozenset(SIDES)
    hosts_up: frozenset[Side] = frozenset(SIDES)
    negotiating: bool = False
    nics_down: frozenset[Side] = frozenset()


def routes(panel: Panel) -> dict[str, str | None]:
    """For each device, the one by which its arriving frames leave; None = none."""
    if panel.relay == "bypass":
        return {"lan": "wan", "wan": "lan", "lan0": None, "wan0": None}
    if panel.relay == "inline":
        return {"lan0": "lan", "wan0": "wan", "lan": "lan0", "wan": "wan0"}
    return {"lan": None, "wan": None, "lan0": None, "wan0": None}


def connector_up(panel: Panel, side: Side) -> bool:
    """Whether the host on this side has a carrier: from the appliance's port, or in bypass from the host beyond."""
    if panel.negotiating or side not in panel.plugged:
        return False
    beyond = other(side)
    if panel.relay == "disconnect":
        return False
    return panel.relay != "bypass" or (beyond in panel.plugged and beyond in panel.hosts_up)


def port_link(panel: Panel, side: Side) -> bool:
    """Whether the appliance's port has a carrier. In bypass it keeps what it had inline: virtio has no PHY to ask."""
    if panel.relay == "disconnect" or side in panel.nics_down:
        return False
    return not panel.negotiating and side in panel.plugged and side in panel.hosts_up


@dataclass
class Wires:
    """Owns the namespaces `<prefix>-*` from `create` to `destroy`. All other calls come from the loop's thread."""

    prefix: str
    panel: Panel = field(default_factory=Panel)
    _netlink: Netlink | None = None
    _index: dict[str, int] = field(default_factory=dict)
    _applied: dict[str, str | None] = field(default_factory=dict)
    _connectors: dict[Side, bool] = field(default_factory=lambda: dict.fromkeys(SIDES, True))
    _lock: int = -1

    @property
    def board(self) -> str:
        return f"{self.prefix}-board"

    def host(self, name: str) -> str:
        return f"{self.prefix}-{name}"

    def claim(self) -> bool:
        """Take the prefix for this process, and clean up what a killed owner left. False: it is in use."""
        LOCKS.mkdir(exist_ok=True)
        lock = os.open(LOCKS / self.prefix, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return False
        self._lock = lock
        self._clear()
        return True

    def create(self) -> None:
        """Create namespaces and devices, and join the connectors. RuntimeError names the command that failed."""
        board = self.board
        netns.create(board)
        netns.enter(board, lambda: Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1"))
        for name, (ipv4, ipv6) in ADDRESSES.items():
            space = self.host(name)
            netns.create(space)
            netns.run("ip", "-n", board, "link", "add", "name", name, "address", "02:00:00:00:00:01", "mtu", "9000",
                      "type", "veth", "peer", "name", "eth0", "netns", space)  # fmt: skip
            several = ["multi_queue"] if name in SIDES else []
            netns.run("ip", "-n", board, "tuntap", "add", "dev", f"{name}0", "mode", "tap", "vnet_hdr", *several)
            netns.run("ip", "-n", board, "link", "set", f"{name}0", "mtu", "9000")
            for device in (name, f"{name}0"):
                netns.run("ip", "-n", board, "link", "set", device, "up")
                netns.run("tc", "-n", board, "qdisc", "add", "dev", device, "clsact")
            netns.run("ip", "-n", space, "link", "set", "eth0", "address", MACS[name], "up")
            netns.run("ip", "-n", space, "address", "add", ipv4, "dev", "eth0")
            netns.run("ip", "-n", space, "-6", "address", "add", ipv6, "dev", "eth0", "nodad")
            # a checksum left to hardware would be wrong after the appliance's XDP
            netns.run("ip", "netns", "exec", space, "ethtool", "-K", "eth0", "tx", "off")
        self._index = netns.enter(board, lambda: {name: index for index, name in socket.if_nameindex()})
        self._netlink = netns.enter(board, Netlink)
        self._netlink.redirect(self._index["mgmt"], self._index["mgmt0"])
        self._netlink.redirect(self._index["mgmt0"], self._index["mgmt"])
        self.apply(self.panel)

    def destroy(self) -> None:
        """Remove everything; may be called repeatedly, and after a `create` that failed half way."""
        if self._netlink:
            self._netlink.close()
            self._netlink = None
        self._clear()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _clear(self) -> None:
        for name in ("board", *ADDRESSES):
            netns.delete(self.host(name))

    def change(self, **changes: object) -> int:
        """Apply a panel with these fields changed; returns the time (ns) when frames took the new path."""
        return self.apply(replace(self.panel, **changes))  # type: ignore[arg-type]

    def apply(self, panel: Panel) -> int:
        """Configure the devices according to `panel`. Joins come before cuts, so no frame finds both paths closed.

        Each device's filter is replaced in one step, so the gap in each direction is only the few microseconds between
        the two directions; the order in `routes` puts the ways out before the ways in.
        """
        assert self._netlink is not None, "wires are not created"
        wanted = routes(panel)
        for device, to in wanted.items():
            if to is not None and self._applied.get(device) != to:
                self._netlink.redirect(self._index[device], self._index[to])
        for device, to in wanted.items():
            if to is None and self._applied.get(device, "unknown") is not None:
                self._netlink.cut(self._index[device])
        done = time.monotonic_ns()
        self._applied = wanted
        for side in SIDES:
            up = connector_up(panel, side)
            if up != self._connectors[side]:
                self._netlink.set_link(self._index[side], up)
                self._connectors[side] = up
        self.panel = panel
        return done

    def traffic(self) -> dict[str, tuple[int, int]]:
        """Frames that each connector and port has received and sent so far."""
        if self._netlink is None:
            return {}
        text = netns.enter(self.board, lambda: Path("/proc/thread-self/net/dev").read_text())
        return parse_traffic(text)


def parse_traffic(text: str) -> dict[str, tuple[int, int]]:
    """Frames received and sent by each device, from /proc/net/dev (pure). A tap sends what the machine receives."""
    found = {}
    for line in text.splitlines()[2:]:
        name, _, figures = line.partition(":")
        columns = figures.split()
        if len(columns) > 9:
            found[name.strip()] = (int(columns[1]), int(columns[9]))
    return found


@dataclass
class HostLinkWatch:
    """Reports what a host sees of its link: that it sets its port up or down (`changed`), and its carrier (`carrier`).

    Both can only be observed at that end of the cable.
    """

    side: Side
    namespace: str
    changed: Callable[[Side, bool], None]
    carrier: Callable[[Side, bool], None]
    _netlink: Netlink | None = None
    _up: bool = True
    _carrier: bool = True

    def open(self) -> int:
        """Begin to watch; returns the file descriptor for the loop, which calls `read` when it is readable."""
        self._netlink = netns.enter(self.namespace, lambda: Netlink(RTMGRP_LINK))
        return self._netlink.socket.fileno()

    def read(self) -> None:
        if self._netlink is None:
            return
        for link in self._netlink.watch():
            if link.name == "eth0" and link.admin_up != self._up:
                self._up = link.admin_up
                self.changed(self.side, self._up)
            if link.name == "eth0" and link.carrier != self._carrier:
                self._carrier = link.carrier
                self.carrier(self.side, self._carrier)

    def close(self) -> None:
        if self._netlink:
            self._netlink.close()
            self._netlink = None
