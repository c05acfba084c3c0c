# SPDX-License-Identifier: GPL-2.0-only
"""The operator's last order for a hop ("stopped", "draining" or "bypassed"), kept for the next bypassd of this boot.

One word in the file `order` of the hop's run folder, which is in memory: a reboot forgets the order. If the file is
missing or empty, the configuration decides.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

from appliance.system import files

log = logging.getLogger(__name__)

FILE = "order"

Word = Literal["", "stopped", "draining", "bypassed"]


class OperatorOrder:
    """The order in one run folder. The folder need not exist."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / FILE

    def read(self) -> str:
        """The order; "" when there is none or it cannot be read."""
        try:
            return self._file.read_text().strip()
        except (OSError, UnicodeDecodeError):
            return ""

    def write(self, word: Word) -> None:
        """Keep the order; "" withdraws it. Never raises: the order is in force for this bypassd either way."""
        try:
            files.replace(self._file, word, synced=False)
        except OSError as error:
            log.warning("%s: the order will not survive a restart of bypassd: %s", self._file, error)
