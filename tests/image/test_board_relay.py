# SPDX-License-Identifier: GPL-2.0-only
"""The relay of the simulated board, with a real kernel, a real GPIO line and real frames; no part of the appliance."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from simulator import Board
from simulator.stream import Stream

from tests.support.board_harness import drive, frames_through, release

ENOUGH_NS = 300_000_000


def whole_from(board: Board, path: Path, since_ns: int) -> None:
    """Frames sent both ways from now on all arrive."""
    rate, patience = board.pace.frames, board.pace.wait(30.0)
    streams = [Stream(board.lan, board.wan, path / "up", rate), Stream(board.wan, board.lan, path / "down", rate)]
    for stream in streams:
        stream.wait_arrival(stream.wait_arrival(since_ns, patience) + ENOUGH_NS, patience)
    for stream in streams:
        report = stream.stop()
        assert report.whole, report
        assert report.received > 0
        assert report.duplicates == 0


def test_power_off_is_a_wire(small_board: Board, tmp_path: Path) -> None:
    """Without power the connectors are joined: frames both ways, none lost."""
    if small_board.qemu_pid is not None:
        small_board.power_cut()
    assert small_board.relay == "bypass"
    whole_from(small_board, tmp_path, 0)


def test_machine_up_without_driving_is_a_wire(small: Board, tmp_path: Path) -> None:
    """A running machine that does not drive the line gets none of the frames, though it would forward them."""
    before = frames_through(small, "eth0")
    whole_from(small, tmp_path, 0)
    assert frames_through(small, "eth0") == before


def test_driven_line_leads_frames_through_the_ports(small: Board, tmp_path: Path) -> None:
    """Driven: every frame goes in at one port and out at the other; nothing takes the short way."""
    drive(small)
    before = frames_through(small, "eth0")
    rate = small.pace.frames
    stream = Stream(small.lan, small.wan, tmp_path / "up", rate)
    # the bridge begins to forward by itself; from the first frame on that came through, all do
    first = stream.wait_arrival(0)
    stream.wait_arrival(first + ENOUGH_NS)
    sent = stream.stop()
    assert sent.received > 0
    assert frames_through(small, "eth0") - before >= sent.received
    small.sh("ip link set br0 down; ip link set eth1 nomaster")
    try:
        blocked = Stream(small.lan, small.wan, tmp_path / "blocked", rate)
        back = Stream(small.wan, small.lan, tmp_path / "back", rate)
        small.sh("sleep 0.5")
        assert blocked.stop().received == 0
        assert back.stop().received == 0
    finally:
        small.sh("ip link set eth1 master br0; ip link set br0 up")


def test_released_line_joins(small: Board, tmp_path: Path) -> None:
    """The program that held the line is killed: the kernel releases the line, and the wire is closed at once."""
    drive(small)
    mark = small.events.mark()
    release(small)
    event = small.wait_event(event="relay", since=mark)
    assert (event["state"], event["cause"]) == ("bypass", "line released")
    assert small.wait_event(event="led", since=mark)["state"] == "off"
    whole_from(small, tmp_path, event["mono_ns"])


def test_killed_qemu_joins(small: Board, tmp_path: Path) -> None:
    """QEMU is killed from outside: the simulator detects it by itself."""
    drive(small)
    fault = small.fault("kill -9 of QEMU")
    assert small.qemu_pid
    os.kill(small.qemu_pid, signal.SIGKILL)
    event = small.wait_event(event="relay", since=fault["n"])
    assert (event["state"], event["cause"]) == ("bypass", "qemu exited")
    assert small.wait_event(event="power", since=fault["n"])["cause"] == "qemu exited"
    whole_from(small, tmp_path, event["mono_ns"])


def test_power_cut_joins_and_leaves_no_process(small: Board, tmp_path: Path) -> None:
    drive(small)
    pid = small.qemu_pid
    fault = small.power_cut()
    event = small.wait_event(event="relay", since=fault["n"])
    assert (event["state"], event["cause"]) == ("bypass", "power cut")
    assert not Path(f"/proc/{pid}").exists()
    whole_from(small, tmp_path, event["mono_ns"])


@pytest.mark.parametrize("way", ["button", "reboot"])
def test_reset_joins(small: Board, tmp_path: Path, way: str) -> None:
    """Reset button, or the kernel's own reboot: the device is taken from the driver, so the line falls."""
    drive(small)
    fault = small.fault(way)
    if way == "button":
        small.reset()
    else:
        small.debug.send("reboot -f\n")
    event = small.wait_event(event="relay", since=fault["n"])
    assert (event["state"], event["cause"]) == ("bypass", "queue stopped")
    reset = small.wait_event(event="reset", since=fault["n"])
    assert reset["cause"] == ("button" if way == "button" else "guest")
    whole_from(small, tmp_path, event["mono_ns"])
    assert small.sh("echo again").output == "again\n"


def test_a_line_that_keeps_its_level_holds_the_relay_until_a_reset(small: Board) -> None:
    """Its owner is killed and the relay stays: only a reset releases it."""
    drive(small)
    small.break_part("lines-keep")
    try:
        mark = small.events.mark()
        release(small)
        assert small.sh("echo here").output == "here\n"
        assert small.relay == "inline"
        assert not small.events.since(mark, event="relay")
        small.reset()
        assert small.wait_event(event="relay", since=mark)["cause"] == "queue stopped"
    finally:
        small.mend_part("lines-keep")
    assert small.sh("echo again").output == "again\n"


def test_a_stuck_relay_does_not_move(small: Board, tmp_path: Path) -> None:
    """Frames then go nowhere when the machine releases the line; repaired, it joins at once."""
    drive(small)
    mark = small.events.mark()
    small.break_part("relay-stuck")
    small.power_cut()
    assert small.wait_event(event="stuck", since=mark)["state"] == "inline"
    assert small.relay == "inline"
    small.mend_part("relay-stuck")
    joined = small.wait_event(event="relay", state="bypass", since=mark)
    whole_from(small, tmp_path, joined["mono_ns"])


def test_a_brown_out_joins_and_resets(small: Board, tmp_path: Path) -> None:
    drive(small)
    fault = small.brown_out()
    event = small.wait_event(event="relay", since=fault["n"])
    assert (event["state"], event["cause"]) == ("bypass", "brown-out")
    assert small.wait_event(event="reset", since=fault["n"])["cause"] == "brown-out"
    whole_from(small, tmp_path, event["mono_ns"])
    assert small.sh("echo again").output == "again\n"


def test_a_port_loses_its_link_with_its_cable_in(small: Board) -> None:
    """The machine's port has no carrier, its neighbour keeps its own."""
    drive(small)
    carrier = "cat /sys/class/net/eth0/carrier"
    mark = small.events.mark()
    small.nic("lan", "down")
    try:
        small.wait_event(event="link", port="lan0", part="port", state="down", since=mark)
        assert small.sh(carrier).output == "0\n"
        assert small.lan.run(["cat", "/sys/class/net/eth0/carrier"]).stdout == "1\n"
    finally:
        small.nic("lan", "up")
    small.wait_event(event="link", port="lan0", part="port", state="up", since=mark)


def test_a_port_with_an_xdp_program_is_pulled_out_and_put_back(small: Board) -> None:
    """The kernel lets go of it, with the queues that its driver had for XDP, and finds it again when it is back.

    Without the patch of the kernel it waits for ever for the receive queues' references.
    """

    def queues() -> int:
        return small.sh("ls /sys/class/net/eth1/queues").output.count("rx-")

    plain = queues()
    small.sh("xdp $(cat /sys/class/net/eth1/ifindex) >/run/xdp 2>&1 & echo $! >/run/xdp.pid")
    try:
        said = "until test -s /run/xdp; do sleep 0.1; done; cat /run/xdp"
        assert small.sh(said).output == "attached\n"
        assert queues() > plain, "its driver has no queues of their own for XDP: this shows nothing"
        small.nic("wan", "remove")
        assert small.sh("test -e /sys/class/net/eth1", check=False).status != 0
    finally:
        small.sh("kill -9 $(cat /run/xdp.pid)")
    small.nic("wan", "return")
    small.sh("ip link set eth1 master br0; ip link set eth1 up")
    assert queues() == plain


def test_frozen_machine_holds_the_relay(small: Board) -> None:
    """A frozen machine does not release the line: that is what the watchdog is for."""
    drive(small)
    mark = small.events.mark()
    small.pause()
    small.wait_event(event="processors", state="stopped", since=mark)
    assert small.relay == "inline"
    small.resume()
    assert small.sh("echo here").output == "here\n"
    assert not small.events.since(mark, event="relay")


def test_link_loss_is_seen_on_the_other_side(small: Board) -> None:
    """A cable pulled out: the port loses its carrier; with the relay closed the host beyond loses its own."""
    carrier = "cat /sys/class/net/eth0/carrier"
    assert small.sh(carrier).output == "1\n"
    mark = small.events.mark()
    small.unplug("lan")
    try:
        small.wait_event(event="link", port="lan0", part="port", state="down", since=mark)
        assert small.sh(carrier).output == "0\n"
        assert small.wan.run(["cat", "/sys/class/net/eth0/carrier"]).stdout == "0\n"
        drive(small)
        assert small.wan.run(["cat", "/sys/class/net/eth0/carrier"]).stdout == "1\n"
        assert small.lan.run(["cat", "/sys/class/net/eth0/carrier"]).stdout == "0\n"
    finally:
        small.plug("lan")
    small.wait_event(event="link", port="lan0", part="port", state="up", since=mark)
    assert small.sh(carrier).output == "1\n"


def test_host_port_down_is_link_loss_too(small: Board) -> None:
    mark = small.events.mark()
    small.wan.run(["ip", "link", "set", "eth0", "down"])
    try:
        small.wait_event(event="link", port="wan", part="host", state="down", since=mark)
        small.wait_event(event="link", port="wan0", part="port", state="down", since=mark)
        assert small.sh("cat /sys/class/net/eth1/carrier").output == "0\n"
    finally:
        small.wan.run(["ip", "link", "set", "eth0", "up"])
    small.wait_event(event="link", port="wan0", part="port", state="up", since=mark)
