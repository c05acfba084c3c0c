# SPDX-License-Identifier: GPL-2.0-only
"""What of the kernel the appliance decides by: links, attached programs, the datapath's policy, and leases.

It lives from a boot to the next. The datapath is pinned, so it goes on while no bypassd runs. The rules for leases are
the real ones (steering/kernel/leases.py) over a table that is modelled.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

from appliance.config.schema.model import Config
from appliance.errors import DatapathError, HardwareError
from appliance.hardware.links import Device
from appliance.steering.kernel import layout
from appliance.steering.kernel.leases import _ENDED, _UNTIL, Leases
from appliance.steering.kernel.objects import Kernel as Objects
from appliance.system.netdev import IFF_LOWER_UP, IFF_UP
from appliance.system.netlink import RTM_DELLINK, RTM_NEWLINK
from tests.simulate.clock import MS, Clock, Scope
from tests.simulate.hardware import CARRIER_NS, Port

_HEADER = struct.Struct("=IHHII")
_IFINFO = struct.Struct("=BxHiII")
NOTICE_NS = MS
"""From a change of a link until whoever listens to rtnetlink has the message."""


class LeaseTable:
    """The map `leases`, as memory."""

    def __init__(self) -> None:
        self.rows: dict[tuple[int, int], int] = {}

    def read(self, number: int, which: int = _UNTIL) -> int:
        return self.rows.get((number, which), 0)

    def write(self, number: int, value: int, which: int = _UNTIL) -> None:
        self.rows[number, which] = value


class ThreadMap:
    """The map `threads`."""

    def __init__(self) -> None:
        self.rows: dict[int, int] = {}

    def set(self, thread: int, number: int) -> None:
        self.rows[thread] = number

    def delete(self, thread: int) -> None:
        self.rows.pop(thread, None)

    def items(self) -> list[tuple[Any, Any]]:
        return [(SimpleNamespace(value=t), SimpleNamespace(value=n)) for t, n in self.rows.items()]


class KernelModel:
    """One boot of the kernel. `exposed` says whether the relay connects the ports with their cables."""

    def __init__(self, clock: Clock, scope: Scope, ports: dict[str, Port], exposed: Callable[[], bool]) -> None:
        self.clock, self.scope, self.ports, self._exposed = clock, scope, ports, exposed
        self.leases, self.threads, self.sees_exits = LeaseTable(), ThreadMap(), True
        self.maps = {"threads": self.threads}
        self.numbers: dict[str, int] = {}
        self.attached: dict[str, tuple[int, int]] = {}  # by segment: the indexes of the ports that have its programs
        self.generation = 0
        self.loaded = False
        self.refuses_load = False
        self.refuses_attach = False
        self.taps: set[str] = set()
        self.hops: dict[str, str] = {}  # by tap: the hop that it is attached for
        self._listeners: dict[int, Callable[[bytes], None]] = {}

    # -- links

    def listen(self, key: int, told: Callable[[bytes], None]) -> None:
        self._listeners[key] = told

    def devices(self) -> list[Device]:
        return [Device(name, port.ifindex, MACS[name], "") for name, port in self.ports.items() if port.present]

    def look_at_cables(self) -> None:
        """Something moved: a carrier that is lost is lost at once, one that comes takes its time."""
        for name, port in self.ports.items():
            physical = port.physical(self._exposed())
            if port.carrier and not physical:
                port.carrier = False
                self._tell(name)
            if physical and not port.carrier and port.pending is None:
                port.pending = self.clock.after(CARRIER_NS, lambda name=name: self._up(name), self.scope)  # type: ignore[misc]
            elif not physical and port.pending is not None:
                port.pending.cancel()
                port.pending = None

    def _up(self, name: str) -> None:
        port = self.ports[name]
        port.pending = None
        if port.physical(self._exposed()):
            port.carrier = True
            self._tell(name)

    def set_up(self, name: str, up: bool) -> None:
        port = self.ports[name]
        if not port.present:
            raise HardwareError(f"{name}: no such device")
        if port.admin_up != up:
            port.admin_up = up
            self._tell(name)
            self.look_at_cables()

    def remove(self, name: str) -> None:
        port = self.ports[name]
        port.present = port.admin_up = False
        self.look_at_cables()
        self._send(self._message(RTM_DELLINK, name))

    def bring(self, name: str) -> None:
        """The device comes back, as another one."""
        port = self.ports[name]
        if port.present:
            return
        port.ifindex += 10
        port.present = True
        self._tell(name)

    def _message(self, kind: int, name: str) -> bytes:
        port = self.ports[name]
        flags = (IFF_UP if port.admin_up else 0) | (IFF_LOWER_UP if port.carrier else 0)
        text = name.encode() + b"\0"
        attribute = struct.pack("=HH", 4 + len(text), 3) + text + bytes(-len(text) % 4)
        body = _IFINFO.pack(0, 1, port.ifindex, flags, 0) + attribute
        return _HEADER.pack(_HEADER.size + len(body), kind, 0, 0, 0) + body

    def _tell(self, name: str) -> None:
        if self.ports[name].present:
            self._send(self._message(RTM_NEWLINK, name))

    def _send(self, message: bytes) -> None:
        for told in self._listeners.values():
            self.clock.after(NOTICE_NS, lambda told=told: told(message), self.scope)  # type: ignore[misc]

    def ask(self, key: int) -> None:
        """Somebody asked for the state of all links."""
        told = self._listeners.get(key)
        for name, port in self.ports.items():
            if told is not None and port.present:
                message = self._message(RTM_NEWLINK, name)
                self.clock.after(NOTICE_NS, lambda told=told, message=message: told(message), self.scope)  # type: ignore[misc]

    # -- frames

    def carries(self, segment: str) -> bool:
        """Whether a frame that enters one port now leaves by the other one."""
        lan, wan = self.ports["lan0"], self.ports["wan0"]
        there = self.attached.get(segment) == (lan.ifindex, wan.ifindex)
        return there and all(port.carrier and port.cable and not port.silent for port in (lan, wan))

    # -- leases

    def number(self, hop: str) -> int:
        return self.numbers.setdefault(hop, len(self.numbers) + 1)

    def thread_ended(self, thread: int) -> None:
        """What exits.h does."""
        number = self.threads.rows.pop(thread, None)
        if number is not None and not self.leases.read(number, _ENDED):
            self.leases.write(number, self.clock.now, _ENDED)
            if self.leases.read(number):
                self.leases.write(number, layout.LEASE_OVER)

    def skip(self, by: int) -> None:
        """The clock jumped over time in which leases were renewed."""
        for (number, which), until in list(self.leases.rows.items()):
            if which == _UNTIL and until > self.clock.now - by:
                self.leases.rows[number, which] = until + by


MACS = {"lan0": "02:00:00:00:00:01", "wan0": "02:00:00:00:00:02"}


class ModelledLeases(Leases):
    """The real rules; whether a thread is still there is asked of the world. A dead bypassd writes nothing."""

    def __init__(self, kernel: KernelModel, scope: Scope, alive: Callable[[int], bool]) -> None:
        super().__init__(cast(Objects, kernel), kernel.number)
        self._model, self._scope, self._thread_alive = kernel, scope, alive
        self.renewed: Callable[[str, int], object] = lambda hop, until: None

    def renew(self, hop: str, until_ns: int, now_ns: int | None = None) -> None:
        if self._scope.alive:
            super().renew(hop, until_ns, now_ns)
            self.renewed(hop, self.until(hop))

    def revoke(self, hop: str) -> None:
        if self._scope.alive:
            super().revoke(hop)

    def tie(self, hop: str, threads: Iterable[int]) -> None:
        self.untie(hop)
        for thread in threads:
            if self._thread_alive(thread):
                self._model.threads.set(thread, self._number_of(hop))


@dataclass
class PreparedModel:
    """What `prepare_policy` made."""

    generation: int

    def close(self) -> None:
        pass


@dataclass
class DatapathModel:
    """The datapath as one bypassd has it open (steering/datapath.py)."""

    kernel: KernelModel
    leases: ModelledLeases
    adopted: bool
    claimed: set[str] = field(default_factory=set)

    @property
    def generation(self) -> int:
        return self.kernel.generation

    def attach_segment(self, name: str, lan: str, wan: str, attach: str = "auto") -> tuple[Any, Any]:
        if self.kernel.refuses_attach:
            raise DatapathError(f"segment {name}: {lan}: XDP: Device or resource busy")
        ports = self.kernel.ports
        for port in (lan, wan):
            if not ports[port].present:
                raise DatapathError(f"segment {name}: {port}: No such device")
        self.kernel.attached[name] = (ports[lan].ifindex, ports[wan].ifindex)
        mode = SimpleNamespace(mode="xdp", reason="modelled")
        return mode, mode

    def detach_segment(self, segment: str) -> None:
        self.kernel.attached.pop(segment, None)

    def prepare_policy(self, config: Config) -> PreparedModel:
        return PreparedModel(self.generation + 1)

    def switch_policy(self, prepared: PreparedModel) -> None:
        self.kernel.generation = prepared.generation

    def set_policy(self, config: Config) -> None:
        self.switch_policy(self.prepare_policy(config))

    def hop_id(self, name: str) -> int:
        return self.kernel.number(name)

    def segment_id(self, name: str) -> int:
        return 0

    def attach_hop(self, device: str, hop: str, segment: str, side: object, *, tags: bool = False) -> None:
        self.kernel.hops[device] = hop

    def detach_hop(self, hop: str, segment: str | None = None) -> None:
        self.kernel.hops = {tap: name for tap, name in self.kernel.hops.items() if name != hop}

    def record(self, hop: str, frames: int, kept: int) -> None:
        pass

    def recorded(self, hop: str, after: int = 0) -> list[Any]:
        return []

    def port_counts(self) -> dict[Any, Any]:
        return {}

    def drop_unclaimed(self) -> list[int]:
        return []

    def close(self) -> None:
        pass
