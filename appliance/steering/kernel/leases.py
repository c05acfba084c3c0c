# SPDX-License-Identifier: GPL-2.0-only
"""Until when each hop is available: the map that the datapath checks for each frame (steer.h, `struct lease`).

User space maps it as memory, so a renewal is one store. A guest's lease is tied to the threads of its process and ends
with the first of them, in the kernel itself (exits.h). Owns nothing; the map's content outlives this process.
Calls are short, made from one thread. Times are ns of CLOCK_MONOTONIC.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from appliance.steering.kernel import layout
from appliance.steering.kernel.objects import Kernel

_UNTIL, _RECOVERED, _DRAINING, _SKIPPED, _ENDED = range(5)  # fields of struct lease


class Leases:
    """By the hop's name. `number_of` knows its number."""

    def __init__(self, kernel: Kernel, number_of: Callable[[str], int]) -> None:
        self._kernel, self._number_of = kernel, number_of

    def renew(self, hop: str, until_ns: int, now_ns: int | None = None) -> None:
        """The hop may have frames until then. The first renewal after a gap starts the hold-down of standby groups.

        Does nothing if the process that the lease is tied to has ended.
        """
        number, table = self._number_of(hop), self._kernel.leases
        if table.read(number, _ENDED):
            return
        before = table.read(number)
        now = time.monotonic_ns() if now_ns is None else now_ns
        if before <= now:
            table.write(number, 0, _SKIPPED)
            if before:
                table.write(number, now, _RECOVERED)
        table.write(number, until_ns)
        if table.read(number, _ENDED):  # just now, and perhaps before our store
            table.write(number, layout.LEASE_OVER)

    def revoke(self, hop: str) -> None:
        """The hop gets no frame from now on."""
        # Not 0 if it was available before: its return is then a recovery.
        number = self._number_of(hop)
        self._kernel.leases.write(number, layout.LEASE_OVER if self._kernel.leases.read(number) else 0)

    def renew_supervisor(self, until_ns: int) -> None:
        """Renew the dead-man lease: when it has expired, every hop is skipped."""
        self._kernel.leases.write(0, until_ns)

    def until(self, hop: str) -> int:
        """Until when the hop is available, regardless of the supervisor's lease."""
        return self._kernel.leases.read(self._number_of(hop))

    def available(self, hop: str, now_ns: int) -> bool:
        """Whether the hop may have frames now."""
        return self.until(hop) > now_ns and self._kernel.leases.read(0) > now_ns

    def first_skip(self, hop: str) -> int:
        """When the first frame bypassed the hop since it lost its lease (ns); 0: none yet."""
        return self._kernel.leases.read(self._number_of(hop), _SKIPPED)

    def set_draining(self, hop: str, draining: bool) -> None:
        """While draining the hop keeps the flows it knows, and gets no new ones."""
        self._kernel.leases.write(self._number_of(hop), int(draining), _DRAINING)

    def draining(self, hop: str) -> bool:
        """Whether the hop is being drained."""
        return bool(self._kernel.leases.read(self._number_of(hop), _DRAINING))

    # -- processes ----------------------------------------------------------------------------------------------------

    @property
    def end_with_processes(self) -> bool:
        """Whether the kernel ends leases by itself (CONFIG_BPF_EVENTS); otherwise the supervisor must notice."""
        return self._kernel.sees_exits

    def tie(self, hop: str, threads: Iterable[int]) -> None:
        """The hop's lease ends with the first of these threads (ids), none of which ends while the process lives."""
        self.untie(hop)
        number, known = self._number_of(hop), self._kernel.maps["threads"]
        for thread in threads:
            known.set(thread, number)
            # One that ended before it was known must not leave its number to another.
            if not Path(f"/proc/{thread}").exists():
                known.delete(thread)

    def untie(self, hop: str) -> None:
        """The end of the hop's process has been handled: renewals count again from now on."""
        number, known = self._number_of(hop), self._kernel.maps["threads"]
        for thread in [thread.value for thread, tied in known.items() if tied.value == number]:
            known.delete(thread)
        self._kernel.leases.write(number, 0, _ENDED)

    def ended(self, hop: str) -> int:
        """When the process that the lease is tied to ended (ns), until `untie`.

        0: it lives, none is tied to it, or the kernel does not report it.
        """
        return self._kernel.leases.read(self._number_of(hop), _ENDED)
