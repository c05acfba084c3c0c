# SPDX-License-Identifier: GPL-2.0-only
"""Where the appliance touches the system: each such call goes to the world of the process that makes it, meanwhile.

What is replaced is listed once, in `installed`. A call that is missing there would reach the real system; a test that
finds one adds it.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol
from unittest import mock

from appliance.hardware import crashlog, links
from appliance.steering.datapath import Datapath
from appliance.supervisor import supervisor, table
from tests.simulate.clock import Loop
from tests.simulate.kernel import DatapathModel, KernelModel

_numbers = itertools.count(1_000_000)


class PacketSocket:
    """One end of a socket: what was sent to it waits here, and its owner is told."""

    def __init__(self, send: Callable[[bytes], object] = lambda data: None) -> None:
        self._send, self._number = send, next(_numbers)
        self._waiting: deque[bytes] = deque()
        self.loop: Loop | None = None
        self.closed = False

    def fileno(self) -> int:
        return self._number

    def put(self, data: bytes) -> None:
        """The other end sent this; empty: it closed."""
        self._waiting.append(data)
        if self.loop is not None:
            self.loop.readable(self._number)

    def recv(self, size: int) -> bytes:
        if not self._waiting:
            raise BlockingIOError
        return self._waiting.popleft()

    def send(self, data: bytes) -> int:
        if self.closed:
            raise BrokenPipeError
        self._send(data)
        return len(data)

    def close(self) -> None:
        self.closed = True


class Process(Protocol):
    """The bypassd that makes the calls."""

    kernel: KernelModel
    loop: Loop
    boot: str

    def open_datapath(self) -> DatapathModel:
        """DatapathError: the kernel refuses it."""


class _Now:
    """The process whose code runs."""

    process: Process | None = None


def enter(process: Process | None) -> None:
    """From here on the calls are those of this process."""
    _Now.process = process


def _process() -> Process:
    assert _Now.process is not None, "no simulated process runs"
    return _Now.process


def _watch_links() -> PacketSocket:
    opened, process = PacketSocket(), _process()
    opened.loop = process.loop
    process.kernel.listen(id(process), opened.put)
    return opened


def _set_up(name: str, up: bool) -> None:
    _process().kernel.set_up(name, up)


def _prepare(name: str) -> list[str]:
    _set_up(name, True)
    return []


def _devices() -> list[links.Device]:
    return _process().kernel.devices()


def _netdev() -> Any:
    return SimpleNamespace(
        set_up=_set_up,
        rename=lambda name, wanted: wanted,
        prepare=_prepare,
    )


def _netlink() -> Any:
    return SimpleNamespace(watch_links=_watch_links, ask_links=lambda _: _process().kernel.ask(id(_process())))


ROLE = "simulated"
PARTS = ("links", "steering", "segments")


@contextmanager
def installed() -> Iterator[None]:
    """The list. Parts that only serve people (control socket, users, metrics) are left out of the role."""
    replaced: list[tuple[Any, str, Any]] = [
        (links, "devices", _devices),
        (links, "netdev", _netdev()),
        (links, "netlink", _netlink()),
        (Datapath, "open", lambda *files: _process().open_datapath()),
        (crashlog, "boot_id", lambda: _process().boot),
        (supervisor, "boot_id", lambda: _process().boot),
        (supervisor.Supervisor, "_register", lambda self: None),
        (table, "restore_priority", lambda: None),
        (os, "fsync", lambda fd: None),
    ]
    patches: list[Any] = [mock.patch.object(where, name, new) for where, name, new in replaced]
    patches.append(mock.patch.dict(table.ROLES, {ROLE: PARTS}))
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in reversed(patches):
            patch.stop()
        enter(None)


def files_of(root: Path, startup: str, pstore: Path) -> None:
    """The folders and the configuration that a new appliance has."""
    for folder in ("etc/bypass", "run/bypass/guests", "var/lib/bypass", "usr/share/bypass"):
        (root / folder).mkdir(parents=True)
    pstore.mkdir(parents=True)
    (root / "etc/bypass/config.toml").write_text(startup)
