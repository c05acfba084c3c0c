# SPDX-License-Identifier: GPL-2.0-only
"""The devices of remotes whose tunnels carry IP, and the programs for them (bpf/headers.h).

Frames do not begin or end here, so these devices have no slots. The programs are attached by `tc`, from where they are
pinned: an attachment lives as long as its device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from appliance.errors import DatapathError
from appliance.steering.kernel.layout import IpDeviceValue, Side
from appliance.steering.kernel.objects import Kernel


class Programs(NamedTuple):
    """Where they are pinned: the one at the other end of a hop's pair, and the one at the tunnel."""

    strip: Path
    restore: Path


class IpDevices:
    """Those of one datapath. `number(hop)`: the hop's number."""

    def __init__(self, kernel: Kernel, number: Callable[[str], int]) -> None:
        self._kernel, self._number = kernel, number

    def join(self, hop: str, side: Side, pair: int, tunnel: int) -> Programs:
        """Lead packets from the pair's other end (ifindex) to the tunnel (ifindex), and back with their headers.

        Returns the programs that are to be attached. DatapathError: the datapath is not pinned.
        """
        if self._kernel.pins is None:
            raise DatapathError("a tunnel that carries IP needs pinned programs")
        devices, value = self._kernel.maps["ip_devices"], IpDeviceValue
        for here, to in ((pair, tunnel), (tunnel, pair)):
            known = devices.get(here)
            dropped = known.dropped if known is not None else 0
            devices.set(here, value(to=to, hop=self._number(hop), side=side, dropped=dropped))
        folder = self._kernel.pins / "programs"
        return Programs(folder / "strip_tc", folder / "restore_tc")

    def dropped(self, devices: Iterable[int]) -> int:
        """Packets that these devices (ifindexes) have dropped: without a known header, or not of IP."""
        found = (self._kernel.maps["ip_devices"].get(device) for device in devices)
        return sum(one.dropped for one in found if one is not None)

    def leave(self, devices: Iterable[int]) -> None:
        """Forget devices (ifindexes) that are being removed."""
        for device in devices:
            self._kernel.maps["ip_devices"].delete(device)
