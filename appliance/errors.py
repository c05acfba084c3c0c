# SPDX-License-Identifier: GPL-2.0-only
"""The exceptions of the appliance: each class is a meaning, not a place.

Every message is one line that says what is wrong and, where it can, what to do.
"""

from __future__ import annotations

import errno


class BypassError(Exception):
    """Base of all errors that a person may be shown as one line."""


class ConfigError(BypassError):
    """The configuration is wrong. `where` is table and key ("rule web: match"), `source` the file.

    `also` holds the other errors of the same text, so that one run can report them all. `pointer` is that of a
    FilterError: the filter and a caret below the place, or empty.
    """

    def __init__(self, where: str, what: str, source: str = "") -> None:
        self.where, self.what, self.source = where, what, source
        self.also: tuple[ConfigError, ...] = ()
        self.pointer = ""
        super().__init__(f"{source}: {where}: {what}" if source else f"{where}: {what}")


class FilterError(BypassError):
    """A pcap filter does not compile, or uses what the datapath cannot do.

    `where` names the rule ("rule web: match"), `text` is the filter, `column` the place in it (0 = first) when known.
    """

    def __init__(self, what: str, *, where: str = "", text: str = "", column: int | None = None) -> None:
        self.what, self.where, self.text, self.column = what, where, text, column
        super().__init__(f"{where}: {what}" if where else what)

    @property
    def pointer(self) -> str:
        """The filter and a caret under the place, two lines; empty when the place is not known."""
        if self.column is None:
            return ""
        shown = "".join(c if c.isprintable() else " " for c in self.text)
        return f"{shown}\n{' ' * self.column}^"


class HardwareError(BypassError):
    """A part of the board (port, relay line, watchdog, LED) is missing or refuses."""


class DatapathError(BypassError):
    """The kernel refused a BPF program, map or link. `code`: its errno, where there is one."""

    def __init__(self, what: str, code: int = 0) -> None:
        self.code = code
        super().__init__(what)

    @property
    def passing(self) -> bool:
        """Whether the same may work a moment later: the kernel was busy or short of memory."""
        return self.code in (errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.ENOBUFS, errno.ENOMEM, errno.ETIMEDOUT)


class GuestError(BypassError):
    """A guest cannot be started, reached or stopped."""


class NotFoundError(BypassError):
    """A segment, guest, group or rule of that name does not exist."""


class RefusedError(BypassError):
    """The request is understood and not allowed in the present state. `hint`: what to do instead."""

    def __init__(self, what: str, hint: str = "") -> None:
        self.hint = hint
        super().__init__(what)


class ProtocolError(BypassError):
    """A peer (keeper, client, agent) sent what the protocol does not allow."""


class UnreachableError(BypassError):
    """The daemon, guest or device does not answer."""
