# SPDX-License-Identifier: GPL-2.0-only
"""The agent channel: what a guest may send, and what happens to everything else."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import UnreachableError
from appliance.guest.agent.channel import (
    BURST,
    LINE_BYTES,
    MESSAGES_PER_SECOND,
    PACE_BYTES,
    Channel,
    Heartbeat,
    Hello,
    Inbox,
    Message,
)

SECOND = 1_000_000_000
BEAT = b'{"type":"heartbeat","status":"ok","counters":{"frames":12}}\n'


def test_messages_are_understood() -> None:
    hello = b'{"type":"hello","version":1,"agent":"forwarder","capabilities":["command"]}\n'
    assert Inbox().feed(0, hello + BEAT) == [
        Hello(1, "forwarder", ("command",)),
        Heartbeat("ok", {"frames": 12}),
    ]


@given(st.lists(st.integers(1, len(BEAT)), max_size=8))
def test_pieces_do_not_matter(cuts: list[int]) -> None:
    inbox, messages, stream = Inbox(), [], BEAT * 3
    for cut in cuts:
        messages += inbox.feed(0, stream[:cut])
        stream = stream[cut:]
    messages += inbox.feed(0, stream)
    assert messages == [Heartbeat("ok", {"frames": 12})] * 3


@given(st.lists(st.binary(max_size=3 * LINE_BYTES), max_size=5))
def test_noise_is_counted_and_forgotten(noise: list[bytes]) -> None:
    """For any input, nothing is raised, at most one line is kept, and the next complete line is understood."""
    inbox, now = Inbox(), 0
    for piece in noise:
        inbox.feed(now, piece)
        assert len(inbox._rest) <= LINE_BYTES
    now += 10 * SECOND
    inbox.feed(now, b"\n")
    assert inbox.feed(now, BEAT) == [Heartbeat("ok", {"frames": 12})]


@pytest.mark.parametrize(
    "line",
    [
        b"no json",
        b"[]",
        b'{"type":"unheard of"}',
        b'{"type":"heartbeat","status":7}',
        b'{"type":"heartbeat","status":"' + b"x" * 65 + b'"}',
        b'{"type":"hello","version":0}',
        b"[" * 4000,
        b"\xff\xfe",
    ],
)
def test_malformed_is_counted(line: bytes) -> None:
    inbox = Inbox()
    assert inbox.feed(0, line + b"\n") == []
    assert inbox.malformed == 1


def test_too_long_is_counted_once_and_skipped() -> None:
    inbox = Inbox()
    for _ in range(10):
        assert inbox.feed(0, b"x" * LINE_BYTES) == []
    assert inbox.feed(0, b"\n" + BEAT) == [Heartbeat("ok", {"frames": 12})]
    assert inbox.oversized == 1


def test_too_frequent_is_counted() -> None:
    inbox = Inbox()
    assert len(inbox.feed(0, BEAT * (BURST + 50))) == BURST
    assert inbox.too_frequent == 50
    assert len(inbox.feed(SECOND, BEAT * BURST)) == MESSAGES_PER_SECOND


def test_commands_reach_the_guest_and_messages_us(tmp_path: Path) -> None:
    """Over a real Unix socket, as QEMU has it."""

    async def body() -> None:
        got: list[Message] = []
        told: asyncio.Queue[bytes] = asyncio.Queue()

        async def guest(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(BEAT)
            told.put_nowait(await reader.readline())
            writer.close()

        server = await asyncio.start_unix_server(guest, tmp_path / "agent.sock")
        channel = Channel(tmp_path / "agent.sock", time.monotonic_ns)
        with pytest.raises(UnreachableError, match="not running"):
            channel.send({"type": "command"})
        await channel.connect()
        channel.send({"type": "command", "command": "hang"})
        await asyncio.wait_for(channel.run(got.append), 10)
        assert json.loads(await told.get()) == {"type": "command", "command": "hang"}
        assert got == [Heartbeat("ok", {"frames": 12})]
        channel.close()
        server.close()

    asyncio.run(body())


@pytest.mark.parametrize(
    "flood", [b"\xff\x00" * 50_000, b"{}\n" * 30_000, BEAT * 2000], ids=["noise", "lines", "beats"]
)
def test_a_flood_is_read_at_a_limited_pace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flood: bytes) -> None:
    """The pause for others between two reads grows with the amount read, whatever its content."""
    slept: list[float] = []

    async def body() -> None:
        async def guest(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(flood)
            await writer.drain()
            writer.close()

        sleep = asyncio.sleep

        async def noted(seconds: float) -> None:
            slept.append(seconds)
            await sleep(0)

        server = await asyncio.start_unix_server(guest, tmp_path / "agent.sock")
        channel = Channel(tmp_path / "agent.sock", time.monotonic_ns)
        await channel.connect()
        monkeypatch.setattr(asyncio, "sleep", noted)
        await asyncio.wait_for(channel.run(lambda _: None), 20)
        monkeypatch.undo()
        channel.close()
        server.close()

    asyncio.run(body())
    assert sum(slept) >= len(flood) / PACE_BYTES


def test_no_socket_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="agent channel: No such file"):
        asyncio.run(Channel(tmp_path / "agent.sock", time.monotonic_ns).connect())
