# SPDX-License-Identifier: GPL-2.0-only
"""Boards for the tests: `board` is the appliance's image, booted once, and off after its last test; `small` a machine
without it.

A test ends at once when a kernel panics without order, and the last words of the serial line are shown with a failure.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import boardspec
import pytest
from simulator import Board, Payload, payload

from tests.support import board_harness, order
from tests.support.stalls import Stalls

READY_S = 120.0
LAST = pytest.StashKey[str]()


def pytest_configure() -> None:
    """A terminated test run ends its boards like a failing one."""

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, end)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    order.together(items, "booted", here)
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker("image")
            if os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="the board needs root"))


@pytest.fixture(scope="session")
def artefacts() -> Path:
    return board_harness.artefacts()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Who uses the appliance's board last is known once it is known which tests run."""
    session.config.stash[LAST] = order.last(session.items, "booted")


@pytest.fixture(scope="session")
def booted(artefacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    """The appliance on the board, started once for all tests. Tests use `board`, which checks it."""
    directory = tmp_path_factory.mktemp("board")
    load = payload.image(artefacts, directory, debug=True)
    with Board(directory, load, accelerator=board_harness.accelerator(artefacts)) as made:
        made.power_on()
        made.sh("true", timeout=READY_S)
        yield made


@pytest.fixture(scope="session")
def stalls() -> Stalls:
    return Stalls()


@pytest.fixture
def board(booted: Board, stalls: Stalls, request: pytest.FixtureRequest) -> Iterator[Board]:
    if booted.events.last(event="emulator failed") and booted.qemu_pid is None:
        booted.power_on()
        booted.sh("true", timeout=READY_S)
    try:
        yield from board_harness.watched(booted, request)
        stalls.check(booted)
    finally:
        report = getattr(request.node, "call_report", None)
        failed = report is not None and report.failed  # and perhaps tried again
        if request.node.nodeid == request.config.stash[LAST] and not failed:
            booted.close()  # it takes a whole processor, and the tests after it want that


@pytest.fixture(scope="session")
def small_payload(artefacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Payload:
    return board_harness.small_payload(artefacts / boardspec.load().arch.kernel.boot, tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def small_board(artefacts: Path, small_payload: Payload, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    """A board with the small machine, one a module, off at first."""
    directory = tmp_path_factory.mktemp("small-board")
    with Board(directory, small_payload, accelerator=board_harness.accelerator(artefacts)) as made:
        yield made


@pytest.fixture
def small(small_board: Board, request: pytest.FixtureRequest) -> Iterator[Board]:
    """The small machine, running, relay not driven."""
    if small_board.qemu_pid is None:
        small_board.power_on()
    small_board.sh("test ! -e /run/lines || { kill -9 $(cat /run/lines); rm /run/lines; } 2>/dev/null; true")
    small_board.wait_bypass()
    yield from board_harness.watched(small_board, request)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report: pytest.TestReport = yield  # type: ignore[assignment]
    if report.when == "call":
        item.call_report = report  # type: ignore[attr-defined]
    return report  # type: ignore[return-value]
