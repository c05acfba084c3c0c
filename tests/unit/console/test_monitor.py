# SPDX-License-Identifier: GPL-2.0-only
"""`monitor`: what it draws (pure), and how it behaves on terminals, dumb lines, pipes and without bypassd."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.api.schema.methods import Topic
from console.commands.dashboard import Dashboard, Sample, amount, sparkline
from tests.support.monitor_daemon import MonitorDaemon
from tests.support.terminal import Terminal, bypass

SEGMENT = {"name": "main", "relay": "inline", "lan": "lan0", "wan": "wan0", "lan_link": "up", "wan_link": "up"}
STATUS = {"hostname": "wire1", "version": "1", "segments": [SEGMENT]}


def sample(at: float, frames: int, latency: float | None = None, **more: Any) -> Sample:
    count = {"frames": frames, "bytes": 100 * frames, "dropped_frames": 0}
    guest = {"name": "ips1", "state": "available", "checks": [{"check": "inband", "latency_ms": latency}]}
    counters = {"ports": {"main/lan": count, "main/wan": count}, "hops": {}, "rules": {"web": {"frames": frames}}}
    return Sample(at, {**STATUS, **more}, [SEGMENT], counters, [guest], [])


def test_rates_come_from_two_looks() -> None:
    """Per second between two looks; none after the first, and none when counting began anew."""
    board = Dashboard()
    board.add(sample(10.0, 1000))
    assert re.search(r"lan0 +main +inline +up +- +- +-", "\n".join(board.draw((80, 24))))
    board.add(sample(12.0, 5000))
    text = "\n".join(board.draw((80, 24)))
    assert re.search(r"lan0 +main +inline +up +2.0k +1.6M +0 ", text)
    assert re.search(r"web +2.0k", text)
    board.add(sample(13.0, 5))
    assert re.search(r"lan0 +main +inline +up +- +- ", "\n".join(board.draw((80, 24))))


def test_sparkline_and_amounts() -> None:
    """The highest value is the tallest block, a gap is a gap; rates are read at a glance."""
    assert sparkline([0, 1, None, 8], 6) == "  ▁▂ █"
    assert sparkline([0, 0], 2, "_#") == "__"
    assert sparkline([1, 2, 3], 2, "_#") == "##"
    shown = [amount(value) for value in (None, 0, 0.5, 9, 12.4, 1234, 99999, 2.5e6, 3e9)]
    assert shown == ["-", "0", "0.5", "9", "12", "1.2k", "100k", "2.5M", "3.0G"]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(20, 200), st.integers(5, 60), st.recursive(st.none() | st.integers() | st.text(max_size=5), st.lists)
)
def test_it_fits_whatever_is_there(columns: int, rows: int, odd: Any) -> None:
    """As many lines as the screen has, the keys last, whatever a part answers or leaves out."""
    board = Dashboard()
    board.add(sample(1.0, 5, 0.5))
    board.add(Sample(2.0, odd, odd, odd, odd, odd))
    for _ in range(2):
        lines = board.draw((columns, rows), note="keys")
        assert (len(lines), lines[-1]) == (rows, "keys")
        board.add(sample(3.0, 7, 0.7))


def test_bypass_is_the_first_thing_on_the_screen() -> None:
    """A relay that is not inline is shown above everything else."""
    board = Dashboard()
    away = [{**SEGMENT, "relay": "bypass", "cause": "operator"}]
    board.add(sample(1.0, 1, segments=away))
    assert board.draw((80, 24))[1].startswith("*** BYPASS *** segment main: operator")


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[MonitorDaemon]:
    with MonitorDaemon(tmp_path / "s") as made:
        assert isinstance(made, MonitorDaemon)
        yield made


def test_full_screen(daemon: MonitorDaemon) -> None:
    """Drawn, drawn again only where it changed, paused, and the terminal as before: the shell goes on."""
    terminal = Terminal(daemon.path, "xterm", (30, 100))
    terminal.until("[inline]>")
    terminal.type("monitor\r")
    terminal.until("\x1b[?1049h")
    terminal.until("TREND")
    terminal.until("q quit")
    again = terminal.until("ms")
    assert "TREND" not in again
    terminal.type(" ")
    terminal.until("paused")
    terminal.type("q")
    terminal.until("\x1b[?1049l")
    terminal.until("[inline]>")
    terminal.type("monitor\r")
    terminal.until("q quit")
    terminal.type("\x03")
    terminal.until("\x1b[?1049l")
    terminal.until("[inline]>")
    terminal.type("show version\r")
    terminal.until("python")
    assert "\x1b[6n" not in terminal.seen
    terminal.close()


def test_on_a_line_that_only_prints(daemon: MonitorDaemon) -> None:
    """One look below the other, without one escape sequence; as in a pipe."""
    terminal = Terminal(daemon.path, "dumb")
    terminal.until("]>")
    terminal.type("monitor every 1 count 2\r")
    terminal.until("PORT ")
    terminal.until("PORT ")
    terminal.until("]>")
    assert "\x1b" not in terminal.seen
    terminal.close()
    piped = bypass("monitor", "every", "1", "count", "2", sock=daemon.path)
    assert (piped.returncode, piped.stdout.count("PORT "), "\x1b" in piped.stdout) == (0, 2, False)


def test_it_outlives_bypassd(tmp_path: Path) -> None:
    """While bypassd is away the screen says so, and goes on when it is back."""
    terminal = Terminal(tmp_path / "s", "xterm")
    terminal.until("not reachable]>")
    terminal.type("monitor\r")
    terminal.until("*** STATE UNKNOWN ***")
    with MonitorDaemon(tmp_path / "s"):
        terminal.until("lan0")
    terminal.until("*** STATE UNKNOWN ***")
    terminal.type("q")
    terminal.until("\x1b[?1049l")
    terminal.close()


def test_events_as_they_happen(daemon: MonitorDaemon) -> None:
    """One line an event, until q."""
    terminal = Terminal(daemon.path, "xterm")
    terminal.until("]>")
    terminal.type("monitor events\r")
    terminal.until("q quits")
    event = {"when": "2026-01-02T03:04:05.123+00:00", "severity": "warning", "source": "guest ips1",
             "cause": "hung", "text": "available -> failed"}  # fmt: skip

    async def ticker() -> None:  # until the subscription has arrived
        while True:
            daemon._server.publish(Topic("event", object, ""), event)
            await asyncio.sleep(0.05)

    ticking = asyncio.run_coroutine_threadsafe(ticker(), daemon._loop)
    terminal.until(["guest ips1", "hung   available -> failed"][0])
    terminal.until("available -> failed")
    ticking.cancel()
    terminal.type("q")
    terminal.until("]>")
    terminal.close()
