# SPDX-License-Identifier: GPL-2.0-only
"""What a guest can send without end: QEMU's events, agent messages, serial output. None of it blocks the event loop.

The sender is a separate process at the other end of the real socket. The processor time of each callback is measured,
so that other load on the machine does not matter.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from appliance.guest.agent.channel import LINE_BYTES, Channel
from appliance.guest.console import LOG_BYTES, TAIL_BYTES, Console
from appliance.guest.qemu.qmp import EVENT_BURST, EVENTS_PER_SECOND, Monitor, Sieve
from appliance.guest.qemu.qmp import LINE_BYTES as QMP_LINE_BYTES
from appliance.system.loop_watch import LIMIT_S, LoopWatch
from tests.support.flood import flooding

EVENTS = 54_000  # what a loop on pvpanic sent in six seconds


def longest_callback(work: Coroutine[Any, Any, None]) -> float:
    """Run it; the longest processor time of one callback, in seconds."""
    with LoopWatch(limit=0.001, clock=time.thread_time, account=lambda: None) as watch:
        asyncio.run(asyncio.wait_for(work, 60))
    print(watch.longest)
    return watch.longest.cpu if watch.longest is not None else 0.0


def test_a_flood_of_qemu_events(tmp_path: Path) -> None:
    """All of it is read, so that QEMU need not keep it; each kind counts at its pace, and an order gets through."""
    heard: Counter[str] = Counter()
    dropped = 0

    async def body() -> None:
        nonlocal dropped
        reset = asyncio.Event()

        def on_event(name: str, _: object) -> None:
            heard[name] += 1
            if name == "RESET":
                reset.set()

        monitor = Monitor("ips1", tmp_path / "qmp.sock", on_event)
        assert await monitor.connect() == "kvm"
        watching = asyncio.create_task(monitor.watch())
        began = asyncio.get_running_loop().time()
        await monitor.ask("stop")
        await reset.wait()
        took = asyncio.get_running_loop().time() - began
        dropped = monitor.dropped
        assert heard["GUEST_CRASHLOADED"] <= EVENT_BURST + EVENTS_PER_SECOND * (took + 1)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await monitor.close()

    with flooding("qmp", tmp_path / "qmp.sock", EVENTS):
        longest = longest_callback(body())
    assert heard["RESET"] == 1
    assert heard["GUEST_CRASHLOADED"] + dropped == EVENTS
    assert longest <= LIMIT_S


def test_the_sieve() -> None:
    """Answers always pass, events at their rate by name; unwanted ones are not even counted."""
    sieve = Sieve()
    event = b'{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "%s", "data": {}}\n'
    assert sieve.feed(0, b'{"return": {}}\n' * 50) == [b'{"return": {}}'] * 50
    assert sieve.feed(0, event % b"RTC_CHANGE") == []
    assert len(sieve.feed(0, event % b"RESET" * (EVENT_BURST + 7))) == EVENT_BURST
    assert sieve.dropped == 7
    assert len(sieve.feed(0, event % b"STOP")) == 1, "one kind does not use up another's"
    assert len(sieve.feed(1_000_000_000, event % b"RESET" * 50)) == EVENTS_PER_SECOND
    assert sieve.feed(0, b'{"ret') == []
    assert sieve.feed(0, b'urn": 1}\n') == [b'{"return": 1}']
    with pytest.raises(EOFError):
        sieve.feed(0, b"x" * (QMP_LINE_BYTES + 1))


LARGE = '{"type":"heartbeat","counters":{' + ",".join(f'"{number}":{number}' for number in range(64)) + "}}"
LINES = {
    "empty": "",
    "tiny": "x",
    "drain": '{"type":"drain","on":true}',
    "large": LARGE,
    "nested": "[" * 4000,
    "too long": "y" * 3 * LINE_BYTES,
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_a_flood_of_agent_messages(tmp_path: Path, line: str) -> None:
    async def body() -> None:
        channel = Channel(tmp_path / "agent.sock", time.monotonic_ns)
        await channel.connect()
        await channel.run(lambda _: None)
        channel.close()

    with flooding("raw", tmp_path / "agent.sock", 128 << 10, line):
        assert longest_callback(body()) <= LIMIT_S


def test_a_flood_on_the_serial_line(tmp_path: Path) -> None:
    """It is bounded in memory and on the disk too."""
    console = Console("ips1", tmp_path)
    with flooding("raw", tmp_path / "console.sock", 1 << 20, "\x1b[2J panic"):
        longest = longest_callback(console.serve())
    assert longest <= LIMIT_S
    assert len(console.tail()) == TAIL_BYTES
    assert sum(path.stat().st_size for path in tmp_path.glob("console.log*")) <= 2 * LOG_BYTES + (64 << 10)
