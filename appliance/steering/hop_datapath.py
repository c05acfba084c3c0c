# SPDX-License-Identifier: GPL-2.0-only
"""What any hop needs of the datapath (datapath.py), a guest as well as a remote."""

from __future__ import annotations

from typing import Protocol

from appliance.steering.kernel.layout import Side


class HopDatapath(Protocol):
    """The datapath, for one kind of hop; what only this kind needs is added where it is used."""

    def hop_id(self, name: str) -> int:
        """The stable number of a hop."""
        ...

    def segment_id(self, name: str) -> int:
        """The stable number of a segment."""
        ...

    def heartbeat_key(self, hop: str) -> int:
        """The key by which the datapath recognizes the hop's heartbeats (32 bits, a secret of this bypassd)."""
        ...

    def attach_hop(self, device: str, hop: str, segment: str, side: Side, *, tags: bool = False) -> object:
        """Connect one device of a hop; call it again after it was made anew or has another MTU."""
        ...

    def detach_hop(self, hop: str, segment: str | None = None) -> object:
        """Disconnect a hop for good, from one segment or from all."""
        ...

    def unsent(self, hop: str) -> dict[str, int]:
        """Frames for a hop that its devices did not take, by cause."""
        ...
