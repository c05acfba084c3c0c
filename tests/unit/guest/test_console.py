# SPDX-License-Identifier: GPL-2.0-only
"""A guest's serial line: bounded log, output and input of attached users, and the escape key."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import termios
from collections.abc import Callable, Coroutine
from pathlib import Path

import pexpect
import pytest

from appliance.errors import RefusedError
from appliance.guest import console as module
from appliance.guest.console import LOG_BYTES, MOST_ATTACHED, Console
from console.commands.guest_console import join
from tests.support.fake_daemon import FakeDaemon

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[object, object, None]]


def with_guest(folder: Path, talk: Talk) -> Console:
    """A console that served a line on which `talk` was the guest, to the end of it."""

    async def body() -> Console:
        server = await asyncio.start_unix_server(talk, str(folder / "console.sock"))
        made = Console("ips1", folder)
        await asyncio.wait_for(made.serve(), 10)
        server.close()
        return made

    return asyncio.run(body())


def test_output_is_logged_and_found_again(tmp_path: Path) -> None:
    async def guest(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"one\r\ntwo\r\nthree\r\n")
        writer.close()

    console = with_guest(tmp_path, guest)
    assert console.tail(2) == b"two\r\nthree"
    assert console.log_file.read_bytes() == b"one\r\ntwo\r\nthree\r\n"
    assert Console("ips1", tmp_path).tail(1) == b"three"


def test_log_is_set_aside_and_stays_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PACE_BYTES", 1 << 40)

    async def guest(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _n in range(3 * LOG_BYTES // 1024):
            writer.write(b"x" * 1023 + b"\n")
            await writer.drain()
        writer.close()

    console = with_guest(tmp_path, guest)
    kept = [path.stat().st_size for path in tmp_path.glob("console.log*")]
    assert len(kept) == 2
    assert max(kept) <= LOG_BYTES + module.CHUNK
    assert len(console.tail()) == module.TAIL_BYTES


def test_two_people_see_the_same_and_both_may_type(tmp_path: Path) -> None:
    """The second user gets the earlier output; leaving does not end the line."""

    async def body() -> None:
        heard: asyncio.Queue[bytes] = asyncio.Queue()

        async def guest(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"login: ")
            while data := await reader.read(64):
                heard.put_nowait(data)
                writer.write(data.upper())
            writer.close()

        console = Console("ips1", tmp_path)
        line = await asyncio.start_unix_server(guest, str(tmp_path / "console.sock"))
        door = await asyncio.start_unix_server(console.attach, str(tmp_path / "door"))
        serving = asyncio.ensure_future(console.serve())
        first = await asyncio.open_unix_connection(str(tmp_path / "door"))
        assert await first[0].readexactly(7) == b"login: "
        first[1].write(b"a")
        assert await first[0].readexactly(1) == b"A"
        second = await asyncio.open_unix_connection(str(tmp_path / "door"))
        assert await second[0].readexactly(8) == b"login: A"
        first[1].close()
        second[1].write(b"b")
        assert await second[0].readexactly(1) == b"B"
        assert [await heard.get(), await heard.get()] == [b"a", b"b"]
        second[1].close()
        serving.cancel()
        for server in (line, door):
            server.close()

    asyncio.run(asyncio.wait_for(body(), 10))


def test_too_many_are_refused(tmp_path: Path) -> None:
    console = Console("ips1", tmp_path)
    console._people = {object() for _ in range(MOST_ATTACHED)}  # type: ignore[misc]
    with pytest.raises(RefusedError, match="4 people are already attached"):
        console.check_room()


@pytest.mark.parametrize(
    ("typed", "arrives", "why"),
    [(b"ab\x1dcd", b"ab", "detached"), (b"\x03\x1d", b"\x03", "detached")],
    ids=["escape ends", "Ctrl-C is the guest's"],
)
def test_keys(typed: bytes, arrives: bytes, why: str) -> None:
    ours, theirs = socket.socketpair()
    keys, typing = os.pipe()
    os.write(typing, typed)
    screen = os.open(os.devnull, os.O_WRONLY)
    with ours, theirs:
        assert join(ours, keys, screen).startswith(why)
        assert theirs.recv(64) == arrives
    for fd in (keys, typing, screen):
        os.close(fd)


def test_on_a_terminal(tmp_path: Path) -> None:
    """The whole way: raw terminal, the daemon's side of the socket, the escape key, the terminal as it was."""
    with FakeDaemon(tmp_path / "s") as daemon:
        child = pexpect.spawn(
            sys.executable,
            ["-m", "console", "--socket", str(daemon.path), "guest", "ips1", "console"],
            env={**os.environ, "TERM": "dumb"},
            timeout=20,
            encoding="utf-8",
        )
        child.expect_exact("attached; Ctrl-] detaches")
        child.expect_exact("login: ")
        assert not termios.tcgetattr(child.child_fd)[3] & termios.ICANON
        child.send("\x03")
        child.expect_exact("<03>")
        child.send("\x1d")
        child.expect_exact("detached; the guest keeps running")
        child.expect(pexpect.EOF)
        child.close()
        assert child.exitstatus == 0


def test_a_guest_that_does_not_run_is_silent_and_that_is_said(tmp_path: Path) -> None:
    """A user may want to wait for its first output, but should know that there is none yet."""
    with FakeDaemon(tmp_path / "s") as daemon:
        words = ["-m", "console", "--socket", str(daemon.path), "guest", "ips2", "console"]
        child = pexpect.spawn(sys.executable, words, timeout=20, encoding="utf-8")
        child.expect_exact("guest ips2 is failed: its output appears once it runs")
        child.send("\x1d")
        child.expect(pexpect.EOF)
        child.close()


def test_without_a_terminal_it_says_what_to_do(tmp_path: Path) -> None:
    with FakeDaemon(tmp_path / "s") as daemon:
        words = ["--socket", str(daemon.path), "guest", "ips1", "console"]
        line = f"{sys.executable} -m console {' '.join(words)} </dev/null"
        out, code = pexpect.run(f"sh -c '{line}'", withexitstatus=True, timeout=20)
    assert code == 1
    assert b"`guest NAME log` shows" in out
