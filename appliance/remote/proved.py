# SPDX-License-Identifier: GPL-2.0-only
"""That a remote's tunnels have passed their checks, kept for the next bypassd of this boot.

One file in the remote's run folder, which is in memory. It names the tunnels, because others prove nothing about these.
"""

from __future__ import annotations

import logging
from pathlib import Path

from appliance.system import files

log = logging.getLogger(__name__)

FILE = "proved"


class Proved:
    """The file in one run folder. `mark` stands for the tunnels."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / FILE

    def has(self, mark: str) -> bool:
        """Whether these tunnels had traffic when they were last heard of."""
        try:
            return self._file.read_text(encoding="utf-8") == mark
        except (OSError, UnicodeDecodeError):
            return False

    def note(self, mark: str) -> None:
        """These tunnels have traffic; "": none have. Never raises."""
        try:
            files.replace(self._file, mark, synced=False)
        except OSError as error:
            log.warning("%s: that it works will not survive a restart of bypassd: %s", self._file, error.strerror)
