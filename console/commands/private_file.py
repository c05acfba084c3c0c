# SPDX-License-Identifier: GPL-2.0-only
"""A new file that a command writes: readable only by its owner; an existing file is never overwritten.

It may contain traffic from the link, or the state of the whole appliance.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from appliance.errors import RefusedError

STDOUT = "-"


def to_file(name: str) -> str:
    """The file that a command writes; "" for standard output, which is written - as everywhere."""
    return "" if name == STDOUT else name


def create(path: Path) -> BinaryIO:
    """Create it and open it for writing. RefusedError: it exists already, or cannot be created."""
    try:
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")
    except FileExistsError as error:
        raise RefusedError(f"{path} already exists: choose another name, or remove it") from error
    except OSError as error:
        raise RefusedError(f"{path}: {error.strerror}") from error


@contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """The same for a file that is useful only when complete: it is removed if the block fails."""
    out = create(path)
    try:
        with out:
            yield out
    except OSError as error:
        path.unlink(missing_ok=True)
        raise RefusedError(f"{path}: {error.strerror}") from error
    except BaseException:
        path.unlink(missing_ok=True)
        raise
