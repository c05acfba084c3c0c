# SPDX-License-Identifier: GPL-2.0-only
"""The headers that XDP puts around frames for remotes with way = "xdp", and what became of the frames (bpf/encap.h).

The devices are in the namespace of the management port: ifindexes of one are meant wherever one is named here, and
`lead_to`, by which the kernel looks one up, must be called in it.
"""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from appliance.steering.kernel.layout import EncapKind, Encapsulated, EncapValue, Side
from appliance.steering.kernel.maps import Map

KINDS: Final = {"gre-ethernet": EncapKind.GRE, "vxlan": EncapKind.VXLAN, "geneve": EncapKind.GENEVE}
"""By kind of tunnel: those that XDP can make."""
BY_NAME: Final = {
    Encapsulated.OFF: "not_possible",
    Encapsulated.LONG: "too_long",
    Encapsulated.INNER: "inner_headers",
    Encapsulated.NEIGHBOUR: "neighbour",
    Encapsulated.ROUTE: "route",
    Encapsulated.ROOM: "no_room",
    Encapsulated.CONFIRM: "confirm_neighbour",
}
"""Why a frame went by the kernel's tunnel, as it is shown."""
GENEVE_PORTS: Final = (1, 65535)
"""The range of source ports of the kernel's Geneve; that of its VXLAN is that of local ports."""


class Headers(NamedTuple):
    """What is put around a frame. `kind`: of the tunnel; `source`, `destination`: addresses of IP; `port`: of UDP at
    the far end; `sources`: the range of our own, as the kernel has it, whose upper end is not used."""

    kind: str
    source: str
    destination: str
    key: int
    port: int = 0
    sources: tuple[int, int] = (0, 0)

    def value(self, place: int, route: int, version: int) -> EncapValue:
        """As the program reads it. `route`: ifindex that routes must name. ValueError: an address is none."""
        ends = [ipaddress.ip_address(end) for end in (self.source, self.destination)]
        kind, six = KINDS[self.kind], ends[0].version == 6
        least, most = self.sources
        made = EncapValue(
            key=socket.htonl(self.key if kind is EncapKind.GRE else self.key << 8),
            route=route,
            place=place,
            overhead=(40 if six else 20) + (8 if kind is EncapKind.GRE else 16),
            port=socket.htons(self.port),
            least_port=least,
            ports=most - least,
            kind=kind,
            six=six,
            version=version,
        )
        for field, end in zip((made.source, made.destination), ends, strict=True):
            field[: len(end.packed)] = list(end.packed)
        return made


class Encaps:
    """Those of one datapath. `maps`: the datapath's, by name."""

    def __init__(self, maps: Mapping[str, Map[Any, Any]]) -> None:
        self._values, self._states, self._leave = maps["encaps"], maps["encap_states"], maps["encap_tx"]

    @staticmethod
    def place(hop: int, side: Side) -> int:
        """Where the counters of a hop (its number) are."""
        return hop * 2 + side

    def put(self, here: int, place: int, headers: Headers, route: int) -> None:
        """Put these headers around what comes to the device `here`, while the route leads to the device `route`."""
        known = self._values.get(here)
        value = headers.value(place, route, time.monotonic_ns())
        value.confirmed = known.confirmed if known is not None else 0
        self._values.set(here, value)

    def put_nothing(self, here: int, place: int) -> None:
        """Have all frames go by the kernel's tunnel."""
        self._values.set(here, EncapValue(kind=EncapKind.NONE, place=place))

    def lead_to(self, place: int, port: int) -> None:
        """Send its packets out of this port. DatapathError: it is gone."""
        self._leave.set(place, port)

    def forget(self, here: int, place: int) -> None:
        """The device is being removed."""
        self._values.delete(here)
        self._leave.delete(place)

    def frames(self, place: int) -> dict[Encapsulated, int]:
        """What became of the frames so far; only what is not 0."""
        each = self._states.per_cpu(place)
        found = {what: sum(state.frames[what] for state in each) for what in Encapsulated}
        return {what: count for what, count in found.items() if count}

    def clear(self, place: int) -> None:
        """Count from 0."""
        self._states.zero_per_cpu(place)
