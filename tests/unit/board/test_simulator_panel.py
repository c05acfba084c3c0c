# SPDX-License-Identifier: GPL-2.0-only
"""The panel: its picture and its keys as pure functions, and a run on a terminal against a control socket."""

from __future__ import annotations

import asyncio
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boardspec
import pytest
from simulator import panel
from simulator.control import ControlServer
from simulator.events import EventLog
from simulator.panel import View, draw, rates, request_for, short, told
from simulator.simulator import FAULTS

from tests.support.waiting import wait_until

NOW: dict[str, Any] = {
    "power": "on", "relay": "inline", "led": "on", "cables": {"lan": "in", "wan": "in"},
    "hosts": {"lan": "up", "wan": "up"}, "ports": {"lan": "up", "wan": "up"}, "wiring": "qemu-x86_64",
    "drive": "level", "button": "released", "broken": [], "prefix": "tw", "qemu_pid": 1234, "nics_down": [],
    "timing": {"relay_ms": 5.0, "flap_ms": 0.0, "second_stage_s": 5.0}, "mono_ns": 2_000_000_000,
    "traffic": {"lan": (2000, 1000), "wan": (10, 12_300_000)}, "drive_left_s": None, "second_stage_left_s": None,
    "frozen": False,
}  # fmt: skip
BEFORE = {**NOW, "mono_ns": 1_000_000_000, "traffic": {"lan": (1000, 0), "wan": (0, 0)}}
EVENT = {"n": 0, "mono_ns": 1, "wall": "2026-01-02T03:04:05.123456+00:00", "event": "relay", "state": "bypass",
         "cause": "power cut"}  # fmt: skip


def picture(ascii_only: bool = False, events: int = 9, **changes: Any) -> str:
    view = View({**NOW, **changes}, BEFORE, [EVENT] * events, "reset")
    return "".join(text for _, text in draw(view, ascii_only=ascii_only))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"relay": "disconnect", "broken": sorted(FAULTS), "second_stage_left_s": 123.4, "drive_left_s": 123.0},
        {"power": "off", "qemu_pid": None, "hosts": {"lan": "down", "wan": "down"}, "relay": "moving", "frozen": True},
        {"ports": {"lan": "removed", "wan": "removed"}, "wiring": "a-very-long-name-of-a-wiring-of-a-relay"},
    ],
)
def test_it_fits_on_a_small_terminal(changes: dict[str, Any]) -> None:
    lines = picture(**changes).splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 79


def test_it_shows_how_frames_go() -> None:
    inline, bypass = picture(), picture(relay="bypass")
    assert "━ machine ━" in inline
    assert "━ BYPASS ━" in bypass
    assert "━ machine" not in bypass
    assert "━" not in picture(relay="disconnect")
    assert "  ╳  " in picture(cables={"lan": "out", "wan": "in"})


def test_it_shows_rates_parts_and_events() -> None:
    text = picture(broken=["relay-stuck"], ports={"lan": "removed", "wan": "down"})
    for words in ("1000 f/s", "12.3M f/s", "relay-stuck", "lan0 removed, wan0 down", "03:04:05.123  relay bypass",
                  "LED       ● on", "contacts 5 ms", "has not expired"):  # fmt: skip
        assert words in text, words
    assert "EXPIRED: NMI sent, hard reset in 3.3 s" in picture(second_stage_left_s=3.3)
    assert "never fires" in picture(broken=["watchdog-dead"])
    assert "opens in 80 ms" in picture(drive_left_s=0.08)


def test_it_is_clear_without_unicode() -> None:
    picture(ascii_only=True).encode("ascii")


def test_nothing_is_known_at_first() -> None:
    assert "waiting" in "".join(text for _, text in draw(View()))
    assert request_for("p", {}) is None


def test_rates_need_two_observations() -> None:
    assert rates({}, {}) == {}
    assert rates(BEFORE, NOW) == {"lan": (1000.0, 1000.0), "wan": (10.0, 12_300_000.0)}
    assert rates(NOW, {**BEFORE, "mono_ns": 3_000_000_000})["lan"] == (0, 0), "counters begin anew"
    assert [short(rate) for rate in (0.4, 9999, 12_345, 2_500_000)] == ["0", "9999", "12.3k", "2.5M"]


@pytest.mark.parametrize(
    ("key", "changes", "request_sent"),
    [
        ("p", {}, {"do": "power cut"}),
        ("p", {"power": "off"}, {"do": "power on"}),
        ("r", {}, {"do": "reset"}),
        ("n", {}, {"do": "nmi"}),
        ("o", {}, {"do": "brown-out"}),
        ("z", {}, {"do": "pause"}),
        ("z", {"frozen": True}, {"do": "resume"}),
        ("b", {}, {"do": "press", "seconds": 6}),
        ("1", {}, {"do": "unplug", "side": "lan"}),
        ("2", {"cables": {"lan": "in", "wan": "out"}}, {"do": "plug", "side": "wan"}),
        ("3", {}, {"do": "nic", "side": "lan", "order": "down"}),
        ("4", {"nics_down": ["wan"]}, {"do": "nic", "side": "wan", "order": "up"}),
        ("5", {}, {"do": "nic", "side": "lan", "order": "remove"}),
        ("6", {"ports": {"lan": "up", "wan": "removed"}}, {"do": "nic", "side": "wan", "order": "return"}),
        ("s", {}, {"do": "break", "part": "relay-stuck"}),
        ("s", {"broken": ["relay-stuck"]}, {"do": "mend", "part": "relay-stuck"}),
        ("+", {}, {"do": "tune", "timing": {"relay_ms": 10.0}}),
        ("-", {}, {"do": "tune", "timing": {"relay_ms": 2.5}}),
        ("l", {}, {"do": "tune", "timing": {"flap_ms": 2000.0}}),
        ("y", {}, None),
    ],
)
def test_keys(key: str, changes: dict[str, Any], request_sent: dict[str, Any] | None) -> None:
    assert request_for(key, {**NOW, **changes}) == request_sent


def test_every_part_has_a_key_and_all_can_be_repaired() -> None:
    assert set(panel.PARTS.values()) == set(FAULTS)
    assert panel.repairs({"broken": ["a", "b"]}) == [{"do": "mend", "part": "a"}, {"do": "mend", "part": "b"}]
    assert told(EVENT) == "relay bypass power cut"
    assert panel.in_words({"do": "tune", "timing": {"relay_ms": 5.0}}) == "tune relay_ms 5"


@contextmanager
def served(folder: Path, done: list[str]) -> Iterator[None]:
    """A control socket whose electronics only note what they are told."""
    loop, log = asyncio.new_event_loop(), EventLog()
    log.add("relay", state="inline", cause="line driven")

    async def reset() -> None:
        done.append("reset")

    fake: Any = SimpleNamespace(
        observed=lambda: NOW,
        status=lambda: NOW,
        reset=reset,
        break_part=lambda part, broken: done.append(f"{part} {broken}"),
    )
    nothing: Any = None
    server = ControlServer(folder, fake, log, nothing, nothing)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(server.start(), loop).result(5)
    try:
        yield
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


CODE = "import sys; from pathlib import Path; from simulator.panel import show; sys.exit(show(Path(sys.argv[1])))"
COMMAND = [sys.executable, "-c", CODE]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(boardspec.REPO / "board"), "PYTHONUTF8": "1", **more}


def test_a_run_on_a_terminal(tmp_path: Path) -> None:
    """Keys break a part and press reset; q leaves, with the terminal as it was."""
    done: list[str] = []
    ours, theirs = pty.openpty()
    with served(tmp_path, done):
        process = subprocess.Popen(
            [*COMMAND, str(tmp_path)], stdin=theirs, stdout=theirs, stderr=theirs,
            env=environment(TERM="xterm", LINES="24", COLUMNS="80", PROMPT_TOOLKIT_NO_CPR="1"), start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        shown = bytearray()

        def read() -> None:
            try:
                while data := os.read(ours, 4096):
                    shown.extend(data)
            except OSError:
                pass  # the terminal's other end is closed

        reader = threading.Thread(target=read)
        reader.start()
        try:
            wait_until(lambda: b"INLINE" in shown, "the picture", 20)
            os.write(ours, b"s")
            wait_until(lambda: done == ["relay-stuck True"], "the part is broken", 10)
            os.write(ours, b"r")
            wait_until(lambda: done[1:] == ["reset"], "the reset", 10)
            os.write(ours, b"q")
            assert process.wait(10) == 0
        finally:
            process.kill()
            process.wait()
            reader.join(5)
            os.close(ours)
    assert b"\x1b[?1049h" in shown, "the picture has a screen of its own"
    assert b"\x1b[?1049l" in shown


def test_a_run_without_a_terminal_prints_picture_and_events(tmp_path: Path) -> None:
    with served(tmp_path, []):
        process = subprocess.Popen(
            [*COMMAND, str(tmp_path)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment(TERM="dumb")
        )
        assert process.stdout is not None
        lines = [process.stdout.readline().decode() for _ in range(20)]
    assert any("INLINE" in line for line in lines)
    assert all(line.isascii() for line in lines)
    rest = process.communicate(timeout=20)[0].decode()
    assert "the board ended" in rest
    assert process.returncode == 0
