# SPDX-License-Identifier: GPL-2.0-only
"""A real ControlServer with fake handlers, for tests of the console.

`python -m tests.support.fake_daemon SOCKET` starts it manually.
"""

import asyncio
import sys
import threading
from pathlib import Path
from typing import Any

from appliance.api.connection import take_over
from appliance.api.schema.methods import Answers
from appliance.api.server import ControlServer, Param, Registry, add_version
from appliance.errors import NotFoundError, RefusedError

CAUSES = {"inline": "healthy", "bypass": "operator"}


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A guest's serial line that echoes its input: <03> for Ctrl-C."""
    writer.write(b"login: ")
    while data := await reader.read(64):
        writer.write(f"<{data.hex()}>".encode())


class FakeDaemon:
    """Serves on `path` in a thread of its own, between start() and stop(); `relay` may be changed at any time."""

    def __init__(self, path: Path, relay: str = "inline") -> None:
        self.path, self.relay, self.calls = path, relay, list[tuple[str, dict[str, Any]]]()
        self.draining = threading.Event()
        self.busy = False  # no answer to what the prompt asks
        self.registry = Registry()
        self._loop = asyncio.new_event_loop()
        self._server = ControlServer(path, self.registry)
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._fill()

    def start(self) -> "FakeDaemon":
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._server.start(), self._loop).result(10)
        return self

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._server.stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def __enter__(self) -> "FakeDaemon":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def segments(self) -> list[dict[str, Any]]:
        cause = CAUSES[self.relay]
        ports = {"lan": "lan0", "lan_link": "up", "wan": "wan0", "wan_link": "up", "attach": "xdp"}
        return [{"name": "main", "mode": "auto", "relay": self.relay, "cause": cause, **ports}]

    def guests(self) -> list[dict[str, Any]]:
        return [
            {"name": "ips1", "hop": 1, "state": "running", "lease": "180 ms", "cause": "healthy", "pid": 4711},
            {"name": "ips2", "hop": 2, "state": "failed", "lease": "none", "cause": "image_unreadable"},
        ]

    def config_state(self) -> dict[str, Any]:
        return {"valid": True, "errors": [], "confirm_s": None, "rolled_back": ""}

    def _fill(self) -> None:
        async def status(_: dict[str, Any]) -> object:
            if self.busy:
                await asyncio.Event().wait()
            parts = [{"name": name, "state": "running"} for name in ("links", "steering", "guests", "control")]
            return {"hostname": "wire1", "version": "0.1.0", "uptime_s": 4000, "state": self.relay,
                    "segments": self.segments(), "guests": self.guests(), "parts": parts,
                    "watchdog": {"timeout_s": 2, "armed": True}, "config": self.config_state()}  # fmt: skip

        async def segments(_: dict[str, Any]) -> object:
            return self.segments()

        async def guests(_: dict[str, Any]) -> object:
            return self.guests()

        async def transitions(params: dict[str, Any]) -> object:
            rows = [
                {"when": f"2026-01-02T03:04:{n:02}.123456+00:00", "what": "segment main", "from": "bypass",
                 "to": "inline", "cause": "healthy"}
                for n in range(30)
            ]  # fmt: skip
            return rows[-params.get("count", 100) :]

        async def segment_set(params: dict[str, Any]) -> object:
            self.calls.append(("segment.set", params))
            if params["name"] != "main":
                raise NotFoundError(f'no segment is named "{params["name"]}"')
            self.relay = "inline" if params["mode"] == "auto" else "bypass"
            return {"message": f"segment main: {params['mode']}"}

        async def refuse(_: dict[str, Any]) -> object:
            raise RefusedError("guest ips1 is draining")

        async def bug(_: dict[str, Any]) -> object:
            raise ZeroDivisionError

        async def slow(params: dict[str, Any]) -> object:
            self.calls.append(("guest.drain", params))
            self.draining.set()
            await asyncio.sleep(3600)
            return None

        async def command(params: dict[str, Any]) -> object:
            self.calls.append(("guest.command", params))
            return {"answer": "pong"}

        async def console(params: dict[str, Any]) -> object:
            take_over(_echo)
            return {"state": "failed" if params["name"] == "ips2" else "available"}

        name = {"name": Param()}
        add = self.registry.add
        add(Answers("status.show", object), status)
        add(Answers("segments.show", object), segments)
        add(Answers("guests.show", object), guests)
        add(Answers("transitions.show", object), transitions, params={"count": Param("integer", required=False)})
        add(
            Answers("segment.set", object),
            segment_set,
            role="operator",
            params={**name, "mode": Param(choices=("auto", "bypass"))},
        )
        add(Answers("guest.start", object), refuse, role="operator", params=name)
        add(Answers("guest.stop", object), bug, role="operator", params=name)
        add(Answers("guest.drain", object), slow, role="operator", params=name)
        add(Answers("guest.console", object), console, role="operator", params=name)
        add(
            Answers("guest.command", object),
            command,
            params={**name, "word": Param(), "value": Param("integer", required=False)},
        )
        add_version(self.registry)


if __name__ == "__main__":
    with FakeDaemon(Path(sys.argv[1]), *sys.argv[2:3]):
        threading.Event().wait()
