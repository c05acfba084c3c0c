# SPDX-License-Identifier: GPL-2.0-only
"""Loops over the ports of segments: a far end that is bridged into the network of the link."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from appliance.config.schema.model import Segment
from appliance.remote.loop_watch import LoopWatch


class PortLoops:
    """`key(remote)`: of its heartbeats; `heard(where, remote)`: one of them came in at ports of a segment."""

    def __init__(self, key: Callable[[str], int], heard: Callable[[str, str], None]) -> None:
        self._key, self._heard = key, heard
        self._watches: dict[str, LoopWatch] = {}

    def look(
        self, now: int, segments: Sequence[Segment], remotes: Mapping[str, Sequence[str]], port: Callable[[str], str]
    ) -> None:
        """Often. `remotes`: by segment; `port(name)`: its device, "" while it is missing; `now`: ns."""
        for segment in segments:
            if segment.name in remotes and segment.name not in self._watches:
                heard = partial(self._heard, f"at the ports of segment {segment.name}")
                self._watches[segment.name] = LoopWatch(self._key, heard)
        there = {segment.name: (port(segment.lan), port(segment.wan)) for segment in segments}
        for name, watch in self._watches.items():
            devices = there.get(name, ("", ""))
            watch.follow(remotes.get(name, ()), devices if all(devices) else ())
            watch.step(now)

    def close(self) -> None:
        """Listen no more."""
        for watch in self._watches.values():
            watch.close()
        self._watches.clear()
