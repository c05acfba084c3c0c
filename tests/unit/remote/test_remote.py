# SPDX-License-Identifier: GPL-2.0-only
"""The life of a remote and the orders for it, on a modelled kernel: devices, way, packet sockets and leases are fakes.

Time is real but short: the waits of remote.py are set to milliseconds.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from appliance.causes import Cause
from appliance.config.schema import model
from appliance.errors import RefusedError, UnreachableError
from appliance.health.detector import Good
from appliance.health.inband import Direction
from appliance.health.overload import Sample
from appliance.health.watch import Watch
from appliance.hop.lifecycle import HopState
from appliance.remote import remote as remote_module
from appliance.remote import show
from appliance.remote.remote import Place, Remote
from appliance.steering.kernel.encaps import Headers
from appliance.steering.kernel.layout import Encapsulated
from appliance.system.namespace import Namespace
from appliance.telemetry.subject import Change
from appliance.tunnel import device, xdp_pair
from appliance.tunnel.underlay import Way

SEGMENT = model.Segment(name="main", lan="lan0", wan="wan0")
TUNNEL = model.Tunnel(kind="vxlan", remote="192.0.2.7", lan_key=7, wan_key=8)
CONFIG = model.Remote(name="dpi", tunnel=TUNNEL)
GOOD_WAY = Way("mgmt0", "", "192.0.2.1", 1600)
S = 10**9


class Flow:
    """One direction of traffic through the remote, as the datapath counts it. `limits`: those that were set."""

    def __init__(self) -> None:
        self.counted = Sample(0, 0, 0, 0)
        self.limits: list[int] = []

    def sample(self) -> Sample:
        return self.counted

    def limit(self, frames_per_s: int) -> None:
        self.limits.append(frames_per_s)


class Kernel:
    """Devices with their marks, the lease of one hop, and what the way looks like. All fakes in one."""

    end_with_processes = True

    def __init__(self) -> None:
        self.devices: dict[str, tuple[int, str]] = {}  # name -> index, mark
        self.mtus: dict[str, int] = {}
        self.made = 0
        self.attached: set[str] = set()
        self.lease = 0
        self.way = GOOD_WAY
        self.refusal = ""
        self.counted = (0, 0)
        self.guarded = False
        self.flows = Flow(), Flow()
        self.entries: dict[str, str] = {}  # by device: where XDP sends instead
        self.puts: dict[int, tuple[int, Headers | None, int]] = {}
        self.leaves: dict[int, int] = {}
        self.back: dict[int, int] = {}
        self.underlay = xdp_pair.Underlay(4, 3, "mgmt0-hw")

    # the datapath

    @property
    def leases(self) -> Any:
        return self

    def renew(self, hop: str, until_ns: int) -> None:
        self.lease = until_ns

    def revoke(self, hop: str) -> None:
        self.lease = 0

    def tie(self, hop: str, threads: object) -> None: ...

    def untie(self, hop: str) -> None: ...

    def ended(self, hop: str) -> int:
        return 0

    def set_draining(self, hop: str, on: bool) -> None: ...

    def first_skip(self, hop: str) -> int:
        return 0

    def hop_id(self, name: str) -> int:
        return 1

    def segment_id(self, name: str) -> int:
        return 0

    def heartbeat_key(self, hop: str) -> int:
        return 1

    def attach_hop(self, device: str, *_: object, tags: bool = False, out: str = "") -> None:
        assert device in self.devices
        assert not out or out in self.devices
        self.attached.add(device)
        self.entries[device] = out

    def detach_hop(self, hop: str, segment: str | None = None) -> None:
        self.attached.clear()

    def load(self, hop: str, segment: str, side: int) -> Any:
        return self.flows[side]

    def unsent(self, hop: str) -> dict[str, int]:
        return {}

    def exchanged(self, hop: str) -> tuple[int, int]:
        return self.counted

    # the tunnel devices

    async def guard(self) -> None:
        self.guarded = True

    async def make(self, name: str, plan: object, space: object, source: str) -> None:
        if self.refusal:
            raise UnreachableError(self.refusal)
        assert self.guarded, "forged packets would reach the link"
        self.made += 1
        self.devices[name] = (self.made, "")

    async def finish(self, name: str, plan: Any) -> None:
        assert name in self.attached, "a frame before that would be nobody's"
        self.devices[name] = (self.devices[name][0], plan.mark)

    def fit(self, name: str, mtu: int) -> None:
        self.mtus[name] = mtu

    async def remove(self, name: str) -> None:
        self.devices.pop(name, None)
        self.devices.pop(xdp_pair.pair(name).out, None)

    def mark_of(self, name: str) -> str:
        return self.devices.get(name, (0, ""))[1]

    def index(self, name: str) -> int:
        if name not in self.devices:
            raise OSError
        return self.devices[name][0]

    async def look(self, tunnel: object, space: object) -> Way:
        return self.way

    # encapsulation by XDP: what is put on, by the device where it is

    @property
    def encaps(self) -> Any:
        return self

    @property
    def ip_devices(self) -> Any:
        return self

    def place(self, hop: int, side: int) -> int:
        return hop * 2 + side

    def put(self, here: int, place: int, headers: Headers, route: int) -> None:
        assert place in self.leaves, "packets would be lost"
        self.puts[here] = (place, headers, route)

    def put_nothing(self, here: int, place: int) -> None:
        self.puts[here] = (place, None, 0)

    def lead_to(self, place: int, port: int) -> None:
        self.leaves[place] = port

    def forget(self, here: int, place: int) -> None:
        del self.puts[here], self.leaves[place]

    def frames(self, place: int) -> dict[Encapsulated, int]:
        return {Encapsulated.SENT: 7, Encapsulated.ROUTE: place} if place in self.leaves else {}

    def by_kernel(self, hop: str, side: int, here: int, tunnel: int) -> Path:
        self.back[here] = tunnel
        return Path("/programs/by_kernel_tc")

    def leave(self, devices: Iterable[int]) -> None:
        for each in devices:
            self.back.pop(each, None)

    async def pair(self, name: str, space: object) -> None:
        self.made += 1
        self.devices[xdp_pair.pair(name).out] = (self.made, "")

    async def wire(self, name: str, space: object, by_kernel: Path) -> int:
        return 100 + self.index(xdp_pair.pair(name).out)

    async def stretch(self, name: str, space: object, mtu: int) -> None:
        self.mtus[xdp_pair.pair(name).out] = mtu

    async def under(self, device: str, space: object, programs: Path) -> xdp_pair.Underlay:
        assert (device, programs) == ("mgmt0", Path("/programs"))
        return self.underlay


class Bench:
    """A remote with its kernel; `restart` is another bypassd on the same one."""

    def __init__(self, folder: Path) -> None:
        self.kernel, self.folder, self.now = Kernel(), folder, 10 * S
        self.moves: list[tuple[str, str]] = []
        self.restart(CONFIG)

    def restart(self, config: model.Remote = CONFIG) -> None:
        kernel: Any = self.kernel
        self.folder.mkdir(exist_ok=True)
        place = Place(
            kernel, Namespace("none"), self.folder, self.folder, lambda: self.now, self.folder / "key",
            kernel.look, kernel.guard,
        )  # fmt: skip
        self.remote = Remote(config, SEGMENT, place, self)

    def record(self, change: Change, name: str, old: str, new: str, cause: str, *, detail: str = "") -> None:
        self.moves.append((new, str(cause)))

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not true():
                await asyncio.sleep(0.001)

    async def reach(self, state: HopState) -> None:
        await self.until(lambda: self.remote.state is state)

    async def prove(self) -> None:
        """Both heartbeats come back, for longer than `hold`."""
        await self.until(lambda: self.remote.watch is not None)
        for _ in range(15):
            self.now += S // 10
            watch = self.remote.watch
            assert watch is not None
            for check in watch.verdict.detectors:
                for decision in watch.verdict.step(self.now, check, Good(self.now)):
                    self.remote.on_decision(decision)
        await self.reach(HopState.AVAILABLE)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    made = Bench(tmp_path / "dpi")
    for name in ("make", "finish", "fit", "remove", "mark_of"):
        monkeypatch.setattr(device, name, getattr(made.kernel, name))
    for name, fake in (("make", "pair"), ("attach", "wire"), ("fit", "stretch"), ("underlay", "under")):
        monkeypatch.setattr(xdp_pair, name, getattr(made.kernel, fake))
    monkeypatch.setattr(xdp_pair, "prepare", lambda space: (1000, 2000))
    monkeypatch.setattr(Namespace, "inside", lambda self, function: function())
    monkeypatch.setattr(socket, "if_nametoindex", made.kernel.index)
    there = made.kernel.devices
    monkeypatch.setattr(socket, "if_nameindex", lambda: [(there[name][0], name) for name in there])
    for name in ("TICK_S", "RETRY_FIRST_S", "RETRY_LAST_S", "SETTLE_S"):
        monkeypatch.setattr(remote_module, name, 0.005)
    monkeypatch.setattr(Watch, "start", lambda self: None)
    return made


def play(bench: Bench, story: Callable[[], Awaitable[None]]) -> None:
    """Run the remote while the story is told; then end bypassd, which leaves the devices."""

    async def body() -> None:
        bench.remote.autostart()
        life = asyncio.ensure_future(bench.remote.run())
        try:
            await story()
        finally:
            life.cancel()
            await asyncio.gather(life, return_exceptions=True)

    asyncio.run(body())


def test_from_nothing_to_traffic(bench: Bench) -> None:
    """Two devices, attached before they are up, as wide as the way allows; a lease only after the heartbeats."""

    async def story() -> None:
        await bench.reach(HopState.PROVING)
        assert bench.kernel.lease == 0
        assert set(bench.kernel.devices) == bench.kernel.attached == {"tr1.0l", "tr1.0w"}
        assert set(bench.kernel.mtus.values()) == {1600 - 36 - 18}
        await bench.prove()
        assert bench.kernel.lease > bench.now

    play(bench, story)
    assert bench.moves == [("starting", "starting"), ("proving", "proving"), ("available", "healthy")]


BY_XDP = msgspec.structs.replace(CONFIG, tunnel=msgspec.structs.replace(TUNNEL, way="xdp"))


def put(bench: Bench) -> list[tuple[int, Headers | None, int]]:
    return [bench.kernel.puts[here] for here in sorted(bench.kernel.puts)]


def test_headers_are_put_on_by_xdp_as_the_way_says(bench: Bench) -> None:
    """Both sides, at the pairs that heartbeats enter by too; and others as soon as the way has changed."""
    bench.restart(BY_XDP)
    kernel = bench.kernel

    async def story() -> None:
        await bench.reach(HopState.PROVING)
        lan = Headers("vxlan", "192.0.2.1", "192.0.2.7", 7, 4789, (1000, 2000))
        assert put(bench) == [(2, lan, 4), (3, lan._replace(key=8), 4)]
        assert kernel.leaves == {2: 3, 3: 3}
        assert kernel.entries == {"tr1.0l": "tx1.0l", "tr1.0w": "tx1.0w"}
        assert set(kernel.mtus.values()) == {1600 - 36 - 18}
        index = {name: number for name, (number, _) in kernel.devices.items()}
        assert kernel.back == {index["tx1.0l"]: index["tr1.0l"], index["tx1.0w"]: index["tr1.0w"]}
        tunnels = bench.remote.tunnels
        assert tunnels.loads().keys() == {"tx1.0l", "tx1.0w"}
        assert [tunnels.pair.sides(way) for way in Direction] == [("tx1.0l", "tr1.0w"), ("tx1.0w", "tr1.0l")]
        assert show.row(bench.remote, bench.now).by == "xdp"
        kernel.way = Way("mgmt0", "", "192.0.2.99", 1600, trouble="looked at often")
        bench.remote.on_move(HopState.PROVING)  # a look is due
        await bench.until(lambda: put(bench)[0][1] == lan._replace(source="192.0.2.99"))
        bench.remote.stop()
        await bench.reach(HopState.STOPPED)
        assert (kernel.devices, kernel.puts, kernel.leaves, kernel.back) == ({}, {}, {}, {})

    play(bench, story)


def test_what_xdp_cannot_send_is_left_to_the_kernel_and_it_is_said_why(bench: Bench) -> None:
    bench.restart(BY_XDP)
    bench.kernel.underlay = xdp_pair.Underlay(4, 3, "mgmt0-hw", "XDP cannot send to mgmt0-hw: why")

    async def story() -> None:
        await bench.reach(HopState.PROVING)
        assert put(bench) == [(2, None, 0), (3, None, 0)]
        shown = show.details(bench.remote, bench.now)
        assert shown.by == "kernel: XDP cannot send to mgmt0-hw: why"
        bench.kernel.underlay = xdp_pair.Underlay(4, 3, "mgmt0-hw")
        bench.kernel.way = Way("mgmt0", "", "192.0.2.1", 1600, "looked at often")
        bench.remote.on_move(HopState.PROVING)  # a look is due
        await bench.until(lambda: show.row(bench.remote, bench.now).by == "xdp")
        (lan, wan) = show.details(bench.remote, bench.now).encapsulated or []
        assert (lan.side, lan.by_xdp, lan.by_kernel, lan.lost) == ("lan", 7, {"route": 2}, 0)
        assert (wan.side, wan.by_kernel) == ("wan", {"route": 3})

    play(bench, story)


def test_tunnels_of_the_other_way_are_not_adopted(bench: Bench) -> None:
    """A restart with another configuration makes them anew; with the same one it goes on with them."""

    async def first() -> None:
        await bench.prove()

    async def again() -> None:
        await bench.reach(HopState.PROVING)

    play(bench, first)
    bench.restart(BY_XDP)
    play(bench, again)
    assert bench.kernel.made == 6, "two tunnels, then two and their pairs"
    bench.restart(BY_XDP)
    assert bench.remote.tunnels.adoptable
    del bench.kernel.devices["tx1.0w"]
    assert not bench.remote.tunnels.adoptable


@pytest.mark.parametrize(
    ("way", "cause", "what"),
    [
        (Way(trouble="no route to 192.0.2.7: unreachable"), Cause.TUNNEL_DOWN, "no route to 192.0.2.7"),
        (Way("mgmt0", mtu=1500), Cause.TUNNEL_FAILED, "becomes a packet of 1554 in the tunnel"),
    ],
)
def test_it_waits_for_a_way_and_says_why(bench: Bench, way: Way, cause: Cause, what: str) -> None:
    bench.kernel.way = way

    async def story() -> None:
        await bench.until(lambda: what in bench.remote.hop.detail)
        assert (bench.remote.state, bench.remote.hop.cause) == (HopState.STARTING, cause)
        await asyncio.sleep(0.05)
        assert len(bench.moves) == 2, "said once, however often it is tried"
        bench.kernel.way = GOOD_WAY
        await bench.reach(HopState.PROVING)

    play(bench, story)


def test_a_kernel_without_the_device_is_named(bench: Bench) -> None:
    bench.kernel.refusal = "the kernel has no geneve over IPv4: it was built without CONFIG_GENEVE"

    async def story() -> None:
        await bench.until(lambda: "CONFIG_GENEVE" in bench.remote.hop.detail)
        assert "stopped" in bench.remote.stop()
        bench.kernel.refusal = ""
        await asyncio.sleep(0.03)
        assert (bench.remote.state, bench.kernel.devices) == (HopState.STOPPED, {})

    play(bench, story)


def test_the_way_explains_a_failure_and_does_not_cause_one(bench: Bench) -> None:
    async def story() -> None:
        await bench.prove()
        bench.kernel.way = Way("mgmt0", "", "192.0.2.1", 1600, "mgmt0 has no link")
        await bench.remote._look(bench.now)
        assert bench.remote.state is HopState.AVAILABLE
        watch = bench.remote.watch
        assert watch is not None
        watch.veto("test", "no heartbeat", Cause.HEARTBEAT_LOST)
        await bench.until(lambda: bench.remote.hop.cause is Cause.TUNNEL_DOWN)
        assert (bench.remote.state, bench.remote.hop.detail) == (HopState.SUSPECT, "mgmt0 has no link")
        bench.kernel.way = GOOD_WAY
        await bench.until(lambda: bench.remote.hop.cause is Cause.HEARTBEAT_LOST)

    play(bench, story)
    assert bench.moves[-3:] == [
        ("suspect", "heartbeat_lost"),
        ("suspect", "tunnel_down"),
        ("suspect", "heartbeat_lost"),
    ]


def test_bypassed_until_start_also_by_the_next_bypassd(bench: Bench) -> None:
    async def first() -> None:
        with pytest.raises(RefusedError, match="only a running remote can be bypassed"):
            bench.remote.bypass()
        await bench.prove()
        assert "until `start`" in bench.remote.bypass()
        assert "already" in bench.remote.bypass()
        assert (bench.remote.state, bench.remote.hop.cause, bench.kernel.lease) == (
            HopState.SUSPECT,
            Cause.OPERATOR,
            0,
        )

    async def second() -> None:
        await bench.until(lambda: bench.remote.bypassed)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await bench.prove()
        assert "once it passes" in bench.remote.start()
        await bench.prove()

    play(bench, first)
    bench.restart()
    play(bench, second)
    assert bench.kernel.made == 2, "the devices were adopted"


def test_adopted_with_its_lease_if_it_had_proved_itself(bench: Bench) -> None:
    async def first() -> None:
        await bench.prove()

    async def second() -> None:
        assert bench.kernel.lease == lease
        assert bench.kernel.attached == {"tr1.0l", "tr1.0w"}, "before anything is waited for"
        await bench.reach(HopState.PROVING)
        assert bench.kernel.lease == lease

    play(bench, first)
    lease = bench.kernel.lease
    assert lease
    bench.kernel.attached.clear()
    bench.restart()
    play(bench, second)
    assert bench.kernel.made == 2


def test_another_tunnel_is_not_adopted(bench: Bench) -> None:
    async def first() -> None:
        await bench.prove()

    async def second() -> None:
        assert bench.kernel.lease == 0
        await bench.reach(HopState.PROVING)

    play(bench, first)
    bench.restart(msgspec.structs.replace(CONFIG, tunnel=msgspec.structs.replace(TUNNEL, wan_key=9)))
    play(bench, second)
    assert bench.kernel.made == 4


def test_a_change_of_the_tunnel_replaces_it(bench: Bench) -> None:
    async def story() -> None:
        await bench.prove()
        tunnel = msgspec.structs.replace(TUNNEL, lan_key=5)
        bench.remote.reconfigure(msgspec.structs.replace(CONFIG, tunnel=tunnel), SEGMENT)
        await bench.until(lambda: bench.kernel.made == 4)
        assert bench.kernel.lease == 0
        assert " 5 " in f"{bench.kernel.mark_of('tr1.0l')} " or bench.kernel.mark_of("tr1.0l") == ""
        await bench.prove()

    play(bench, story)
    assert ("starting", "configured") in bench.moves


def test_a_change_that_is_rolled_back_at_once_replaces_nothing(bench: Bench) -> None:
    async def story() -> None:
        await bench.prove()
        tunnel = msgspec.structs.replace(TUNNEL, lan_key=5)
        bench.remote.reconfigure(msgspec.structs.replace(CONFIG, tunnel=tunnel), SEGMENT)
        bench.remote.reconfigure(CONFIG, SEGMENT)
        await asyncio.sleep(0.05)
        assert bench.remote.state is HopState.AVAILABLE

    play(bench, story)
    assert bench.kernel.made == 2


def test_devices_that_another_program_removes_are_made_anew(bench: Bench) -> None:
    async def story() -> None:
        await bench.prove()
        del bench.kernel.devices["tr1.0w"]
        await bench.until(lambda: bench.kernel.made == 4)
        await bench.prove()

    play(bench, story)
    assert ("starting", "tunnel_failed") in bench.moves


def test_drained_then_stopped(bench: Bench) -> None:
    async def story() -> None:
        await bench.prove()
        assert "draining" in bench.remote.drain()
        assert bench.kernel.lease
        bench.remote.stop()
        await bench.reach(HopState.STOPPED)
        assert (bench.kernel.lease, bench.kernel.devices, bench.remote.idle) == (0, {}, True)
        bench.remote.start()
        await bench.prove()

    play(bench, story)


def test_a_stopped_one_stays_stopped_and_its_leftovers_go(bench: Bench) -> None:
    async def first() -> None:
        await bench.prove()
        bench.remote.hop.order.write("stopped")  # bypassd ends before the devices are gone

    async def second() -> None:
        await bench.until(lambda: not bench.kernel.devices)
        assert (bench.remote.state, bench.kernel.lease) == (HopState.STOPPED, 0)

    play(bench, first)
    bench.restart()
    play(bench, second)


def test_a_loop_takes_its_taps_out_of_the_datapath_until_it_has_ended(bench: Bench) -> None:
    """Without a lease what comes out of its tunnels would still go on, and round again. Its heartbeats still leave."""

    async def story() -> None:
        await bench.prove()
        await bench.reach(HopState.AVAILABLE)
        bench.remote.looped("by serve b")
        assert (bench.remote.state, bench.remote.hop.cause) == (HopState.SUSPECT, Cause.LOOP)
        await bench.until(lambda: not bench.kernel.attached)
        assert bench.kernel.lease == 0
        bench.now += 20 * S
        bench.remote.looped("by serve b")  # it still goes round
        bench.now += 20 * S
        await bench.remote._look(bench.now)  # which fits the devices to the way
        assert not bench.kernel.attached
        bench.now += 11 * S
        await bench.until(lambda: len(bench.kernel.attached) == 2)
        assert bench.remote.hop.detail == "what is sent to it comes in again by serve b: a loop"

    play(bench, story)


def test_nothing_returned_is_a_fault(bench: Bench) -> None:
    async def story() -> None:
        await bench.prove()
        await bench.until(lambda: bench.remote._returned._last is not None)
        bench.kernel.counted = (100, 0)
        await bench.until(lambda: bench.remote._returned._since is not None)
        bench.kernel.counted = (200, 0)
        bench.now += 6 * S
        await bench.reach(HopState.SUSPECT)
        assert bench.remote.hop.cause is Cause.NOTHING_RETURNED

    play(bench, story)


def test_one_that_gets_too_much_is_limited_and_keeps_the_rest(bench: Bench) -> None:
    """Frames come back, and its tunnel drops others: the direction gets a limit, which ends with the tunnels."""

    async def story() -> None:
        await bench.prove()
        watch, flow = bench.remote.watch, bench.kernel.flows[0]
        assert watch is not None
        assert [way.way for way in watch.overload()] == ["lan to wan", "wan to lan"]
        (way,) = (one for one in watch._checks.ways if one.shown().way == "lan to wan")
        for look in range(4):
            bench.now += S // 10
            flow.counted = Sample(taken=1000 * look, lost=100 * look, came=500 * look, over=0)
            list(way.look(bench.now))
        assert flow.limits[-1] > 0
        bench.remote.stop()
        await bench.reach(HopState.STOPPED)
        assert flow.limits[-1] == 0

    play(bench, story)


def test_a_narrower_way_is_a_warning_and_narrower_devices(bench: Bench) -> None:
    async def story() -> None:
        await bench.prove()
        bench.kernel.way = Way("mgmt0", "", "192.0.2.1", 1400)
        await bench.remote._look(bench.now)
        assert bench.remote.tunnels.warning.endswith("frames longer than 1364 skip the remote")
        assert set(bench.kernel.mtus.values()) == {1400 - 36 - 18}
        bench.kernel.way = GOOD_WAY
        await bench.remote._look(bench.now)
        assert bench.remote.tunnels.warning == ""

    play(bench, story)
