# SPDX-License-Identifier: GPL-2.0-only
"""Numbered frames across a booted board in both directions, and whether they all arrive."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from simulator import Board
from simulator.stream import Stream

ENOUGH_NS = 300_000_000
FRAMES = 100  # a second


@contextmanager
def frames(board: Board, folder: Path, rate: int = FRAMES) -> Iterator[tuple[Stream, Stream]]:
    """Numbered frames in both directions, so many a second each, while the block runs."""
    up = Stream(board.lan, board.wan, folder / "up", rate)
    try:
        down = Stream(board.wan, board.lan, folder / "down", rate)
        try:
            yield up, down
        finally:
            down.stop()
    finally:
        up.stop()


def carried(board: Board, streams: tuple[Stream, Stream], since_ns: int) -> None:
    """Frames sent after this moment arrive, both ways, for a while without a loss."""
    patience = board.pace.wait(30.0)
    for stream in streams:
        first = stream.wait_arrival(since_ns, patience)
        stream.wait_arrival(first + ENOUGH_NS, patience)
        assert stream.report(first, first + ENOUGH_NS // 2).whole
