# SPDX-License-Identifier: GPL-2.0-only
"""Captures requested through the control socket: points by name, a filter, and a ring for the client.

The client receives the descriptor of a ring that the datapath fills, and reads it itself: no frame passes through
bypassd, so neither a busy link nor a stuck client can slow it. A capture lives as long as the client's connection.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from appliance.api.connection import lend
from appliance.api.schema import methods, state
from appliance.api.server import Param, Params, Registry, caller
from appliance.errors import NotFoundError, UnreachableError

if TYPE_CHECKING:
    from appliance.config.schema.model import Config
    from appliance.steering.datapath import Datapath

log = logging.getLogger(__name__)

SIDES = ("lan", "wan")
WAYS = ("in", "out")


class Captures:
    """The handlers of capture.start and capture.counts. `now` gives configuration and datapath, None: not yet."""

    def __init__(self, now: Callable[[], tuple[Config | None, Datapath | None]]) -> None:
        self._now = now
        self._running: dict[int, Datapath] = {}  # by sink: where it was begun

    def register(self, registry: Registry) -> None:
        """Register the methods."""
        params = {
            "kind": Param("string", "what `name` is", choices=("port", "guest", "remote", "segment")),
            "name": Param("string", "of a port, guest, remote or segment"),
            "side": Param("string", "of a guest or remote; both when left out", required=False, choices=SIDES),
            "way": Param("string", "in: from the device; out: to it; both when left out", required=False, choices=WAYS),
            "filter": Param("string", "pcap-filter expression; every frame when left out", required=False),
            "bytes": Param("integer", "of each frame; as many as can be when left out", required=False),
        }
        doc = "copy frames into a ring whose descriptor comes with the answer (SCM_RIGHTS), until the connection ends"
        registry.add(methods.CAPTURE_START, self.start, role="operator", doc=doc, params=params)
        sink = {"capture": Param("integer", "its number, from capture.start")}
        registry.add(
            methods.CAPTURE_COUNTS,
            self.counts,
            doc="frames copied, and frames lost because the ring was full",
            params=sink,
        )

    async def start(self, params: Params) -> state.Capture:
        """capture.start"""
        from appliance.filter.compiler import compile_filter
        from appliance.steering.kernel import layout
        from appliance.steering.kernel.copies import Point
        from appliance.steering.kernel.layout import CopyWay

        config, datapath = self._now()
        if datapath is None or config is None:
            raise UnreachableError("the datapath is not up: `bypass show status` says why")
        places = find(config, datapath, str(params["kind"]), str(params["name"]), str(params.get("side", "")))
        text = str(params.get("filter", ""))
        # in a thread: long filters take a while
        instructions = (await asyncio.to_thread(compile_filter, text)).instructions if text else ()
        if self._now()[1] is not datapath:
            raise UnreachableError("the datapath was restarted meanwhile: try again")
        wanted = params.get("way")
        ways = [way for way in CopyWay if wanted in (None, way.name.lower())]
        size = min(int(params.get("bytes", 0)) or layout.COPY_BYTES, layout.COPY_BYTES)
        points = [Point(place.slot, way) for place in places for way in ways]
        sink, ring = datapath.copies.begin(points, instructions, max(1, size))
        self._running[sink] = datapath
        who = caller()
        log.info("capture %d at %s %s by uid %d", sink, params["kind"], params["name"], who.uid)
        lend(ring, lambda: self._end(sink, datapath))
        return state.Capture(
            capture=sink,
            bytes=size,
            realtime_ns=time.time_ns(),
            monotonic_ns=time.monotonic_ns(),
            points=places,
        )

    async def counts(self, params: Params) -> state.CaptureCounts:
        """capture.counts"""
        sink = int(params["capture"])
        if sink not in self._running:
            raise NotFoundError(f"there is no capture {sink}")
        copied, lost = self._running[sink].copies.counts(sink)
        return state.CaptureCounts(copied=copied, lost=lost)

    def _end(self, sink: int, datapath: Datapath) -> None:
        """End the client's captures."""
        self._running.pop(sink, None)
        if self._now()[1] is datapath:  # else its tables are closed, and the next one's are clean
            datapath.copies.end(sink)
        log.info("capture %d ended", sink)


def find(config: Config, datapath: Datapath, kind: str, name: str, side: str = "") -> list[state.Point]:
    """The named places along the path of a frame from LAN to WAN. NotFoundError lists the valid names."""
    from appliance.steering.kernel.layout import Side, slot

    if kind == "port":
        ports = [
            state.Point(
                slot(0, datapath.segment_id(segment.name), at), port, f"{at.name} port of segment {segment.name}"
            )
            for segment in config.segment
            for at, port in ((Side.LAN, segment.lan), (Side.WAN, segment.wan))
        ]
        _must_be(kind, name, [place.name for place in ports])
        return [place for place in ports if place.name == name]
    if kind == "segment":
        _must_be(kind, name, [segment.name for segment in config.segment])
    else:
        hops = config.guest if kind == "guest" else config.remote
        _must_be(kind, name, [hop.name for hop in hops])
    attached = [one for one in datapath.attachments() if (one.segment if kind == "segment" else one.hop) == name]
    several = len({one.segment for one in attached}) > 1
    # the LAN port, both sides of each hop, the WAN port
    attached.sort(key=lambda one: (1 if one.hop else 2 * one.side, one.slot))
    found = []
    for one in attached:
        at = one.side.name
        label = f"{one.hop}.{at.lower()}" if one.hop else one.device.name
        about = f"{at} side of {one.hop}" if one.hop else f"{at} port"
        if side in ("", at.lower()):
            found.append(
                state.Point(one.slot, f"{label}@{one.segment}" if several else label, f"{about}, segment {one.segment}")
            )
    if not found:
        raise NotFoundError(f"{kind} {name} is not attached to the datapath: `bypass show {kind}s` says why")
    return found


def _must_be(kind: str, name: str, there: list[str]) -> None:
    if name not in there:
        raise NotFoundError(f'there is no {kind} "{name}"; there is: {", ".join(there) or "none"}')
