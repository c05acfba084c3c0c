# SPDX-License-Identifier: GPL-2.0-only
"""The life of a [[serve]]: its tunnels, and when the datapath has them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from appliance.causes import Cause
from appliance.config.schema.model import Config, Group, Serve, Tunnel
from appliance.config.schema.served import segments
from appliance.errors import NotFoundError, UnreachableError
from appliance.remote import serve as serve_module
from appliance.remote.serve import Serve as Served
from appliance.remote.serve import ServeState, Where
from appliance.remote.serves import Serves
from appliance.system import netdev
from appliance.system.namespace import Namespace
from appliance.tunnel import device
from appliance.tunnel.underlay import Way

TUNNEL = Tunnel(kind="vxlan", remote="192.0.2.7", lan_key=7, wan_key=8)
TABLE = Serve(name="for-b", tunnel=TUNNEL, path=("ids", "pair"))
CONFIG = Config(serve=(TABLE,), group=(Group(name="pair", standby=("one", "two")),))
GOOD_WAY = Way("mgmt0", "", "192.0.2.1", 1600, "")


class Kernel:
    """The datapath, the devices and the ledger, as far as this needs them."""

    def __init__(self) -> None:
        self.devices: dict[str, str] = {}  # by name: the mark
        self.mtus: dict[str, int] = {}
        self.made = 0
        self.attached: list[tuple[str, ...]] = []
        self.available_hops: set[str] = set()
        self.way = GOOD_WAY
        self.refusal = ""
        self.moves: list[tuple[str, str]] = []

    # the datapath

    @property
    def leases(self) -> Any:
        return self

    def available(self, hop: str, now: int) -> bool:
        return hop in self.available_hops

    def segment_id(self, name: str) -> int:
        return 3

    def heartbeat_key(self, hop: str) -> int:
        return 1

    def attach_segment(self, segment: str, lan: str, wan: str, mode: str, *, mtu: int) -> None:
        assert {lan, wan} <= self.devices.keys()
        self.attached = [(segment, lan, wan, mode, str(mtu))]

    def detach_segment(self, segment: str) -> None:
        self.attached = []

    def record(self, change: object, name: str, old: str, new: str, cause: str, *, detail: str = "") -> None:
        self.moves.append((new, cause))

    # the devices

    async def make(self, name: str, plan: object, space: object, source: str) -> None:
        if self.refusal:
            raise UnreachableError(self.refusal)
        self.made += 1
        self.devices[name] = ""

    async def finish(self, name: str, plan: Any) -> None:
        assert self.attached, "a frame before that would be nobody's"
        self.devices[name] = plan.mark

    def fit(self, name: str, mtu: int) -> None:
        self.mtus[name] = mtu

    async def remove(self, name: str) -> None:
        self.devices.pop(name, None)

    def mark_of(self, name: str) -> str:
        return self.devices.get(name, "")

    def index(self, name: str) -> int:
        if name not in self.devices:
            raise OSError
        return 7

    async def look(self, tunnel: object, space: object) -> Way:
        return self.way

    async def guard(self) -> None:
        pass


class Bench:
    """What is served, with its kernel."""

    def __init__(self, folder: Path) -> None:
        self.kernel, self.folder = Kernel(), folder
        self.serves = Serves(self._make)

    def _make(self, table: Serve, segment: Any) -> Served:
        kernel: Any = self.kernel
        where = Where(kernel, kernel, Namespace("none"), self.folder, self.folder / "key", kernel.look, kernel.guard)
        return Served(table, segment, where, heard=lambda remote: None)

    @property
    def one(self) -> Served:
        return self.serves.named("for-b")

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                await asyncio.sleep(0.005)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    made = Bench(tmp_path)
    for name in ("make", "finish", "fit", "remove", "mark_of"):
        monkeypatch.setattr(device, name, getattr(made.kernel, name))
    monkeypatch.setattr(socket, "if_nametoindex", made.kernel.index)
    monkeypatch.setattr(netdev, "mtu", lambda name: made.kernel.mtus[name])
    for name in ("TICK_S", "RETRY_FIRST_S", "RETRY_LAST_S"):
        monkeypatch.setattr(serve_module, name, 0.005)
    return made


def play(bench: Bench, story: Callable[[], Awaitable[None]], config: Config = CONFIG) -> None:
    async def life() -> None:
        bench.serves.load(config)
        async with asyncio.TaskGroup() as tasks:
            with bench.serves.running(tasks):
                await story()
            for task in list(tasks._tasks):
                task.cancel()

    asyncio.run(life())


def test_its_tunnels_are_the_ports_of_a_segment(bench: Bench) -> None:
    async def story() -> None:
        await bench.until(lambda: bench.one.up)
        assert bench.kernel.attached == [("for-b", "ts3l", "ts3w", "tc", "1546")]
        assert all(bench.kernel.devices.values())

    play(bench, story)
    assert bench.kernel.moves == [("up", "none")]
    assert segments(CONFIG)[0].link_local == "rules"


def test_a_later_bypassd_goes_on_with_them_at_once(bench: Bench) -> None:
    async def first() -> None:
        await bench.until(lambda: bench.one.up)

    async def second() -> None:
        assert bench.kernel.attached, "before anything is waited for"
        await bench.until(lambda: bench.one.up)
        assert bench.kernel.made == 2

    play(bench, first)
    bench.kernel.attached = []
    play(bench, second)


def test_what_the_way_lacks_is_said_and_tried_again(bench: Bench) -> None:
    async def story() -> None:
        await bench.until(lambda: bench.one.detail == "no route")
        assert (bench.one.state, bench.one.cause) == (ServeState.DOWN, Cause.TUNNEL_DOWN)
        bench.kernel.way = Way("mgmt0", mtu=1500)
        await bench.until(lambda: "becomes a packet of 1554" in bench.one.detail)
        assert bench.one.cause is Cause.TUNNEL_FAILED
        bench.kernel.way = GOOD_WAY
        await bench.until(lambda: bench.one.up)
        bench.kernel.way = Way("mgmt0", mtu=1600, trouble="no link")
        await bench.until(lambda: bench.one.detail == "no link")
        assert bench.kernel.attached, "it goes on with what is there"

    bench.kernel.way = Way(trouble="no route")
    play(bench, story)


def test_a_way_that_becomes_narrow_drops_long_frames_and_says_so(bench: Bench) -> None:
    async def story() -> None:
        await bench.until(lambda: bench.one.up)
        bench.kernel.way = Way("mgmt0", mtu=1400)
        await bench.until(lambda: "frames longer than 1364 are dropped" in bench.one.tunnels.warning)
        assert bench.kernel.attached == [("for-b", "ts3l", "ts3w", "tc", "1346")]

    play(bench, story)


def test_a_removed_device_is_made_anew(bench: Bench) -> None:
    async def story() -> None:
        await bench.until(lambda: bench.one.up)
        bench.kernel.devices.pop("ts3w")
        await bench.until(lambda: bench.kernel.made == 4 and bench.one.up)

    play(bench, story)
    assert ("down", "tunnel_failed") in bench.kernel.moves


def test_another_tunnel_replaces_them(bench: Bench) -> None:
    other = msgspec.structs.replace(TABLE, tunnel=msgspec.structs.replace(TUNNEL, lan_key=5))

    async def story() -> None:
        await bench.until(lambda: bench.one.up)
        bench.serves.follow(msgspec.structs.replace(CONFIG, serve=(other,)))
        await bench.until(lambda: " 5 " in bench.kernel.devices.get("ts3l", ""))
        path = msgspec.structs.replace(other, path=("ids",))
        bench.serves.follow(msgspec.structs.replace(CONFIG, serve=(path,)))
        await asyncio.sleep(0.05)
        assert bench.kernel.made == 4, "another path needs no other tunnels"

    play(bench, story)


def test_nothing_comes_back_from_before_the_switch_to_a_policy_without_it(bench: Bench) -> None:
    """The segment without a rule would return frames that were in no hop. A commit that is taken back goes on."""

    async def story() -> None:
        await bench.until(lambda: bench.one.up)
        await bench.serves.withdraw(Config())
        assert bench.kernel.attached == []
        await asyncio.sleep(0.05)
        assert bench.kernel.attached == [], "it waits"
        bench.serves.follow(CONFIG)
        await bench.until(lambda: bench.kernel.attached)
        await bench.serves.withdraw(Config())
        assert await bench.serves.remove_old(Config()) == ["for-b"]
        assert (bench.kernel.attached, bench.kernel.devices) == ([], {})
        with pytest.raises(NotFoundError, match='there is no serve "for-b"; there is: none'):
            bench.serves.named("for-b")

    play(bench, story)


def test_which_names_of_its_path_are_not_available(bench: Bench) -> None:
    """A group is, with one of its members."""

    async def story() -> None:
        assert bench.one.unavailable(5) == ["ids", "pair"]
        bench.kernel.available_hops = {"two"}
        assert bench.one.unavailable(5) == ["ids"]
        bench.kernel.available_hops = {"one", "two", "ids"}
        assert bench.one.unavailable(5) == []

    play(bench, story)
