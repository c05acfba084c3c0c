# SPDX-License-Identifier: GPL-2.0-only
"""What of a process's log the kernel keeps over a crash."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.system import crash_lines


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "dev").mkdir()
    before = list(logging.getLogger().handlers)
    yield tmp_path
    for handler in [each for each in logging.getLogger().handlers if each not in before]:
        logging.getLogger().removeHandler(handler)


def test_with_memory_for_it_every_line_goes_there(root: Path) -> None:
    for name in ("pmsg0", "kmsg"):
        (root / "dev" / name).touch()
    assert crash_lines.install(root) is not None
    logging.getLogger("part").warning("two\nlines of %s", "text")
    said = (root / "dev/pmsg0").read_text()
    assert said.endswith("] WARNING part: two lines of text\n")
    assert said.startswith("[")
    assert (root / "dev/kmsg").read_text() == ""


def test_without_it_warnings_go_to_the_kernel_log_and_only_so_many(root: Path) -> None:
    (root / "dev/kmsg").touch()
    assert crash_lines.install(root) is not None
    log = logging.getLogger("part")
    log.info("nothing of interest")
    for number in range(1000):
        log.error("error %d", number)
    lines = (root / "dev/kmsg").read_text().splitlines()
    assert lines[0] == "<28>bypassd: ERROR part: error 0"
    assert crash_lines.BURST <= len(lines) <= crash_lines.BURST + 10 * crash_lines.RATE


def test_a_machine_without_both_and_a_wrong_message_do_no_harm(root: Path) -> None:
    assert crash_lines.install(root) is None
    (root / "dev/pmsg0").touch()
    handler = crash_lines.install(root)
    assert handler is not None
    handler.emit(logging.LogRecord("x", logging.ERROR, "", 0, "%d", ("no number",), None))
    handler.emit(logging.LogRecord("x", logging.ERROR, "", 0, "fine", (), None))
    assert (root / "dev/pmsg0").read_text().endswith("fine\n")
