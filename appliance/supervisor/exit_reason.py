# SPDX-License-Identifier: GPL-2.0-only
"""Why the previous bypassd ended, in one line: a bypassd that ends on a bug leaves it in /run, the next one reports it.

The keeper knows how bypassd ended, but sees only "status 1" of an exception. The file is removed when it is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from appliance.system import files

LIMIT = 300


def leave(path: Path, errors: Sequence[BaseException]) -> None:
    """Write the messages of these exceptions. Never raises: the process is ending anyway."""
    said = "; ".join(f"{type(error).__name__}: {error}".rstrip(": ") for error in errors)
    try:
        files.replace(path, " ".join(said.split())[:LIMIT], synced=False)
    except OSError:
        pass  # a full /run costs this line; the traceback is in the log


def take(path: Path) -> str:
    """Read and remove the reason; empty if there is none: bypassd was killed, hung, or has not run before."""
    try:
        said = path.read_text(errors="replace")
        path.unlink()
    except OSError:
        return ""
    return said
