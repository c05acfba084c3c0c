# SPDX-License-Identifier: GPL-2.0-only
"""`capture`: frames as pcapng on standard output, for Wireshark at the other end of an SSH connection, or into a file.

    ssh admin@box capture guest ips1 lan | wireshark -k -i -

Only pcapng goes to standard output; messages go to standard error.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import IO

from appliance import __version__
from appliance.counted import counted
from appliance.errors import RefusedError, UnreachableError
from appliance.frames.pcapng_writer import Writer
from console.commands.frame_ring import FrameRing, capture_params, count_of
from console.commands.private_file import create, to_file
from console.line.outcome import GOOD, UNREACHABLE, Outcome
from console.line.parse import Parsed, UsageError
from console.session import Context
from console.terminal.interrupt import Interrupt

KEEP_FREE = 64 << 20  # bytes that a capture leaves free on its disk


def stream(parsed: Parsed, context: Context) -> Outcome:
    """`capture POINT [FILTER]`: until Ctrl-C, `count N`, or until the reader has gone."""
    if parsed.pipes:
        raise UsageError(
            "capture writes binary data, which cannot be piped here: use `show packets`; quote a | in a filter"
        )
    params = capture_params(parsed)
    file = to_file(parsed.options.get("file", [""])[0])
    out = create(Path(file)) if file else _standard_output(context)
    try:
        with Interrupt() as stop, FrameRing(context.client, params) as live:
            return _copy(live, stop, out, parsed, context)
    finally:
        if file:
            out.close()


def _standard_output(context: Context) -> IO[bytes]:
    if context.out.isatty():
        raise RefusedError(
            "capture writes binary data, which a terminal cannot display: `show packets` decodes frames here, "
            "`file NAME` saves them, and `ssh admin@BOX capture ... | wireshark -k -i -` shows them remotely"
        )
    raw = getattr(context.out, "buffer", None)
    assert raw is not None, "standard output is a file"
    out: IO[bytes] = raw
    return out


def _copy(live: FrameRing, stop: Interrupt, out: IO[bytes], parsed: Parsed, context: Context) -> Outcome:
    most, in_file = count_of(parsed), bool(to_file(parsed.options.get("file", [""])[0]))
    writer = Writer(out, f"Throughwire {__version__}")
    numbers = {
        slot: writer.interface(place.name, place.about, snap=live.size, capture_filter=parsed.args.get("FILTER", ""))
        for slot, place in live.places.items()
    }
    out.flush()
    if context.style.width or sys.stderr.isatty():
        context.say(f"capturing at {', '.join(place.name for place in live.places.values())}; Ctrl-C stops")
    seen = 0
    code, ending = GOOD, ""
    began = time.time_ns()
    try:
        for frames in live.frames(stop, None if in_file else out):
            for frame in frames[: most - seen if most else None]:
                writer.packet(numbers[frame.place], frame.when, frame.data, frame.length, outbound=frame.out)
                seen += 1
            out.flush()
            if most and seen >= most:
                break
            if in_file and _is_full(out):
                ending = f"; stopped because less than {KEEP_FREE >> 20} MB are free"
                break
        live.count()
    except UnreachableError as error:
        code, ending = UNREACHABLE, f"; {error}"
    except BrokenPipeError:
        raise
    except OSError as error:
        raise RefusedError(f"the capture stopped after {counted(seen, 'frame')}: {error.strerror}") from error
    now = max(time.time_ns(), began)
    if numbers:
        # counted for the whole capture, so they are stored with its first interface
        writer.statistics(next(iter(numbers.values())), now, received=seen + live.lost, dropped=live.lost)
    out.flush()
    lost = f", {live.lost} lost because they were not read in time" if live.lost else ""
    context.say(f"{counted(seen, 'frame')} captured{lost}{ending}")
    return Outcome([], "lines", code)


def _is_full(out: IO[bytes]) -> bool:
    about = os.fstatvfs(out.fileno())
    return about.f_bavail * about.f_frsize < KEEP_FREE
