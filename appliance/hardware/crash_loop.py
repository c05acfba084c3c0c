# SPDX-License-Identifier: GPL-2.0-only
"""Repeated crashes of the machine: how long to wait before going inline again, and when to stop trying.

Each crash costs the link until the reset, so an appliance that crashes whenever it goes inline is worse than none. The
first crash changes nothing; from the second on the relay stays in bypass for a while after the start (`hold`), twice as
long each time; after `limit` crashes the machine starts in safe mode: relay in bypass, no datapath, no guests, but with
console and management. Safe mode ends by an order, or after `window` without a crash; then it is on trial, and another
crash within `window` leads back to it at once.

Time here is operating time, in seconds: a machine that has just crashed may not know the date. A start without a crash
record is most likely a power cut, but cannot be told from a reset that left no record (reset_cause.py calls some of
these unknown): `QUARTER` of these count as one crash.

Pure. The record (`History`) is kept on the data partition with the mark of the last run (crashlog.py), before anything
is started that may crash the machine.
"""

from __future__ import annotations

from typing import Final, NamedTuple

FIRST_HOLD_S: Final = 30
QUARTER: Final = 4
_WEIGHT: Final = {"panic": QUARTER, "watchdog": QUARTER, "power": 1, "unknown": 1}


class Limits(NamedTuple):
    """The configured limits: `limit` crashes within `window` seconds of operation; 0: never safe mode."""

    limit: int = 5
    window: int = 3600


class Crash(NamedTuple):
    """One start after a crash or a power cut: seconds of operation before the present boot, and its kind."""

    ago: int
    kind: str
    text: str


class History(NamedTuple):
    """The record that survives a reset. `up`: seconds of this boot, as last recorded."""

    boot: str = ""
    up: int = 0
    crashes: tuple[Crash, ...] = ()
    safe: bool = False
    trial: int | None = None  # seconds of operation before this boot at which safe mode ended by itself

    @property
    def counted(self) -> int:
        """The number of crashes, power cuts included by their share."""
        return sum(_WEIGHT[crash.kind] for crash in self.crashes) // QUARTER

    @property
    def idle(self) -> bool:
        """Whether nothing here changes with time."""
        return not self.crashes and not self.safe and self.trial is None


def begin(old: History, boot: str, kind: str, text: str, limits: Limits) -> History:
    """The history at the start of bypassd, from the last one and the reset that crashlog.py judged.

    In the same boot (bypassd was restarted) nothing changes.
    """
    if old.boot == boot:
        return old
    crashes = [crash._replace(ago=crash.ago + old.up) for crash in old.crashes]
    trial = None if old.trial is None else old.trial + old.up
    if kind in _WEIGHT:
        crashes.append(Crash(0, kind, text))
    new = settle(History(boot, 0, tuple(crashes), old.safe, trial), limits)
    if not new.safe and limits.limit:
        failed = new.trial is not None and _WEIGHT.get(kind, 0) == QUARTER
        if failed or new.counted >= limits.limit:
            return new._replace(safe=True, trial=None)
    return new


def settle(history: History, limits: Limits) -> History:
    """The history after `history.up` seconds of this boot: entries older than the window are dropped."""
    left = tuple(crash for crash in history.crashes if crash.ago + history.up < limits.window)
    trial, safe = history.trial, history.safe
    if trial is not None and trial + history.up >= limits.window:
        trial = None
    if safe and not (left and limits.limit):
        safe, trial = False, -history.up
    return history._replace(crashes=left, safe=safe, trial=trial)


def cleared(history: History) -> History:
    """The history after an order to clear it."""
    return history._replace(crashes=(), safe=False, trial=None)


def hold(history: History, limits: Limits) -> int:
    """Seconds from the machine's start during which no relay leaves bypass."""
    crashes = sum(_WEIGHT[crash.kind] == QUARTER for crash in history.crashes)
    return 0 if crashes < 2 else min(FIRST_HOLD_S << min(crashes - 2, 20), limits.window)


def pack(history: History) -> dict[str, object]:
    """The history in its stored form."""
    return {**history._asdict(), "crashes": [list(crash) for crash in history.crashes]}


def unpack(data: object) -> History:
    """From the stored form; an empty history if that is damaged: a torn file must not keep the link in bypass."""
    if not isinstance(data, dict):
        return History()
    try:
        crashes = tuple(Crash(int(ago), str(kind), str(text)) for ago, kind, text in data["crashes"])
        trial = None if data["trial"] is None else int(data["trial"])
        if any(crash.kind not in _WEIGHT for crash in crashes):
            return History()
        return History(str(data["boot"]), int(data["up"]), crashes, data["safe"] is True, trial)
    except (KeyError, TypeError, ValueError):
        return History()
