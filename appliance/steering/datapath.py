# SPDX-License-Identifier: GPL-2.0-only
"""The datapath as the supervisor sees it: attach segments and hops, set the policy, read counters.

A thin layer over the kernel's maps. It owns their descriptors until `close`; what is pinned keeps working without it.
Calls are synchronous, and short but for `prepare_policy` and `switch_policy`, which may run in a thread of their own
beside the others. Times are ns of CLOCK_MONOTONIC.
"""

from __future__ import annotations

import hashlib
import secrets
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec

from appliance.api.schema import state
from appliance.config.schema.model import Config
from appliance.errors import DatapathError
from appliance.steering import answers
from appliance.steering.kernel import layout
from appliance.steering.kernel.attachments import Attachments, First
from appliance.steering.kernel.copies import Copies
from appliance.steering.kernel.counters import Counters, DeviceCount, HopCount, RuleCount
from appliance.steering.kernel.encaps import Encaps
from appliance.steering.kernel.gates import Gates
from appliance.steering.kernel.ip_devices import IpDevices
from appliance.steering.kernel.layout import Side, slot
from appliance.steering.kernel.leases import Leases
from appliance.steering.kernel.objects import Kernel
from appliance.steering.kernel.recorder import Recorded, Recorders
from appliance.steering.kernel.shunted_flow import ShuntedFlow
from appliance.steering.kernel.shunts import Shunts
from appliance.steering.kernel.slots import Attachment
from appliance.steering.load import HopLoad
from appliance.steering.names import Names
from appliance.steering.policy import Policy, compile_policy
from appliance.steering.policy_programs import Generated, load_programs
from appliance.steering.policy_tables import write_policy


@dataclass(frozen=True)
class PolicyReport:
    """The result of `set_policy`: the generation in force, and how long it took (ns)."""

    generation: int
    rules: int
    took_ns: int


class Prepared(NamedTuple):
    """A policy that is compiled and loaded but not in force. `began`: ns, for the report."""

    policy: Policy
    generation: int
    generated: Generated
    began: int

    def close(self) -> None:
        """Drop it."""
        self.generated.close()


class Datapath:
    """One appliance's steering. Use `open`."""

    def __init__(self, kernel: Kernel, names: Names) -> None:
        self._kernel, self._names = kernel, names
        self._maps = kernel.maps
        self.recorders = Recorders(self._maps["recorders"])
        self._generated: dict[int, Generated] = {}  # by half of the policy
        self.policy: Policy | None = None
        self.leases = Leases(kernel, self.hop_id)
        self._secret = secrets.token_bytes(16)  # of this bypassd: heartbeats of an earlier one are no longer known
        self._devices = Attachments(kernel, names, self.attached_program, self._copy_flags, self.heartbeat_key)
        self.gates = Gates(kernel)
        self.shunts = Shunts(kernel)
        self.ip_devices = IpDevices(kernel, self.hop_id)
        self.encaps = Encaps(kernel.maps)
        self._loads: dict[int, HopLoad] = {}
        self.copies = Copies(kernel, self._devices.write_devices)

    @classmethod
    def open(cls, path: Path, pins: Path | None = None, names: Path | None = None) -> Datapath:
        """Load the object file, or adopt what is pinned below `pins`; without `pins` it is gone with the process.

        `names`: file that keeps the numbers of hops, segments and rules. DatapathError when the kernel refuses.
        """
        return cls(Kernel(path, pins), Names(names))

    @property
    def adopted(self) -> bool:
        """Whether a datapath with the same program was found running and taken over."""
        return self._kernel.adopted

    @property
    def kernel(self) -> Kernel:
        """The maps themselves, for tests and `explain`."""
        return self._kernel

    def _copy_flags(self, slot: int) -> int:
        return self.copies.flags(slot)

    # -- numbers ------------------------------------------------------------------------------------------------------

    def hop_id(self, name: str) -> int:
        """The hop's number: 1..127, stable, and the VID of its tag."""
        return self._names.number("hop", name)

    def segment_id(self, name: str) -> int:
        """The segment's number."""
        return self._names.number("segment", name)

    def heartbeat_key(self, hop: str) -> int:
        """The key that a hop's heartbeats are recognized by when they come out of it (32 bits); a secret.

        Each hop has its own: a guest, which sees its own, cannot make heartbeats of another.
        """
        digest = hashlib.blake2s(hop.encode(), key=self._secret, digest_size=4).digest()
        return int.from_bytes(digest, "big") or 1

    # -- devices (see Attachments) ------------------------------------------------------------------------------------

    def attach_segment(
        self,
        segment: str,
        lan: str,
        wan: str,
        mode: str = "auto",
        *,
        whole: bool = False,
        mtu: int = 0,
        patient: bool = False,
        needs_tc: str = "",
    ) -> tuple[Attachment, Attachment]:
        """Put a segment's two ports in line."""
        return self._devices.attach_segment(
            segment, lan, wan, mode, whole=whole, mtu=mtu, patient=patient, needs_tc=needs_tc
        )

    def mtu(self, segment: str) -> int:
        """The MTU that a segment's frames have; 0: its ports are not attached."""
        return self._devices.mtu(segment)

    def attach_hop(
        self,
        device: str,
        hop: str,
        segment: str,
        side: Side,
        *,
        mode: str = "auto",
        tags: bool = False,
        out: str = "",
    ) -> Attachment:
        """Connect a hop's tap of one side."""
        return self._devices.attach_hop(device, hop, segment, side, mode=mode, tags=tags, out=out)

    def detach_segment(self, segment: str) -> None:
        """Take a segment's ports out."""
        self._devices.detach_segment(segment)

    def detach_hop(self, hop: str, segment: str | None = None) -> None:
        """Take a hop's taps out, of one segment or of all."""
        self._devices.detach_hop(hop, segment)

    def drop_unclaimed(self) -> list[int]:
        """After a restart: detach what was adopted and has not been attached again since. Returns the slots."""
        return self._devices.drop_unclaimed()

    def attachments(self) -> list[Attachment]:
        """Everything that is attached, ports first."""
        return self._devices.all()

    @property
    def devices(self) -> Attachments:
        """The attachments, for the watch."""
        return self._devices

    def begins_in(self, attachment: Attachment) -> int | None:
        """The id of the program that the device's frames begin in."""
        return self._devices.begins_in(attachment)

    def attached_program(self, place: int) -> First | None:
        """The present policy's program for the port in this slot, in the place of the entry; None: none."""
        generated = self._generated.get(self.generation & 1)
        if generated is None or place not in generated.attached:
            return None
        return First(generated.attached[place], own=place in generated.own)

    @property
    def generation(self) -> int:
        """Counts the policies; the present one's number."""
        return self._kernel.policy_word & 0xFFFFFFFF

    # -- policy -------------------------------------------------------------------------------------------------------

    def set_policy(self, config: Config, silent: frozenset[tuple[str, str]] = frozenset()) -> PolicyReport:
        """Compile the configuration's steering and switch to it: one store, no frame lost, none under both policies.

        `silent`: as in `compile_policy`. ConfigError or FilterError names what is wrong, and the present policy stays.
        """
        return self.switch_policy(self.prepare_policy(config, silent))

    def prepare_policy(self, config: Config, silent: frozenset[tuple[str, str]] = frozenset()) -> Prepared:
        """Compile, and load the programs beside the running ones; no frame is affected. May run in a thread."""
        began = time.monotonic_ns()
        policy = compile_policy(config, self._names, silent)
        generation = (self.generation + 1) & 0xFFFFFFFF
        generated = load_programs(self._kernel, policy, generation, self._devices.several)
        return Prepared(policy, generation, generated, began)

    def switch_policy(self, prepared: Prepared) -> PolicyReport:
        """Switch to what was prepared, which must be the newest. May run in a thread."""
        policy, generation, generated, began = prepared
        if generation != (self.generation + 1) & 0xFFFFFFFF:
            raise DatapathError("another policy was switched to meanwhile: commit again")
        # Frames of the policy before the present one, which used this half, must be through.
        self._kernel.wait_for_frames()
        for hop in policy.hops.values():
            if hop.shunts is not None:
                most, lasts, idle, rate = msgspec.structs.astuple(hop.shunts)
                self.shunts.arrange(hop.id, most, int(lasts), int(idle), rate)
        write_policy(self._maps, policy, generation & 1)
        generated.install(self._maps, generation)
        mask = sum(1 << number for number, chain in policy.chains.items() if chain)
        self._kernel.policy_word = generation | mask << 32
        # The programs of this half's former policy are in no slot any more.
        former = self._generated.pop(generation & 1, None)
        if former is not None:
            former.close()
        self._generated[generation & 1] = generated
        self.policy = policy
        self.shunts.keep_only({hop.id for hop in policy.hops.values() if hop.shunts is not None})
        self._devices.shorten()
        return PolicyReport(generation, len(policy.rules), time.monotonic_ns() - began)

    def compiled(self) -> list[state.Filters]:
        """How the filters of the present policy were compiled, one row a set and kind of entry; empty before one."""
        generated = self._generated.get(self._kernel.policy_word & 1)
        if generated is None or self.policy is None:
            return []
        names = {number: name for name, number in self.policy.segments.items()}
        rules = [rule.name for rule in self.policy.rules]
        cache = self._maps["cache_counters"].per_cpu(0)
        hits, misses = (sum(getattr(value, key) for value in cache) for key in ("hits", "misses"))
        return [
            answers.filters(
                one.report,
                by=one.kind,
                segments=[names[number] for number in one.segments],
                rules=rules if one.segments else (),
                cache=(hits, misses),
            )
            for one in generated.compiled
        ]

    # -- hops ---------------------------------------------------------------------------------------------------------

    def record(self, hop: str, frames: int, kept: int) -> None:
        """Keep the last `frames` frames handed to the hop (0: none), `kept` bytes of each.

        What is recorded stays unless the ring's size or `kept` changes.
        """
        self.recorders.arrange(self.hop_id(hop), frames, kept)

    def recorded(self, hop: str, after: int = 0) -> list[Recorded]:
        """The recorded frames of the hop, oldest first, beginning after number `after`."""
        return self.recorders.read(self.hop_id(hop), after)

    def shunt(self, hop: str, flow: ShuntedFlow, time_ns: int, idle_ns: int, directions: int) -> None:
        """Frames of the flow skip the hop from now on; RefusedError if it has as many as it may have."""
        self.shunts.enter(
            self.hop_id(hop), flow, time.monotonic_ns(), time_ns=time_ns, idle_ns=idle_ns, directions=directions
        )

    def unshunt(self, hop: str, flow: ShuntedFlow) -> None:
        """They go to the hop again."""
        self.shunts.remove(self.hop_id(hop), flow)

    def shunting(self) -> dict[str, int]:
        """The hops that may shunt flows, with their numbers."""
        return {} if self.policy is None else {h.name: h.id for h in self.policy.hops.values() if h.shunts is not None}

    def sweeper(self) -> Callable[[], None] | None:
        """What removes the shunts that are over, and may be called in a thread; None: no hop may shunt flows."""
        hops = self.shunting().values()
        return self.shunts.sweeper(hops, time.monotonic_ns()) if hops else None

    def load(self, hop: str, segment: str, side: Side) -> HopLoad:
        """The traffic of one direction through a hop: that which enters at this side."""
        number, link = self.hop_id(hop), self.segment_id(segment)
        place, out = slot(number, link, side), slot(number, link, side ^ 1)
        if place not in self._loads:
            came = self._maps["device_counters"]
            self._loads[place] = HopLoad(
                place, lambda: self._devices.ifindex(place), lambda: came.per_cpu(out), self.gates
            )
        return self._loads[place]

    def flows_of(self, hop: str, now_ns: int, idle_ns: int = 300_000_000_000) -> int:
        """How many flows the hop has that are not closed and were seen within `idle_ns`. Reads the whole table."""
        number = self.hop_id(hop)
        closed = layout.FLOW_CLOSED
        return sum(
            key.hop == number and flow.fin & closed != closed and now_ns - flow.seen < idle_ns
            for table in ("flows", "new_flows")
            for key, flow in self._maps[table].items()
        )

    # -- counters -----------------------------------------------------------------------------------------------------

    def _device_count(self, place: int) -> DeviceCount:
        return DeviceCount.of(self._maps["device_counters"].per_cpu(place), self._maps["loss_counters"].per_cpu(place))

    def port_counts(self) -> dict[tuple[str, Side], DeviceCount]:
        """Counters of the ports alone, by segment and side: quick to read."""
        ports = [attached for attached in self.attachments() if not attached.hop]
        return {(port.segment, port.side): self._device_count(port.slot) for port in ports}

    def leaving(self, segment: str) -> dict[Side, dict[int, int]]:
        """Frames that were sent out of each port of a segment, by the slot of the device that they came from.

        Those of a hop that chooses by tags are left out: it is not counted where it sends them.
        """
        found: dict[Side, dict[int, int]] = {side: {} for side in Side}
        for attached in self.attachments():
            if attached.segment != segment or (attached.hop and self._devices.steers(attached)):
                continue
            frames = self._device_count(attached.slot).frames
            leaves = attached.side if attached.hop else Side(attached.side ^ 1)
            found[leaves][attached.slot] = sum(frames[outcome] for outcome in layout.LEAVING)
        return found

    def _hop_count(self, hop: str) -> HopCount:
        """Of all its taps, also of those that are detached now: a stopped guest's counters stay as they are."""
        number, segments = self.hop_id(hop), self.policy.segments if self.policy is not None else {}
        places = {
            (segment, side): layout.slot(number, at, side) for segment, at in sorted(segments.items()) for side in Side
        }
        there = {(one.segment, one.side): one.slot for one in self.attachments() if one.hop == hop}
        taps = {place: self._device_count(at) for place, at in (places | there).items()}
        used = {
            place: count for place, count in taps.items() if place in there or count.total or any(count.unsent.values())
        }
        return HopCount.of(self._maps["hop_counters"].per_cpu(number), used)

    def unsent(self, hop: str) -> dict[str, int]:
        """Frames for a hop that its taps did not deliver, by cause."""
        return answers.causes(self._hop_count(hop).unsent)

    def exchanged(self, hop: str) -> tuple[int, int]:
        """Frames sent to a hop, and frames that came back from it, both without heartbeats."""
        count = self._hop_count(hop)
        return count.to_frames, count.from_frames

    def counters(self) -> Counters:
        """All counters of what is attached and configured."""
        attached = self.attachments()
        ports = {(one.segment, one.side): self._device_count(one.slot) for one in attached if not one.hop}
        hops = {one.hop for one in attached if one.hop} | set(self.policy.hops if self.policy is not None else ())
        rules = self.policy.rules if self.policy is not None else ()
        return Counters(
            ports,
            {name: self._hop_count(name) for name in sorted(hops)},
            {rule.name: RuleCount.of(self._maps["rule_counters"].per_cpu(rule.counter)) for rule in rules},
            self._device_count(layout.SLOT_UNKNOWN),
        )

    # -- end ----------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the descriptors; a pinned datapath goes on by itself."""
        for generated in self._generated.values():
            generated.close()
        self._generated = {}
        for load in self._loads.values():
            load.close()
        self._loads = {}
        self._devices.close()
        self._kernel.close()

    def unload(self) -> None:
        """Detach everything and remove the pins, so that nothing is left of the datapath."""
        self._devices.detach_all()
        pins = self._kernel.pins
        self.close()
        if pins is not None:
            shutil.rmtree(pins)
