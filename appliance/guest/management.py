# SPDX-License-Identifier: GPL-2.0-only
"""The isolated management network of a guest: one tap between it and the supervisor, and nobody else.

Network 169.254.N.0/24, where N is the guest's hop number (`show guest NAME` says it): the appliance is .1, the guest is
expected at .2 and configures that itself. Probes ask there. Nothing is forwarded from or to it, and what administrators
log in to listens in another network namespace. The tap is persistent, as those of the data path, and goes when no guest
is configured to have it.
"""

from __future__ import annotations

import fcntl
import re
import socket
import struct
from pathlib import Path

from appliance.errors import GuestError
from appliance.guest import taps

_NAME = re.compile(r"twm\d+")
_SIOCSIFADDR, _SIOCSIFNETMASK, _SIOCSIFMTU = 0x8916, 0x891C, 0x8922
MTU = 1500


def tap_name(hop: int) -> str:
    """Name of the management tap of a hop: "twm3"."""
    return f"twm{hop}"


def host_address(hop: int) -> str:
    """Ours."""
    return f"169.254.{hop}.1"


def guest_address(hop: int) -> str:
    """Where the guest is expected."""
    return f"169.254.{hop}.2"


def ensure(hop: int) -> str:
    """Make the tap where it is missing, with our address; its name. GuestError when the kernel refuses."""
    name = tap_name(hop)
    taps.ensure(name)
    try:
        forwarding = Path("/proc/sys/net/ipv4/conf", name, "forwarding")
        if forwarding.exists():
            forwarding.write_text("0")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            fcntl.ioctl(sock, _SIOCSIFMTU, struct.pack("16si20x", name.encode(), MTU))
            for request, address in ((_SIOCSIFADDR, host_address(hop)), (_SIOCSIFNETMASK, "255.255.255.0")):
                value = struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(address))
                fcntl.ioctl(sock, request, struct.pack("16s16s8x", name.encode(), value))
    except OSError as error:
        raise GuestError(f"tap {name} cannot be set up: {error.strerror}") from error
    return name


def existing() -> list[str]:
    """All taps that look like ours."""
    return [name for _, name in socket.if_nameindex() if _NAME.fullmatch(name)]
