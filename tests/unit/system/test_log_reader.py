# SPDX-License-Identifier: GPL-2.0-only
"""A log read from its end, and on from a cursor: growing, emptied, replaced, half a line, the kernel's ring."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from appliance.system import log_reader, process


def test_a_log_that_grows(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    assert log_reader.file(log) == ([], "0:0", False)
    log.write_text("one\ntwo\nhal")
    first = log_reader.file(log, "0:0")
    assert (first.lines, first.lost) == (["one", "two"], False)
    with log.open("a") as file:
        file.write("f\r\nfour\n")
    second = log_reader.file(log, first.cursor)
    assert (second.lines, second.lost) == (["half", "four"], False)
    assert log_reader.file(log, second.cursor).lines == []


def test_a_log_that_was_emptied_or_replaced_is_read_anew(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text("a line\n" * 9)
    cursor = log_reader.file(log).cursor
    process.rotate(log, limit=8)
    with log.open("a") as file:
        file.write("new\n")
    found = log_reader.file(log, cursor)
    assert (found.lines, found.lost) == (["new"], True)
    (tmp_path / "other").write_text("x" * 100 + "\n")
    (tmp_path / "other").replace(log)
    found = log_reader.file(log, found.cursor)
    assert (found.lines, found.lost) == (["x" * 100], True)


def test_a_long_log_is_read_from_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_reader, "MOST_BYTES", 20)
    log = tmp_path / "x.log"
    log.write_text("".join(f"line {number}\n" for number in range(10)))
    first = log_reader.file(log)
    assert (first.lines, first.lost) == (["line 8", "line 9"], False)
    with log.open("a") as file:
        file.write("".join(f"more {number}\n" for number in range(10)))
    found = log_reader.file(log, first.cursor)
    assert (found.lines, found.lost) == (["more 8", "more 9"], True)


@pytest.mark.parametrize("cursor", ["x", "1", ":", "99:-1", "١:٢"])
def test_a_cursor_that_is_none_reads_all(tmp_path: Path, cursor: str) -> None:
    log = tmp_path / "x.log"
    log.write_text("one\n")
    assert log_reader.file(log, cursor).lines == ["one"]


@pytest.mark.skipif(not os.access("/dev/kmsg", os.R_OK | os.W_OK), reason="needs the kernel's log")
def test_the_kernels_log() -> None:
    cursor = log_reader.kernel().cursor
    Path("/dev/kmsg").write_text("<5>throughwire-test: a line of this test\n")
    found = log_reader.kernel(cursor)
    assert any("throughwire-test: a line of this test" in line for line in found.lines)
    assert found.lines[-1].startswith("[")
    assert log_reader.kernel(found.cursor).lines == []
