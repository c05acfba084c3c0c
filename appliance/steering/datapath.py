# SPDX-License-Identifier: GPL-2.0-only
"""The datapath as the supervisor sees it: attach segments and hops, set the policy, read counters.

A thin shell over the kernel's maps. Owns their descriptors until `close`; what is pinned works on without it. Calls
are short and synchronous, made from one thread. Times are ns of CLOCK_MONOTONIC.
"""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from appliance.api.schema import state
from appliance.config.schema.model import Config
from appliance.errors import DatapathError, HardwareError, NotFoundError
from appliance.steering import answers
from appliance.steering.kernel import layout
from appliance.steering.kernel.copies import Copies
from appliance.steering.kernel.counters import Counters, DeviceCount, HopCount, RuleCount
from appliance.steering.kernel.layout import Role, Side, slot
from appliance.steering.kernel.leases import Leases
from appliance.steering.kernel.links import FILLING, Links
from appliance.steering.kernel.objects import Kernel
from appliance.steering.kernel.recorder import Recorded, Recorders
from appliance.steering.names import Names
from appliance.steering.policy import Policy, compile_policy
from appliance.steering.policy_programs import Generated, load_programs
from appliance.steering.policy_tables import write_policy
from appliance.system import netdev_facts as devices


@dataclass
class Attachment:
    """A device in its place, for `show segments`: how frames are taken from it, and why so."""

    slot: int
    device: devices.Device
    segment: str
    side: Side
    hop: str  # "" for a port
    mode: str  # "xdp" | "tc"
    reason: str


@dataclass(frozen=True)
class PolicyReport:
    """What `set_policy` did: which generation holds, and how long it took (ns)."""

    generation: int
    rules: int
    took_ns: int


class Prepared(NamedTuple):
    """A policy that is compiled and loaded, and not switched to. `began`: ns, for the report."""

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
        names_of = {"xdp": "entry_xdp", FILLING: "entry_filling_xdp", "tc": "entry_tc"}
        entries = {which: kernel.programs[name] for which, name in names_of.items()}
        self._links = Links(entries, kernel.pins / "links" if kernel.pins is not None else None)
        self._attached: dict[int, Attachment] = {}
        self._tags: dict[int, bool] = {}  # by slot: the hop may use tags
        self._may_change: dict[str, bool] = {}  # by segment: its mode was not asked for
        self.recorders = Recorders(self._maps["recorders"])
        self._generated: dict[int, Generated] = {}  # by half of the policy
        self.policy: Policy | None = None
        self.leases = Leases(kernel, self.hop_id)
        self.copies = Copies(kernel, self._wanted_copies)

    @classmethod
    def open(cls, path: Path, pins: Path | None = None, names: Path | None = None) -> Datapath:
        """Load the object file, or adopt what is pinned below `pins`; without `pins` it is gone with the process.

        `names`: file that keeps the numbers of hops, segments and rules. DatapathError when the kernel refuses.
        """
        return cls(Kernel(path, pins), Names(names))

    @property
    def adopted(self) -> bool:
        """Found running with the very same program, and taken over."""
        return self._kernel.adopted

    @property
    def kernel(self) -> Kernel:
        """The maps themselves, for tests and `explain`."""
        return self._kernel

    # -- numbers ------------------------------------------------------------------------------------------------------

    def hop_id(self, name: str) -> int:
        """The hop's number: 1..127, stable, and the VID of its tag."""
        return self._names.ensure("hop", [name])[name]

    def segment_id(self, name: str) -> int:
        """The segment's number."""
        return self._names.ensure("segment", [name])[name]

    # -- devices ------------------------------------------------------------------------------------------------------

    def attach_segment(
        self, segment: str, lan: str, wan: str, mode: str = "auto", *, whole: bool = False
    ) -> tuple[Attachment, Attachment]:
        """Put a segment's two ports (device names) in line. Idempotent; frames flow from the return on.

        `mode` "auto" takes native XDP when both ports have it, else tc: XDP can only send to devices that take part.
        `whole`: frames come with finished checksums, as from a wire, also where the device would leave them (a veth).
        HardwareError when a device is missing; DatapathError when the kernel refuses the mode that was asked for.
        """
        ports = {Side.LAN: devices.read(lan), Side.WAN: devices.read(wan)}
        number = self.segment_id(segment)
        places = {slot(0, number, side): port for side, port in ports.items()}
        for side, port in ports.items():
            self._enter_tables(Attachment(slot(0, number, side), port, segment, side, "", "", ""), tags=False)
        tried = ("xdp", "tc") if mode == "auto" else (mode,)
        attempt, reason = self._attach(places, tried, f"segment {segment}", whole=whole)
        for place in places:
            placed = self._attached[place]
            placed.mode = attempt
            placed.reason = "asked for by `attach`" if mode != "auto" else reason or "both ports have native XDP"
        self._may_change[segment] = mode == "auto"
        self._measure(segment)
        self._shorten()
        return self._attached[slot(0, number, Side.LAN)], self._attached[slot(0, number, Side.WAN)]

    def attach_hop(
        self, device: str, hop: str, segment: str, side: Side, *, mode: str = "auto", tags: bool = False
    ) -> Attachment:
        """Connect a hop's tap (device name) of one side. Idempotent; call again when the tap was made anew.

        `tags`: the hop may choose the next one by a tag. "auto" is the mode of the segment's ports, and tc where
        the tap has no native XDP. A device that XDP cannot send to (a tunnel) makes the whole segment use tc, unless
        its mode was asked for. Errors as `attach_segment`.
        """
        tap = devices.read(device)
        place = slot(self.hop_id(hop), self.segment_id(segment), side)
        self._enter_tables(Attachment(place, tap, segment, side, hop, "", ""), tags)
        port = self._attached.get(slot(0, self.segment_id(segment), Side.LAN))
        if port is not None and port.mode == "xdp" and not tap.sends():
            self._leave_xdp(segment, f"XDP cannot send to {tap.name} ({tap.driver}) of hop {hop}")
        tried = ("tc",) if port is not None and port.mode == "tc" else ("xdp", "tc")
        attempt, reason = self._attach({place: tap}, tried if mode == "auto" else (mode,), f"hop {hop}")
        placed = self._attached[place]
        placed.mode = attempt
        placed.reason = "asked for" if mode != "auto" else reason or f"as the ports of segment {segment}"
        self._measure(segment)
        return placed

    def _attach(
        self, places: dict[int, devices.Device], tried: tuple[str, ...], who: str, *, whole: bool = False
    ) -> tuple[str, str]:
        """Attach all of these by the first mode that works; that mode, and why not an earlier one."""
        reason = ""
        for attempt in tried:
            device = next(iter(places.values()))
            try:
                for place, device in places.items():
                    self._links.attach(place, device.ifindex, attempt, filling=device.leaves_checksums and not whole)
                # Only now: some drivers can be sent to only while a program is attached.
                unfit = [one for one in places.values() if attempt == "xdp" and not one.sends()]
                if unfit:
                    device = unfit[0]
                    raise DatapathError("XDP cannot send to it")
            except DatapathError as error:
                if attempt == tried[-1]:
                    raise DatapathError(f"{who}: {attempt} on {device.name} ({device.driver}): {error}") from error
                reason = f"{device.name} ({device.driver}): no native XDP: {error}"
                continue
            return attempt, reason
        raise DatapathError(f"{who}: no mode to attach by")

    def _shorten(self) -> None:
        """Have the ports' frames begin in the present policy's own programs, where it has such."""
        for place, attached in self._attached.items():
            if not attached.hop:
                with suppress(DatapathError):  # what is there leads to the entry, which knows the present policy
                    self._links.shorten(place, self.attached_program(self.segment_id(attached.segment)))

    def attached_program(self, segment: int) -> int | None:
        """The present policy's program for the ports of a segment (number), in the place of the entry; None: none."""
        generated = self._generated.get(self.generation & 1)
        return None if generated is None else generated.attached.get(segment)

    def begins_in(self, attachment: Attachment) -> int | None:
        """The id of the program that the device's frames begin in."""
        return self._links.program(attachment.slot)

    def _leave_xdp(self, segment: str, reason: str) -> None:
        """Let the segment's devices use tc from now on; no frame is lost."""
        if not self._may_change.get(segment, True):
            raise DatapathError(f'segment {segment}: {reason}: set attach = "tc"')
        for place, attached in self._attached.items():
            if attached.segment == segment and attached.mode == "xdp":
                self._links.attach(place, attached.device.ifindex, "tc")
                attached.mode, attached.reason = "tc", reason

    def _enter_tables(self, attachment: Attachment, tags: bool) -> None:
        """Write the device into the tables, before its first frame can come."""
        device, place = attachment.device, attachment.slot
        if device.ifindex >= layout.MAX_DEVICES:
            raise HardwareError(f"{device.name}: ifindex {device.ifindex} is beyond {layout.MAX_DEVICES - 1}")
        old = self._maps["targets"].get(place)
        if old is not None and old.ifindex not in (0, device.ifindex):
            self._maps["devices"].set(old.ifindex, layout.DeviceValue())
        known = self._attached.get(place)
        if known is not None:
            attachment.mode, attachment.reason = known.mode, known.reason
        self._attached[place] = attachment
        self._maps["tx"].set(place, device.ifindex)
        self._tags[place] = tags
        self._measure(attachment.segment)

    def _measure(self, segment: str) -> None:
        """Write how long the frames are that each device of the segment takes; whoever sends to it must know."""
        for attachment in self._attached.values():
            if attachment.segment == segment:
                device = attachment.device
                flags = layout.TARGET_SG if device.sends_several() else 0
                value = layout.TargetValue(ifindex=device.ifindex, flags=flags, max=device.longest)
                self._maps["targets"].set(attachment.slot, value)
                tags = layout.DEVICE_TAGS if self._tags.get(attachment.slot) else 0
                self._write_device(attachment, tags | self.copies.flags(attachment.slot))

    def _wanted_copies(self) -> None:
        """Somebody wants copies of frames, or does so no more."""
        for segment in {attachment.segment for attachment in self._attached.values()}:
            self._measure(segment)

    def _write_device(self, attachment: Attachment, flags: int) -> None:
        number = self.segment_id(attachment.segment)
        # A port's frames leave by the other port; what a tap's hop sends out of its WAN side leaves by the WAN port.
        leaves = attachment.side if attachment.hop else attachment.side ^ 1
        peer = self._attached.get(slot(0, number, leaves))
        longest = peer.device.longest if peer is not None else layout.NO_MATCH
        self._maps["devices"].set(
            attachment.device.ifindex,
            layout.DeviceValue(
                role=Role.HOP if attachment.hop else Role.PORT,
                segment=number,
                side=attachment.side,
                hop=self.hop_id(attachment.hop) if attachment.hop else 0,
                slot=attachment.slot,
                flags=flags,
                peer_max=longest,
                peer_max_sg=longest if peer is None or peer.device.sends_several() else 0,
            ),
        )

    def detach_segment(self, segment: str) -> None:
        """Take a segment's ports out; its frames then go nowhere (the relay should be in bypass)."""
        number = self.segment_id(segment)
        for side in Side:
            self._detach(slot(0, number, side))

    def detach_hop(self, hop: str, segment: str | None = None) -> None:
        """Take a hop's taps out, of one segment or of all."""
        number = self._names.get("hop", hop)
        if number is None:
            return
        for place in {*self._links.slots(), *self._attached}:
            if place // 32 == number and (segment is None or place // 2 % 16 == self.segment_id(segment)):
                self._detach(place)

    def _detach(self, place: int) -> None:
        target = self._maps["targets"].get(place)
        self._maps["targets"].set(place, layout.TargetValue())
        self._maps["tx"].delete(place)
        self._links.detach(place)
        if target is not None and target.ifindex:
            self._maps["devices"].set(target.ifindex, layout.DeviceValue())
        self._attached.pop(place, None)

    def drop_unclaimed(self) -> list[int]:
        """After a restart: detach what was adopted and has not been attached again since. Returns the slots."""
        gone = [place for place in self._links.slots() if place not in self._attached]
        for place in gone:
            self._detach(place)
        return gone

    def attachments(self) -> list[Attachment]:
        """Everything that is attached, ports first."""
        return [self._attached[place] for place in sorted(self._attached)]

    @property
    def generation(self) -> int:
        """Counts the policies; the present one's number."""
        return self._kernel.policy_word & 0xFFFFFFFF

    # -- policy -------------------------------------------------------------------------------------------------------

    def set_policy(self, config: Config) -> PolicyReport:
        """Compile and switch to the configuration's steering: one store, no frame lost, none under both policies.

        ConfigError or FilterError names what is wrong, and the policy that holds stays.
        """
        return self.switch_policy(self.prepare_policy(config))

    def prepare_policy(self, config: Config) -> Prepared:
        """Compile, and load the programs beside those that run; nothing changes for any frame. May run in a thread."""
        began = time.monotonic_ns()
        policy = compile_policy(config, self._names)
        generation = (self.generation + 1) & 0xFFFFFFFF
        return Prepared(policy, generation, load_programs(self._kernel, policy, generation), began)

    def switch_policy(self, prepared: Prepared) -> PolicyReport:
        """Switch to what was prepared, which must be the newest. May run in a thread."""
        policy, generation, generated, began = prepared
        if generation != (self.generation + 1) & 0xFFFFFFFF:
            raise DatapathError("another policy was switched to meanwhile: commit again")
        # Frames of the policy before the present one, which used this half, must be through.
        self._kernel.wait_for_frames()
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
        self._shorten()
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
        """Keep the last `frames` frames handed to the hop (0: none), `kept` bytes of each; what is there stays."""
        self.recorders.arrange(self.hop_id(hop), frames, kept)

    def recorded(self, hop: str, after: int = 0) -> list[Recorded]:
        """The frames kept of the hop, oldest first, from the one behind number `after` on."""
        return self.recorders.read(self.hop_id(hop), after)

    def flows_of(self, hop: str, now_ns: int, idle_ns: int = 300_000_000_000) -> int:
        """How many flows the hop has that are not closed and were seen within `idle_ns`. Reads the whole table."""
        number = self.hop_id(hop)
        return sum(
            1
            for key, flow in self._maps["flows"].items()
            if key.hop == number and flow.fin != 3 and now_ns - flow.seen < idle_ns
        )

    # -- counters -----------------------------------------------------------------------------------------------------

    def _device_count(self, place: int) -> DeviceCount:
        return DeviceCount.of(self._maps["device_counters"].per_cpu(place))

    def port_counts(self) -> dict[tuple[str, Side], DeviceCount]:
        """Counters of the ports alone, by segment and side: quick to read."""
        ports = [attached for attached in self._attached.values() if not attached.hop]
        return {(port.segment, port.side): self._device_count(port.slot) for port in ports}

    def counters(self) -> Counters:
        """All counters of what is attached and configured."""
        ports: dict[tuple[str, Side], DeviceCount] = {}
        taps: dict[str, dict[tuple[str, Side], DeviceCount]] = {}
        for attached in self._attached.values():
            count = self._device_count(attached.slot)
            into = taps.setdefault(attached.hop, {}) if attached.hop else ports
            into[attached.segment, attached.side] = count
        hops = {*taps, *(self.policy.hops if self.policy is not None else ())}
        rules = self.policy.rules if self.policy is not None else ()
        return Counters(
            ports,
            {
                name: HopCount.of(self._maps["hop_counters"].per_cpu(self.hop_id(name)), taps.get(name, {}))
                for name in sorted(hops)
            },
            {rule.name: RuleCount.of(self._maps["rule_counters"].per_cpu(rule.counter)) for rule in rules},
            self._device_count(layout.SLOT_UNKNOWN),
        )

    # -- end ----------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Let go; pinned, the datapath goes on by itself."""
        for generated in self._generated.values():
            generated.close()
        self._generated = {}
        self._links.close()
        self._kernel.close()

    def unload(self) -> None:
        """Detach everything and remove the pins: nothing is left of the datapath."""
        for place in {*self._links.slots(), *self._attached}:
            self._detach(place)
        pins = self._kernel.pins
        self.close()
        if pins is not None:
            shutil.rmtree(pins)

    def require_hop(self, name: str) -> int:
        """The number of a hop of the present policy; NotFoundError when it has none of this name."""
        if self.policy is None or name not in self.policy.hops:
            raise NotFoundError(f"there is no guest or remote {name}")
        return self.policy.hops[name].id
