# SPDX-License-Identifier: GPL-2.0-only
"""Collects what the datapath sent out of each port and what the port's driver counted as sent, about once a second.

The drivers' counters come with each look at the links (hardware/links.py); segment/evidence.py draws the conclusions.
"""

from __future__ import annotations

from appliance.config.schema.model import Segment
from appliance.segment.evidence import PortSample
from appliance.steering.kernel.layout import Side
from appliance.supervisor.system import System


class FrameWatch:
    """Lives as long as the pulse."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._counted = 0

    def look(self) -> None:
        """Take a sample of every segment if the ports have new counters."""
        system = self._system
        datapath, links = system.steering.datapath, system.links
        if datapath is None or links.counted == self._counted or system.config is None:
            return
        self._counted = links.counted
        modes = {(port.segment, port.side): port.mode for port in datapath.attachments() if not port.hop}
        for segment in system.config.segment:
            given = datapath.leaving(segment.name)
            samples = {}
            for side, name in sides(segment).items():
                port, mode = links.ports.get(name), modes.get((segment.name, side), "")
                if port is not None:
                    identity = (port.ifindex, mode)
                    samples[side.name.lower()] = PortSample(
                        name, given[side], port.sent, port.dropped, identity, surely=mode == "tc"
                    )
            system.segments.counted(segment.name, samples)


def sides(segment: Segment) -> dict[Side, str]:
    """The ports of a segment."""
    return {Side.LAN: segment.lan, Side.WAN: segment.wan}
