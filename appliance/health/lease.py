# SPDX-License-Identifier: GPL-2.0-only
"""The lease of one hop: the only place where health becomes availability in the kernel.

The datapath checks on each frame whether `leases[hop]` lies in the future, so traffic bypasses the hop by itself when
renewals stop. Only evidence renews it: the caller passes the time at which the evidence expires.
The object lives as long as its hop; the lease itself lives in a pinned map and outlives bypassd.
"""

from __future__ import annotations

from typing import Protocol


class Leases(Protocol):
    """The datapath's interface for leases. Times are nanoseconds of CLOCK_MONOTONIC."""

    def renew(self, hop: str, until_ns: int) -> None:
        """Allow frames to `hop` until `until_ns`."""
        ...

    def revoke(self, hop: str) -> None:
        """Allow no frame to `hop` from now on."""
        ...


class Lease:
    """Renewed only while granted, and never backwards."""

    def __init__(self, leases: Leases, hop: str) -> None:
        self._leases, self.hop = leases, hop
        self.expiry = 0
        self.renewals = 0

    def renew(self, now: int, until: int) -> None:
        """Extend to `until` (ns); evidence that has already expired, or that expires earlier, changes nothing."""
        if until <= now or until <= self.expiry:
            return
        self._leases.renew(self.hop, until)
        self.expiry = until
        self.renewals += 1

    def revoke(self) -> None:
        """End it now. Idempotent, and always written, because the map may hold a lease of an earlier bypassd."""
        self._leases.revoke(self.hop)
        self.expiry = 0

    def remaining(self, now: int) -> int:
        """Nanoseconds left; 0 = expired."""
        return max(self.expiry - now, 0)
