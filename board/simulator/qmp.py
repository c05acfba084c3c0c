# SPDX-License-Identifier: GPL-2.0-only
"""QEMU Machine Protocol over a socket that already leads to QEMU: commands, replies, events.

Lives as long as one QEMU process and runs in the loop's thread. Kept to the standard library, so that the simulator
runs wherever Python does.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from typing import Any


class QmpError(Exception):
    """QEMU refused a command, or is gone."""


class Qmp:
    def __init__(self, on_event: Callable[[dict[str, Any]], None]) -> None:
        self._on_event = on_event
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._number = 0
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None

    async def connect(self, connection: socket.socket) -> None:
        """Greet and negotiate. QmpError if QEMU ends before that is done."""
        reader, self._writer = await asyncio.open_connection(sock=connection, limit=1 << 22)
        if not await reader.readline():
            raise QmpError("QEMU ended before its monitor answered")
        self._reading = asyncio.create_task(self._read(reader))
        await self.execute("qmp_capabilities")

    async def execute(self, command: str, **arguments: Any) -> Any:
        """Send one command and return its result. QmpError has QEMU's error message."""
        if self._writer is None or self._writer.is_closing():
            raise QmpError(f"{command}: the machine is off")
        self._number += 1
        waiting: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[self._number] = waiting
        message = {"execute": command, "id": self._number, "arguments": arguments}
        self._writer.write(json.dumps(message).encode() + b"\n")
        return await waiting

    def close(self) -> None:
        if self._writer:
            self._writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                message = json.loads(line)
                if "event" in message:
                    self._on_event(message)
                    continue
                waiting = self._waiting.pop(message.get("id", -1), None)
                if waiting is None or waiting.done():
                    continue
                if "error" in message:
                    waiting.set_exception(QmpError(message["error"].get("desc", "refused")))
                else:
                    waiting.set_result(message.get("return"))
        except (ConnectionError, ValueError):
            pass
        finally:
            self.close()
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(QmpError("the machine is off"))
            self._waiting.clear()
