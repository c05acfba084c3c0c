# SPDX-License-Identifier: GPL-2.0-only
"""The simulator's control socket, for a second terminal: one JSON object per line, one reply per request.

Request {"do": "reset"}, reply {"ok": ...} or {"error": "..."}. `attach` turns the connection into the raw byte stream
of a serial port. The server lives as long as the Board and runs in its loop; `ask` and `attach` are the client.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Literal, get_args

from simulator.events import EventLog
from simulator.qmp import QmpError
from simulator.simulator import BROWN_OUT_MS, Simulator
from simulator.wires import SIDES, Side

NAME = "control.sock"
NicOrder = Literal["down", "up", "remove", "return"]
NIC_ORDERS: tuple[NicOrder, ...] = get_args(NicOrder)


class ControlServer:
    def __init__(
        self,
        directory: Path,
        simulator: Simulator,
        events: EventLog,
        power_on: Callable[[], Awaitable[None]],
        hot_plug: Callable[[Side, NicOrder], Awaitable[None]],
    ) -> None:
        self._path = directory / NAME
        self._simulator = simulator
        self._events = events
        self._power_on = power_on
        self._hot_plug = hot_plug
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._path.unlink(missing_ok=True)
        # bound through the directory's descriptor: a socket's path is limited to 107 bytes
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(f"/proc/self/fd/{directory}/{NAME}")
        finally:
            os.close(directory)
        self._server = await asyncio.start_unix_server(self._serve, sock=listener)

    async def stop(self) -> None:
        if self._server:
            self._server.close()
        for client in self._clients:
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = asyncio.current_task()
        assert client is not None
        self._clients.add(client)
        client.add_done_callback(self._clients.discard)
        try:
            while line := await reader.readline():
                try:
                    request = json.loads(line)
                    if request.get("do") == "attach":
                        await self._attach(str(request.get("port")), reader, writer)
                        return
                    reply = {"ok": await self.do(request)}
                except (QmpError, RuntimeError, ValueError, KeyError) as error:
                    reply = {"error": str(error)}
                writer.write(json.dumps(reply).encode() + b"\n")
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def do(self, request: dict[str, Any]) -> Any:
        """Execute one request. ValueError: an unknown one; QmpError: the machine is off."""
        what = request.get("do")
        simulator = self._simulator
        if what == "status":
            return simulator.status()
        if what == "observe":
            return simulator.observed()
        if what == "log":
            return self._events.since(int(request.get("since", 0)))
        if what == "power on":
            await self._power_on()
        elif what in ("unplug", "plug"):
            simulator.set_plugged(_side(request), what == "plug")
        elif what == "nic":
            await self._nic(_side(request), request.get("order"))
        elif what in ("break", "mend"):
            simulator.break_part(str(request.get("part")), what == "break")
        elif what == "tune":
            simulator.tune(**{key: float(value) for key, value in request["timing"].items()})
        elif what == "press":
            simulator.press(float(request.get("seconds", 0.3)))
        elif what == "brown-out":
            self._events.add("fault", what=what)
            await simulator.brown_out(float(request.get("ms", BROWN_OUT_MS)), bool(request.get("reset", True)))
        elif what == "qmp":
            return await simulator.qmp(request["command"], request.get("arguments"))
        elif what in ("power cut", "power button", "reset", "nmi", "pause", "resume"):
            self._events.add("fault", what=what)
            await getattr(simulator, what.replace(" ", "_"))()
        else:
            raise ValueError(f"unknown request {what!r}")
        return simulator.status()

    async def _nic(self, side: Side, order: object) -> None:
        if order not in NIC_ORDERS:
            raise ValueError(f"no order {order!r} for a port: {', '.join(NIC_ORDERS)}")
        self._events.add("fault", what=f"nic {side} {order}")
        if order in ("down", "up"):
            self._simulator.nic(side, order == "up")
        elif self._simulator.machine is None:
            raise ValueError("the machine is off")
        else:
            await self._hot_plug(side, order)

    async def _attach(self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ports = {"console": self._simulator.console, "debug": self._simulator.debug}
        if name not in ports:
            raise ValueError(f"no serial port {name!r}: console or debug")
        port = ports[name]
        port.sinks.append(writer.write)
        try:
            while data := await reader.read(4096):
                port.send(data)
        finally:
            port.sinks.remove(writer.write)


def _side(request: dict[str, Any]) -> Side:
    for side in SIDES:
        if request.get("side") == side:
            return side
    raise ValueError(f"no connector {request.get('side')!r}: lan or wan")


def connect(directory: Path) -> socket.socket:
    """A connection to the simulator running in `directory`. Raises ConnectionError or FileNotFoundError."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    place = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        client.connect(f"/proc/self/fd/{place}/{NAME}")
    except BaseException:
        client.close()
        raise
    finally:
        os.close(place)
    return client


def ask(directory: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Send one request to the simulator in `directory` and return its reply."""
    with connect(directory) as client:
        client.sendall(json.dumps(request).encode() + b"\n")
        with client.makefile("rb") as replies:
            reply: dict[str, Any] = json.loads(replies.readline() or b'{"error": "the simulator ended"}')
            return reply
