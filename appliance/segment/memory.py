# SPDX-License-Identifier: GPL-2.0-only
"""What the next bypassd must know about the segments: operators' orders and back-off, in `segments.json`."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path

from appliance.segment.unit import Unit
from appliance.system import files

log = logging.getLogger(__name__)


class Memory:
    """The memory of all segments, in the volatile state; without a file nothing is kept."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._kept: dict[str, dict[str, object]] | None = None  # the content of the file

    def recall(self) -> dict[str, dict[str, object]]:
        """What an earlier bypassd kept, by segment; nothing if the file cannot be read."""
        try:
            data = json.loads(self._file.read_text(encoding="utf-8")) if self._file else {}
        except (OSError, ValueError):
            return {}
        if not isinstance(data, dict):
            return {}
        found: dict[str, dict[str, object]] = {}
        for name, known in data.items():
            if isinstance(known, dict):
                found[str(name)] = known
            elif isinstance(known, str):  # written by 0.1.0
                found[str(name)] = {"asked": known}
        return found

    def keep(self, units: Iterable[Unit]) -> None:
        """Write the file if something has changed. An error is logged."""
        if self._file is None:
            return
        kept: dict[str, dict[str, object]] = {}
        for unit in units:
            known: dict[str, object] = {"asked": unit.asked} if unit.asked else {}
            if unit.asked == "inline":
                known["inline_until"] = unit.inline_until
            if unit.maintenance_until:
                known["maintenance_until"] = unit.maintenance_until
            known.update(unit.machine.remember())
            if unit.link_down.held:
                known["held"] = True
            if known:
                kept[unit.config.name] = known
        if kept == self._kept:
            return
        try:
            files.replace(self._file, json.dumps(kept), synced=False)
            self._kept = kept
        except OSError as error:
            log.error("orders and back-off of the segments will not survive a restart of bypassd: %s", error)
