# SPDX-License-Identifier: GPL-2.0-only
"""What a command comes to: data, how it is shown, and the exit code. Pure data types."""

from __future__ import annotations

from typing import Any, NamedTuple

GOOD, REFUSED, USAGE, UNREACHABLE, INTERNAL = 0, 1, 2, 3, 4
EXIT_CODES = {
    GOOD: "good",
    REFUSED: "refused or failed; the reason is on standard error",
    USAGE: "no such command, or used wrongly",
    UNREACHABLE: "bypassd does not answer",
    INTERNAL: "an internal error",
}


class Outcome(NamedTuple):
    """What a local command gives back: data, its view and the exit code; `json_lines`: one JSON object a line."""

    data: Any
    view: str = "generic"
    code: int = GOOD
    json_lines: bool = False
