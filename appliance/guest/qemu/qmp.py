# SPDX-License-Identifier: GPL-2.0-only
"""The QEMU Machine Protocol (QMP) of one guest: handshake, commands, events.

A thin wrapper of the qemu.qmp library with our errors and the few commands that we need. QEMU's QMP socket takes one
client; the connection lives as long as bypassd knows of the process.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from qemu.qmp import QMPClient, QMPError
from qemu.qmp.protocol import Runstate

from appliance.errors import UnreachableError

HANDSHAKE_S = 30.0
"""QEMU answers in milliseconds; under nested emulation it has been seen to need seconds."""

# The library takes each QEMU that ends for trouble worth a log, and one that ends during the handshake for a bug of its
# own; what matters reaches us as exceptions and through the pidfd.
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
"""The events that change what we think of a guest."""


class Monitor:
    """One QMP connection. `on_event` gets the event's name and data."""

    def __init__(self, name: str, path: Path, on_event: Callable[[str, Mapping[str, object]], None]) -> None:
        self._name, self._path, self._on_event = name, path, on_event
        self._client = QMPClient(name)

    async def connect(self, limit: float = HANDSHAKE_S) -> str:
        """Shake hands and make sure that it is this guest; the accelerator in use ("kvm" or "tcg")."""
        try:
            async with asyncio.timeout(limit):
                await self._client.connect(str(self._path))
        except (QMPError, OSError, EOFError) as error:
            raise UnreachableError(f"guest {self._name}: QEMU does not answer: {error}") from error
        except TimeoutError as error:
            raise UnreachableError(f"guest {self._name}: QEMU does not answer within {limit:.0f} s") from error
        found = await self.ask("query-name")
        if not isinstance(found, dict) or found.get("name") != self._name:
            raise UnreachableError(f"guest {self._name}: the process at its socket is not its own")
        kvm = await self.ask("query-kvm")
        return "kvm" if isinstance(kvm, dict) and kvm.get("enabled") else "tcg"

    async def ask(self, command: str, limit: float = 5.0, **arguments: object) -> object:
        """Run one command; when QEMU refuses it, the UnreachableError has QEMU's message."""
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

    async def watch(self) -> None:
        """Hand out events until the connection ends."""
        with self._client.listener(EVENTS) as events:
            async for event in events:
                data = event.get("data")
                self._on_event(str(event["event"]), data if isinstance(data, dict) else {})

    async def close(self) -> None:
        """Close the connection; the guest keeps running. Never raises."""
        if self._client.runstate is Runstate.IDLE:
            return
        try:
            await self._client.disconnect()
        except (QMPError, OSError, EOFError):
            pass  # it was broken already, which is why it ended
