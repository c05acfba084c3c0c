# SPDX-License-Identifier: GPL-2.0-only
"""The appliance on the booted board: inline, steering a real link through a real guest, and what does not affect it.

One boot serves all; each test leaves the appliance inline with its guest in service.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from simulator import Board
from simulator.stream import Report, Stream

from tests.support import board_appliance
from tests.support.board_appliance import BOARD_TOML, BYPASSD, CONFIG, GUEST, SEGMENT

ENOUGH_NS = 500_000_000


@pytest.fixture
def healthy(board: Board) -> Board:
    board_appliance.offer(board)
    board_appliance.wait_healthy(board)
    return board


class Streams:
    """Numbered frames in both directions, from `begin` on, as many as the board carries at its speed."""

    def __init__(self, board: Board, folder: Path) -> None:
        self._pace = pace = board_appliance.offer(board)
        self._both = (
            Stream(board.lan, board.wan, folder / "lan-wan.stream", pace.frames),
            Stream(board.wan, board.lan, folder / "wan-lan.stream", pace.frames),
        )
        self.reports: tuple[Report, ...] = ()
        self.go_on()

    def go_on(self) -> None:
        """Return when both directions carried frames sent from now on, for half a second."""
        for stream in self._both:
            patience = self._pace.wait(30.0)
            stream.wait_arrival(stream.wait_arrival(0, patience) + ENOUGH_NS, patience)

    def stop(self) -> None:
        self.reports = tuple(stream.stop() for stream in self._both)


@contextmanager
def traffic(board: Board, folder: Path) -> Iterator[Streams]:
    """Frames cross while the block runs."""
    streams = Streams(board, folder)
    try:
        yield streams
    finally:
        streams.stop()


def counters(board: Board) -> dict[str, Any]:
    return dict(board_appliance.show(board, "counters"))


def test_inline_with_watchdog_xdp_and_guest(healthy: Board) -> None:
    """After the boot: relay driven, LED on, watchdog armed at the configured time, guest under KVM, native XDP with
    room for tags, and losses counted on a kernel without BTF."""
    status = board_appliance.show(healthy, "status")
    assert status["state"] == "inline"
    assert status["watchdog"]["state"] == "armed"
    assert status["watchdog"]["timeout_ms"] == 2000
    assert {part["state"] for part in status["parts"]} == {"running"}
    assert status["datapath"]["counts_losses"] is True
    segment = board_appliance.segment(healthy)
    assert (segment["attach"], segment["mtu"], segment["longest_bytes"]) == ("xdp", 3480, 3498)
    assert board_appliance.guest(healthy)["accel"] == "kvm"
    assert healthy.led == "on"


def stop_guest(board: Board) -> None:
    """`guest NAME stop`, and wait until it is stopped."""
    board.sh(f"bypass guest {GUEST} stop")
    board_appliance.wait_until(board, lambda: board_appliance.guest(board).get("state") == "stopped", "guest stopped")


def start_guest(board: Board) -> None:
    """`guest NAME start` of a bypassd that has read everything anew; what it answers is looked at in `show guests`."""
    board_appliance.restart_bypassd(board)
    board_appliance.wait_until(board, lambda: board_appliance.part_runs(board, "guests"), "the guests part")
    board.sh(f"bypass guest {GUEST} start", check=False)


def ways(shown: dict[str, Any]) -> dict[str, int]:
    """The totals by which frames are accounted for: into the ports, to the guest, around it, out of it, dropped."""
    taps = shown["hops"][GUEST]["taps"].values()
    return {
        "in": sum(port["frames"] for port in shown["ports"].values()),
        "dropped": sum(device["dropped_frames"] for device in (*shown["ports"].values(), *taps)),
        "to": shown["hops"][GUEST]["to_frames"],
        "around": sum(rule["bypassed"] for rule in shown["rules"].values()),
        "out": sum(tap["outcomes"].get("out", {}).get("frames", 0) for tap in taps),
    }


def test_frames_go_through_the_guest_and_all_are_accounted_for(healthy: Board, tmp_path: Path) -> None:
    """Both directions through the guest: what came into the ports went to it, or around it while it was not available,
    and came out of it, and nothing else. Most of it goes through the guest, however slow the machine is."""
    before = ways(counters(healthy))
    with traffic(healthy, tmp_path) as streams:
        pass
    after = ways(counters(healthy))
    assert [report.lost for report in streams.reports] == [0, 0]
    crossed = {key: after[key] - before[key] for key in after}
    assert crossed["in"] >= sum(report.sent for report in streams.reports)
    assert crossed["in"] == crossed["to"] + crossed["around"], crossed
    assert crossed["to"] == crossed["out"], crossed
    assert crossed["to"] > crossed["around"], crossed
    assert crossed["dropped"] == 0
    assert board_appliance.ask(healthy, f"guest {GUEST} show")["checks"]


def test_bypassd_killed_moves_no_relay_and_loses_no_frame(healthy: Board, tmp_path: Path) -> None:
    """kill -9: the pinned datapath goes on, the keeper holds the relay, the next bypassd adopts datapath and guest."""
    pid = board_appliance.guest(healthy)["pid"]
    mark = healthy.events.mark()
    with traffic(healthy, tmp_path) as streams:
        board_appliance.restart_bypassd(healthy)
        row = board_appliance.wait_serving(healthy)
        streams.go_on()
    assert row["pid"] == pid
    assert [report.lost for report in streams.reports] == [0, 0]
    assert not healthy.events.since(mark, event="relay")
    assert board_appliance.show(healthy, "status")["datapath"]["adopted"] is True
    told = [row for row in board_appliance.show(healthy, "transitions") if row["what"] == "supervisor"][-1]
    assert (told["cause"], told["detail"]) == ("supervisor_restarted", "killed by signal 9")


def test_operator_closes_and_opens_the_relay(healthy: Board, tmp_path: Path) -> None:
    """`segment main bypass` closes it and names the origin; `auto` opens it again; frames cross in both states."""
    mark = healthy.events.mark()
    healthy.sh(f"bypass segment {SEGMENT} bypass")
    healthy.wait_event(event="relay", state="bypass", since=mark)
    assert board_appliance.wait_cause(healthy, "operator")["mode"] == "bypass"
    with traffic(healthy, tmp_path) as streams:
        pass
    assert [report.lost for report in streams.reports] == [0, 0]
    healthy.sh(f"bypass segment {SEGMENT} auto")
    healthy.wait_event(event="relay", state="inline", since=mark)
    moves = [row for row in board_appliance.show(healthy, "transitions") if row["what"] == f"segment {SEGMENT}"]
    assert {"operator"} <= {row["cause"] for row in moves}


def test_guest_stopped_is_bypassed_and_comes_back(healthy: Board, tmp_path: Path) -> None:
    """`guest NAME stop`: frames bypass it without loss; `start`: it passes its checks and gets them again."""
    with traffic(healthy, tmp_path) as streams:
        stop_guest(healthy)
        before = counters(healthy)["rules"]["all"]["bypassed"]
        streams.go_on()
        assert counters(healthy)["rules"]["all"]["bypassed"] > before
        healthy.sh(f"bypass guest {GUEST} start")
        board_appliance.wait_serving(healthy)
        streams.go_on()
    assert [report.lost for report in streams.reports] == [0, 0]


def test_shell_on_the_serial_line(healthy: Board) -> None:
    """A user at the serial line: prompt with the state, `?`, Tab, an abbreviation, a wrong word."""
    console = healthy.console
    mark = console.mark()
    console.sendline()
    console.expect(r"\[inline\]>", since=mark)
    mark = console.mark()
    console.sendline("terminal paging off")
    console.expect(r"off[\s\S]*\[inline\]>", since=mark)
    mark = console.mark()
    console.send("show ?")
    console.expect("segments +port pairs", since=mark)
    console.expect(r"\[inline\]> show")  # the line that is being typed, again below the help
    console.send("\x15")
    mark = console.mark()
    console.send("show sta\t\r")
    console.expect(r"status", since=mark)
    console.expect(r"watchdog", since=mark)
    console.expect(r"\[inline\]>")
    mark = console.mark()
    console.sendline("sh guests")
    console.expect(rf"{GUEST} .*available", since=mark)
    mark = console.mark()
    console.sendline("shwo status")
    console.expect(r"shwo", since=mark)
    console.expect(r"\[inline\]>")


def test_configuration_and_ledger_outlive_an_orderly_reboot(healthy: Board) -> None:
    """`reboot`: the relay closes before the machine goes down, and data on the data partition survives."""
    text = healthy.sh(f"cat {CONFIG}").output
    board_appliance.write(healthy, CONFIG, text.replace('hostname = "bypass"', 'hostname = "kept"'))
    mark = healthy.events.mark()
    healthy.sh("reboot")
    closed = healthy.wait_event(event="relay", state="bypass", since=mark)
    assert closed["cause"] == "line released"
    reset = healthy.wait_event(event="reset", since=mark)
    assert closed["n"] < reset["n"]
    healthy.wait_event(event="relay", state="inline", since=reset["n"])
    board_appliance.wait_healthy(healthy)
    status = board_appliance.show(healthy, "status")
    assert status["hostname"] == "kept"
    assert status["last_reset"]["kind"] == "orderly"
    rows = board_appliance.show(healthy, "transitions")
    assert any((row["what"], row["cause"]) == ("system", "orderly") for row in rows)
    assert any((row["what"], row["cause"]) == ("system", "first") for row in rows), "the ledger of the first start"
    board_appliance.write(healthy, CONFIG, text)
    board_appliance.restart_bypassd(healthy)
    board_appliance.wait_healthy(healthy)


# Bad input: one clear line with the cause and what to do; in bypass where the link is meant; the console works.


def swap(old: str, new: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    return change


@pytest.mark.parametrize(
    ("path", "change", "cause", "says"),
    [
        pytest.param(
            CONFIG, swap('lan = "lan0"', 'lan = "lan9"'), "port_missing", "lan9 is not a port", id="no such port"
        ),
        pytest.param(CONFIG, swap('mode = "auto"', 'mode = "sometimes"'), "config_invalid", "mode", id="bad value"),
        pytest.param(CONFIG, swap("[watchdog]", "[watchdog"), "config_invalid", "config.toml", id="malformed"),
        pytest.param(
            BOARD_TOML, swap('"relay-inline" ', '"relay-other" '), "relay_missing", "relay-other", id="no relay line"
        ),
        pytest.param(
            BOARD_TOML, swap('driver = "i6300esb"', 'driver = "none"'), "watchdog_missing", "none", id="no watchdog"
        ),
        pytest.param(
            BOARD_TOML, swap('pci = "0000:00:11.0"', 'pci = "0000:00:1e.0"'), "port_missing", "1e", id="port not there"
        ),
    ],
)
def test_bad_input_ends_in_bypass_with_a_cause(
    healthy: Board, path: str, change: Callable[[str], str], cause: str, says: str
) -> None:
    apply = board_appliance.restart_bypassd if path == CONFIG else board_appliance.restart_keeper
    with board_appliance.replaced(healthy, path, change, apply):
        row = board_appliance.wait_cause(healthy, cause)
        assert says in f"{row['detail']} {row.get('also')}"
        shown = healthy.sh("bypass show status").output
        assert "BYPASS" in shown
        assert cause in shown


@dataclass(frozen=True)
class Breakage:
    """What is broken on the board, how it is repaired, and what the console must say about the guest."""

    make: str
    mend: str
    cause: str
    says: str


KERNEL = "/usr/share/bypass/guest-demo/bzImage"
BREAKAGES = {
    "guest image missing": Breakage(f"mv {KERNEL} /run/", f"mv /run/bzImage {KERNEL}", "image_unreadable", "bzImage"),
    "more memory than there is": Breakage(
        f"sed -i 's/^memory = .*/memory = \"64G\"/' {CONFIG}",
        f"sed -i 's/^memory = .*/memory = \"128M\"/' {CONFIG}",
        "memory_short",
        "65536",
    ),
}


@pytest.mark.parametrize("broken", BREAKAGES.values(), ids=BREAKAGES.keys())
def test_guest_that_cannot_start_leaves_the_link_inline(healthy: Board, tmp_path: Path, broken: Breakage) -> None:
    """The guest is failed with its cause, frames bypass it, the relay does not move."""
    mark = healthy.events.mark()
    stop_guest(healthy)
    healthy.sh(broken.make)
    try:
        start_guest(healthy)

        def failed() -> dict[str, Any]:
            row = board_appliance.guest(healthy)
            return row if row.get("cause") == broken.cause else {}

        row = board_appliance.wait_until(healthy, failed, f"guest failed because of {broken.cause}")
        assert row["state"] == "failed"
        assert broken.says in row["detail"]
        with traffic(healthy, tmp_path) as streams:
            pass
        assert [report.lost for report in streams.reports] == [0, 0]
        assert not healthy.events.since(mark, event="relay")
    finally:
        healthy.sh(broken.mend)
        start_guest(healthy)
        board_appliance.wait_healthy(healthy)


def test_guest_without_kvm_is_emulated_and_says_so(healthy: Board) -> None:
    """No /dev/kvm: the guest runs all the same, and `show guests` says how."""
    stop_guest(healthy)
    healthy.sh("mv /dev/kvm /dev/kvm.away")
    try:
        healthy.sh(f"bypass guest {GUEST} start")

        def emulated() -> dict[str, Any]:
            row = board_appliance.guest(healthy)
            return row if row.get("accel") == "tcg" and row["warning"] else {}

        assert "KVM" in board_appliance.wait_until(healthy, emulated, "an emulated guest, with a warning")["warning"]
    finally:
        healthy.sh("mv /dev/kvm.away /dev/kvm")
        stop_guest(healthy)
        healthy.sh(f"bypass guest {GUEST} start")
        board_appliance.wait_serving(healthy)


def test_processes_are_what_the_console_says(healthy: Board) -> None:
    """One keeper, one bypassd, one guest: the tests above left nothing behind."""
    assert len(healthy.pids(BYPASSD)) == 1
    assert healthy.pids(f"guest={GUEST}") == [board_appliance.guest(healthy)["pid"]]
