# SPDX-License-Identifier: GPL-2.0-only
"""How the tests are distributed over parallel workers (pytest-xdist).

A file is one unit of work, so that its shared fixtures are created once. Files start in the order in which pytest found
them, unit tests first. The tests of the booted board are one unit, the last one, and run on one worker when the others
have nothing left to begin: the emulated board needs the whole machine.
"""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

ALONE = "tests/image/"


class ByFile(LoadScopeScheduling):  # type: ignore[misc]
    """The scheduler; `scope` is xdist's word for a unit of work."""

    def __init__(self, config: pytest.Config, log: Any) -> None:
        config.option.loadscopereorder = False  # keep pytest's order
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        return ALONE if nodeid.startswith(ALONE) else nodeid.partition("::")[0]

    def _reschedule(self, node: WorkerController) -> None:
        """Give a worker that is nearly done its next unit; all but one of the workers end before the board's."""
        running = [other for other in self.nodes if not other.shutting_down]
        if list(self.workqueue) == [ALONE] and len(running) > 1 and not node.shutting_down:
            if self._pending_of(self.assigned_work[node]) <= 2:
                node.shutdown()  # it finishes what it has
            return
        super()._reschedule(node)
