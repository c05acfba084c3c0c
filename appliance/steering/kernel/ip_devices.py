# SPDX-License-Identifier: GPL-2.0-only
"""The devices of remotes whose tunnels carry IP, and the programs for them (bpf/headers.h); and those of remotes of any
kind whose TCP connections are made to fit (bpf/clamp.h).

Frames do not begin or end here, so these devices have no slots. The programs are attached by `tc`, from where they are
pinned: an attachment lives as long as its device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from appliance.errors import DatapathError
from appliance.steering.kernel.layout import ClampValue, IpDeviceValue, Side
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

    def by_kernel(self, hop: str, side: Side, here: int, tunnel: int) -> Path:
        """Lead frames that come out of a device (ifindex) to the kernel's tunnel (ifindex). Returns the program for it.

        DatapathError: the datapath is not pinned.
        """
        if self._kernel.pins is None:
            raise DatapathError("encapsulation by XDP needs pinned programs")
        self._kernel.maps["ip_devices"].set(here, IpDeviceValue(to=tunnel, hop=self._number(hop), side=side))
        return self._kernel.pins / "programs" / "by_kernel_tc"

    def clamp(self, device: int, mtu: int) -> Path:
        """Have TCP connections by a remote's device (ifindex) fit this MTU. Returns the program for its egress.

        DatapathError: the datapath is not pinned.
        """
        if self._kernel.pins is None:
            raise DatapathError("TCP connections are made to fit by a pinned program")
        known = self._kernel.maps["clamps"].get(device)
        self._kernel.maps["clamps"].set(device, ClampValue(mtu=mtu, clamped=known.clamped if known is not None else 0))
        return self._kernel.pins / "programs" / "clamp_tc"

    def clamped(self, device: int) -> int:
        """TCP connections that were made to fit by this device, counted at each of their two ends."""
        found = self._kernel.maps["clamps"].get(device)
        return found.clamped if found is not None else 0

    def release(self, device: int) -> None:
        """Change no more of what goes to this device."""
        self._kernel.maps["clamps"].delete(device)
