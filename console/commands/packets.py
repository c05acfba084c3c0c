# SPDX-License-Identifier: GPL-2.0-only
"""`show packets`: decode frames at a point along the path. A separate process decodes them (decode.py)."""

from __future__ import annotations

import json
import os
import select
import struct
import subprocess
import sys
import time
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from appliance.counted import counted
from appliance.errors import RefusedError
from console.commands.frame_ring import Frame, FrameRing, capture_params, count_of
from console.line.outcome import Outcome
from console.line.parse import Parsed
from console.render import cell
from console.session import Context
from console.terminal.interrupt import Interrupt
from console.views.traffic import packet

SHOWN = 20  # frames, if no `count` is given
PATIENCE_S = 20.0  # maximum time for the decoder to answer, including its start, which is slow on a small board


def show(parsed: Parsed, context: Context) -> Outcome:
    """`show packets POINT [FILTER]`: `count N` frames (20), or until Ctrl-C."""
    most, params = count_of(parsed, SHOWN), capture_params(parsed)
    at_once = not parsed.pipes and "--json" not in parsed.options
    rows: list[dict[str, object]] = []
    with Interrupt() as stop, Decoder() as decoder, FrameRing(context.client, params) as live:
        if context.out.isatty():
            context.say(f"waiting for {counted(most, 'frame')} at {_places(live)}; Ctrl-C stops")
        width = max(len(place.name) for place in live.places.values())
        for frames in live.frames(stop):
            for frame in frames[: most - len(rows)]:
                if stop.happened:
                    break
                row = _row(frame, live, decoder.words(frame.data))
                rows.append(row)
                if at_once:
                    print(_lines(row, width, "detail" in parsed.options), file=context.out, flush=True)
            if len(rows) >= most or stop.happened:
                break
        live.count()
    if live.lost:
        context.say(f"{counted(live.lost, 'frame')} not decoded, because they passed while others were being decoded")
    if at_once:
        if not rows:
            context.say("no frames")
        return Outcome([], "lines")
    return Outcome(rows, "packets")


def _places(live: FrameRing) -> str:
    return ", ".join(place.name for place in live.places.values())


def _row(frame: Frame, live: FrameRing, words: dict[str, Any]) -> dict[str, object]:
    moment = datetime.fromtimestamp(frame.when / 1e9).astimezone()
    return {
        "when": moment.isoformat(timespec="microseconds"),
        "place": live.places[frame.place].name,
        "way": "out" if frame.out else "in",
        "length": frame.length,
        "text": str(words.get("text", "")),
        "layers": str(words.get("layers", "")),
    }


def _lines(row: dict[str, object], width: int, detail: bool) -> str:
    layers = str(row["layers"]).splitlines() if detail else []
    return "\n".join([packet(row, width), *(f"    {cell(line)}" for line in layers)])


class Decoder:
    """The decoding process. A frame may crash it; that is reported, and ends only this command."""

    def __enter__(self) -> Self:
        command = [sys.executable, "-P", "-m", "console.commands.decode"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        )
        self._rest = b""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def words(self, frame: bytes) -> dict[str, Any]:
        """The decoded frame; RefusedError if the decoder hangs or crashes."""
        source, answers = self._process.stdin, self._process.stdout
        assert source is not None
        assert answers is not None
        try:
            source.write(struct.pack("<I", len(frame)) + frame)
            source.flush()
        except BrokenPipeError:
            raise self._gone(frame) from None
        until = time.monotonic() + PATIENCE_S
        while b"\n" not in self._rest:
            left = until - time.monotonic()
            if left <= 0:
                raise RefusedError(f"the decoder did not finish this frame: {frame[:128].hex(' ')}")
            if not select.select([answers], [], [], left)[0]:
                continue
            data = os.read(answers.fileno(), 1 << 16)
            if not data:
                raise self._gone(frame)
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found

    @staticmethod
    def _gone(frame: bytes) -> RefusedError:
        return RefusedError(f"the decoder crashed on this frame: {frame[:128].hex(' ')}")
