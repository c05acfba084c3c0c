# SPDX-License-Identifier: GPL-2.0-only
"""Why the previous bypassd ended, in one line: a bypassd that ends on a bug leaves it in /run, the next one reports it.

The keeper knows how bypassd ended, but of an exception it sees only "status 1". The file is removed when it is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from appliance.system import files

LIMIT = 300


def leave(path: Path, errors: Sequence[BaseException]) -> None:
    """Write what these exceptions say. Never raises: the process is ending anyway."""
    said = "; ".join(f"{type(error).__name__}: {error}".rstrip(": ") for error in errors)
    try:
        files.replace(path, " ".join(said.split())[:LIMIT], synced=False)
    except OSError:
        pass  # a full /run costs this line; the traceback is in the log


def take(path: Path) -> str:
    """What was left, once; empty if nothing was: bypassd was killed, hung, or has never run before."""
    try:
        said = path.read_text(errors="replace")
        path.unlink()
    except OSError:
        return ""
    return said
