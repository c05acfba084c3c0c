# SPDX-License-Identifier: GPL-2.0-only
"""A LAN host, a WAN host, an appliance between them and a guest in line, as network namespaces on veth pairs.

    lan  eth0 ══ lan0  box  wan0 ══ eth0  wan
                       tapl, tapw ══ gl, gw  guest (a bridge)

Frames are numbered and sent in small windows: the next window leaves when this one has arrived, so what is missing was
lost by the datapath and not by a queue. Everything is gone after `close`.
"""

from __future__ import annotations

import itertools
import os
import socket
import struct
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from simulator import netns

T = TypeVar("T")
ETH_NUMBERED = 0x9000  # Ethernet's configuration testing protocol: nothing filters it, and the demo guest blocks 0x88b6
LAN_MAC, WAN_MAC = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
WINDOW = 32
LOST_AFTER_S = 2.0
_counter = itertools.count()


def _quiet(*names: str) -> Callable[[], None]:
    """Disable IPv6, so that the hosts send nothing on their own."""

    def body() -> None:
        for name in ("all", "default", *names):
            Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")

    return body


class Wire:
    """Owns the namespaces, two raw sockets and a bpffs of its own."""

    def __init__(self) -> None:
        key = f"tw{os.getpid()}x{next(_counter)}"
        self.lan, self.wan, self.box, self.guest = (f"{key}{part}" for part in ("l", "w", "b", "g"))
        self._folder = tempfile.TemporaryDirectory(prefix="tw-bpffs-")
        self.pins = Path(self._folder.name) / "fs" / "bypass"
        self.sent = 0
        self.repeated = 0
        """Frames of `stream` that arrived once more."""

    def __enter__(self) -> Self:
        try:
            self._make()
        except BaseException:
            self.__exit__(None)
            raise
        return self

    def _make(self) -> None:
        self.pins.parent.mkdir()
        netns.run("mount", "-t", "bpf", "bpf", str(self.pins.parent))
        for name in (self.lan, self.wan, self.box, self.guest):
            netns.run("ip", "netns", "add", name)
            netns.enter(name, _quiet())
        self.pair("lan0", self.lan, "eth0", LAN_MAC)
        self.pair("wan0", self.wan, "eth0", WAN_MAC)
        self.pair("tapl", self.guest, "gl")
        self.pair("tapw", self.guest, "gw")
        netns.run(
            "ip",
            "-n",
            self.guest,
            "link",
            "add",
            "bridge0",
            "type",
            "bridge",
            "forward_delay",
            "0",
            "mcast_snooping",
            "0",
        )
        netns.run("ip", "-n", self.guest, "link", "set", "bridge0", "up")
        for name in ("gl", "gw"):
            netns.run("ip", "-n", self.guest, "link", "set", name, "master", "bridge0")
        self._sockets: dict[bytes, socket.socket] = {}
        self.renew()

    def renew(self) -> None:
        """Open new sockets at both ends: their devices were recreated, or earlier frames are to be discarded."""
        for opened in self._sockets.values():
            opened.close()
        self._sockets = {
            LAN_MAC: netns.enter(self.lan, lambda: self._socket("eth0")),
            WAN_MAC: netns.enter(self.wan, lambda: self._socket("eth0")),
        }

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for opened in getattr(self, "_sockets", {}).values():
            opened.close()
        for name in (self.lan, self.wan, self.box, self.guest):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
        subprocess.run(["umount", str(self.pins.parent)], check=False, capture_output=True)
        self._folder.cleanup()

    def pair(self, ours: str, space: str, theirs: str, mac: bytes = b"") -> None:
        netns.run("ip", "-n", self.box, "link", "add", ours, "type", "veth", "peer", "name", theirs, "netns", space)
        if mac:
            netns.run("ip", "-n", space, "link", "set", theirs, "address", mac.hex(":"))
        # GRO enables NAPI at the far end, without which it accepts no frames from XDP.
        netns.run("ip", "netns", "exec", space, "ethtool", "-K", theirs, "gro", "on")
        netns.run("ip", "-n", self.box, "link", "set", ours, "up", "promisc", "on")
        netns.run("ip", "-n", space, "link", "set", theirs, "up")

    @staticmethod
    def _socket(name: str) -> socket.socket:
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_NUMBERED))
        made.bind((name, ETH_NUMBERED))
        made.settimeout(LOST_AFTER_S)
        return made

    def inside(self, function: Callable[[], T]) -> T:
        """Run a function in the appliance's namespace."""
        return netns.enter(self.box, function)

    def send(self, number: int, *, back: bool = False, vlan: bytes = b"", pad: int = 46) -> None:
        """One numbered frame from LAN to WAN, or back."""
        source, target = (WAN_MAC, LAN_MAC) if back else (LAN_MAC, WAN_MAC)
        self._sockets[source].send(target + source + vlan + struct.pack("!HQ", ETH_NUMBERED, number) + bytes(pad))

    def received_at_lan(self) -> int | None:
        """The number of the next numbered frame that arrives at the LAN host, or None if none does."""
        return self._receive(LAN_MAC)

    def _receive(self, at: bytes) -> int | None:
        """The number of the next frame that arrives there, or None if none does."""
        opened = self._sockets[at]
        while True:
            try:
                frame, address = opened.recvfrom(2048)
            except TimeoutError:
                return None
            if address[2] != socket.PACKET_OUTGOING and frame[:6] == at:
                return int(struct.unpack_from("!Q", frame, 14)[0])

    def others(self, *, back: bool = False) -> int:
        """Send one more frame, and count those that arrive before it."""
        self.sent += 1
        self.send(self.sent - 1, back=back)
        found = 0
        while (got := self._receive(LAN_MAC if back else WAN_MAC)) != self.sent - 1:
            assert got is not None, "the frame itself did not arrive"
            found += 1
        return found

    def stream(self, frames: int, *, meanwhile: Callable[[int], object] = lambda _: None) -> list[int]:
        """Send frames in each direction; returns the missing numbers. Calls `meanwhile(sent)` between windows."""
        lost: list[int] = []
        for first in range(0, frames, WINDOW):
            numbers = range(self.sent, self.sent + min(WINDOW, frames - first))
            self.sent += len(numbers)
            for back in (False, True):
                wanted = set(numbers)
                for number in numbers:
                    self.send(number, back=back)
                while wanted:
                    got = self._receive(LAN_MAC if back else WAN_MAC)
                    if got is None:
                        break
                    self.repeated += got not in wanted
                    wanted.discard(got)
                lost += sorted(wanted)
            meanwhile(first + len(numbers))
        return lost
