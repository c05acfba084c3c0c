# SPDX-License-Identifier: GPL-2.0-only
"""Which frames the loop watch hears, and when it listens."""

from __future__ import annotations

import asyncio
import socket

import pytest

from appliance.config.schema.model import Segment
from appliance.filter import libpcap
from appliance.filter.classic import Instruction
from appliance.health.inband import Beat, Direction, encode, make_nonce
from appliance.remote import loop_watch
from appliance.remote.loop_watch import FIRST_NS, LISTEN_NS, PERIOD_NS, LoopWatch, code
from appliance.remote.port_loops import PortLoops

KEYS = {"dpi": 0x01020304, "ips": 0xFFFFFFFE}


def frame(key: int) -> bytes:
    return encode(Beat(1, Direction.LAN_TO_WAN, make_nonce(key), 5, 6))


def test_heartbeats_of_our_remotes_are_heard_and_nothing_else() -> None:
    """By the key in their source address, in each of several programs' jumps."""
    many = [*range(1, 120), *KEYS.values()]
    program = libpcap.make_program(tuple(Instruction(*line) for line in code(many)))
    assert all(libpcap.run(program, frame(key)) for key in many)
    assert not any(libpcap.run(program, frame(key)) for key in (500, 0xFFFFFFFD))
    assert not libpcap.run(program, b"\xff" * 9)


class Watched(LoopWatch):
    """Without sockets of the kernel."""

    opened = 0

    def _listen(self, device: str) -> socket.socket:
        if device == "gone":
            raise OSError(19, "No such device")
        self.opened += 1
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        other.close()
        asyncio.get_running_loop().add_reader(one, lambda: None)
        return one


def test_it_listens_after_a_change_and_then_part_of_the_time() -> None:
    """All of a loop's heartbeats are three times as frequent as the times when it listens are long."""

    async def life() -> None:
        watch = Watched(KEYS.__getitem__, lambda remote: None)
        watch.step(7)
        assert watch.opened == 0, "nothing to listen for"
        watch.follow(["dpi"], ("ts1l", "ts1w"))
        listened = []
        for at in range(0, FIRST_NS + 2 * PERIOD_NS, LISTEN_NS // 3):
            watch.step(100 + at)
            listened.append((at, bool(watch._sockets)))
        assert all(on for at, on in listened if at < FIRST_NS)
        later = [on for at, on in listened if at >= FIRST_NS]
        assert 0.15 < sum(later) / len(later) < 0.3
        watch.step(100 + FIRST_NS + LISTEN_NS)
        assert not watch._sockets
        watch.follow(["dpi", "ips"], ("ts1l", "ts1w"))
        watch.step(100 + FIRST_NS + LISTEN_NS)
        assert watch._sockets, "a change is listened for at once"
        watch.follow(["dpi", "ips"], ())
        assert not watch._sockets
        watch.close()

    asyncio.run(life())


def test_a_device_that_is_gone_is_said(caplog: pytest.LogCaptureFixture) -> None:
    async def life() -> None:
        watch = Watched(KEYS.__getitem__, lambda remote: None)
        watch.follow(["dpi"], ("gone", "ts1w"))
        watch.step(0)
        assert len(watch._sockets) == 1
        watch.close()

    asyncio.run(life())
    assert "loops by gone would not be noticed: No such device" in caplog.text


def test_the_ports_of_segments_with_remotes_are_listened_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no more once the remotes or a port are gone; it is said at which segment one came in."""
    made: list[Watched] = []
    heard: list[tuple[str, str]] = []

    def make(key: object, say: object) -> Watched:
        made.append(Watched(key, say))  # type: ignore[arg-type]
        return made[-1]

    monkeypatch.setattr("appliance.remote.port_loops.LoopWatch", make)

    async def life() -> None:
        ports = {"lan0": "lan0", "wan0": "wan0"}
        loops = PortLoops(KEYS.__getitem__, lambda where, remote: heard.append((where, remote)))
        segments = [Segment(name="main", lan="lan0", wan="wan0"), Segment(name="other", lan="lan1", wan="wan1")]

        def look(remotes: dict[str, list[str]]) -> None:
            loops.look(5, segments, remotes, lambda name: ports.get(name, ""))

        look({})
        assert not made
        look({"main": ["dpi"]})
        assert len(made[0]._sockets) == 2
        made[0]._heard("dpi")
        del ports["wan0"]
        look({"main": ["dpi"]})
        assert not made[0]._sockets
        ports["wan0"] = "wan0"
        look({"main": ["dpi"]})
        look({})
        assert not made[0]._sockets
        loops.close()

    asyncio.run(life())
    assert heard == [("at the ports of segment main", "dpi")]
    assert loop_watch.LISTEN_NS * 3 < loop_watch.PERIOD_NS
