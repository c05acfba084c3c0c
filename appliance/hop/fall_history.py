# SPDX-License-Identifier: GPL-2.0-only
"""The falls of a hop, kept over restarts of bypassd, so that a flapping hop is still held down.

One file in the hop's run folder, which a reboot empties along with resetting the clock of its times (CLOCK_MONOTONIC).
It is rewritten at each change of a check that led to a decision, and outlives bypassd.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from appliance.health.verdict import Flip, History
from appliance.system import files

log = logging.getLogger(__name__)

FILE = "falls.json"


class _Kept(msgspec.Struct):
    flips: list[Flip]
    falls: list[int]
    count: int


@dataclass
class PersistentHistory(History):
    """A history in a file. `folder`: the hop's run folder, which need not exist."""

    folder: Path = field(kw_only=True)
    _saved: int = 0

    @classmethod
    def load(cls, folder: Path, now: int) -> PersistentHistory:
        """The history left by an earlier bypassd of this boot; empty if nothing is readable."""
        made = cls(folder=folder)
        try:
            kept = msgspec.json.decode((folder / FILE).read_bytes(), type=_Kept)
        except FileNotFoundError:
            return made
        except (OSError, msgspec.MsgspecError) as error:
            log.warning("%s: the falls before this start of bypassd cannot be read: %s", folder / FILE, error)
            return made
        made.flips.extend(flip for flip in kept.flips if flip.at <= now)
        made.falls.extend(at for at in kept.falls if at <= now)
        made.count = made._saved = kept.count
        return made

    def save(self) -> None:
        """Write the history if a check has changed since the last time; little data, to memory. Never raises."""
        if self.count == self._saved:  # every fall is a flip as well
            return
        self._saved = self.count
        try:
            kept = _Kept([*self.flips], [*self.falls], self.count)
            files.replace(self.folder / FILE, msgspec.json.encode(kept), synced=False)
        except (OSError, ValueError) as error:
            log.warning("%s: the falls will not survive a restart of bypassd: %s", self.folder / FILE, error)
