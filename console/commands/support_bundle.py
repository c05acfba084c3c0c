# SPDX-License-Identifier: GPL-2.0-only
"""`support-bundle`: one file with the state of the appliance, to standard output or to a file.

bypassd creates it, because it may read everything. If bypassd does not answer, which is when a bundle is needed most,
this process collects what the user may read.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from appliance.counted import counted
from appliance.errors import RefusedError, UnreachableError
from console.commands.private_file import to_file, whole
from console.line.outcome import Outcome
from console.line.parse import Parsed
from console.session import Context

WAIT = 240.0  # seconds


def support_bundle(parsed: Parsed, context: Context) -> Outcome:
    """`support-bundle [FILE]`."""
    name = to_file(parsed.args.get("FILE", ""))
    if not name and context.out.isatty():
        how = "ssh USER@BOX support-bundle > box.tar.gz"
        raise RefusedError(f"a support bundle is binary: use `{how}`, or `support-bundle FILE`")
    context.say("collecting state, logs, kernel and network; this may take up to 30 seconds")
    if name:
        with whole(Path(name)) as out:
            size = _write(out, context)
        context.say(f"{name}: {counted(size, 'byte')}; passwords and keys are not included")
    else:
        size = _write(_binary(context), context)
        context.say(f"{counted(size, 'byte')}; passwords and keys are not included")
    return Outcome([], "lines")


def _binary(context: Context) -> BinaryIO:
    context.out.flush()
    return getattr(context.out, "buffer", None) or sys.stdout.buffer


def _write(out: BinaryIO, context: Context) -> int:
    try:
        made = context.client.call("support.bundle", wait=WAIT)
    except UnreachableError as error:
        context.say(f"{error}")
        context.say("collecting what this user may read")
        return _collect(out)

    def copy(counter: _Counter) -> None:
        with Path(made["path"]).open("rb") as bundle:
            shutil.copyfileobj(bundle, counter)

    return _written(out, copy)


def _collect(out: BinaryIO) -> int:
    from appliance.support.bundle import make

    return _written(out, lambda counter: make(counter, Path("/"), {}, ()))


def _written(out: BinaryIO, write: Callable[[_Counter], object]) -> int:
    """How many bytes were written. RefusedError: not all could be."""
    counter = _Counter(out)
    try:
        write(counter)
        out.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise RefusedError(f"support bundle: {error.strerror}") from error
    return counter.count


class _Counter:
    """A stream that counts the bytes written to it."""

    def __init__(self, out: BinaryIO) -> None:
        self._out, self.count = out, 0

    def write(self, data: bytes) -> int:
        self.count += len(data)
        return self._out.write(data)
