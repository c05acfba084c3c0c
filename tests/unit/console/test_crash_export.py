# SPDX-License-Identifier: GPL-2.0-only
"""`crash-log NUMBER export`: the report as it is stored, in a file, in a pipe and on a terminal."""

from __future__ import annotations

import io
from pathlib import Path

from console.client import Client
from console.execute import run_line
from console.line.outcome import GOOD, REFUSED
from console.render import Style
from console.session import Context

TEXT = "Throughwire crash report 7\n\x1b[2Jpanic\n"


class Daemon(Client):
    """Answers without a socket."""

    def call(self, method: str, params: object = None, wait: float = 5.0) -> object:
        assert (method, params) == ("crash-log.show", {"number": 7})
        return [{"number": 7, "text": TEXT}]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run(line: str, out: io.TextIOBase, style: Style | None = None) -> tuple[int, str]:
    said = io.StringIO()
    context = Context(Daemon(Path("/nowhere")), out, said, style or Style())  # type: ignore[arg-type]
    return run_line(line, context), said.getvalue()


def test_a_report_goes_to_a_pipe_and_to_a_new_file(tmp_path: Path) -> None:
    for line in ("crash-log 7 export", "crash-log 7 export -"):
        out = io.StringIO()
        assert run(line, out) == (GOOD, "")
        assert out.getvalue() == TEXT
    path = tmp_path / "report.txt"
    assert run(f"crash-log 7 export {path}", io.StringIO())[0] == GOOD
    assert path.read_text() == TEXT
    assert path.stat().st_mode & 0o777 == 0o600
    code, said = run(f"crash-log 7 export {path}", io.StringIO())
    assert code == REFUSED
    assert "already exists" in said


def test_a_terminal_is_not_driven_by_what_crashed() -> None:
    terminal = Terminal()
    assert run("crash-log 7 export", terminal, Style(width=80))[0] == GOOD
    assert terminal.getvalue() == TEXT.replace("\x1b", "?")


def test_a_number_is_a_number() -> None:
    assert run("crash-log seven export", Terminal())[0] == 2
