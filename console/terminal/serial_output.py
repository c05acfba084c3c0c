# SPDX-License-Identifier: GPL-2.0-only
"""What the line editor needs for slow and plain-text terminals: output, echo, keys typed ahead, history."""

from __future__ import annotations

import os
import re
import termios
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from prompt_toolkit.buffer import Buffer
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.output.vt100 import Vt100_Output


class SerialOutput(Vt100_Output):
    """A VT100 for slow lines: the cursor is not hidden and shown around each key, which would be most of the bytes.

    Bracketed paste stays off: pasted lines are separate commands, each entered by its own newline.
    """

    def hide_cursor(self) -> None:
        """Send nothing."""

    def show_cursor(self) -> None:
        """Send nothing."""

    def enable_bracketed_paste(self) -> None:
        """Send nothing."""


@contextmanager
def typing_ahead(terminal: int, *, signals: bool = True) -> Iterator[None]:
    """Keep keys typed between prompts, without echo and unchanged, for the next prompt; only Ctrl-C acts immediately.

    Without `signals` Ctrl-C is a key as well. With the usual settings a Ctrl-D typed ahead is lost, text is echoed
    twice, and a serial line has no flow control when many lines are pasted.
    """
    before = termios.tcgetattr(terminal)
    quiet = termios.tcgetattr(terminal)
    quiet[0] |= termios.IXOFF
    quiet[3] &= ~(termios.ICANON | termios.ECHO | termios.IEXTEN | (0 if signals else termios.ISIG))
    quiet[6][termios.VMIN], quiet[6][termios.VTIME] = 1, 0
    termios.tcsetattr(terminal, termios.TCSANOW, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSANOW, before)


ROOTS = Path("/var/lib/bypass/console_history")  # root's home folder is in memory
MAX_HISTORY = 256 << 10  # bytes; when exceeded, the older half is dropped


def history_file() -> Path:
    """The history file of this user."""
    return ROOTS if os.geteuid() == 0 else Path.home() / ".console_history"


def history(path: Path) -> History:
    """History in a file readable only by its owner, if one can be written; else for this session only."""
    try:
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600), "rb+") as file:
            os.fchmod(file.fileno(), 0o600)
            if os.fstat(file.fileno()).st_size > MAX_HISTORY:
                _halve(file)
    except OSError:
        return InMemoryHistory()
    return _KeptHistory(path)


def _halve(file: BinaryIO) -> None:
    """Keep the newer half, starting at an entry (a line with #, then the command's lines with +)."""
    file.seek(-MAX_HISTORY // 2, os.SEEK_END)
    newer = file.read()
    begin = newer.find(b"\n#")
    file.seek(0)
    file.write(newer[begin + 1 :] if begin >= 0 else b"")
    file.truncate()


SECRET_KEYS = ("auth_passphrase", "password", "preshared_key", "priv_passphrase", "secret")
"""The configuration's keys whose values are secret."""


def _has_secret(line: str) -> bool:
    """Whether the line may give a secret key a value. Any key may be abbreviated, to a letter; in doubt it does."""
    keys = re.findall(r"[\w-]+", line)[1:-1]  # between the command and a value
    return any(name.startswith(key) for key in keys for name in SECRET_KEYS)


class _KeptHistory(FileHistory):
    """A full disk costs only the history, never the session."""

    def load_history_strings(self) -> Iterable[str]:
        """The entries, oldest last; none if they cannot be read."""
        try:
            yield from super().load_history_strings()
        except OSError:
            return

    def store_string(self, string: str) -> None:
        """Write one entry; a line that may hold a secret is known in this session only."""
        if _has_secret(string):
            return
        with suppress(OSError):
            super().store_string(string)


class Echo:
    """Shows the typed line on a plain-text terminal: characters, backspaces, and the whole line again if necessary."""

    def __init__(self, out: Any) -> None:
        self._out, self._prompt, self._shown, self._visible = out, "", "", False

    def begin(self, prompt: str) -> None:
        """Begin a new line; it is shown once the terminal is ready for keys."""
        self._prompt, self._shown, self._visible = prompt, "", False

    def show(self, text: str) -> None:
        """The terminal is ready: show the prompt and the text typed ahead."""
        if not self._visible:
            self._visible, self._shown = True, text
            self._write(f"{self._prompt}{text}")

    def renew(self, prompt: str) -> None:
        """From now on the line is shown again behind this prompt."""
        self._prompt = prompt

    def end(self, text: str) -> None:
        """The line was accepted or discarded."""
        self.show(text)
        self._write("\r\n")

    def changed(self, buffer: Buffer) -> None:
        """Follow the text of the buffer."""
        if not self._visible:
            return
        text, shown = buffer.text, self._shown
        if text.startswith(shown):
            self._write(text[len(shown) :])
        elif shown.startswith(text):
            gone = len(shown) - len(text)
            self._write("\b" * gone + " " * gone + "\b" * gone)
        else:
            self._write(f"\r\n{self._prompt}{text}")
        self._shown = text

    def below(self, line: str, text: str) -> None:
        """Complete the shown line to `line`, print text below it, then show the line again."""
        self.complete(line)
        self._write("\r\n".join(text.splitlines()) + "\r\n")
        self.again()

    def complete(self, line: str) -> None:
        """Complete the shown line to `line`, below which something is about to be printed."""
        rest = line[len(self._shown) :] if line.startswith(self._shown) else ""
        self._write(f"{rest}\r\n")

    def again(self) -> None:
        """Show the line again, as it was before `complete`."""
        self._write(f"{self._prompt}{self._shown}")

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()
