# SPDX-License-Identifier: GPL-2.0-only
"""Numbers of names that two threads ask for."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.steering.names import Names


@pytest.fixture
def impatient() -> Iterator[None]:
    """Threads take turns after every few instructions."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("impatient")
def test_two_threads_never_assign_the_same_number() -> None:
    """The event loop connects a guest while a thread compiles a policy; two hops with one number would mix flows."""
    for _ in range(50):
        names = Names()
        begin = threading.Barrier(2)

        def assign(which: str, names: Names = names, begin: threading.Barrier = begin) -> None:
            begin.wait()
            for number in range(12):
                names.number("hop", f"{which}{number}")

        threads = [threading.Thread(target=assign, args=(which,)) for which in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({names.number("hop", f"{which}{number}") for which in "ab" for number in range(12)}) == 24


def test_numbers_are_kept(tmp_path: Path) -> None:
    """They are written when they are assigned, and read again."""
    names = Names(tmp_path / "names")
    assert [names.number("hop", name) for name in ("a", "b", "a")] == [1, 2, 1]
    assert Names(tmp_path / "names").get("hop", "b") == 2
    assert Names(tmp_path / "names").name("hop", 1) == "a"
