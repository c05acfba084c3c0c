# SPDX-License-Identifier: GPL-2.0-only
"""The third port of a guest, for its management: reaches only the supervisor (isolated), or the LAN (bridged).

Isolated: network 169.254.N.0/24, where N is the guest's hop number (`show guest NAME` shows it). The appliance is .1;
the guest is expected to configure .2 itself, and probes use that address. Nothing is forwarded from or to this network,
and the services to which administrators log in listen in another network namespace. The tap is persistent, like those
of the data path. Bridged: see management_lan.py. A tap of either kind is removed when no guest is configured for it.
"""

from __future__ import annotations

import logging
import re
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from appliance.config.schema import model
from appliance.errors import BypassError, GuestError
from appliance.guest.port import tap as taps
from appliance.guest.port.mac_address import port_address
from appliance.guest.port.management_lan import Lan, tap_name
from appliance.system import netdev

log = logging.getLogger(__name__)

_NAME = re.compile(r"twm\d+")
_NO_SEGMENT = 0xFF  # in the address of an isolated port
MTU = 1500


@dataclass(frozen=True)
class Port:
    """A guest's third port: its tap, the guest's MAC address there, and how to open the tap for QEMU.

    `where`: for display, at which address the guest can be reached.
    """

    tap: str
    address: str
    where: str
    open: Callable[[], int]


def port(guest: model.Guest, hop: int, lan: Lan) -> Port | None:
    """Create the configured port; None if the guest has none. GuestError: the kernel refuses."""
    name = tap_name(hop)
    if guest.management != "isolated" and name in existing():
        _remove(taps.remove, name)
    if guest.management != "bridged" and name in lan.existing():
        _remove(lan.remove, name)
    match guest.management:
        case "isolated":
            ensure(hop)
            address = guest.management_mac or port_address(hop, _NO_SEGMENT, 0)
            return Port(name, address, guest_address(hop), lambda: taps.open_tap(name))
        case "bridged":
            address = guest.management_mac or lan.address(hop)
            lan.ensure(hop, address)
            return Port(name, address, f"management LAN, as {address}", lambda: lan.open(name))
    return None


def host_address(hop: int) -> str:
    """The appliance's IPv4 address on an isolated port."""
    return f"169.254.{hop}.1"


def guest_address(hop: int) -> str:
    """The IPv4 address that the guest should have on an isolated port."""
    return f"169.254.{hop}.2"


def ensure(hop: int) -> None:
    """Create the isolated tap if it is missing, with our address. GuestError: the kernel refuses."""
    name = tap_name(hop)
    taps.ensure(name)
    try:
        netdev.set_sysctl(f"ipv4/conf/{name}/forwarding", "0")
        netdev.set_mtu(name, MTU)
        netdev.set_address(name, host_address(hop), "255.255.255.0")
    except OSError as error:
        raise GuestError(f"tap {name} cannot be set up: {error.strerror}") from error


def existing() -> list[str]:
    """The names of all isolated taps."""
    return [name for _, name in socket.if_nameindex() if _NAME.fullmatch(name)]


def tidy(guests: Iterable[tuple[model.Guest, int]], lan: Lan) -> None:
    """Remove the taps that belong to none of these guests (with their hop numbers)."""
    wanted = {(guest.management, tap_name(hop)) for guest, hop in guests}
    for name in existing():
        if ("isolated", name) not in wanted:
            _remove(taps.remove, name)
    for name in lan.existing():
        if ("bridged", name) not in wanted:
            _remove(lan.remove, name)


def _remove(how: Callable[[str], None], name: str) -> None:
    try:
        how(name)
    except BypassError as error:
        log.warning("%s; it is kept", error)
