# SPDX-License-Identifier: GPL-2.0-only
"""Progress lines with elapsed time, and running tools with one clear line for a failure.

A stage that ends within two seconds prints nothing; a longer one prints a line after two seconds and one at its end.
"""

from __future__ import annotations

import errno
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from imagebuild.errors import BuildError

Say = Callable[[str], None]
LONG_S = 2.0
REPEAT_S = 30.0


class Progress:
    """Reports what is being built and for how long; lives as long as one build."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._start = time.monotonic()

    def line(self, text: str) -> None:
        """One line, stamped with the seconds since the build began."""
        self._say(f"[{time.monotonic() - self._start:6.1f} s] {text}")

    @contextmanager
    def stage(self, what: str, usually: str = "") -> Iterator[None]:
        """Report `what` if it takes long, then every half minute, and when it is done."""
        begun = time.monotonic()
        ended = threading.Event()
        hint = f" (usually {usually})" if usually else ""

        def watch() -> None:
            if ended.wait(LONG_S):
                return
            self.line(f"{what} ...{hint}")
            while not ended.wait(REPEAT_S):
                self.line(f"{what} ... {time.monotonic() - begun:.0f} s so far{hint}")

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()
        took = time.monotonic() - begun
        if took >= LONG_S:
            self.line(f"{what}: done in {took:.1f} s")


def run(
    argv: Sequence[str | Path],
    *,
    what: str,
    log: Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: int | None = subprocess.DEVNULL,
) -> None:
    """Run a tool with its output appended to `log`; BuildError names `what` and the cause, or the log's last lines."""
    with log.open("ab") as out:
        offset = out.seek(0, os.SEEK_END)
        out.write(("$ " + " ".join(map(str, argv)) + "\n").encode())
        out.flush()
        try:
            done = subprocess.run(
                [str(a) for a in argv], stdout=out, stderr=out, stdin=stdin, cwd=cwd, env=env, check=False
            )
        except FileNotFoundError as error:
            raise BuildError(
                f"{what}: the tool {argv[0]} is not installed; `make setup` installs what the build needs"
            ) from error
    if done.returncode == 0:
        return
    text = log.read_bytes()[offset:].decode(errors="replace")
    raise BuildError(explain_failure(what, done.returncode, text))


def explain_failure(what: str, code: int, text: str) -> str:
    """One clear message from a tool's exit code and output (pure)."""
    lower = text.lower()
    if os.strerror(errno.ENOSPC).lower() in lower:
        return f"{what}: disk full"
    for line in text.splitlines():
        if line.startswith("E: "):
            return f"{what}: {line[3:]}"
    tail = "\n  ".join(line for line in text.splitlines()[-12:] if line.strip())
    died = f"ended by signal {-code}" if code < 0 else f"exit code {code}"
    return f"{what}: {died}\n  {tail}"


def output(argv: Sequence[str | Path], *, what: str, env: Mapping[str, str] | None = None) -> str:
    """Run a tool and return its standard output; BuildError names `what`."""
    try:
        done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, env=env, check=False)
    except FileNotFoundError as error:
        raise BuildError(
            f"{what}: the tool {argv[0]} is not installed; `make setup` installs what the build needs"
        ) from error
    if done.returncode:
        raise BuildError(explain_failure(what, done.returncode, done.stderr))
    return done.stdout
