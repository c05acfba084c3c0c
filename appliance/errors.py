# SPDX-License-Identifier: GPL-2.0-only
"""The exceptions of the appliance: a class stands for a kind of error, not for the module that raises it.

Every message is one line that says what is wrong and, where possible, what to do.
"""

from __future__ import annotations

import errno
from typing import NamedTuple
from unicodedata import east_asian_width


class BypassError(Exception):
    """Base of all errors that may be shown to the user as one line."""


class ConfigError(BypassError):
    """The configuration is wrong. `where` is table and key ("rule web: match"), `source` the file.

    `also` holds the other errors of the same text, so that one run can report them all. `line` is the line in the file.
    `pointer` and `place` come from a FilterError: the filter with a caret below the position, and the position.
    """

    def __init__(self, where: str, what: str, source: str = "") -> None:
        self.where, self.what, self.source = where, what, source
        self.also: tuple[ConfigError, ...] = ()
        self.line: int | None = None
        self.pointer = ""
        self.place: Place | None = None
        super().__init__(f"{source}: {where}: {what}" if source else f"{where}: {what}")


class FilterError(BypassError):
    """A pcap filter does not compile, or needs something that the datapath does not support.

    `where` names the rule ("rule web: match"), `text` is the filter, `column` the position in it (0 = first) if known.
    """

    def __init__(self, what: str, *, where: str = "", text: str = "", column: int | None = None) -> None:
        self.what, self.where, self.text, self.column = what, where, text, column
        place = f" ({self.place})" if self.place else ""
        super().__init__(f"{where}: {what}{place}" if where else f"{what}{place}")

    @property
    def place(self) -> Place | None:
        """The position as line and column of the filter; None if it is not known."""
        if self.column is None:
            return None
        before = self.text[: self.column]
        lines = self.text.count("\n") + 1
        return Place(before.count("\n") + 1, self.column - before.rfind("\n"), lines)

    @property
    def pointer(self) -> str:
        """The line of the filter and a caret under the position, two lines; empty if the position is not known."""
        if self.column is None:
            return ""
        begin = self.text.rfind("\n", 0, self.column) + 1
        line = self.text[begin:].partition("\n")[0]
        shown = "".join(c if c.isprintable() else " " for c in line)
        return f"{shown}\n{' ' * cells(shown[: self.column - begin])}^"


class Place(NamedTuple):
    """A position in a filter, counted from 1; `lines`: how many lines the filter has."""

    line: int
    column: int
    lines: int = 1

    def __str__(self) -> str:
        line = f"line {self.line}, " if self.lines > 1 else ""
        return f"{line}column {self.column} of the filter"


def cells(text: str) -> int:
    """How many columns a text takes on a terminal: full-width letters and brackets take two."""
    return len(text) if text.isascii() else sum(1 + (east_asian_width(letter) in "WF") for letter in text)


class HardwareError(BypassError):
    """A part of the board (port, relay line, watchdog, LED) is missing or does not work."""


class DatapathError(BypassError):
    """The kernel refused a BPF program, map or link. `code`: its errno, if there is one."""

    def __init__(self, what: str, code: int = 0) -> None:
        self.code = code
        super().__init__(what)

    @property
    def passing(self) -> bool:
        """Whether the same call may succeed a moment later: the kernel was busy or short of memory."""
        return self.code in (errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.ENOBUFS, errno.ENOMEM, errno.ETIMEDOUT)


class GuestError(BypassError):
    """A guest cannot be started, reached or stopped."""


class NotFoundError(BypassError):
    """A segment, guest, group or rule of that name does not exist."""


class RefusedError(BypassError):
    """The request is valid but not allowed in the present state. `hint`: what to do instead."""

    def __init__(self, what: str, hint: str = "") -> None:
        self.hint = hint
        super().__init__(what)


class ProtocolError(BypassError):
    """A peer (keeper, client, agent) violated the protocol."""


class UnreachableError(BypassError):
    """The daemon, guest or device does not answer."""


class NoAnswerError(UnreachableError):
    """It has taken the request, and no answer has come in time: it may only be busy."""
