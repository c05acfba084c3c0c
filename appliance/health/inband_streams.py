# SPDX-License-Identifier: GPL-2.0-only
"""The heartbeats through a guest's data ports: which lanes its probes need, and the evidence from them.

A stream is one lane (inband.py) with the two taps between which it runs. The frames of a *positive* stream must come
out, and their latency may be judged too (latency_limit.py); those of a *negative* stream must not: a frame that has not
come out after one interval is good evidence, one that has is bad. Streams live as long as the guest's process.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from appliance.causes import Cause
from appliance.config.check.verify_probe import FRAME_LEAST, FRAME_MOST, frame_from_hex
from appliance.config.schema import model
from appliance.counted import counted
from appliance.errors import BypassError, GuestError
from appliance.frames import capture_reader
from appliance.health.detector import Bad, Carried, Detector, Event, Good, Limits, milliseconds
from appliance.health.inband import Direction, Lane
from appliance.health.inband_routed import Route
from appliance.health.latency_limit import LatencyLimit
from appliance.health.packet_socket import PacketSocket

Evidence = tuple[str, Event]
"""A check, and what happened to it."""


@dataclass(frozen=True)
class TapPair:
    """The two taps of a guest on one segment. `label` tells segments apart; "" if there is only one.

    `addresses` are the guest's MAC addresses at the taps. `entries`: where frames for the two sides are sent, if that
    is elsewhere than where those from there come out.
    """

    lan: str
    wan: str
    label: str = ""
    addresses: tuple[str, str] = ("", "")
    entries: tuple[str, str] | None = None

    def entry(self, way: Direction) -> str:
        """Where frames of this direction enter the guest."""
        return (self.entries or (self.lan, self.wan))[0 if way is Direction.LAN_TO_WAN else 1]

    def sides(self, way: Direction) -> tuple[str, str]:
        """The taps where frames of this direction enter and leave the guest."""
        return self.entry(way), self.wan if way is Direction.LAN_TO_WAN else self.lan


def template(probe: model.Probe, folder: Path) -> bytes:
    """The frame of a probe; b"" = the standard one. A relative file is below `folder`. GuestError: unreadable."""
    if not probe.frame:
        return b""
    frame = frame_from_hex(probe.frame)
    if frame is not None:
        return frame
    path = folder / probe.frame
    try:
        first = next(iter(capture_reader.read(path)), None)
        frame = first.data if first is not None else None
    except BypassError as error:
        raise GuestError(f"probe {probe.kind}: frame: {error}") from error
    if frame is None or len(frame) > FRAME_MOST or len(frame) < 14:
        what = "holds no frame"
        if frame is not None:
            what = f"its first frame has {counted(len(frame), 'byte')}, 14 to {FRAME_MOST} fit"
        raise GuestError(f"probe {probe.kind}: frame: {path}: {what}")
    return frame.ljust(FRAME_LEAST, b"\0")


@dataclass
class Stream:
    """One lane and its taps: what is sent into `enters` must come out at `leaves` (or must not, if negative)."""

    check: str
    lane: Lane
    enters: str
    leaves: str
    limits: Limits
    negative: bool = False
    latency_check: str = ""
    latency_limit: LatencyLimit | None = None
    latency_limits: Limits | None = None
    due: int = 0
    entry: PacketSocket | None = field(default=None, repr=False)
    where: str = ""  # which lane, for display
    probe: int = 0  # which of the guest's probes it belongs to
    opposite: str = ""  # the tap where frames of the other direction enter
    several: bool = False  # there is a lane for each of several queues
    latency: int | None = None  # of the newest frame that came out
    refused: bool = False  # the tap did not take the last one
    excused: bool = False  # the guest is overloaded, so its latency is no evidence against it
    _sent: int = -1
    _answered: int = -1

    @property
    def waits(self) -> bool:
        """Whether the last frame sent has not come out yet."""
        return self._answered < self._sent

    def lacks(self, now: int, patience: int) -> bool:
        """Whether a frame sent an interval and `patience` (ns) ago, or earlier, has not come out."""
        return self.waits and now - self._answered >= (self.limits.interval + patience if patience else 0)

    def detectors(self) -> list[Detector]:
        """The checks for which this stream yields evidence."""
        cause = Cause.NOT_BLOCKING if self.negative else Cause.HEARTBEAT_LOST
        found = [Detector(self.check, self.limits, cause)]
        if self.latency_limits is not None:
            found.append(Detector(self.latency_check, self.latency_limits, Cause.TOO_SLOW))
        return found

    def send(self, now: int) -> Iterator[Evidence]:
        """Send what is due, on a grid, so that delays do not add up; intervals that were missed are skipped."""
        if now < self.due:
            return
        self.due += ((now - self.due) // self.limits.interval + 1) * self.limits.interval
        if self.negative:
            blocked = self.lane.overdue(now - self.limits.interval * 3 // 4)
            if blocked:
                yield self.check, Good(max(blocked))
        assert self.entry is not None
        refused = self.entry.refused
        self.entry.send(self.lane.send(now), self.lane.queue if self.several else None)
        self._sent, self.refused = now, self.entry.refused > refused

    def take(self, now: int, frame: bytes) -> Iterator[Evidence]:
        """Take a frame that came out of the guest at the far side."""
        proof = self.lane.receive(now, frame)
        if proof is None:
            return
        if self.negative:
            yield self.check, Bad(f"a frame that must be blocked got through after {milliseconds(proof.latency)}")
            return
        if proof.sent > self._answered:
            self._answered, self.latency = proof.sent, proof.latency
        yield self.check, Good(proof.sent, proof.latency)
        if self.latency_limit is not None:
            verdict = self.latency_limit.add(now, proof.sent, proof.latency)
            if self.excused:
                yield self.latency_check, Carried(proof.sent)
            elif verdict is not None:
                yield self.latency_check, verdict

    def forget(self) -> None:
        """Forget what was sent: the guest restarted."""
        self._sent = self._answered = -1
        self.latency, self.refused, self.excused = None, False, False
        if self.latency_limit is not None:
            self.latency_limit.forget()


def streams(
    probes: Sequence[model.Probe], hop: int, pairs: Sequence[TapPair], nonce: int, folder: Path, *, queues: int = 1
) -> list[Stream]:
    """The streams that a guest's probes need. GuestError when a probe's frame cannot be read.

    Every queue has its own, because what serves one may hang while the others work.
    """
    found: list[Stream] = []
    chosen: dict[tuple[str, str, model.Routed | None, str], model.Probe] = {}
    for probe in probes:
        if probe.kind in ("inband", "negative"):
            key = (probe.kind, probe.frame, probe.routed, probe.enter)
            # Two probes with the same frames prove the same, so the stricter one serves both.
            known = chosen.get(key)
            if known is None or probe.interval * probe.misses < known.interval * known.misses:
                chosen[key] = probe
    for number, probe in enumerate(chosen.values()):
        frame = template(probe, folder)
        for pair in pairs:
            for way in Direction:
                if probe.enter not in ("both", "lan" if way is Direction.LAN_TO_WAN else "wan"):
                    continue
                for queue in range(queues):
                    lane = Lane(hop, way, nonce, frame, number, _route(probe.routed, way, pair), queue)
                    found.append(_stream(probe, number, lane, pair, queues > 1))
    return found


def _route(routed: model.Routed | None, way: Direction, pair: TapPair) -> Route | None:
    if routed is None:
        return None
    ends = (ipaddress.ip_address(routed.lan), ipaddress.ip_address(routed.wan))
    source, target = ends if way is Direction.LAN_TO_WAN else ends[::-1]
    return Route(bytes.fromhex(pair.addresses[way].replace(":", "")), source, target, routed.port)


def _stream(probe: model.Probe, number: int, lane: Lane, pair: TapPair, several: bool) -> Stream:
    kind = "in-band" if probe.kind == "inband" else "negative"
    which = (
        f"routed {'IPv6 ' if ':' in probe.routed.lan else ''}"
        if probe.routed
        else ""
        if not probe.frame
        else f"frame {number + 1} "
        if frame_from_hex(probe.frame)
        else f"{probe.frame} "
    )
    where = f"{which}{pair.label + ' ' if pair.label else ''}{lane.direction.arrow}"
    where += f", queue {lane.queue}" * several
    negative = probe.kind == "negative"
    # Good evidence from a negative heartbeat is already one interval old when it is obtained.
    limits = Limits(probe.interval, probe.misses + negative, probe.rises)
    stream = Stream(f"{kind} {where}", lane, *pair.sides(lane.direction), limits, negative, where=where)
    stream.probe, stream.several = number, several
    stream.opposite = pair.entry(Direction(1 - lane.direction))
    if probe.slow is not None:
        stream.latency_check = f"latency {where}"
        stream.latency_limit = LatencyLimit(int(probe.slow.limit), probe.slow.percentile / 100, int(probe.slow.time))
        span = max(int(probe.slow.time), limits.window)
        stream.latency_limits = Limits(span, misses=1, rises=1)
    return stream
