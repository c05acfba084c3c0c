# SPDX-License-Identifier: GPL-2.0-only
"""A bypassd that is silent: does it hang, or does it get no processor? Pure, times in ns of CLOCK_MONOTONIC.

The kernel's own account of the process decides (`/proc/PID/task/*/schedstat`: time on a processor, time waiting for
one). Silence counts only while the process neither ran nor waited to run. So bypassd is to be killed

- after `checkin` if it is stopped or deadlocked;
- when it has used `looping` of processor time if it runs without end;
- after `silent` in any case; time in which the keeper itself did not run does not count.

One that is runnable but gets no processor is given that time, because a new one would get no processor either. Without
such an account, silence is plain time. While bypassd serves, a check-in ends the silence; while it starts, progress
does, and the limits are longer.
"""

from __future__ import annotations

from typing import NamedTuple

from appliance.keeper.limits import MS

_SOONEST = 20 * MS  # between two looks
_STATES = {
    "R": "runs",
    "S": "sleeps",
    "D": "waits in the kernel",
    "T": "is stopped",
    "t": "is stopped by a debugger",
    "Z": "has ended",
}


class Looked(NamedTuple):
    """One look at bypassd: per thread the time on a processor and the time waiting for one (ns since it began).

    `state` is the letter of /proc/PID/stat; no threads: the kernel keeps no account.
    """

    threads: dict[int, tuple[int, int]]
    state: str = ""


class Silence:
    """The time since bypassd was last heard, and what it did since then."""

    def __init__(self, checkin: int, looping: int, silent: int, what: str = "has not checked in") -> None:
        """`what`: what is missing, for log lines."""
        self._checkin, self._looping, self._silent, self._what = checkin, looping, silent, what
        self.heard(0)

    def heard(self, now: int) -> None:
        """bypassd checked in, or made progress."""
        self._last = self._began = now
        self._forget()

    def stood_still(self, now: int, late: int) -> None:
        """The keeper itself ran `late` ns late, and so did bypassd: its time starts anew, up to the last limit."""
        self._last = max(self._last, now)
        self._began += late
        self._forget()

    def _forget(self) -> None:
        self._at = self._idle = self._ran = self._waited = 0
        self._threads: dict[int, tuple[int, int]] | None = None
        self._asked = False
        self._next = self._last + self._checkin // 2  # the first look: what later ones are compared with

    def deadline(self) -> int:
        """When the next look, or the end, is due."""
        end = self._began + self._silent
        return end if self._asked else min(self._next, end)

    def look_due(self, now: int) -> bool:
        """Whether to look now; true once for each look."""
        if self._asked or now < self._next:
            return False
        self._asked = True
        return True

    @property
    def first(self) -> bool:
        """Whether no look has been taken in this silence."""
        return self._threads is None

    def looked(self, now: int, look: Looked) -> str:
        """Evaluate a look. Returns why bypassd must be killed, or an empty string."""
        if not self._asked:
            return ""  # it was heard in the meantime
        self._asked = False
        before, since = self._threads, now - self._at
        self._threads, self._at = look.threads, now
        if before is None:
            self._next = now + max(_SOONEST, self._last + self._checkin - now)
            return ""
        ran, waited = (
            sum(times[kind] - before.get(thread, (0, 0))[kind] for thread, times in look.threads.items())
            for kind in (0, 1)
        )
        self._ran += ran
        self._waited += waited
        self._idle += max(0, since - ran - waited)
        half = self._checkin - self._checkin // 2
        if self._idle >= half:
            return self._why(now, look)
        if self._ran >= self._looping:
            return self._why(now, look)
        self._next = now + max(_SOONEST, half - self._idle)
        return ""

    def over(self, now: int) -> str:
        """Why bypassd must be killed now whatever it did, or an empty string."""
        return self._why(now, Looked({})) if now - self._began >= self._silent else ""

    def _why(self, now: int, look: Looked) -> str:
        said = f"{self._what} for {(now - self._began) // MS} ms"
        if look.state in _STATES:
            said += f" and {_STATES[look.state]}"
        if self._ran or self._waited:
            said += f" (ran {self._ran // MS} ms, waited {self._waited // MS} ms for a processor)"
        return said
