# SPDX-License-Identifier: GPL-2.0-only
"""Nothing that may wait for a disk or another process runs in the event loop: checked in every test of the appliance.

A call counts if the nearest enclosing coroutine is the appliance's; a test may make such calls from its own coroutines.
A packet socket's `close` waits for all processors.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import select
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

APPLIANCE = str(Path(__file__).parents[2] / "appliance") + "/"
BLOCKING: tuple[tuple[Any, str], ...] = (
    (os, "fsync"),
    (os, "fdatasync"),
    (os, "sync"),
    (shutil, "rmtree"),
    (select, "select"),
    (subprocess, "run"),
    (time, "sleep"),
    (socket.socket, "close"),
)


def blocks(name: str, args: Sequence[Any]) -> bool:
    """Whether this call of such a function may wait: a socket does if it is of a device and open."""
    if name != "socket.close":
        return True
    return bool(args[0].family == socket.AF_PACKET and args[0].fileno() >= 0)


def coroutine_around(frame: FrameType | None) -> FrameType | None:
    """The appliance's coroutine that called, if it is the nearest one."""
    while frame is not None:
        if frame.f_code.co_flags & inspect.CO_COROUTINE:
            return frame if frame.f_code.co_filename.startswith(APPLIANCE) else None
        frame = frame.f_back
    return None


@contextmanager
def watched(patch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Yield a list that gets a line for each blocking call in the event loop."""
    seen: list[str] = []

    def wrap(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            if asyncio._get_running_loop() is not None and blocks(name, args):
                found = coroutine_around(sys._getframe(1))
                if found is not None:
                    place = f"{found.f_code.co_filename.removeprefix(APPLIANCE)}:{found.f_lineno}"
                    seen.append(f"{name} in {found.f_code.co_qualname} ({place})")
            return original(*args, **more)

        return call

    for module, name in BLOCKING:
        patch.setattr(module, name, wrap(f"{module.__name__}.{name}", getattr(module, name)))
    yield seen
