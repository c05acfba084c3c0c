# SPDX-License-Identifier: GPL-2.0-only
"""The counters at the time they were cleared: the console shows the difference since then, metrics are not affected.

The kernel's counters are never reset. A counter that is smaller than the kept value belongs to a newly loaded datapath
and is shown unchanged. Kept in /run for the next bypassd of this boot.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from appliance.api.schema import state
from appliance.system import files

log = logging.getLogger(__name__)


def since(now: Any, then: Any) -> Any:
    """The numbers of `now` without those of `then`, which has the same shape or lacks parts of it. Pure."""
    if isinstance(now, dict):
        before = then if isinstance(then, dict) else {}
        return {key: since(value, before.get(key)) for key, value in now.items()}
    if type(now) is int and type(then) is int and now >= then:
        return now - then
    return now


class Baseline:
    """The one baseline of this boot. `read` and `set` block on the disk: call them in a thread."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._when, self._counters = "", dict[str, Any]()

    def read(self) -> None:
        """Take up what an earlier bypassd kept."""
        try:
            kept = msgspec.json.decode(self._file.read_bytes())
            msgspec.convert(kept["counters"], state.Counters)
            self._when, self._counters = str(kept["when"]), kept["counters"]
        except FileNotFoundError:
            return
        except (OSError, msgspec.MsgspecError, KeyError, TypeError) as error:
            log.warning("%s: %s: counters are shown as they are", self._file, error)

    def set(self, counters: state.Counters) -> None:
        """Count from these on."""
        self._counters, self._when = msgspec.to_builtins(counters), datetime.now(UTC).isoformat(timespec="seconds")
        try:
            files.replace(
                self._file, msgspec.json.encode({"when": self._when, "counters": self._counters}), synced=False
            )
        except OSError as error:
            log.warning("%s: %s: the next bypassd shows the counters as they are", self._file, error.strerror)

    def counters(self, now: state.Counters) -> state.Counters:
        """What came since."""
        if not self._when:
            return now
        found = msgspec.convert(since(msgspec.to_builtins(now), self._counters), state.Counters)
        found.cleared = self._when
        return found

    def rules(self, now: state.Rules) -> state.Rules:
        """The same for rules with their counters."""
        if not self._when:
            return now
        before = self._counters.get("rules", {})
        rows = msgspec.to_builtins(now.rules)
        found = [since(row, before.get(row["name"])) for row in rows]
        return state.Rules(msgspec.convert(found, list[state.Rule]), now.filters, self._when)
