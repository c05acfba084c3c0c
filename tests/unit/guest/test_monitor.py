# SPDX-License-Identifier: GPL-2.0-only
"""The end of a monitor connection. QEMU's side of the protocol is simulated."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
from pathlib import Path
from typing import Any

import pytest

from appliance.errors import UnreachableError
from appliance.guest.qemu.qmp import Monitor

GREETING = {"QMP": {"version": {"qemu": {"micro": 0, "minor": 0, "major": 10}, "package": ""}, "capabilities": ["oob"]}}
ANSWERS = {"query-name": {"name": "ips1"}, "query-kvm": {"enabled": True, "present": True}}


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_qemu_that_dies_leaves_no_error_behind(tmp_path: Path, cancelled: bool) -> None:
    """Nothing is left for the garbage collector to log as never retrieved, also if closing was interrupted."""
    left: list[dict[str, Any]] = []

    async def body() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: left.append(context))
        dead = asyncio.Event()

        async def qemu(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(json.dumps(GREETING).encode() + b"\r\n")
            sent = b""
            while not dead.is_set():  # the library ends no request with a line feed
                sent += await reader.read(4096)
                with contextlib.suppress(ValueError):
                    asked, sent = json.loads(sent), b""
                    number = {"id": asked["id"]} if "id" in asked else {}
                    answer = {"return": ANSWERS.get(asked["execute"], {}), **number}
                    writer.write(json.dumps(answer).encode() + b"\r\n")
                    if asked["execute"] == "query-kvm":
                        await dead.wait()
            writer.close()

        server = await asyncio.start_unix_server(qemu, tmp_path / "qmp.sock")
        monitor = Monitor("ips1", tmp_path / "qmp.sock", lambda *_: None)
        assert await monitor.connect() == "kvm"
        dead.set()
        with pytest.raises(UnreachableError, match="closed its monitor"):
            await monitor.watch()
        closing = asyncio.create_task(monitor.close())
        if cancelled:
            await asyncio.sleep(0)
            closing.cancel()
        await asyncio.wait({closing})
        await asyncio.sleep(0.05)  # what goes on by itself
        server.close()

    asyncio.run(asyncio.wait_for(body(), 10))
    gc.collect()
    assert not left
