# SPDX-License-Identifier: GPL-2.0-only
"""A mirror beside a hop: does it treat the same frames as that hop does? Pure.

Takes what went into both and came out of both within a round, with times, and compares frame by frame: forwarded,
changed or dropped, and how long it took. A frame that comes out is known by its bytes; one that the hop has changed by
what it has left unchanged: its payload and identification, behind other addresses, or its addresses, ports and sequence
number, before another payload.
"""

from __future__ import annotations

import struct
from bisect import insort
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from appliance.frames import headers

UDP = 17
MOST_TIMES = 20_000
"""Latencies kept of each hop."""
SLOWER, NOTICEABLE_NS = 1.5, 50_000
"""The mirror's latency differs if it is so many times the other's, and so much longer."""


class Verdict(StrEnum):
    """What a hop did with a frame."""

    FORWARDED = "forwarded"
    CHANGED = "changed"
    DROPPED = "dropped"


class Seen(NamedTuple):
    """A frame at a hop: when (ns), on its way from LAN to WAN (0) or back (1), and its bytes."""

    when: int
    direction: int
    data: bytes


class Passed(NamedTuple):
    """What went into a hop in a round, and what came out of it, until a while later."""

    into: Sequence[Seen]
    out: Sequence[Seen]


def came_out(passed: Passed) -> bool:
    """Whether all frames that went in have come out as they were. The others may still come: later, or changed."""
    out = Counter((seen.direction, seen.data) for seen in passed.out)
    return Counter((seen.direction, seen.data) for seen in passed.into) <= out


class Result(NamedTuple):
    """What became of a frame in a hop. `made`: how it came out, if it was changed."""

    verdict: Verdict
    took_ns: int = 0
    made: bytes = b""


class Difference(NamedTuple):
    """What the hop and its mirror did. `otherwise`: both changed the frame, and not alike."""

    hop: Verdict
    mirror: Verdict
    otherwise: bool = False

    @property
    def alike(self) -> bool:
        """Whether they did the same."""
        return self.hop is self.mirror and not self.otherwise


@dataclass
class Side:
    """What was seen of one of the two, over all rounds. `extra`: frames that came out and are none of those that went
    in. `took`: latencies in ns, sorted."""

    took: list[int] = field(default_factory=list)
    extra: int = 0

    def percentile(self, share: float) -> int | None:
        """A latency in ns; None: there is none."""
        return self.took[min(int(len(self.took) * share), len(self.took) - 1)] if self.took else None


class Comparison:
    """Adds up rounds. `judged`: frames that both got. `uncopied`: of which the mirror got no copy."""

    def __init__(self, *, link: bool = False) -> None:
        """`link`: there is no hop beside the mirror: the frames pass unchanged."""
        self._link = link
        self.hop, self.mirror = Side(), Side()
        self.verdicts: Counter[Difference] = Counter()
        self.examples: dict[Difference, bytes] = {}
        self.judged = self.uncopied = 0

    def add(self, hop: Passed, mirror: Passed) -> None:
        """One round."""
        by_hop = [] if self._link else _results(hop, self.hop)
        by_mirror = _results(mirror, self.mirror)
        if self._link:
            by_hop = [(seen, Result(Verdict.FORWARDED)) for seen, _ in by_mirror]
        waiting: defaultdict[tuple[int, bytes], deque[Result]] = defaultdict(deque)
        for seen, result in by_mirror:
            waiting[seen.direction, seen.data].append(result)
        for seen, result in by_hop:
            there = waiting[seen.direction, seen.data]
            if not there:
                self.uncopied += 1
                continue
            self._judge(seen.data, result, there.popleft())

    def _judge(self, frame: bytes, hop: Result, mirror: Result) -> None:
        self.judged += 1
        otherwise = hop.verdict is mirror.verdict is Verdict.CHANGED and hop.made != mirror.made
        found = Difference(hop.verdict, mirror.verdict, otherwise)
        self.verdicts[found] += 1
        self.examples.setdefault(found, frame)

    @property
    def different(self) -> int:
        """Frames that they did not treat alike."""
        return sum(frames for found, frames in self.verdicts.items() if not found.alike)

    @property
    def slower(self) -> list[str]:
        """The percentiles at which the mirror takes noticeably longer."""
        found = []
        for name, share in (("median", 0.5), ("99th percentile", 0.99)):
            hop, mirror = self.hop.percentile(share), self.mirror.percentile(share)
            if hop is not None and mirror is not None and mirror > max(hop * SLOWER, hop + NOTICEABLE_NS):
                found.append(name)
        return found


def _results(passed: Passed, side: Side) -> list[tuple[Seen, Result]]:
    """What became of each frame that went in; the others that came out are extra."""
    into = sorted(passed.into)
    found: dict[int, tuple[Seen, Result]] = {}
    left = sorted(passed.out)
    for same in (_whole, _payload, _ends):
        left = list(_match(into, left, found, same))
    for _, result in found.values():
        if len(side.took) < MOST_TIMES:
            insort(side.took, result.took_ns)
    side.extra += len(left)
    return [found.get(at, (seen, Result(Verdict.DROPPED))) for at, seen in enumerate(into)]


def _match(
    into: Sequence[Seen], out: Iterable[Seen], found: dict[int, tuple[Seen, Result]], same: Callable[[bytes], Hashable]
) -> Iterator[Seen]:
    """Assign what came out to the first frame like it that went in before, and yield the rest."""
    waiting: defaultdict[Hashable, deque[int]] = defaultdict(deque)
    for at, seen in enumerate(into):
        if at not in found and (key := same(seen.data)) is not None:
            waiting[seen.direction, key].append(at)
    for seen in out:
        key = same(seen.data)
        there = waiting[seen.direction, key] if key is not None else None
        if not there or into[there[0]].when > seen.when:
            yield seen
            continue
        at = there.popleft()
        unchanged = into[at].data == seen.data
        verdict, made = (Verdict.FORWARDED, b"") if unchanged else (Verdict.CHANGED, seen.data)
        found[at] = into[at], Result(verdict, seen.when - into[at].when, made)


def _whole(data: bytes) -> Hashable:
    return data


def _payload(data: bytes) -> Hashable:
    """What stays when addresses, ports, tags or the time to live are changed."""
    ip, at = _ip(data)
    if ip is None:
        return data[12:] if len(data) > 14 else None
    rest = data[at:]
    if ip.protocol == headers.TCP and len(rest) >= 20:
        return ip.protocol, _number(data, at), rest[4:12], rest[(rest[12] >> 4) * 4 :]
    if ip.protocol == UDP and len(rest) > 8:
        return ip.protocol, _number(data, at), rest[8:]
    return ip.protocol, _number(data, at), rest


def _ends(data: bytes) -> Hashable:
    """What stays when the payload is changed."""
    ip, at = _ip(data)
    if ip is None:
        return None
    sequence = data[at + 4 : at + 8] if ip.protocol == headers.TCP else b""
    return ip.protocol, ip.source, ip.destination, ip.ports, sequence, _number(data, at)


def _ip(data: bytes) -> tuple[headers.Ip | None, int]:
    """The IP header of a frame, and the offset of what is behind it; None: none, or a later fragment."""
    if len(data) < 14:
        return None, 0
    vlans, ethertype, ip = headers.read(data)
    if ip is None or ip.fragment == 2:
        return None, 0
    at = 14 + 4 * len(vlans)
    if ethertype == headers.IPV4:
        return ip, at + (data[at] & 15) * 4
    return ip, at + 40


def _number(data: bytes, at: int) -> int:
    """The identification of an IPv4 packet whose payload begins there; 0 for others."""
    start = at - 20
    if start >= 14 and data[start] == 0x45 and data[start - 2 : start] == b"\x08\x00":
        return int(struct.unpack_from("!H", data, start + 4)[0])
    return 0
