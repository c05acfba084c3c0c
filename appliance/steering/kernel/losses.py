# SPDX-License-Identifier: GPL-2.0-only
"""Tells the programs of losses.h where the running kernel keeps what they read, and whose devices are ours."""

from __future__ import annotations

import logging
import os

from appliance.errors import DatapathError
from appliance.steering.kernel.layout import KernelFieldsValue
from appliance.steering.kernel.objects import Kernel
from appliance.system import kernel_fields

log = logging.getLogger(__name__)


class Place:
    """Of one datapath; its devices are all in one network namespace."""

    def __init__(self, kernel: Kernel) -> None:
        self._map = kernel.maps["kernel_fields"]
        self._wanted = kernel.sees_losses
        self._fields: kernel_fields.Fields | None = None
        self._namespace = 0

    def watch_this_namespace(self) -> None:
        """Count what devices of the calling thread's namespace lose; called before such a device is attached."""
        namespace = os.stat("/proc/thread-self/ns/net").st_ino
        if not self._wanted or namespace == self._namespace:
            return
        try:
            self._fields = self._fields or kernel_fields.find()
        except DatapathError as error:
            log.warning("frames that devices drop are not counted: %s", error)
            self._wanted = False
            return
        known = self._fields
        self._map.set(
            0,
            KernelFieldsValue(
                device_ifindex=known.device_ifindex,
                device_namespace=known.device_namespace,
                namespace_number=known.namespace_number,
                frame_device=known.frame_device,
                frame_ingress=known.frame_ingress,
                namespaces=int(known.namespace_number != 0),
                namespace=namespace,
            ),
        )
        self._namespace = namespace
