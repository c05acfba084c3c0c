# SPDX-License-Identifier: GPL-2.0-only
"""Frames into and out of a hop in one direction, and their limit: the datapath's implementation of health's `Load`.

The datapath counts frames that come out of a hop. Only the tap knows what happened to frames sent to it: the kernel
counts a frame when QEMU takes it from the tap's queue, or if the queue was full (tun.c). Lives as long as the datapath.
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
        """The counters now; None if they cannot be read."""
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
        """Limit the frames to the hop; 0: no limit. Does nothing if the datapath has been closed."""
        if not self._closed:
            self._gates.limit(self._place, frames_per_s)

    def close(self) -> None:
        """Idempotent."""
        self._closed = True
        if self._socket is not None:
            self._socket.close()
            self._socket = None
