# SPDX-License-Identifier: GPL-2.0-only
"""`make mutants`: change the deciding modules one operator at a time, and run their tests against each.

The tests are loaded once and run without a change, which measures them. Each mutant is then a child process in which
the code of one function is changed; the fastest test runs first, and the first that fails ends it. A mutant that no
test detects is printed. Those for which no test is wanted are in kept.py with the reason. The command fails if others
are left and fewer than 95 of 100 are detected.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import inspect
import io
import os
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

import pytest
from _pytest import main as runner

from appliance.transition import Table
from tests.mutants.kept import KEPT
from tests.mutants.operators import Mutant, mutants

LEAST = 0.95
LIMIT_S = 1.0  # of processor time a test, beside what it usually takes: a mutant that loops without end is noticed so
SLOWER = 4  # a mutant may make a test this many times as slow

KEEPER_TESTS = ("feeding", "relays", "relay_orders", "lifecycle", "core")
KEEPER = tuple(f"tests/unit/keeper/test_{name}.py" for name in KEEPER_TESTS)

TARGETS: dict[str, tuple[str, ...]] = {
    "appliance.health.detector": ("tests/unit/health/test_detector.py",),
    "appliance.health.verdict": ("tests/unit/health/test_verdict.py",),
    "appliance.hop.lifecycle": ("tests/unit/hop/test_lifecycle.py", "tests/unit/hop/test_hop.py"),
    "appliance.hop.hop": ("tests/unit/hop/test_hop.py",),
    "appliance.segment.machine": ("tests/unit/segment/test_machine.py",),
    "appliance.keeper.core": KEEPER,
    "appliance.keeper.feeding": KEEPER,
    "appliance.keeper.lifecycle": KEEPER,
    "appliance.keeper.relays": KEEPER,
    "appliance.keeper.silence": ("tests/unit/keeper/test_silence.py", "tests/unit/keeper/test_lifecycle.py"),
}


class Result(NamedTuple):
    """Of one module."""

    noticed: int
    kept: int
    left: list[str]


def function(module: ModuleType, qualified: str) -> FunctionType:
    """The live function of that name."""
    found: object = module
    for name in qualified.split("."):
        found = inspect.getattr_static(found, name)
    if isinstance(found, property):
        found = found.fget
    if isinstance(found, classmethod | staticmethod):
        found = found.__func__
    assert isinstance(found, FunctionType)
    return found


class Row(NamedTuple):
    """One row of a table of moves that is missing (`new` None), or leads to another state."""

    name: str
    table: Table[Any, Any]
    key: tuple[Any, Any]
    new: Any

    def apply(self) -> None:
        if self.new is None:
            del self.table[self.key]
        else:
            self.table[self.key] = self.new


def tables(module: ModuleType) -> Iterator[Row]:
    """The mutants of the tables of a module."""
    for name, table in vars(module).items():
        if isinstance(table, Table):
            for (state, event), new in table.items():
                row = f"{name}: {state.name}, {event.name}"
                states = list(type(new).__members__.values())
                other = states[(states.index(new) + 1) % len(states)]
                yield Row(f"{row} -> nothing", table, (state, event), None)
                yield Row(f"{row}: {new.name} -> {other.name}", table, (state, event), other)


class Checker:
    """A pytest plugin: once the tests of a module are loaded, they run for each mutant in a child process."""

    def __init__(self, name: str, part: tuple[int, int]) -> None:
        self._name, self._part = name, part
        self.result = Result(0, 0, [])
        self._took: defaultdict[str, float] = defaultdict(float)  # seconds a test, without a change
        self._limited = False

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        if self._limited:  # SIGPROF ends the process
            signal.setitimer(signal.ITIMER_PROF, LIMIT_S + SLOWER * self._took[nodeid])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not self._limited:
            self._took[report.nodeid] += report.duration

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        module = importlib.import_module(self._name)
        assert module.__file__ is not None
        path, (which, of) = Path(module.__file__), self._part
        runner.pytest_runtestloop(session)
        if session.testsfailed:
            raise pytest.UsageError(f"{self._name}: its tests fail without any change")
        session.items.sort(key=lambda item: self._took[item.nodeid])
        noticed, kept = 0, 0
        left: list[str] = []
        all_of_them: list[Mutant | Row] = [*tables(module), *mutants(path.read_text(), str(path))]
        for number, mutant in enumerate(all_of_them):
            if number % of != which:
                continue
            full = f"{self._name.removeprefix('appliance.')} {mutant.name}"
            if full in KEPT:
                kept += 1
            elif self._survives(session, module, mutant):
                left.append(full)
            else:
                noticed += 1
        self.result = Result(noticed, kept, left)
        return True

    def _survives(self, session: pytest.Session, module: ModuleType, mutant: Mutant | Row) -> bool:
        """Whether all tests pass with this mutant."""
        child = os.fork()
        if child == 0:
            self._limited = True
            status = 1
            try:
                if isinstance(mutant, Mutant):
                    function(module, mutant.function).__code__ = mutant.code
                else:
                    mutant.apply()
                session.config.option.maxfail = 1
                runner.pytest_runtestloop(session)
                status = 1 if session.testsfailed else 0
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status) == 0


def check(name: str, tests: tuple[str, ...], part: tuple[int, int]) -> Result:
    """All mutants of one module; `part` (which, of how many) takes a share of them."""
    checker = Checker(name, part)
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        status = pytest.main(["-q", "-s", "-p", "no:cacheprovider", "-p", "no:xdist", *tests], plugins=[checker])
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise SystemExit(output.getvalue())
    return checker.result


def main() -> int:
    parser = argparse.ArgumentParser(prog="mutants", description=__doc__)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=f"some of: {', '.join(TARGETS)}")
    parser.add_argument("--part", default="0/1", help="a share of the mutants: 0/4 is the first of four")
    given = parser.parse_args()
    if unknown := set(given.modules) - TARGETS.keys():
        parser.error(f"no such module: {', '.join(sorted(unknown))}")
    which, of = map(int, given.part.split("/"))
    total = Result(0, 0, [])
    for name, tests in TARGETS.items():
        if given.modules and name not in given.modules:
            continue
        began = time.perf_counter()
        found = check(name, tests, (which, of))
        total = Result(total.noticed + found.noticed, total.kept + found.kept, total.left + found.left)
        count = found.noticed + len(found.left)
        for each in found.left:
            print(f"  no test notices: {each}")
        took = time.perf_counter() - began
        print(f"{name}: {found.noticed} of {count} noticed, {found.kept} kept, {took:.0f} s", flush=True)
    count = total.noticed + len(total.left)
    share = total.noticed / count if count else 1.0
    print(f"{total.noticed} of {count} mutants are noticed ({share:.1%}), {total.kept} are kept with a reason")
    return 0 if share >= LEAST else 1


if __name__ == "__main__":
    sys.exit(main())
