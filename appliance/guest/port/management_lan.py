# SPDX-License-Identifier: GPL-2.0-only
"""The guests' ports on the management LAN: taps in the network namespace of the management port.

Such a tap is created only in the namespace of the management port, so that no device, route or rule can carry a frame
from there to the data path or back. QEMU gets it as an open descriptor and needs no access to that namespace.
management/bridge.py connects the taps to the management port; it reads `ports`, and `changed` wakes it; taps and port
may appear in any order. Taps outlive bypassd, as QEMU does, and are removed when no guest is configured to have them.

Every appliance has MAC addresses of its own, because several appliances may be on one LAN: 02, then four random bytes
that are generated once and kept on the data partition, then the guest's hop number.
"""

from __future__ import annotations

import contextlib
import logging
import re
import secrets
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

from appliance.errors import GuestError, UnreachableError
from appliance.guest.port import tap
from appliance.paths import Paths
from appliance.system import files
from appliance.system.namespace import Namespace

log = logging.getLogger(__name__)

_NAME = re.compile(r"twm\d+")
_IDENTITY = re.compile(r"[0-9a-f]{8}")


def tap_name(hop: int) -> str:
    """Name of the management tap of a hop: "twm3"."""
    return f"twm{hop}"


class Lan:
    """See the module. Owned by the supervisor, for the life of bypassd.

    `ports`: tap -> the MAC address of its guest, for every guest that is configured to be on the LAN.
    """

    def __init__(self, space: Namespace, folders: Sequence[Path]) -> None:
        """The appliance's part of the addresses is kept in the first writable one of `folders`."""
        self.space, self._folders = space, folders
        self.ports: dict[str, str] = {}
        self.changed: Callable[[], None] = lambda: None
        self._identity = ""

    def address(self, hop: int) -> str:
        """The MAC address of the guest with this hop number, the same at every start."""
        self._identity = self._identity or self._read_identity()
        return ":".join(("02", *re.findall("..", self._identity), f"{hop & 0xFF:02x}"))

    def _read_identity(self) -> str:
        for folder in self._folders:
            with contextlib.suppress(OSError, UnicodeDecodeError):
                kept = (folder / "lan-identity").read_text(encoding="ascii").strip()
                if _IDENTITY.fullmatch(kept):
                    return kept
        drawn = secrets.token_hex(4)
        for folder in self._folders:
            try:
                files.replace(folder / "lan-identity", drawn + "\n", synced=False)
                break
            except OSError as error:
                log.warning("guests' addresses on the management LAN cannot be saved and will change: %s", error)
        return drawn

    def ensure(self, hop: int, address: str) -> str:
        """Create the tap of a guest if it is missing; returns its name. GuestError: the kernel refuses."""
        name = tap_name(hop)
        try:
            self.space.make()
            self.space.inside(lambda: tap.make(name))
        except UnreachableError as error:
            raise GuestError(str(error)) from error
        if self.ports.get(name) != address:
            self.ports[name] = address
            self.changed()
        return name

    def open(self, name: str) -> int:
        """The tap's other end, for QEMU. TapInUseError: another process holds it; GuestError: it cannot be opened."""
        try:
            return self.space.inside(lambda: tap.open_tap(name))
        except UnreachableError as error:
            raise GuestError(str(error)) from error

    def existing(self) -> list[str]:
        """All taps in the namespace that look like ours."""
        if not self.space.exists:
            return []
        names = self.space.inside(lambda: [name for _, name in socket.if_nameindex()])
        return [name for name in names if _NAME.fullmatch(name)]

    def remove(self, name: str) -> None:
        """Remove the tap; GuestError while a process holds it."""
        self.ports.pop(name, None)
        self.space.inside(lambda: tap.remove(name))


def lan_of(paths: Paths) -> Lan:
    """The management LAN of this appliance."""
    return Lan(Namespace(run=paths.root / "run/netns"), (paths.state, paths.run))
