# SPDX-License-Identifier: GPL-2.0-only
"""The console as a separate process: one-shot commands, and a user at a terminal (a pty)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pexpect

ROOT = Path(__file__).parents[2]
PATIENCE_S = 120  # for what comes at once unless the machine is busy with other things


def bypass(*args: str, sock: Path | str, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "BYPASS_SOCKET": str(sock), "PYTHONPATH": str(ROOT), **env}
    command = [sys.executable, "-m", "console", *args]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, env=environ, timeout=60, check=False)


class Terminal:
    """A user at a terminal of the given kind."""

    def __init__(
        self, sock: Path, term: str, size: tuple[int, int] = (24, 80), prompt_s: float = PATIENCE_S / 2
    ) -> None:
        env = {**os.environ, "BYPASS_SOCKET": str(sock), "TERM": term, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
        env["BYPASS_PROMPT_S"] = str(
            prompt_s
        )  # by default so long that a prompt that says "busy" is never the right one
        command = ["-m", "console"]
        self.child: Any = pexpect.spawn(
            sys.executable, command, env=env, timeout=PATIENCE_S, dimensions=size, encoding="utf-8"
        )
        self.child.delaybeforesend = None
        self.seen, self.term = "", term

    def until(self, text: str) -> str:
        """The output up to and including `text`."""
        self.child.expect_exact(text)
        came = str(self.child.before) + text
        self.seen += came
        return came

    def type(self, keys: str) -> None:
        self.child.send(keys)

    def close(self) -> None:
        self.child.close(force=True)
