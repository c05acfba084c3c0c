# SPDX-License-Identifier: GPL-2.0-only
"""Numbers for names: hop ids, segment numbers and rule counters that stay the same over restarts and commits.

A hop's number is what guests put in tags, and what pinned maps are keyed by, so it is kept in a file. A number is used
again only when none is free that never was used.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from pathlib import Path

from appliance.errors import ConfigError
from appliance.steering.kernel import layout
from appliance.system import files

_RANGE = {"hop": (1, layout.MAX_HOPS), "segment": (0, layout.MAX_SEGMENTS), "rule": (0, layout.MAX_RULES)}


class Names:
    """The table of numbers, by kind ("hop", "segment", "rule"). Written through to its file, if it has one.

    The event loop and the thread that compiles a policy both ask for numbers. A known name's is read without waiting
    for the other.
    """

    def __init__(self, path: Path | None = None) -> None:
        """Read the file if it exists; one that cannot be read counts as empty (numbers are then assigned anew)."""
        self._path = path
        self._assigning = threading.Lock()
        self._numbers: dict[str, dict[str, int]] = {kind: {} for kind in _RANGE}
        if path is None:
            return
        try:
            read = json.loads(path.read_text())
        except (OSError, ValueError):
            return
        if not isinstance(read, dict):
            return
        for kind, (low, high) in _RANGE.items():
            found = read.get(kind)
            if isinstance(found, dict):
                self._numbers[kind] = {
                    str(name): number
                    for name, number in found.items()
                    if isinstance(number, int) and low <= number < high
                }

    def get(self, kind: str, name: str) -> int | None:
        """The number, or None if the name never had one."""
        return self._numbers[kind].get(name)

    def number(self, kind: str, name: str) -> int:
        """The number, assigned now if the name had none; ConfigError if none is left."""
        known = self._numbers[kind].get(name)
        return self.ensure(kind, [name])[name] if known is None else known

    def name(self, kind: str, number: int) -> str | None:
        """The name that has this number."""
        return next((name for name, have in list(self._numbers[kind].items()) if have == number), None)

    def ensure(self, kind: str, wanted: Iterable[str]) -> dict[str, int]:
        """Numbers for all of these; ConfigError if there are more names than numbers."""
        names = list(wanted)
        low, high = _RANGE[kind]
        if len(names) > high - low:
            raise ConfigError(kind, f"{len(names)} are configured, the most is {high - low}")
        with self._assigning:
            numbers = self._numbers[kind]
            changed = False
            for name in names:
                if name in numbers:
                    continue
                changed = True
                used = set(numbers.values())
                free = next((n for n in range(low, high) if n not in used), None)
                if free is None:
                    gone = next(old for old in numbers if old not in names)
                    free = numbers.pop(gone)
                numbers[name] = free
            if changed:
                self._write()
            return {name: numbers[name] for name in names}

    def _write(self) -> None:
        if self._path is None:
            return
        try:
            files.replace(self._path, json.dumps(self._numbers, indent=1))
        except OSError:
            # A full or read-only disk must not stop traffic: the numbers are valid until the next restart.
            return
