# SPDX-License-Identifier: GPL-2.0-only
"""Frames that the kernel drops after the decision have a cause: frames in = frames delivered + dropped by cause."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from simulator import netns

from appliance.guest.port import tap
from appliance.steering.datapath import Datapath
from appliance.steering.kernel.counters import DeviceCount
from appliance.steering.kernel.layout import Loss, Side
from appliance.system import kernel_fields, libbpf
from tests.support.waiting import wait_until
from tests.support.wire import Wire
from tests.support.wired_datapath import ALL, EMPTY, MODES, appliance, available

pytestmark = pytest.mark.root

QUEUE = 8
SENT = 200


@contextmanager
def tapped(wire: Wire, path: Path, mode: str, *, reader: bool) -> Iterator[Datapath]:
    """The hop's LAN side is a real tap with a short queue, which a process has open that reads nothing; or none has."""
    opened = wire.inside(lambda: tap.open_tap("real"))
    try:
        netns.run("ip", "-n", wire.box, "link", "set", "real", "up", "txqueuelen", str(QUEUE), "mtu", "9000")
        if not reader:
            os.close(opened)
        with appliance(wire, path, mode, ALL) as made:
            wire.inside(lambda: made.attach_hop("real", "ips", "main", Side.LAN))
            available(made)
            yield made
    finally:
        if reader:
            os.close(opened)
        wire.inside(lambda: tap.remove("real"))


def lan(made: Datapath) -> DeviceCount:
    return made.counters().ports["main", Side.LAN]


def by_name(counted: dict[Loss, int]) -> dict[Loss, int]:
    return {loss: frames for loss, frames in counted.items() if frames}


def send(wire: Wire, frames: int = SENT, pad: int = 46) -> None:
    for number in range(frames):
        wire.send(number, pad=pad)


def accounted(made: Datapath, frames: int) -> None:
    """Wait until so many frames came in and have gone; a frame without a name makes this fail."""
    came_in(made, frames)
    wait_until(lambda: lan(made).dropped == frames, "a name for each frame", explain=lambda: lan(made))


def came_in(made: Datapath, frames: int) -> None:
    wait_until(lambda: lan(made).total == frames, "the arrival of each frame", explain=lambda: lan(made))


@MODES
def test_a_tap_whose_reader_does_not_read(wire: Wire, bpf_object: Path, mode: str) -> None:
    """Its queue takes what it can hold; every other frame is counted, where it came in and at the hop."""
    with tapped(wire, bpf_object, mode, reader=True) as made:
        send(wire)
        came_in(made, SENT)
        # by tc the frames wait in a queue before the tap's ring, too
        held = SENT - lan(made).dropped
        assert QUEUE <= held <= 3 * QUEUE
        name = {"xdp": Loss.FULL, "tc": Loss.QUEUE}[mode]
        assert by_name(lan(made).lost) == {name: SENT - held}
        assert by_name(made.counters().hops["ips"].unsent) == {name: SENT - held}


@MODES
def test_a_tap_that_nobody_has_open(wire: Wire, bpf_object: Path, mode: str) -> None:
    """As after QEMU died, before the lease expires."""
    with tapped(wire, bpf_object, mode, reader=False) as made:
        send(wire)
        accounted(made, SENT)
        name = {"xdp": Loss.NO_READER, "tc": Loss.QUEUE}[mode]
        assert by_name(lan(made).lost) == by_name(made.counters().hops["ips"].unsent) == {name: SENT}


def _down(wire: Wire) -> None:
    netns.run("ip", "-n", wire.box, "link", "set", "wan0", "down")


def _far_end_down(wire: Wire) -> None:
    netns.run("ip", "-n", wire.wan, "link", "set", "eth0", "down")


def _far_end_cannot(wire: Wire) -> None:
    netns.run("ip", "netns", "exec", wire.wan, "ethtool", "-K", "eth0", "gro", "off")


def _gone(wire: Wire) -> None:
    netns.run("ip", "-n", wire.box, "link", "delete", "wan0")


@pytest.mark.parametrize(
    ("mode", "happens", "names"),
    [
        ("xdp", _down, {Loss.DOWN}),
        ("xdp", _far_end_down, {Loss.NO_READER}),
        ("xdp", _far_end_cannot, {Loss.UNFIT, Loss.NO_READER}),
        ("xdp", _gone, set()),  # that one the datapath knows itself
        ("tc", _down, {Loss.QUEUE}),
        ("tc", _far_end_down, {Loss.QUEUE}),
        ("tc", _gone, {Loss.GONE}),
    ],
)
def test_a_port_that_does_not_send(
    wire: Wire, bpf_object: Path, mode: str, happens: Callable[[Wire], None], names: set[Loss]
) -> None:
    """Down, without a receiver, or gone: each frame for it is dropped by name."""
    with appliance(wire, bpf_object, mode, EMPTY) as made:
        assert wire.stream(32) == []
        arrived = 32
        happens(wire)
        send(wire)
        came_in(made, arrived + SENT)
        wait_until(lambda: lan(made).dropped == SENT, "a name for each frame", explain=lambda: lan(made))
        assert by_name(lan(made).lost).keys() <= names
        assert bool(by_name(lan(made).lost)) == bool(names)
        if names - {Loss.GONE}:
            assert by_name(made.counters().ports["main", Side.WAN].unsent) == by_name(lan(made).lost)


@MODES
def test_nothing_lost_nothing_counted(wire: Wire, bpf_object: Path, mode: str) -> None:
    """Delivered frames, and frames lost by others in the same kernel, are not counted as losses."""
    with appliance(wire, bpf_object, mode, EMPTY) as made:
        assert wire.stream(320) == []
        for side in Side:
            count = made.counters().ports["main", side]
            assert (by_name(count.lost), by_name(count.unsent), count.dropped) == ({}, {}, 0)


def test_losses_in_another_namespace(wire: Wire, bpf_object: Path) -> None:
    """Another appliance's frames are lost at devices that have the numbers of ours: not counted here."""
    if not kernel_fields.find().namespace_number:
        pytest.skip("this kernel has no BTF, so devices of all namespaces are one to its tracepoints")
    with appliance(wire, bpf_object, "tc", EMPTY) as made, Wire() as other:
        numbers = [where.inside(lambda: set(map(socket.if_nametoindex, ("lan0", "wan0")))) for where in (wire, other)]
        assert numbers[0] == numbers[1]
        with appliance(other, bpf_object, "tc", EMPTY) as theirs:
            _down(other)
            for number in range(SENT):
                other.send(number)
            accounted(theirs, SENT)
        assert by_name(lan(made).lost) == {}
        assert by_name(made.counters().ports["main", Side.WAN].unsent) == {}


@MODES
def test_without_btf(wire: Wire, bpf_object: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    """As on a board's kernel: the places of the fields that are needed are found without."""
    monkeypatch.setattr(libbpf, "members", lambda _: {})
    with appliance(wire, bpf_object, mode, EMPTY) as made:
        _down(wire)
        send(wire)
        accounted(made, SENT)


def test_adopted_with_its_losses(wire: Wire, bpf_object: Path) -> None:
    """The programs at the tracepoints are pinned: they count while nobody owns the datapath, for the next owner."""

    def attach(made: Datapath) -> None:
        wire.inside(lambda: made.attach_segment("main", "lan0", "wan0", "xdp", whole=True))

    first = Datapath.open(bpf_object, wire.pins)
    assert first.kernel.sees_losses
    attach(first)
    first.set_policy(EMPTY)
    first.close()
    _down(wire)
    send(wire)
    adopted = Datapath.open(bpf_object, wire.pins)
    try:
        assert adopted.adopted
        assert adopted.kernel.sees_losses
        netns.run("ip", "-n", wire.box, "link", "set", "wan0", "up")
        attach(adopted)
        wait_until(lambda: by_name(lan(adopted).lost) == {Loss.DOWN: SENT}, "the count", explain=lambda: lan(adopted))
    finally:
        adopted.unload()


def test_where_the_kernel_keeps_its_fields() -> None:
    """Offsets found from the kernel's rewriting of programs agree with its BTF, if it has one."""
    wanted = {("net_device", "ifindex"), ("sk_buff", "skb_iif")}
    known = libbpf.members(wanted)
    found = kernel_fields.find()
    assert min(found[:3]) > 0
    if len(known) == len(wanted):
        assert (found.device_ifindex, found.frame_ingress) == (
            known["net_device", "ifindex"],
            known["sk_buff", "skb_iif"],
        )
