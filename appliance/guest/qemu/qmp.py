# SPDX-License-Identifier: GPL-2.0-only
"""The QEMU Machine Protocol (QMP) of one guest: handshake, commands, events.

A thin wrapper of the qemu.qmp library with our errors and the few commands that we need. QEMU's QMP socket takes one
client; the connection lives as long as bypassd knows of the process.

A guest can make QEMU send events as fast as it writes to a device (9000 per second from a loop on pvpanic), and QEMU
keeps in memory what its client does not read. So everything is read, in slices that leave time for the event loop, and
`Sieve` discards the excess of each kind of event before it is parsed.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

from qemu.qmp import Message, QMPClient, QMPError
from qemu.qmp.protocol import Runstate

from appliance.errors import UnreachableError
from appliance.quota import Quota

HANDSHAKE_S = 30.0
"""QEMU answers in milliseconds; under nested emulation it may need seconds."""

# The library logs each QEMU that ends as an error, and one that ends during the handshake as a bug of its own; what
# matters reaches us as exceptions and through the pidfd.
logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL + 1)

EVENTS = (
    "SHUTDOWN",
    "RESET",
    "GUEST_PANICKED",
    "GUEST_CRASHLOADED",
    "WATCHDOG",
    "BLOCK_IO_ERROR",
    "STOP",
    "RESUME",
)
"""The events that affect the judgement of a guest."""


EVENTS_PER_SECOND, EVENT_BURST = 5, 20
"""How many events of each name count: more of them would tell nothing new about a guest."""
CHUNK = 64 << 10  # bytes read at a time
PACE_BYTES = 16 << 20  # per second: more than a guest can cause, and a pause for the event loop after each chunk
LINE_BYTES = 256 << 10  # the longest answer (the vCPUs of a large guest) has a tenth of that

_EVENT = re.compile(rb'"event": "([A-Z_0-9]+)"')
_COUNTED = frozenset(name.encode() for name in EVENTS)


class Sieve:
    """Splits what QEMU sends into lines, and discards events that are not in `EVENTS` or come too fast. Pure."""

    def __init__(self) -> None:
        self.dropped = 0
        """Events that came too fast."""
        self._quota = Quota(EVENTS_PER_SECOND, EVENT_BURST)
        self._rest = b""

    def feed(self, now: int, data: bytes) -> list[bytes]:
        """The lines that `data` completes, without discarded events. EOFError: a line is too long for QEMU."""
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > LINE_BYTES:
            raise EOFError("it sends a line without end")
        return [line for line in lines if self._counts(now, line)]

    def _counts(self, now: int, line: bytes) -> bool:
        event = _EVENT.search(line)
        if event is None:
            return True
        if event[1] not in _COUNTED:
            return False
        if self._quota.allow(now, event[1]):
            return True
        self.dropped += 1
        return False


class _Client(QMPClient):  # type: ignore[misc]  # the library is not typed
    """The library's client, but it reads through the sieve and does not keep handled events."""

    readbuflen = CHUNK

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.sieve = Sieve()
        self.happened: asyncio.Queue[Message | OSError | EOFError] = asyncio.Queue()
        """The events that count, and finally why there are no more."""
        self._lines: deque[bytes] = deque()

    async def _readline(self) -> bytes:
        while not self._lines:
            assert self._reader is not None
            try:
                data = await self._reader.read(CHUNK)
                if not data:
                    raise EOFError("QEMU closed its monitor connection")
                self._lines.extend(self.sieve.feed(time.monotonic_ns(), data))
            except (OSError, EOFError) as error:
                self.happened.put_nowait(error)
                raise
            await asyncio.sleep(len(data) / PACE_BYTES)
        return self._lines.popleft()

    async def _event_dispatch(self, msg: Message) -> None:
        self.happened.put_nowait(msg)  # the library's listeners keep an unbounded history


class Monitor:
    """One QMP connection. `on_event` gets the event's name and data."""

    def __init__(self, name: str, path: Path, on_event: Callable[[str, Mapping[str, object]], None]) -> None:
        self._name, self._path, self._on_event = name, path, on_event
        self._client = _Client(name)

    async def connect(self, limit: float = HANDSHAKE_S) -> str:
        """Do the handshake and verify that it is this guest; returns the accelerator in use ("kvm" or "tcg")."""
        try:
            async with asyncio.timeout(limit):
                await self._client.connect(str(self._path))
        except (QMPError, OSError, EOFError) as error:
            raise UnreachableError(f"guest {self._name}: QEMU does not answer: {error}") from error
        except TimeoutError as error:
            raise UnreachableError(f"guest {self._name}: QEMU does not answer within {limit:.0f} s") from error
        found = await self.ask("query-name")
        if not isinstance(found, dict) or found.get("name") != self._name:
            raise UnreachableError(f"guest {self._name}: the QEMU at its monitor socket runs another guest")
        kvm = await self.ask("query-kvm")
        return "kvm" if isinstance(kvm, dict) and kvm.get("enabled") else "tcg"

    async def ask(self, command: str, limit: float = 5.0, **arguments: object) -> object:
        """Run one command; if QEMU refuses it, the UnreachableError has QEMU's message."""
        try:
            async with asyncio.timeout(limit):
                answer: object = await self._client.execute(command, arguments or None)
                return answer
        except (QMPError, OSError, EOFError) as error:
            raise UnreachableError(f"guest {self._name}: {command}: {error}") from error
        except TimeoutError as error:
            raise UnreachableError(f"guest {self._name}: {command}: no answer within {limit:.0f} s") from error

    async def processors(self) -> list[int]:
        """Thread ids of the guest's virtual CPUs."""
        found = await self.ask("query-cpus-fast")
        return [int(cpu["thread-id"]) for cpu in found] if isinstance(found, list) else []

    async def status(self) -> str:
        """QEMU's word for the guest's state: "running", "paused", "io-error" when a disk failed or was full, others."""
        found = await self.ask("query-status")
        return str(found.get("status")) if isinstance(found, dict) else "unknown"

    async def watch(self) -> None:
        """Pass on events until the connection ends with an UnreachableError."""
        while True:
            event = await self._client.happened.get()
            if not isinstance(event, Message):
                raise UnreachableError(f"guest {self._name}: {event}")
            data = event.get("data")
            self._on_event(str(event["event"]), data if isinstance(data, dict) else {})
            await asyncio.sleep(0)  # each may restart a guest's checks: other due work runs in between

    @property
    def dropped(self) -> int:
        """Events that came too fast and were discarded."""
        return self._client.sieve.dropped

    async def close(self) -> None:
        """Close the connection; the guest keeps running. Never raises."""
        if self._client.runstate is Runstate.IDLE:
            return
        # A task of its own: cancelled half way, the library would keep errors that nobody asks for, and the garbage
        # collector would log each with a traceback.
        closing = asyncio.create_task(self._client.disconnect(), name=f"close the monitor of {self._name}")
        closing.add_done_callback(_ignore_broken)
        await asyncio.wait({closing})


def _ignore_broken(closed: asyncio.Task[None]) -> None:
    """The connection was broken already, which is why it ended."""
    if not closed.cancelled():
        closed.exception()
