# SPDX-License-Identifier: GPL-2.0-only
"""Incidents: a guest's last frames and output, which flow is blamed, and the resulting policy."""

from __future__ import annotations

import asyncio
import os
import struct
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from appliance.causes import Cause
from appliance.config.schema import model
from appliance.errors import NotFoundError
from appliance.filter.compiler import compile_filter
from appliance.frames import capture_reader
from appliance.incident.flows import Flow, flow_of, flows_of, judge
from appliance.incident.incidents import ALIKE_S, Fall, Incidents, quarantine_row, words
from appliance.incident.store import Incident, Store
from appliance.steering.kernel.layout import Side
from appliance.steering.kernel.recorder import Recorded
from appliance.steering.overlay import Overlay, Quarantined, apply, kept_closed, load, narrowed, reason_of, save
from appliance.steering.overlay_editor import GuestPolicy
from appliance.telemetry.subject import Change

STATIONS = bytes.fromhex("020000000001020000000002")


def tcp(source: str, sport: int, destination: str, dport: int, *, more: int = 0, tags: bytes = b"") -> bytes:
    addresses = b"".join(bytes(map(int, a.split("."))) for a in (source, destination))
    header = struct.pack(">BBHHHBBH", 0x45, 0, 40, 1, more, 64, 6, 0) + addresses
    return STATIONS + tags + b"\x08\x00" + header + struct.pack(">HHIIBBHHH", sport, dport, 0, 0, 0x50, 2, 0, 0, 0)


def tcp6(sport: int, dport: int) -> bytes:
    header = struct.pack(">IHBB", 0x60000000, 20, 6, 64) + bytes(15) + b"\1" + bytes(15) + b"\2"
    return STATIONS + b"\x86\xdd" + header + struct.pack(">HHIIBBHHH", sport, dport, 0, 0, 0x50, 2, 0, 0, 0)


REQUEST, ANSWER = tcp("10.0.0.1", 4000, "10.0.0.2", 80), tcp("10.0.0.2", 80, "10.0.0.1", 4000)
OTHER = tcp("10.0.0.1", 4001, "10.0.0.2", 80)
ICMP = (
    STATIONS
    + b"\x08\x00"
    + struct.pack(">BBHHHBBH", 0x45, 0, 28, 1, 0, 64, 1, 0)
    + bytes([10, 0, 0, 1, 10, 0, 0, 2, 8])
)
ARP = STATIONS + b"\x08\x06" + bytes(46)


# -- flows


@pytest.mark.parametrize(
    ("frame", "back", "stranger", "text"),
    [
        (REQUEST, ANSWER, OTHER, "tcp 10.0.0.1:4000 <> 10.0.0.2:80"),
        (tcp6(4000, 80), None, tcp6(4001, 80), "tcp [::1]:4000 <> [::2]:80"),
        (ICMP, None, REQUEST, "icmp 10.0.0.1 <> 10.0.0.2"),
        (ARP, STATIONS[6:] + STATIONS[:6] + ARP[12:], REQUEST,
         "ethertype 0x0806 02:00:00:00:00:01 <> 02:00:00:00:00:02"),
        (tcp("10.0.0.1", 1, "10.0.0.2", 2, tags=bytes.fromhex("8100002a")), None, REQUEST,
         "vlan 42 tcp 10.0.0.1:1 <> 10.0.0.2:2"),
        (tcp("10.0.0.1", 1, "10.0.0.2", 2, tags=bytes.fromhex("88a800078100002a")), None, REQUEST,
         "vlan 7 vlan 42 tcp 10.0.0.1:1 <> 10.0.0.2:2"),
        (tcp("10.0.0.1", 4000, "10.0.0.2", 80, more=0x2000), None, ICMP, "tcp 10.0.0.1 <> 10.0.0.2 (fragments)"),
    ],
    ids=["tcp", "tcp6", "icmp", "arp", "tagged", "QinQ", "fragment"],
)  # fmt: skip
def test_a_flow_and_its_filter(frame: bytes, back: bytes | None, stranger: bytes, text: str) -> None:
    """The filter takes both directions of the flow and nothing else, by libpcap's word."""
    found = flow_of(frame)
    assert found is not None
    assert found.text == text
    compiled = compile_filter(found.match)
    assert compiled.matches(frame)
    assert not compiled.matches(stranger)
    if back is not None:
        assert flow_of(back) == found
        assert compiled.matches(back)


def test_flows_are_told_newest_first_and_once() -> None:
    found = flows_of([REQUEST, OTHER, ANSWER, b"short"])
    assert [one.text for one in found] == ["tcp 10.0.0.1:4000 <> 10.0.0.2:80", "tcp 10.0.0.1:4001 <> 10.0.0.2:80"]


@dataclass
class Death:
    number: int
    at: float
    flows: tuple[Flow, ...]


A, B, C = (Flow(name, name) for name in "abc")
POLICY = model.Quarantine(flows=1)


@pytest.mark.parametrize(
    ("deaths", "blamed", "words"),
    [
        ([Death(1, 0, (A, B))], (), ""),
        ([Death(1, 0, (A, B)), Death(2, 9, (A, C))], (A,), "incidents 1, 2"),
        ([Death(1, 0, (A,)), Death(2, 9, (B,))], (), "no flow was present"),
        ([Death(1, 0, (A, B)), Death(2, 9, (A, B))], (), "too many to blame"),
        ([Death(1, 0, (A,)), Death(2, 9, ()), Death(3, 20, (A,))], (A,), "incidents 1, 3"),  # one before any traffic
        ([Death(1, 0, (A,)), Death(2, 9, (B,)), Death(3, 20, (A,))], (), "incidents 2, 3"),  # not in a row
        ([Death(1, 0, (A,)), Death(2, 4000, (A,))], (), ""),  # an hour is long
    ],
)
def test_who_is_to_blame(deaths: list[Death], blamed: tuple[Flow, ...], words: str) -> None:
    found = judge(deaths, POLICY)
    assert found.blamed == blamed
    assert words in found.why
    assert bool(words) == bool(found.why)


def test_three_deaths_when_the_policy_says_so() -> None:
    deaths = [Death(n, n, (A,)) for n in range(1, 4)]
    policy = model.Quarantine(deaths=3)
    assert judge(deaths[:2], policy).blamed == ()
    assert judge(deaths, policy).blamed == (A,)


# -- the store


def incident(number: int, **more: object) -> Incident:
    values: dict[str, object] = {
        "number": number, "at": 1.0, "when": "then", "guest": "ips1", "kind": "died", "cause": "guest_exited",
        "detail": "killed", "frames": 1, **more,
    }  # fmt: skip
    return Incident(**values)  # type: ignore[arg-type]


def test_incidents_outlive_bypassd(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save(incident(store.next_number, flows=(A,)), b"frames")
    store.save(incident(store.next_number), b"more")
    (tmp_path / "000009.json").write_bytes(b"{damaged")
    fresh = Store(tmp_path)
    fresh.load()
    assert fresh.all() == store.all()
    assert fresh.capture(1) == b"frames"
    assert fresh.next_number == 10  # never a number twice, also when what it was cannot be read
    fresh.amend(1, bypass_at_most_ms=4.5)
    fresh.amend(77, bypass_at_most_ms=4.5)
    again = Store(tmp_path)
    again.load()
    assert again.get(1).bypass_at_most_ms == 4.5  # type: ignore[union-attr]


def test_the_oldest_make_room(tmp_path: Path) -> None:
    store = Store(tmp_path, kept=3)
    for _ in range(5):
        store.save(incident(store.next_number), b"frames")
    assert [one.number for one in store.all()] == [3, 4, 5]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"00000{n}.{kind}" for n in (3, 4, 5) for kind in ("json", "pcapng")
    ]
    small = Store(tmp_path / "bytes", kept_bytes=10_000)
    for _ in range(4):
        small.save(incident(small.next_number), bytes(4000))
    assert [one.number for one in small.all()] == [3, 4]


def test_a_full_disk_costs_the_file_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    kept = store.save(incident(1), b"frames")
    assert kept.trouble == "kept in memory only: No space left on device"
    assert store.capture(1) == b"frames"
    assert list(tmp_path.iterdir()) == []  # nothing half done
    monkeypatch.undo()
    store.save(kept, b"frames")
    assert (tmp_path / "000001.pcapng").read_bytes() == b"frames"
    assert store.get(1).trouble == ""  # type: ignore[union-attr]


def test_last_words_are_text_for_a_terminal() -> None:
    assert words(b"") == ""
    assert words(b"x" * 100_000 + b"\r\n\x1b[31mOops\xff\n")[-12:] == "\n\ufffd[31mOops\ufffd\n"


# -- from a fall to quarantine


class Kernel:
    def __init__(self) -> None:
        self.rings: dict[str, list[Recorded]] = {}

    def hand(self, hop: str, *frames: bytes) -> None:
        ring = self.rings.setdefault(hop, [])
        for data in frames:
            ring.append(Recorded(len(ring) + 1, time.monotonic_ns(), 0, Side.LAN, len(data), data))

    def recorded(self, hop: str, after: int = 0) -> list[Recorded]:
        return [frame for frame in self.rings.get(hop, []) if frame.number > after]


class Ledger:
    def __init__(self) -> None:
        self.told: list[tuple[Change, str]] = []

    def record(self, change: Change, name: str, old: str, new: str, cause: str, *, detail: str = "") -> None:
        self.told.append((change, cause))


class Steered:
    def __init__(self) -> None:
        self.overlay = Overlay()

    async def lay_over(self, overlay: Overlay) -> None:
        self.overlay = overlay


def guest(name: str, **more: object) -> model.Guest:
    return model.Guest(name=name, kernel="/x", quarantine=model.Quarantine(), **more)  # type: ignore[arg-type]


CONFIG = model.Config(
    segment=(model.Segment(name="main", lan="lan0", wan="wan0"),),
    guest=(guest("ips1"), guest("ips2"), model.Guest(name="dpi", kernel="/x", accept="ip")),
    group=(model.Group(name="ips", standby=("ips1", "ips2")),),
    rule=(
        model.Rule(name="web", match="tcp port 80", path=("ips", "dpi")),
        model.Rule(name="strict", match="udp", path=("ips",), on_unavailable="block"),
        model.Rule(name="rest", path=("dpi",)),
    ),
)


class World:
    def __init__(self, folder: Path) -> None:
        self.kernel, self.ledger, self.steered = Kernel(), Ledger(), Steered()
        self.now, self.at = 1000.0, 0
        policy = GuestPolicy(self.steered, wall=lambda: self.now)
        self.incidents = Incidents(
            CONFIG, self.kernel, policy, Store(folder), ledger=self.ledger, wall=lambda: self.now
        )
        self.console = b""

    async def fall(self, name: str, *frames: bytes, kind: str = "died") -> Incident:
        self.kernel.hand(name, *frames)
        self.now += 1
        at = self.at = time.monotonic_ns()
        fall = Fall(name, kind, Cause.GUEST_EXITED, "killed by SIGSEGV", at, at - 5_000_000, self.console)
        return await self.incidents.keep(fall)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def run(body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(body())


def test_a_fall_is_kept_with_its_frames_and_last_words(world: World, tmp_path: Path) -> None:
    async def body() -> None:
        world.console = b"Oops: general protection fault\n"
        kept = await world.fall("ips1", REQUEST, OTHER)
        assert (kept.guest, kept.kind, kept.cause, kept.frames) == ("ips1", "died", "guest_exited", 2)
        assert kept.last_proof_ms == 5.0
        assert "general protection fault" in kept.console
        path = tmp_path / "000001.pcapng"
        assert [frame.data for frame in capture_reader.read(path)] == [REQUEST, OTHER]
        text = path.read_bytes()
        assert b"guest_exited" in text
        assert b"general protection fault" in text
        world.incidents.measured("ips1", world.at, 3_000_000)
        async with asyncio.timeout(10):
            while world.incidents.rows()[0].bypass_at_most_ms is None:
                await asyncio.sleep(0.01)
        assert world.incidents.details(1).flows == [flow.text for flow in flows_of([REQUEST, OTHER])]
        assert world.incidents.capture(1) == text
        with pytest.raises(NotFoundError, match="no incident 7"):
            world.incidents.details(7)

    run(body)


def test_the_measurement_may_be_there_first(world: World) -> None:
    """The first frame is led around before the incident is on the disk; what was before does not get its number."""

    async def body() -> None:
        await world.fall("ips1", REQUEST)
        fall = Fall("ips1", "died", Cause.GUEST_EXITED, "", 77, 70, world.console)
        world.incidents.measured("ips1", 77, 2_000_000)
        assert (await world.incidents.keep(fall)).bypass_at_most_ms == 2.0
        assert world.incidents.rows()[0].bypass_at_most_ms is None

    run(body)


def test_a_flow_at_two_deaths_in_a_row_is_led_around(world: World) -> None:
    """Only that flow, also around the guest that would take over; the operator sees why, and it ends by itself."""

    async def body() -> None:
        first = await world.fall("ips1", OTHER, REQUEST)
        assert first.quarantined == ()
        second = await world.fall("ips2", ANSWER)
        assert second.quarantined == ("quarantine-1",)
        assert "was present at incidents 1, 2" in second.verdict
        assert "rule strict blocks" in second.verdict
        effective = apply(CONFIG, world.steered.overlay)
        rows = [(rule.name, rule.path) for rule in effective.rule]
        assert rows == [
            ("quarantine-1-1", ("dpi",)), ("web", ("ips", "dpi")), ("strict", ("ips",)), ("rest", ("dpi",)),
        ]  # fmt: skip
        around = compile_filter(effective.rule[0].match)
        assert around.matches(REQUEST)
        assert around.matches(ANSWER)
        assert not around.matches(OTHER)
        assert "tcp 10.0.0.1:4000" in reason_of("quarantine-1-1", world.steered.overlay)
        assert reason_of("web", world.steered.overlay) == ""
        assert (Change.FLOW_QUARANTINED, Cause.FLOW_BLAMED) in world.ledger.told
        row = quarantine_row(world.steered.overlay.quarantined[0], world.now, effective)
        assert (row.rules, row.left_s) == (1, 86400)
        world.now += 90_000
        await world.incidents.expire()
        assert apply(CONFIG, world.steered.overlay) == CONFIG

    run(body)


def test_frames_of_an_earlier_incident_blame_nobody(world: World) -> None:
    """A guest that was declared failed and then ended had no frame in between: that is one death, not two."""

    async def body() -> None:
        await world.fall("ips1", REQUEST)
        second = await world.fall("ips1")
        assert (second.number, second.times, second.verdict) == (1, 2, "")
        assert world.steered.overlay == Overlay()

    run(body)


def test_a_failed_check_is_no_death_unless_the_policy_says_so(world: World) -> None:
    async def body() -> None:
        for _ in range(3):
            failed = await world.fall("ips1", REQUEST, kind="failed")
        assert (failed.frames, failed.quarantined) == (1, ())
        strict = msgspec.structs.replace(CONFIG.guest[0], quarantine=model.Quarantine(failures=True))
        world.incidents.config = msgspec.structs.replace(CONFIG, guest=(strict,))
        assert (await world.fall("ips1", REQUEST, kind="failed")).quarantined == ("quarantine-1",)

    run(body)


def test_falls_faster_than_the_disk_are_counted(world: World) -> None:
    async def body() -> None:
        at = time.monotonic_ns()
        for _ in range(20):
            world.incidents.fell(Fall("ips1", "died", Cause.GUEST_EXITED, "", at, None, world.console))
        assert world.incidents.lost == 4

    run(body)


# -- what is laid over the configuration


def test_a_registered_filter_narrows_what_is_allowed() -> None:
    assert [narrowed(a, b) for a, b in (("", ""), ("ip", ""), ("", "tcp"), ("ip", "ip"), ("ip", "tcp or udp"))] == [
        "", "ip", "tcp", "ip", "(ip) and (tcp or udp)",
    ]  # fmt: skip
    laid = apply(CONFIG, Overlay({"dpi": "tcp", "gone": "udp"}))
    assert [one.accept for one in laid.guest] == ["", "", "(ip) and (tcp)"]
    assert apply(CONFIG, Overlay()) == CONFIG


def test_fail_closed_stays_closed() -> None:
    flow = Quarantined("quarantine-1", ("ips1",), "f", "udp port 53", 0, 1)
    names = [rule.name for rule in apply(CONFIG, Overlay(quarantined=(flow,))).rule]
    assert names == ["quarantine-1-1", "web", "strict", "rest"]
    assert kept_closed(CONFIG, flow) == ["strict"]


def test_the_overlay_outlives_bypassd(tmp_path: Path) -> None:
    path = tmp_path / "state" / "overlay.json"
    assert load(path) == Overlay()
    laid = Overlay({"dpi": "tcp"}, ("dpi",), (Quarantined("q", ("ips1",), "f", "udp", 0, 1, (1, 2), "why"),))
    save(path, laid)
    assert load(path) == laid
    path.write_text("{")
    assert load(path) == Overlay()


def test_cleared_incidents_are_left_out_and_kept(world: World, tmp_path: Path) -> None:
    """Also by the next bypassd; a flow that was present at one of them is blamed all the same."""

    async def body() -> None:
        await world.fall("ips1", OTHER, REQUEST)
        assert world.incidents.store.clear() == 1
        assert world.incidents.rows() == []
        assert [row.number for row in world.incidents.rows(cleared=True)] == [1]
        assert (await world.fall("ips2", ANSWER)).quarantined == ("quarantine-1",)
        assert [row.number for row in world.incidents.rows()] == [2]
        again = Store(tmp_path)
        again.load()
        assert again.cleared == 1
        assert again.next_number == 3
        (tmp_path / "cleared").write_text("x")
        again.load()
        assert again.cleared == 0

    run(body)


def test_a_guest_that_flaps_makes_one_incident(world: World) -> None:
    """Failures that are alike and have no frames are counted; other guests' incidents keep their place."""

    async def body() -> None:
        await world.fall("ips1", REQUEST)
        for _ in range(39):
            assert (await world.fall("ips1")).number == 1
        assert (await world.fall("ips2")).number == 2
        row = world.incidents.rows()[0]
        assert (row.number, row.times, row.frames) == (1, 40, 1)
        assert row.last > row.when
        assert (await world.fall("ips1", OTHER)).number == 3, "there are frames to keep"
        assert (await world.fall("ips1", kind="failed")).number == 4, "something else happened"
        world.now += 2 * ALIKE_S
        assert (await world.fall("ips1", kind="failed")).number == 5, "long ago"
        assert [one.times for one in world.incidents.store.all()] == [40, 1, 1, 1, 1]

    run(body)
