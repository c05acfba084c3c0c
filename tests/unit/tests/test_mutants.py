# SPDX-License-Identifier: GPL-2.0-only
"""What mutants are made of a function, and that what is only for people is left alone."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from tests.mutants.__main__ import TARGETS, main, tables
from tests.mutants.kept import KEPT
from tests.mutants.operators import mutants, names

SOURCE = '''
"""A module."""

class Box:
    @property
    def full(self) -> bool:
        """Not -1 and not 2."""
        return self.size >= 3 and not self.open

    def put(self, what: int = 1) -> None:
        if self.full:
            self.do(Log(f"no room for {what + 1}"))
            raise ValueError("full")
        self.size += 1
        self.tell(what)
'''


def test_every_decision_is_changed_once() -> None:
    assert names(SOURCE) == [
        "Box.full: self.size >= 3 and (not self.open) -> self.size >= 3 or not self.open",
        "Box.full: self.size >= 3 -> self.size > 3",
        "Box.full: 3 -> 4",
        "Box.full: not self.open -> self.open",
        "Box.put: if self.full -> if not self.full",
        "Box.put: self.size += 1 -> pass",
        "Box.put: 1 -> 2",
        "Box.put: self.tell(what) -> pass",
    ]


def test_a_mutant_is_the_function_with_that_change() -> None:
    """The code runs in the place of the function's own, and nothing else is changed by making it."""

    class Box:
        size, open = 3, False

    def full(self: Box) -> bool:
        return self.size >= 3 and not self.open

    assert full(Box())
    by_name = {mutant.name: mutant for mutant in mutants(SOURCE, "box.py")}
    full.__code__ = by_name["Box.full: self.size >= 3 -> self.size > 3"].code
    assert not full(Box())
    full.__code__ = by_name["Box.full: 3 -> 4"].code
    assert not full(Box())
    assert names(SOURCE) == list(by_name)


def test_a_module_that_is_none_of_them_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else nothing would be changed, and nothing left unnoticed."""
    monkeypatch.setattr("sys.argv", ["mutants", "segment.machine"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "no such module: segment.machine" in capsys.readouterr().err


def test_what_is_kept_exists() -> None:
    """A mutant that is kept with a reason can still be made: else its row is out of date."""
    there = set()
    for name in TARGETS:
        module = importlib.import_module(name)
        assert module.__file__ is not None
        made = [*(row.name for row in tables(module)), *names(Path(module.__file__).read_text())]
        assert len(made) == len(set(made))
        there |= {f"{name.removeprefix('appliance.')} {one}" for one in made}
    assert KEPT.keys() <= there
    assert all(KEPT.values())
