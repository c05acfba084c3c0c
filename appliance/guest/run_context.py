# SPDX-License-Identifier: GPL-2.0-only
"""What a run of a guest needs besides the guest's configuration: folders, number, taps, and what all guests share."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from appliance.guest.port.management_port import Port
from appliance.guest.qemu.cgroup import Cgroups
from appliance.guest.qemu.command import Accel
from appliance.guest.qemu.hugepages import Pool
from appliance.health.overload import Load
from appliance.health.watch import TapPair
from appliance.paths import Paths
from appliance.system.namespace import Namespace


@dataclass(frozen=True)
class RunContext:
    """The context of one run. All but `hop`, `pairs`, `nonce`, `mtus`, `management` and `loads` are shared."""

    paths: Paths
    hop: int
    pairs: tuple[TapPair, ...]
    nonce: int
    cgroups: Cgroups
    huge: Pool
    accel: Accel | None = None  # forced for every guest; None: as configured, or found out
    mtus: Callable[[], tuple[int, ...]] = tuple  # of the ports at each of its segments, at its start; 0: not known
    management: Port | None = None  # its third port, if one is configured
    clock: Callable[[], int] = time.monotonic_ns
    space: Namespace | None = None  # of the management port
    loads: Mapping[str, Load] = field(default_factory=dict)  # by tap: the traffic that enters the guest there
