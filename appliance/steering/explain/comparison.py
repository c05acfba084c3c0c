# SPDX-License-Identifier: GPL-2.0-only
"""Two configurations on the same frames: which frames go another way, by rule. Pure.

Both are asked of the model, under the same assumptions: hops in `down` are not available, all others are, and every
port and hop is there. What only the running datapath knows is left out for both: flows that a hop drains or has
shunted, limits of overloaded hops, filters that guests registered, flows in quarantine.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from appliance.config.schema.model import Config
from appliance.frames import headers
from appliance.steering.explain.backends import ModelEngine
from appliance.steering.explain.explain import walk
from appliance.steering.kernel.layout import Side

STRAIGHT, DROPPED = "straight", "dropped"


class Way(NamedTuple):
    """The rule that a frame matches ("" none), and where it goes."""

    rule: str
    way: str


class Change(NamedTuple):
    """What became of frames: `side` is the one where they arrive."""

    segment: str
    side: str
    old: Way
    new: Way

    @property
    def elsewhere(self) -> bool:
        """Whether they go another way; otherwise only another rule takes them."""
        return self.old.way != self.new.way


class Comparison:
    """Counts frames of the segments that both configurations have."""

    def __init__(self, old: Config, new: Config, down: frozenset[str]) -> None:
        self._old, self._new = ModelEngine(old, down), ModelEngine(new, down)
        self.segments = [name for name in self._old.policy.segments if name in self._new.policy.segments]
        self.assumed = sorted(set(self._new.policy.hops) - set(self._old.policy.hops))
        """Hops that only the new configuration has: taken for available."""
        self.frames = 0
        self.changes: Counter[Change] = Counter()
        self.examples: dict[Change, bytes] = {}

    def add(self, segment: str, side: Side, frame: bytes) -> None:
        """A frame that arrives there."""
        self.frames += 1
        change = Change(segment, side.name.lower(), *(_way(engine, segment, side, frame) for engine in self._engines))
        if change.old != change.new:
            self.changes[change] += 1
            self.examples.setdefault(change, frame)

    @property
    def _engines(self) -> Iterable[ModelEngine]:
        return self._old, self._new

    @property
    def elsewhere(self) -> int:
        """Frames that go another way."""
        return sum(count for change, count in self.changes.items() if change.elsewhere)


def _way(engine: ModelEngine, segment: str, side: Side, frame: bytes) -> Way:
    (found,) = walk(engine, (frame,), side, engine.policy.segments[segment], words=False)
    if found.hops:
        return Way(found.rule or "", " > ".join(found.hops))
    return Way(found.rule or "", DROPPED if found.verdict == "drop" else STRAIGHT)


def described(frame: bytes) -> str:
    """Protocol and ends of a frame, for display."""
    if len(frame) < 14:
        return ""
    vlans, ethertype, ip = headers.read(frame)
    tags = "".join(f"vlan {vlan} " for vlan in vlans)
    if ip is None:
        return f"{tags}ethertype {ethertype:#06x}"
    kind = ipaddress.IPv6Address if ethertype == headers.IPV6 else ipaddress.IPv4Address
    ends = [str(kind(address)) for address in (ip.source, ip.destination)]
    if ip.protocol in headers.WITH_PORTS and ip.fragment != 2:
        ends = [f"[{end}]:{port}" if ":" in end else f"{end}:{port}" for end, port in zip(ends, ip.ports, strict=True)]
    protocol = {6: "tcp", 17: "udp", 1: "icmp", 58: "icmp6"}.get(ip.protocol, f"protocol {ip.protocol}")
    return f"{tags}{protocol} {ends[0]} > {ends[1]}"
