# SPDX-License-Identifier: GPL-2.0-only
"""One run of a measurement that may fail: the error is reported and the run repeated, so that the others still run."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
TRIES = 2


def attempt(
    name: str, make: Callable[[], T], restore: Callable[[], object], say: Callable[[str], None], tries: int = TRIES
) -> tuple[T | None, list[str]]:
    """The result of the run (None: every try failed), and its errors as text.

    `restore` runs after each error and restores the object of the measurement; an error in it ends everything.
    """
    errors: list[str] = []
    for _ in range(tries):
        try:
            return make(), errors
        except Exception as error:
            first = str(error).partition("\n")[0] or f"in {_where(error)}"
            errors.append(f"{name}: {type(error).__name__}: {first}")
            say(f"failed: {errors[-1]}")
            restore()
    return None, errors


def _where(error: Exception) -> str:
    """For an error without words: the step of the measurement that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/tests/" in frame.filename] or frames
    return f"{ours[-1].name}: {ours[-1].line}"
