# SPDX-License-Identifier: GPL-2.0-only
"""Power buttons of the machine: which input devices are one, and what they report.

The kernel turns a press of the ACPI power button (a short one: holding it is the firmware's own) into a key of an input
device, and does nothing else about it. A keyboard with such a key is one as well.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

KEY_POWER: Final = 116  # linux/input-event-codes.h, as the two below
_EV_KEY, _DOWN = 1, 1
EVENT: Final = struct.Struct("@llHHi")  # struct input_event: seconds, microseconds, type, code, value
_LONG_BITS: Final = struct.calcsize("@l") * 8


def has_power_key(capabilities: str) -> bool:
    """Whether `capabilities/key` of an input device in sysfs has that key: hexadecimal longs, the highest first."""
    words = capabilities.split()
    word, bit = divmod(KEY_POWER, _LONG_BITS)
    return len(words) > word and bool(int(words[-1 - word], 16) >> bit & 1)


def presses(data: bytes) -> int:
    """How often the power key went down, of what was read from an input device. An incomplete record is ignored."""
    whole = len(data) - len(data) % EVENT.size
    return sum(event[2:] == (_EV_KEY, KEY_POWER, _DOWN) for event in EVENT.iter_unpack(data[:whole]))


def find() -> list[Path]:
    """The device files of all power buttons. Reads sysfs."""
    import pyudev

    found = []
    for device in pyudev.Context().list_devices(subsystem="input"):
        if not device.device_node or not device.sys_name.startswith("event") or device.parent is None:
            continue
        keys = device.parent.attributes.get("capabilities/key")
        if keys and has_power_key(keys.decode("ascii", "replace")):
            found.append(Path(device.device_node))
    return sorted(found)
