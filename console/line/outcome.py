# SPDX-License-Identifier: GPL-2.0-only
"""The result of a command: data, its view, and the exit code. Pure data types."""

from __future__ import annotations

from typing import Any, NamedTuple

GOOD, REFUSED, USAGE, UNREACHABLE, INTERNAL = 0, 1, 2, 3, 4
EXIT_CODES = {
    GOOD: "success",
    REFUSED: "refused or failed; the reason is on standard error",
    USAGE: "unknown command or wrong usage",
    UNREACHABLE: "bypassd does not answer",
    INTERNAL: "internal error",
}


class Outcome(NamedTuple):
    """The result of a local command: data, its view and the exit code; `json_lines`: one JSON object per line."""

    data: Any
    view: str = "generic"
    code: int = GOOD
    json_lines: bool = False
