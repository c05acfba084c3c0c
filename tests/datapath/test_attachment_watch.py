# SPDX-License-Identifier: GPL-2.0-only
"""Other programs change the datapath's attachments on real devices: noticed by asking the kernel, and repaired."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from simulator import netns

from appliance.causes import Cause
from appliance.contest import OFTEN, WINDOW_NS
from appliance.errors import DatapathError
from appliance.steering.attachment_watch import AttachmentWatch, look
from appliance.steering.datapath import Datapath
from appliance.steering.kernel.layout import Side
from appliance.system import libbpf, netlink
from tests.support.wire import Wire
from tests.support.wired_datapath import ALL, EMPTY, MODES, appliance, available

pytestmark = pytest.mark.root


class Watched:
    """A datapath on a wire, its watch, and another program that knows none of the devices and drops all frames."""

    def __init__(self, wire: Wire, made: Datapath, other: Datapath) -> None:
        self.wire, self.made, self.other = wire, made, other
        self.repairs: list[tuple[str, Cause]] = []
        self.watch = AttachmentWatch(lambda port, cause, how: self.repairs.append((port, cause)))
        self.now = time.monotonic_ns()

    def look(self) -> dict[str, tuple[Cause, str]]:
        """One look, a second after the last; the faults by segment."""
        self.now += 1_000_000_000

        def body() -> None:
            self.watch.judge(self.made.devices, look(self.made.devices)(), self.now)

        self.wire.inside(body)
        return dict(self.watch.faults)

    def lan(self) -> int:
        return next(one.device.ifindex for one in self.made.attachments() if not one.hop and one.side is Side.LAN)

    def link_of(self, slot: int) -> int:
        return self.made.devices._links._links[slot].fd

    def foreign(self, mode: str) -> int:
        """Attach the other program to the LAN port, first of all; the link."""
        kind, flags = {
            "xdp": (libbpf.BPF_XDP, libbpf.XDP_FLAGS_DRIVER),
            "generic": (libbpf.BPF_XDP, libbpf.XDP_FLAGS_SKB),
            "tc": (libbpf.BPF_TCX_INGRESS, libbpf.BPF_F_BEFORE),
        }[mode]
        program = self.other.kernel.programs["entry_tc" if mode == "tc" else "entry_xdp"]
        return self.wire.inside(lambda: libbpf.link_create(program, self.lan(), kind, flags))


@contextmanager
def watched(wire: Wire, bpf_object: Path, mode: str, rules: bool = False) -> Iterator[Watched]:
    with appliance(wire, bpf_object, mode, ALL if rules else EMPTY) as made:
        other = Datapath.open(bpf_object)
        try:
            yield Watched(wire, made, other)
        finally:
            other.close()


@MODES
def test_all_is_well(wire: Wire, bpf_object: Path, mode: str) -> None:
    """Also while a policy's own programs are in the entry's place, and right after a switch."""
    with watched(wire, bpf_object, mode) as world:
        assert world.look() == {}
        world.made.set_policy(ALL)
        assert world.look() == {}
        before = wire.inside(look(world.made.devices))
        world.made.set_policy(EMPTY)
        world.watch.judge(world.made.devices, before, world.now)
        assert (world.watch.faults, world.repairs) == ({}, []), "what was seen before our own change says nothing"


@MODES
@pytest.mark.parametrize("hop", [False, True], ids=["port", "tap"])
def test_detached_by_another_program(wire: Wire, bpf_object: Path, mode: str, hop: bool) -> None:
    with watched(wire, bpf_object, mode, rules=hop) as world:
        available(world.made)
        assert wire.stream(32) == []
        slot = next(one.slot for one in world.made.attachments() if bool(one.hop) == hop)
        libbpf.link_detach(world.link_of(slot))
        wire.send(10**6)
        assert world.look() == {}
        assert world.repairs == ([] if hop else [("lan0", Cause.PROGRAM_DETACHED)])
        assert wire.stream(64) == []
        assert world.look() == {}
        assert len(world.repairs) == (not hop), "once"


def test_detached_by_bpftool(wire: Wire, bpf_object: Path) -> None:
    """As an administrator may do it while debugging."""
    with watched(wire, bpf_object, "xdp") as world:
        number = libbpf.info(world.link_of(0), libbpf.LinkInfo()).id
        netns.run("ip", "netns", "exec", wire.box, "bpftool", "link", "detach", "id", str(number))
        assert world.look() == {}
        assert world.repairs == [("lan0", Cause.PROGRAM_DETACHED)]
        assert wire.stream(64) == []


def test_replaced_by_another_program(wire: Wire, bpf_object: Path) -> None:
    """Through our own pinned link: the link is ours, but its program is not."""
    with watched(wire, bpf_object, "xdp") as world:
        libbpf.link_update(world.link_of(0), world.other.kernel.programs["entry_xdp"])
        assert world.look() == {}
        assert world.repairs == [("lan0", Cause.PROGRAM_DETACHED)]
        assert wire.stream(64) == []


def test_another_xdp_program_in_its_place(wire: Wire, bpf_object: Path) -> None:
    """We must not remove it: a fault with a cause, until it is gone."""
    with watched(wire, bpf_object, "xdp") as world:
        libbpf.link_detach(world.link_of(0))
        theirs = world.foreign("xdp")
        program = libbpf.info(world.other.kernel.programs["entry_xdp"], libbpf.ProgramInfo()).id
        said = (Cause.FOREIGN_PROGRAM, f"lan0: XDP program {program} has the datapath's place")
        for _ in range(3):
            assert world.look() == {"main": said}
        libbpf.link_detach(theirs)
        assert world.look() == {}
        assert wire.stream(64) == []


def test_another_program_before_it_by_tc(wire: Wire, bpf_object: Path) -> None:
    """It takes every frame; ours goes before it."""
    with watched(wire, bpf_object, "tc") as world:
        world.foreign("tc")
        assert world.look() == {}
        assert world.repairs == [("lan0", Cause.PROGRAM_DETACHED)]
        assert wire.stream(64) == []
        assert world.look() == {}


@pytest.mark.parametrize("kind", ["xdp", "generic"])
def test_another_xdp_program_before_tc(wire: Wire, bpf_object: Path, kind: str) -> None:
    """With XDP it gets every frame before tc, and no tc program can precede it."""
    with watched(wire, bpf_object, "tc") as world:
        theirs = world.foreign(kind)
        assert [fault.cause for fault in world.watch.faults.values()] == []
        assert world.look()["main"][0] is Cause.FOREIGN_PROGRAM
        assert world.watch.cleared == set()
        libbpf.link_detach(theirs)
        assert world.look() == {}
        assert world.watch.cleared == {"main"}, "the segment may take XDP again"
        assert wire.stream(64) == []


def test_whoever_detaches_again_and_again_is_a_fault(wire: Wire, bpf_object: Path) -> None:
    """Until a minute has passed without."""
    with watched(wire, bpf_object, "xdp") as world:
        for _ in range(OFTEN):
            libbpf.link_detach(world.link_of(0))
            assert world.look() == {}
        libbpf.link_detach(world.link_of(0))
        assert world.look()["main"][0] is Cause.PROGRAM_DETACHED
        assert wire.stream(64) == [], "it is attached all the same"
        assert world.look()["main"][0] is Cause.PROGRAM_DETACHED
        world.now += WINDOW_NS
        assert world.look() == {}


def test_a_tap_that_cannot_be_mended_costs_its_guest_the_frames_not_the_link(wire: Wire, bpf_object: Path) -> None:
    """Frames from the guest would be lost: so it gets none, and frames bypass it."""
    with watched(wire, bpf_object, "tc", rules=True) as world:
        available(world.made)
        assert wire.stream(32) == []
        tap = next(one for one in world.made.attachments() if one.hop and one.side is Side.WAN)

        def sent() -> int:
            return world.made.counters().hops["ips"].to_frames

        program = world.other.kernel.programs["entry_xdp"]
        flags = libbpf.XDP_FLAGS_SKB
        theirs = wire.inside(lambda: libbpf.link_create(program, tap.device.ifindex, libbpf.BPF_XDP, flags))
        assert world.look() == {}, "no fault of the segment"
        before = sent()
        assert wire.stream(64) == []
        assert sent() == before, "neither way: what enters at one tap leaves by the other"
        libbpf.link_detach(theirs)
        assert world.look() == {}
        assert wire.stream(64) == []
        assert sent() == before + 128


def test_a_tap_that_another_thread_detaches_is_not_mended(wire: Wire, bpf_object: Path) -> None:
    """Guests and remotes are detached beside the event loop, which looks meanwhile and does not wait."""
    with watched(wire, bpf_object, "tc", rules=True) as world:
        devices = world.made.devices
        tap = next(one for one in world.made.attachments() if one.hop)
        seen = wire.inside(look(devices))
        assert tap.slot in seen.views
        holds, done = threading.Event(), threading.Event()

        def detach() -> None:
            with devices._turn:
                holds.set()
                assert done.wait(10)
                devices.detach_hop(tap.hop)

        thread = threading.Thread(target=detach)
        thread.start()
        assert holds.wait(10)
        devices.withdraw(frozenset())
        assert devices.standings(seen.views) == []
        done.set()
        thread.join()
        assert devices.standings(seen.views) == []
        wire.inside(lambda: devices.mend(tap))
        assert tap.slot not in {one.slot for one in devices.all()}
        assert world.look() == {}
        assert world.repairs == []


def test_a_device_that_is_gone_is_left_to_others(wire: Wire, bpf_object: Path) -> None:
    with watched(wire, bpf_object, "xdp") as world:
        ask = wire.inside(lambda: look(world.made.devices))
        netns.run("ip", "-n", wire.box, "link", "del", "lan0")
        seen = wire.inside(ask)
        assert 0 not in seen.views
        assert 1 in seen.views
        world.watch.judge(world.made.devices, seen, world.now)
        assert world.watch.faults == {}


def test_what_the_kernel_says_of_a_link(wire: Wire, bpf_object: Path) -> None:
    """State, XDP program and counters in one answer; None for an index without a link."""
    with watched(wire, bpf_object, "xdp") as world:
        index = world.lan()
        said = wire.inside(lambda: netlink.read_links([index, 9999]))
        assert said[9999] is None
        before = said[index]
        assert before is not None
        assert before.ifname == "lan0"
        assert before.up
        assert before.link
        assert before.program == world.made.begins_in(world.made.attachments()[0])
        assert wire.stream(64) == []
        after = wire.inside(lambda: netlink.read_links([index]))[index]
        assert after is not None
        assert after.sent - before.sent >= 64


# -- an error that passes


class Refusing:
    """The kernel refuses to attach by XDP so many times, with this error."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, times: int, code: int) -> None:
        self.times, self.code = times, code
        self._real: Callable[..., int] = libbpf.link_create
        monkeypatch.setattr("appliance.steering.kernel.links.libbpf.link_create", self)

    def __call__(self, program_fd: int, ifindex: int, attach_type: int, flags: int = 0) -> int:
        if self.times > 0 and attach_type == libbpf.BPF_XDP:
            self.times -= 1
            raise DatapathError("attach: busy", self.code)
        return self._real(program_fd, ifindex, attach_type, flags)


@pytest.mark.parametrize(("code", "modes"), [(16, {"xdp"}), (12, {"xdp"}), (95, {"tc"})])
def test_an_error_that_passes_does_not_choose_the_mode(
    wire: Wire, bpf_object: Path, monkeypatch: pytest.MonkeyPatch, code: int, modes: set[str]
) -> None:
    """EBUSY and ENOMEM are retried; EOPNOTSUPP, at every MTU, is final."""
    made = Datapath.open(bpf_object, wire.pins)
    try:
        Refusing(monkeypatch, 1 if modes == {"xdp"} else 100, code)

        def attach() -> set[str]:
            return {one.mode for one in made.attach_segment("main", "lan0", "wan0", whole=True, patient=True)}

        if modes == {"xdp"}:
            with pytest.raises(DatapathError) as caught:
                wire.inside(attach)
            assert caught.value.passing
        assert wire.inside(attach) == modes
        made.set_policy(EMPTY)
        assert wire.stream(32) == []
    finally:
        made.unload()


def test_the_event_loop_waits_for_the_thread_that_switches_the_policy(
    wire: Wire, bpf_object: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A segment is not detached, and its link's descriptor not closed, while the other thread updates that link."""
    busy, go = threading.Event(), threading.Event()
    update = libbpf.link_update

    def slow(link: int, program: int) -> None:
        busy.set()
        go.wait()
        update(link, program)

    with appliance(wire, bpf_object, "xdp", EMPTY) as made:
        prepared = made.prepare_policy(ALL)
        monkeypatch.setattr(libbpf, "link_update", slow)
        switching = threading.Thread(target=made.switch_policy, args=(prepared,))
        detaching = threading.Thread(target=made.detach_segment, args=("main",))
        try:
            switching.start()
            assert busy.wait(10)
            detaching.start()
            detaching.join(0.2)
            assert detaching.is_alive()
        finally:
            go.set()
            switching.join()
            detaching.join()
        assert all(one.hop for one in made.attachments())
