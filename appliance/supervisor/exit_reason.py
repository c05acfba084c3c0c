# SPDX-License-Identifier: GPL-2.0-only
"""Why the bypassd before this one ended, in one line: left in /run by who ends on a bug, told by the next.

The keeper knows how it ended, but of an exception only "status 1". Owns the file; it is gone after it was read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from appliance.system import files

LIMIT = 300


def leave(path: Path, errors: Sequence[BaseException]) -> None:
    """Write what these exceptions say. Never raises: this is the end already."""
    said = "; ".join(f"{type(error).__name__}: {error}".rstrip(": ") for error in errors)
    try:
        files.replace(path, " ".join(said.split())[:LIMIT], synced=False)
    except OSError:
        pass  # a full /run costs the words; the traceback is in the log


def take(path: Path) -> str:
    """What was left, once; empty when nothing was: it was killed, or hung, or has never run before."""
    try:
        said = path.read_text(errors="replace")
        path.unlink()
    except OSError:
        return ""
    return said
