# SPDX-License-Identifier: GPL-2.0-only
"""One run of a measurement that may end with an error: named, mended and tried again, so that the others still run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
TRIES = 2


def attempt(
    name: str, make: Callable[[], T], restore: Callable[[], object], say: Callable[[str], None], tries: int = TRIES
) -> tuple[T | None, list[str]]:
    """What the run gave (None: every try failed), and its errors in words.

    `restore` runs after each error and puts back what is measured; what it raises ends the whole measurement.
    """
    errors: list[str] = []
    for _ in range(tries):
        try:
            return make(), errors
        except Exception as error:
            first = str(error).partition("\n")[0]
            errors.append(f"{name}: {type(error).__name__}: {first}")
            say(f"failed: {errors[-1]}")
            restore()
    return None, errors
