# SPDX-License-Identifier: GPL-2.0-only
"""The kernel state on which the appliance's decisions depend: links and counters, attached programs, policy, leases.

It lives from one boot to the next. The datapath is pinned, so it continues while no bypassd runs. The rules for leases
are the real ones (steering/kernel/leases.py) over a modelled table.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from appliance.config.schema.model import Config
from appliance.errors import DatapathError, HardwareError
from appliance.hardware.links import Device
from appliance.steering.kernel import layout
from appliance.steering.kernel.layout import Side
from appliance.steering.kernel.leases import _ENDED, _UNTIL, Leases
from appliance.steering.kernel.links import Standing, View
from appliance.steering.kernel.objects import Kernel as Objects
from appliance.steering.kernel.shunted_flow import ShuntedFlow
from appliance.steering.kernel.slots import Attachment
from appliance.system.netdev import IFF_LOWER_UP, IFF_NOARP, IFF_PROMISC, IFF_UP
from appliance.system.netlink import RTM_DELLINK, RTM_NEWLINK, LinkMessage
from tests.simulate.clock import MS, SECOND, Clock, Scope
from tests.simulate.hardware import CARRIER_NS, Port
from tests.simulate.traffic import OFFERED, LoadModel

if TYPE_CHECKING:
    from tests.simulate.guests import Guests

_HEADER = struct.Struct("=IHHII")
_IFINFO = struct.Struct("=BxHiII")
NOTICE_NS = MS
"""From a change of a link until whoever listens to rtnetlink has the message."""
OURS, FOREIGN = 7, 8
"""Ids of XDP programs: the datapath's, and another one's."""
SIDES: dict[str, Side] = {"lan0": Side.LAN, "wan0": Side.WAN}


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
    """One boot of the kernel. `inline`: whether the relay connects the ports with their cables; `blind`: whether they
    have no carrier while it does not; `mode`: how the datapath is attached."""

    def __init__(
        self,
        clock: Clock,
        scope: Scope,
        ports: dict[str, Port],
        *,
        inline: Callable[[], bool],
        blind: bool,
        mode: str,
    ) -> None:
        self.clock, self.scope, self.ports, self.mode = clock, scope, ports, mode
        self._inline, self._blind = inline, blind
        self.leases, self.threads, self.sees_exits = LeaseTable(), ThreadMap(), True
        self.maps = {"threads": self.threads}
        self.numbers: dict[str, int] = {}
        self.attached: dict[str, tuple[int, int]] = {}  # by segment: the indexes of the ports that it was attached to
        self.programs: dict[int, int] = {}  # by index of a port: the program that it has
        self.given: dict[Side, float] = dict.fromkeys(Side, 0.0)  # frames that the datapath sent out of each port
        self._counted = clock.now
        self.generation = 0
        self.loaded = False
        self.refuses_load = False
        self.refuses_attach = False
        self.answers = True  # when it is asked for links
        self.loses_messages = False
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

    def _exposed(self) -> bool:
        return self._inline() or not self._blind

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

    def prepare(self, name: str) -> None:
        self.set_up(name, True)
        if not self.ports[name].transparent:
            self.ports[name].transparent = True
            self._tell(name)

    def spoil(self, name: str) -> None:
        """Another program ends the promiscuous mode."""
        self.ports[name].transparent = False
        self._tell(name)

    def flags(self, name: str) -> int:
        port = self.ports[name]
        if not port.present:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        own = IFF_PROMISC | IFF_NOARP if port.transparent else 0
        return own | (IFF_UP if port.admin_up else 0) | (IFF_LOWER_UP if port.carrier else 0)

    def remove(self, name: str) -> None:
        port = self.ports[name]
        self.programs.pop(port.ifindex, None)
        port.present = port.admin_up = port.transparent = False
        self.look_at_cables()
        self._send(self._message(RTM_DELLINK, name))

    def bring(self, name: str) -> None:
        """The device returns as a new one."""
        port = self.ports[name]
        if port.present:
            return
        port.ifindex += 10
        port.present, port.sent = True, 0.0
        self._tell(name)

    def _message(self, kind: int, name: str) -> bytes:
        port = self.ports[name]
        flags = self.flags(name) if port.present else 0
        text = name.encode() + b"\0"
        attribute = struct.pack("=HH", 4 + len(text), 3) + text + bytes(-len(text) % 4)
        body = _IFINFO.pack(0, 1, port.ifindex, flags, 0) + attribute
        return _HEADER.pack(_HEADER.size + len(body), kind, 0, 0, 0) + body

    def _tell(self, name: str) -> None:
        if self.ports[name].present:
            self._send(self._message(RTM_NEWLINK, name))

    def _send(self, message: bytes) -> None:
        for told in self._listeners.values() if not self.loses_messages else ():
            self.clock.after(NOTICE_NS, lambda told=told: told(message), self.scope)  # type: ignore[misc]

    def ask(self, key: int) -> None:
        """The state of all links was requested."""
        told = self._listeners.get(key)
        for name, port in self.ports.items():
            if told is not None and port.present:
                message = self._message(RTM_NEWLINK, name)
                self.clock.after(NOTICE_NS, lambda told=told, message=message: told(message), self.scope)  # type: ignore[misc]

    def read_links(self, indexes: Iterable[int]) -> dict[int, LinkMessage | None]:
        """These links as they are now. OSError: it does not answer."""
        if not self.answers:
            raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
        self.count()
        there = {port.ifindex: name for name, port in self.ports.items() if port.present}
        return {index: self._link(there[index]) if index in there else None for index in indexes}

    def _link(self, name: str) -> LinkMessage:
        port = self.ports[name]
        program = self.programs.get(port.ifindex, 0) if self.mode == "xdp" else 0
        sent = int(port.sent)
        return LinkMessage(
            RTM_NEWLINK, port.ifindex, name, port.admin_up, port.carrier, self.flags(name), program, sent
        )

    def view(self, ifindex: int) -> View:
        """What is attached to a port."""
        program = self.programs.get(ifindex, 0)
        return View(program, ()) if self.mode == "xdp" else View(0, (program,) if program else ())

    # -- frames

    @property
    def steered(self) -> bool:
        """Whether the datapath has both ports."""
        lan, wan = self.ports["lan0"].ifindex, self.ports["wan0"].ifindex
        programs = self.programs
        return programs.get(lan) == programs.get(wan) == OURS and (lan, wan) in self.attached.values()

    def carries(self, segment: str) -> bool:
        """Whether a frame that enters one port now leaves by the other one."""
        if segment not in self.attached or not self.steered:
            return False
        lan, wan = self.ports.values()  # asked after each step: all() costs three times as much
        return lan.carrier and lan.cable and not lan.silent and wan.carrier and wan.cable and not wan.silent

    @property
    def offers(self) -> bool:
        """Whether frames come in, and the datapath has them."""
        lan, wan = self.ports.values()
        return lan.carrier and wan.carrier and self._inline() and self.steered

    def count(self) -> None:
        """Count what was sent since the last time, as if it had been all along as it is now."""
        span, self._counted = (self.clock.now - self._counted) / SECOND, self.clock.now
        if not self.offers:
            return
        for (name, out), into in zip(self.ports.items(), reversed(self.ports.values()), strict=True):
            if into.cable and not into.silent:
                self.given[SIDES[name]] += OFFERED * span
                out.sent += 0 if out.silent else OFFERED * span

    # -- leases

    def number(self, hop: str) -> int:
        return self.numbers.setdefault(hop, len(self.numbers) + 1)

    def thread_ended(self, thread: int) -> None:
        """The model of exits.h."""
        number = self.threads.rows.pop(thread, None)
        if number is not None and not self.leases.read(number, _ENDED):
            self.leases.write(number, self.clock.now, _ENDED)
            if self.leases.read(number):
                self.leases.write(number, layout.LEASE_OVER)

    def skip(self, by: int) -> None:
        """The clock jumped over time in which leases were renewed. The counters know nothing of it: else one sample
        would outweigh all others."""
        self._counted += by
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
    """What `prepare_policy` made, without filters to remark on."""

    generation: int
    policy: Any = field(default_factory=lambda: SimpleNamespace(segments={}))
    generated: Any = field(default_factory=lambda: SimpleNamespace(remarks=lambda names: []))

    def close(self) -> None:
        pass


@dataclass
class DatapathModel:
    """The datapath as one bypassd has it open (steering/datapath.py)."""

    kernel: KernelModel
    leases: ModelledLeases
    adopted: bool
    guests: Guests
    scope: Scope
    changes: int = 0
    claimed: set[str] = field(default_factory=set)

    @property
    def generation(self) -> int:
        return self.kernel.generation

    def attach_segment(
        self,
        name: str,
        lan: str,
        wan: str,
        attach: str = "auto",
        *,
        mtu: int = 0,
        patient: bool = False,
        needs_tc: str = "",
    ) -> tuple[Attachment, ...]:
        kernel = self.kernel
        for port in (lan, wan):
            if not kernel.ports[port].present:
                raise DatapathError(f"segment {name}: {port}: No such device")
            self._attach(kernel.ports[port].ifindex, f"segment {name}: {port}")
        kernel.attached[name] = (kernel.ports[lan].ifindex, kernel.ports[wan].ifindex)
        self.changes += 1
        return tuple(self.all())

    def _attach(self, ifindex: int, what: str) -> None:
        if self.kernel.refuses_attach:
            raise DatapathError(f"{what}: Cannot allocate memory", errno.ENOMEM)
        if self.kernel.programs.get(ifindex) == FOREIGN:
            raise DatapathError(f"{what}: Device or resource busy", errno.EBUSY)
        self.kernel.programs[ifindex] = OURS

    def detach_segment(self, segment: str) -> None:
        for index in self.kernel.attached.pop(segment, ()):
            self.kernel.programs.pop(index, None)
        self.changes += 1

    def mtu(self, segment: str) -> int:
        return 1500

    def attachments(self) -> list[Attachment]:
        return self.all()

    def leaving(self, segment: str) -> dict[Side, dict[int, int]]:
        self.kernel.count()
        return {side: {0: int(frames)} for side, frames in self.kernel.given.items()}

    # -- what is attached, as `Devices` of steering/attachment_watch.py

    @property
    def devices(self) -> DatapathModel:
        return self

    def hold(self, hold: Callable[[str], str]) -> None:
        """No port of this board loses its link when a program comes or goes."""

    def all(self) -> list[Attachment]:
        """The ports. What is attached to taps nobody takes away here."""
        return [
            Attachment(
                int(SIDES[name]),
                cast(Any, SimpleNamespace(name=name, ifindex=index)),
                segment,
                SIDES[name],
                "",
                self.kernel.mode,
                "modelled",
            )
            for segment, indexes in self.kernel.attached.items()
            for name, index in zip(SIDES, indexes, strict=True)
        ]

    def standings(self, views: Mapping[int, View]) -> list[tuple[Attachment, Standing]]:
        found = []
        for attached in self.all():
            view = views.get(attached.slot)
            if view is not None and OURS not in (view.xdp, *view.tcx):
                found.append((attached, Standing.REPLACED if view.xdp or view.tcx else Standing.DETACHED))
        return found

    def mend(self, attachment: Attachment) -> None:
        self._attach(attachment.device.ifindex, attachment.device.name)
        self.changes += 1

    def withdraw(self, hops: Set[tuple[str, str]]) -> None:
        pass

    # -- policy and hops

    def prepare_policy(self, config: Config) -> PreparedModel:
        return PreparedModel(self.generation + 1)

    def switch_policy(self, prepared: PreparedModel) -> None:
        self.kernel.generation = prepared.generation

    def set_policy(self, config: Config, silent: frozenset[tuple[str, str]] = frozenset()) -> None:
        self.switch_policy(self.prepare_policy(config))

    def hop_id(self, name: str) -> int:
        return self.kernel.number(name)

    def segment_id(self, name: str) -> int:
        return 0

    def attach_hop(self, device: str, hop: str, segment: str, side: object, *, tags: bool = False) -> None:
        self.kernel.hops[device] = hop

    def detach_hop(self, hop: str, segment: str | None = None) -> None:
        self.kernel.hops = {tap: name for tap, name in self.kernel.hops.items() if name != hop}

    def heartbeat_key(self, hop: str) -> int:
        return 0x1000 + self.kernel.number(hop)

    def load(self, hop: str, segment: str, side: Side) -> LoadModel:
        return LoadModel(lambda: self.guests.way(hop, int(side)), self.scope)

    def unsent(self, hop: str) -> dict[str, int]:
        return {}

    def record(self, hop: str, frames: int, kept: int) -> None:
        pass

    def recorded(self, hop: str, after: int = 0) -> list[Any]:
        return []

    def shunt(self, hop: str, flow: ShuntedFlow, time_ns: int, idle_ns: int, directions: int) -> None:
        pass

    def unshunt(self, hop: str, flow: ShuntedFlow) -> None:
        pass

    def sweeper(self) -> None:
        """No guest of the simulator may shunt flows."""

    def port_counts(self) -> dict[Any, Any]:
        return {}

    def drop_unclaimed(self) -> list[int]:
        return []

    def close(self) -> None:
        pass
