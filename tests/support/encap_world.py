# SPDX-License-Identifier: GPL-2.0-only
"""The encapsulation of bpf/encap.h alone, and an underlay: a network namespace with a port that leads to a far end.

    near: lo, mgmt0 ══ up0: far

The program runs by BPF_PROG_TEST_RUN in the near namespace, whose loopback it then takes frames from, so its look-ups
use the routes there.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from simulator import netns

from appliance.steering.kernel import layout
from appliance.steering.kernel.bpf_object import Object
from appliance.steering.kernel.encaps import Encaps, Headers
from appliance.steering.kernel.maps import Map
from appliance.steering.kernel.objects import PROGRAMS, TEMPLATES, TRACEPOINTS
from appliance.system import libbpf, netdev
from tests.support.far_end import FAR4, FAR6, OUR4, OUR6

LOOPBACK = 1
PLACE = 2
"""Of the hop 1 at the LAN side."""
ETH_ALL = 0x0003
MTU = 1600


class Programs:
    """Programs of the object file, loaded without all others, and the maps. Lives until `close`."""

    def __init__(self, path: Path, *names: str) -> None:
        self._object = Object(path, None, [name for name in {*PROGRAMS, *TEMPLATES, *TRACEPOINTS} if name not in names])
        self.fds = {name: self._object.program_fd(name) for name in names}
        self.maps = {
            name: Map(name, self._object.map_fd(name), *layout.MAPS[name])
            for name in ("encaps", "encap_states", "encap_tx", "ip_devices")
        }
        self.encaps = Encaps(self.maps)

    def pin(self, folder: Path) -> None:
        """Pin the programs below this folder of a bpffs."""
        for name, fd in self.fds.items():
            libbpf.pin(fd, folder / name)

    def close(self) -> None:
        for fd in self.fds.values():
            os.close(fd)
        for each in self.maps.values():
            each.close()
        self._object.close()


class World:
    """See the module. Packets are captured where they arrive at the far end."""

    def __init__(self, programs: Programs) -> None:
        self.programs = programs
        self.near, self.far = f"tw-e{os.getpid()}n", f"tw-e{os.getpid()}f"

    def make(self) -> None:
        for name in (self.near, self.far):
            netns.create(name)
        far = f"type veth peer name up0 mtu {MTU} netns {self.far}"
        netns.run(*f"ip -n {self.near} link add mgmt0 mtu {MTU} {far}".split())
        ends = ((self.near, "mgmt0", (f"{OUR4}/24", f"{OUR6}/64")), (self.far, "up0", (f"{FAR4}/24", f"{FAR6}/64")))
        for space, device, addresses in ends:
            for address in addresses:
                nodad = ["nodad"] if ":" in address else []
                netns.run("ip", "-n", space, "address", "add", address, "dev", device, *nodad)
            netns.run("ip", "-n", space, "link", "set", device, "up")
        for version in (4, 6):  # look-ups are made as for a packet of loopback
            netns.enter(self.near, partial(netdev.set_sysctl, f"ipv{version}/conf/lo/forwarding", "1"))
        self.meet()
        self.port = netns.enter(self.near, lambda: socket.if_nametoindex("mgmt0"))
        netns.enter(self.near, lambda: self.programs.encaps.lead_to(PLACE, self.port))

    def meet(self) -> None:
        """The far end is a neighbour."""
        address = self.address(self.far, "up0")
        for far in (FAR4, FAR6):
            words = f"ip -n {self.near} neighbour replace {far} lladdr {address} dev mgmt0 nud permanent"
            netns.run(*words.split())

    @staticmethod
    def address(space: str, device: str) -> str:
        found = json.loads(netns.run("ip", "-n", space, "-j", "link", "show", "dev", device))[0]["address"]
        return str(found)

    def close(self) -> None:
        for name in (self.near, self.far):
            if netns.exists(name):
                netns.run("ip", "netns", "delete", name)

    def arrange(self, headers: Headers, confirmed: int = 1 << 62) -> None:
        """Put these headers on from now on, with the counters at 0.

        `confirmed`: when the last frame went by the kernel for the neighbour's sake; without it none is ever due.
        """
        value = headers.value(PLACE, self.port, time.monotonic_ns())
        value.confirmed = confirmed
        self.programs.maps["encaps"].set(LOOPBACK, value)
        self.programs.encaps.clear(PLACE)

    def run(self, frame: bytes, repeat: int = 1) -> tuple[int, bytes, int]:
        """What the program does with the frame: action, frame afterwards, ns."""
        return netns.enter(self.near, lambda: libbpf.run_frame(self.programs.fds["encap_xdp"], frame, repeat))

    @contextmanager
    def captured(self) -> Iterator[socket.socket]:
        """What arrives at the far end, while this lasts."""
        opened = netns.enter(self.far, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_ALL)))
        with opened:
            netns.enter(self.far, lambda: opened.bind(("up0", ETH_ALL)))
            opened.settimeout(10)
            yield opened
