# SPDX-License-Identifier: GPL-2.0-only
"""Both guest agents with the real host side, over a terminal in place of the virtio-serial port."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import termios
import time
import tty
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from appliance.errors import RefusedError
from appliance.guest.agent import conversation
from appliance.guest.agent.channel import Inbox, Shunt
from appliance.guest.agent.conversation import Agent

NAMED = "tcp port 80 or tcp port 23"
FOLDER = Path(__file__).resolve().parents[3] / "appliance/guest-agent"
SHELLS = [words for words in (["dash"], ["busybox", "sh"], ["bash", "--posix"]) if shutil.which(words[0])]
AGENTS = [
    *(pytest.param([*words, str(FOLDER / "throughwire-agent.sh")], id=words[0]) for words in SHELLS),
    pytest.param([sys.executable, str(FOLDER / "throughwire_agent.py")], id="python"),
]


@dataclass
class Host:
    """The host's end: the real conversation, with requests recorded instead of executed."""

    port: int
    inbox: Inbox = field(default_factory=Inbox)
    beats: list[str] = field(default_factory=list)
    wishes: list[tuple[object, ...]] = field(default_factory=list)

    def send(self, message: dict[str, object]) -> None:
        import json

        os.write(self.port, json.dumps(message).encode() + b"\n")

    def greeting(self) -> dict[str, object]:
        return {"guest": "ips1", "accept": "", "tags": True, "heartbeat_ms": 100.0}

    def heartbeat(self, status: str, _: Mapping[str, int]) -> None:
        self.beats.append(status)

    def ask_bypass(self, on: bool, why: str) -> None:
        self.wishes.append(("bypass", on, why))

    def ask_drain(self, on: bool) -> None:
        if not on:
            raise RefusedError("an operator drains this guest")
        self.wishes.append(("drain", on))

    def shunt(self, message: Shunt) -> None:
        self.wishes.append(("shunt", message.protocol, message.lan, message.wan, message.time_s, message.on))

    async def narrow(self, text: str) -> None:
        self.wishes.append(("accept", text))

    async def use_tags(self, on: bool) -> dict[str, int]:
        self.wishes.append(("tags", on))
        return {"out": 0}


class World:
    """One agent and its host."""

    def __init__(self, command: list[str], folder: Path, *options: str) -> None:
        self.host_end, self._guest_end = os.openpty()
        tty.setraw(self._guest_end, termios.TCSANOW)
        self._command, python = command, command[-1].endswith(".py")
        self._orders = ["--socket", str(folder / "orders")] if python else ["-f", str(folder / "orders")]
        names = {"-p": "--port", "-i": "--interval", "-s": "--status", "-a": "--accept", "-c": "--checks"}
        words = ["-p", os.ttyname(self._guest_end), "-i", "1", "-c", str(folder / "checks"), *options]
        spelled = [names.get(word, word) if python else word for word in words]
        self.process = subprocess.Popen([*command, *self._orders, *spelled], start_new_session=True)
        self.host = Host(self.host_end)
        self.agent = Agent("ips1", self.host)

    async def until(self, condition: Callable[[], bool]) -> None:
        loop, changed = asyncio.get_running_loop(), asyncio.Event()

        def read() -> None:
            for message in self.host.inbox.feed(time.monotonic_ns(), os.read(self.host_end, 4096)):
                self.agent.on_message(message)
            changed.set()

        loop.add_reader(self.host_end, read)
        try:
            async with asyncio.timeout(20):
                while not condition():
                    changed.clear()
                    try:
                        await asyncio.wait_for(changed.wait(), 0.05)
                    except TimeoutError:
                        continue
        finally:
            loop.remove_reader(self.host_end)

    async def order(self, *words: str) -> None:
        made = await asyncio.create_subprocess_exec(*self._command, *self._orders, *words, stdout=subprocess.DEVNULL)
        await self.until(lambda: made.returncode is not None)

    def close(self) -> None:
        self.agent.close()
        os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait(10)
        os.close(self.host_end)
        os.close(self._guest_end)


@asynccontextmanager
async def world(command: list[str], folder: Path, *options: str) -> AsyncIterator[World]:
    made = World(command, folder, *options)
    try:
        await made.until(lambda: bool(made.agent.hello.agent))
        yield made
    finally:
        made.close()


@pytest.fixture(params=AGENTS)
def command(request: pytest.FixtureRequest) -> list[str]:
    return list(request.param)


def test_it_introduces_itself_beats_and_registers_its_filter(command: list[str], tmp_path: Path) -> None:
    async def body() -> None:
        async with world(command, tmp_path, "-a", "tcp port 80") as made:
            await made.until(lambda: ("accept", "tcp port 80") in made.host.wishes and "ok" in made.host.beats)
            assert made.agent.hello.version == 1
            made.host.wishes.clear()
            made.agent.greet()  # a fresh bypassd
            await made.until(lambda: ("accept", "tcp port 80") in made.host.wishes)
            assert made.host.inbox.malformed == 0

    asyncio.run(body())


def test_it_tells_how_the_application_is(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    status = f'grep . "{tmp_path}/state" && exit 1 || exit 0'

    async def body() -> None:
        async with world(command, tmp_path, "-s", status) as made:
            await made.until(lambda: "ok" in made.host.beats)
            (tmp_path / "state").write_text('rules "broken" \\ and more\nsecond line\n')
            await made.until(lambda: any("rules" in beat for beat in made.host.beats))
            assert made.host.inbox.malformed == 0
            assert "second" not in made.host.beats[-1]

    asyncio.run(body())


def test_it_carries_out_checks_by_name_only(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "checks").mkdir()
    for name, text in (("good", "exit 0"), ("bad", "echo 'no rules'; exit 3")):
        path = tmp_path / "checks" / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    async def body() -> None:
        async with world(command, tmp_path) as made:
            asked = ("good", "bad", "gone", "../checks/good", "good; true")
            tasks = [asyncio.create_task(made.agent.ask(word)) for word in asked]
            await made.until(lambda: all(task.done() for task in tasks))
            none = "there is no such check"
            assert [task.result() for task in tasks] == ["ok", "no rules", none, none, none]

    asyncio.run(body())


def test_orders_from_inside_the_guest_reach_the_host(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversation, "STATE_INTERVAL_S", 0.0)

    async def body() -> None:
        async with world(command, tmp_path) as made:
            orders = (("bypass", "on", "updating", "rules"), ("bypass", "off"), ("drain", "on"))
            for number, order in enumerate(orders, 1):  # each before the next: of several that wait, the newest counts
                await made.order(*order)
                await made.until(lambda number=number: len(made.host.wishes) == number)  # type: ignore[misc]
            await made.order("drain", "off")  # refused, and the agent lives on
            await made.order("tags", "on")
            await made.order("accept", "udp")
            await made.until(lambda: ("accept", "udp") in made.host.wishes)
            words = [wish[:2] for wish in made.host.wishes]
            assert words == [("bypass", True), ("bypass", False), ("drain", True), ("tags", True), ("accept", "udp")]
            await made.order("takes", "http", "telnet")
            await made.until(lambda: ("accept", NAMED) in made.host.wishes)
            await made.order("shunt", "tcp", "10.0.0.1:5", "[fd00::1]:443", "60")
            await made.order("unshunt", "udp", "10.0.0.1:5", "192.0.2.1:443")
            flows = (("tcp", "10.0.0.1", "fd00::1", 60, True), ("udp", "10.0.0.1", "192.0.2.1", None, False))
            await made.until(lambda: made.host.wishes[-1] == ("shunt", *flows[1]))
            assert made.host.wishes[-2:] == [("shunt", *flow) for flow in flows]
            assert "updating" in str(made.host.wishes[0][2])
            made.host.wishes.clear()
            made.agent.greet()  # a fresh bypassd is told what holds
            await made.until(lambda: len(made.host.wishes) >= 3)
            again = {wish[:2] for wish in made.host.wishes}
            assert again == {("bypass", False), ("tags", True), ("accept", NAMED)}
            assert made.process.poll() is None

    asyncio.run(body())


def test_nonsense_from_the_host_does_not_end_it(command: list[str], tmp_path: Path) -> None:
    async def body() -> None:
        async with world(command, tmp_path) as made:
            for line in (b"\xff\xfe\x00noise\n", b"[]\n", b'{"type":"unheard of"}\n', b'{"type":"check","id":"x"}\n',
                         b'{"type":"check"}\n', b"{" * 200 + b"\n"):  # fmt: skip
                os.write(made.host_end, line)
            task = asyncio.create_task(made.agent.ask("gone"))
            await made.until(task.done)
            assert task.result() == "there is no such check"

    asyncio.run(body())


def test_without_a_port_it_says_so(command: list[str], tmp_path: Path) -> None:
    python = command[-1].endswith(".py")
    words = [*command, "--port" if python else "-p", str(tmp_path / "none")]
    words += ["--socket" if python else "-f", str(tmp_path / "orders")]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode == 1
    assert str(tmp_path / "none") in ended.stderr
