# SPDX-License-Identifier: GPL-2.0-only
"""What one direction through a hop is handed and gives back, and the limit of it: the datapath's `Load` of health/.

The datapath counts what comes out of a hop. What became of a frame that it handed over only the tap knows: the kernel
counts it when QEMU takes it out of the tap's queue, or when the queue was full (tun.c). Lives as long as the datapath.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from appliance.health.overload import Sample
from appliance.steering.kernel.gates import Gates
from appliance.steering.kernel.layout import DeviceCounterValue, Outcome
from appliance.system import netlink


class HopLoad:
    """`place`: slot of the tap by which frames enter; `ifindex`: of that tap, None while there is none; `came`: the
    counters of the tap by which they come out."""

    def __init__(
        self,
        place: int,
        ifindex: Callable[[], int | None],
        came: Callable[[], list[DeviceCounterValue]],
        gates: Gates,
    ) -> None:
        self._place, self._ifindex, self._came, self._gates = place, ifindex, came, gates
        self._socket: socket.socket | None = None
        self._closed = False

    def sample(self) -> Sample | None:
        """The counters now; None when they cannot be read."""
        ifindex = None if self._closed else self._ifindex()
        if ifindex is None:
            return None
        try:
            if self._socket is None:
                self._socket = netlink.open_socket(netlink.ROUTE)
                self._socket.settimeout(0)  # the kernel answers before `send` returns
            tap = netlink.link_counters(self._socket, ifindex)
        except OSError:
            return None
        came = sum(
            value.outcome[outcome].frames
            for value in self._came()
            for outcome in Outcome
            if outcome is not Outcome.HEARTBEAT
        )
        return Sample(taken=tap.tx_packets, lost=tap.tx_dropped, came=came, over=self._gates.over(self._place))

    def limit(self, frames_per_s: int) -> None:
        """Hand the hop no more than that; 0: as much as comes. Nothing happens when the datapath was closed before."""
        if not self._closed:
            self._gates.limit(self._place, frames_per_s)

    def close(self) -> None:
        """Idempotent."""
        self._closed = True
        if self._socket is not None:
            self._socket.close()
            self._socket = None
