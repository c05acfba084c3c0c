# SPDX-License-Identifier: GPL-2.0-only
"""One direction through a guest on one segment: its heartbeats, its traffic, and the limit on that traffic.

Combines the heartbeat streams that enter by one tap (inband_streams.py) with the decision whether the guest is
overloaded (overload.py) and with the datapath (`Load`), which counts and limits. Lives as long as the guest's process.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from appliance.api.schema.guests import Overload as Shown
from appliance.health.detector import Carried
from appliance.health.inband_streams import Evidence, Stream
from appliance.health.overload import TARGET_NS, Load, Look, Overload

ONSET_NS = 500_000_000
"""For this long an overload explains missing heartbeats in the other direction too; by then the limit takes effect."""


class OneWay:
    """The probe with the shortest interval leads: it determines when to look, and how long heartbeats take.

    It has a stream for each queue; one of them that gets too much is an overload like one of all.

    `other`: the opposite direction, whose flood may keep the guest from forwarding in this one.
    """

    def __init__(self, streams: Sequence[Stream], load: Load) -> None:
        self._streams, self._load = streams, load
        self._lead = min(streams, key=lambda stream: stream.limits.interval)
        self._leads = [stream for stream in streams if stream.probe == self._lead.probe]
        self._half = self._lead.limits.interval // 2
        window = self._lead.limits.window
        self._target = max(min(TARGET_NS, window // 2), window // 4)
        for stream in streams:
            if stream.latency_limit is not None:
                self._target = min(self._target, stream.latency_limit.limit // 2)
        self._patience = max(0, self._target - self._lead.limits.interval)
        self._overload = self._unknown()
        self._looked = self._began = 0
        self._proved: int | None = None
        self.other: OneWay | None = None

    def _unknown(self) -> Overload:
        """The state before anything is known about its capacity."""
        return Overload(self._lead.limits, self._target)

    @property
    def overloaded(self) -> bool:
        """Whether the guest gets more than it can handle."""
        return self._overload.active

    def shown(self) -> Shown:
        """The state, as the API shows it."""
        return Shown(
            way=self._lead.where, limit_frames_per_s=self._overload.rate, carries_frames_per_s=self._overload.carries
        )

    @property
    def due(self) -> int:
        """When to look: with each heartbeat of the leading stream, and half an interval later if it is missing."""
        due = self._lead.due
        half = due - self._half
        return half if self._looked < half and any(stream.waits for stream in self._leads) else due

    def look(self, now: int) -> Iterator[Evidence]:
        """To be called before the next heartbeat: what the traffic proves for checks whose heartbeat is missing."""
        if now < self.due:
            return
        self._looked = now
        lead, was, sample = self._lead, self._overload.rate, self._load.sample()
        at = self._overload.proof(now, sample)
        self._proved = self._proved if at is None else at
        if at is None and self.other is not None:
            at = self.other.lends(now)
        if now >= lead.due:
            lacks = any(stream.lacks(now, self._patience) for stream in self._leads)
            latencies = [stream.latency for stream in self._leads if stream.latency is not None]
            refused = any(stream.refused for stream in self._leads)
            self._overload.look(now, sample, Look(lacks, refused, max(latencies, default=None)))
        if self._overload.rate != was:
            self._began = self._began if was else now
            self._load.limit(self._overload.rate)
        for stream in self._streams:
            stream.excused = self._overload.excuses
            if at is not None and stream.waits:
                yield stream.check, Carried(at)
                if stream.latency_check:
                    yield stream.latency_check, Carried(at)

    def lends(self, now: int) -> int | None:
        """What frames in this direction prove for the other one, while an overload begins in this one."""
        waits = any(stream.waits for stream in self._leads)
        begins = now - self._began < ONSET_NS if self._overload.active else waits
        return self._proved if begins else None

    def relieve(self) -> None:
        """Lift the limit: the guest gets no frames any more, or this watch ends."""
        self._overload, self._proved = self._unknown(), None
        self._load.limit(0)
        for stream in self._streams:
            stream.excused = False


def one_ways(streams: Sequence[Stream], loads: Mapping[str, Load]) -> list[OneWay]:
    """One for each tap where positive heartbeats enter; `loads` by the tap's name."""
    found: dict[str, list[Stream]] = {}
    for stream in streams:
        if not stream.negative and stream.enters in loads:
            found.setdefault(stream.enters, []).append(stream)
    ways = {enters: OneWay(group, loads[enters]) for enters, group in found.items()}
    for enters, group in found.items():
        ways[enters].other = ways.get(group[0].opposite or group[0].leaves)
    return list(ways.values())
