# SPDX-License-Identifier: GPL-2.0-only
"""A bypassd that is silent: does it hang, or does it get no processor? Pure, times in ns of CLOCK_MONOTONIC.

The kernel's own account of the process decides (`/proc/PID/task/*/schedstat`: time on a processor, time waiting for
one). Silence counts only while the process neither ran nor waited to run, so

- a stopped or deadlocked bypassd is given up after `checkin`;
- one that is runnable but gets no processor is given time, because a new one would get no processor either;
- one that runs without end is given up when it has used `looping` of processor time;
- and whatever the account says, after `silent`, in which time that the keeper itself stood still does not count.

Where the kernel keeps no such account, silence is plain time. While bypassd serves, a check-in ends the silence; while
it starts, progress does, and the times are longer.
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
    """The time since bypassd was last heard, and what it did in it."""

    def __init__(self, checkin: int, looping: int, silent: int, what: str = "has not checked in") -> None:
        """`what` says in a log line what is missing."""
        self._checkin, self._looping, self._silent, self._what = checkin, looping, silent, what
        self.heard(0)

    def heard(self, now: int) -> None:
        """bypassd checked in, or made progress."""
        self._last = self._began = now
        self._forget()

    def stood_still(self, now: int, late: int) -> None:
        """The keeper itself ran `late` ns late, and bypassd no better: it gets its time again, to the last limit."""
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
        """Whether to look now; true once a look."""
        if self._asked or now < self._next:
            return False
        self._asked = True
        return True

    @property
    def first(self) -> bool:
        """No look was taken in this silence."""
        return self._threads is None

    def looked(self, now: int, look: Looked) -> str:
        """Take a look in. Why bypassd is to be ended, or an empty string."""
        if not self._asked:
            return ""  # it was heard meanwhile
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
        """Why bypassd is to be ended now whatever it did, or an empty string."""
        return self._why(now, Looked({})) if now - self._began >= self._silent else ""

    def _why(self, now: int, look: Looked) -> str:
        said = f"{self._what} for {(now - self._began) // MS} ms"
        if look.state in _STATES:
            said += f" and {_STATES[look.state]}"
        if self._ran or self._waited:
            said += f" (ran {self._ran // MS} ms, waited {self._waited // MS} ms for a processor)"
        return said
