# SPDX-License-Identifier: GPL-2.0-only
"""How far the start of this process is. Whatever takes long and is done piece by piece calls `step` after each piece.

The keeper is told the number and ends no start that makes progress (keeper/lifecycle.py). One number a process, because
what takes long is far below who tells it, and in threads. Imports nothing: the first step comes before heavy imports.
"""

from __future__ import annotations

_done = 0


def step() -> None:
    """One more piece is done. For any thread: two steps at once may count as one."""
    global _done
    _done += 1


def done() -> int:
    """How many pieces are done."""
    return _done
