# SPDX-License-Identifier: GPL-2.0-only
"""A measurement goes on after a run that failed, and says which one did."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.attempts import attempt


def failing(times: int) -> Callable[[], str]:
    """A run that fails so often, then gives a figure."""
    left = [times]

    def make() -> str:
        if left[0]:
            left[0] -= 1
            raise TimeoutError("no event\nseen since then: nothing")
        return "figure"

    return make


@pytest.mark.parametrize(
    ("times", "given", "errors"), [(0, "figure", 0), (1, "figure", 1), (2, None, 2)], ids=["good", "once", "always"]
)
def test_a_run_is_tried_again_after_it_was_mended(times: int, given: str | None, errors: int) -> None:
    said: list[str] = []
    mended: list[int] = []
    found = attempt("guest killed", failing(times), lambda: mended.append(1), said.append)
    assert found == (given, ["guest killed: TimeoutError: no event"] * errors)
    assert (len(said), len(mended)) == (errors, errors)


def test_what_cannot_be_mended_ends_the_measurement() -> None:
    def restore() -> None:
        raise OSError("the board is gone")

    with pytest.raises(OSError, match="board is gone"):
        attempt("power cut", failing(1), restore, lambda _: None)


def test_an_error_without_words_is_told_by_its_place() -> None:
    def wait_for_the_guest() -> None:
        raise TimeoutError

    _, errors = attempt("drain", wait_for_the_guest, lambda: None, lambda _: None, tries=1)
    assert errors == ["drain: TimeoutError: in wait_for_the_guest: raise TimeoutError"]
