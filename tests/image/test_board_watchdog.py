# SPDX-License-Identifier: GPL-2.0-only
"""The end of a machine whose watchdog is not fed: NMI, panic, second stage; and how the harness handles a panic."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from simulator import Board, BoardPanic, Payload, Timing

from tests.support import board_harness
from tests.support.board_harness import drive

# the watchdog's own timer runs in steps of a second; nobody pings it after the first time
STARVE = """
for dog in /sys/class/watchdog/watchdog*; do
  case "$(cat $dog/identity)" in i6300*) device=/dev/${dog##*/} ;; esac
done
busybox watchdog -T 2 -t 1000 $device
"""


TO_WIRE_NS = 500_000_000  # from the watchdog's expiry, with the appliance's own kernel settings


def test_starved_watchdog_resets_through_a_panic(small: Board) -> None:
    """No ping: NMI, panic, restart by the kernel itself at once; the relay falls with the reset; no second stage."""
    drive(small)
    with small.panic_ordered():
        fault = small.fault("starve the watchdog")
        small.sh(STARVE)
        expired = small.wait_event(event="watchdog", stage=1, since=fault["n"])
        small.wait_event(event="panic", source="pvpanic", since=fault["n"])
        event = small.wait_event(event="relay", since=fault["n"])
        assert (event["state"], event["cause"]) == ("bypass", "queue stopped")
        assert small.wait_event(event="reset", since=fault["n"])["cause"] == "guest"
    assert event["mono_ns"] - expired["mono_ns"] <= TO_WIRE_NS
    assert small.sh("echo again").output == "again\n"
    assert not small.events.since(fault["n"], event="watchdog", stage=2)


def test_a_watchdog_that_never_fires(small: Board) -> None:
    """Broken, it lets a machine that does not feed it run on; repaired, it does not."""
    drive(small)
    mark = small.events.mark()
    small.break_part("watchdog-dead")
    try:
        small.sh(STARVE)
        small.sh("sleep 6")  # three times its timeout
        assert small.relay == "inline"
        assert not small.events.since(mark, event="watchdog")
    finally:
        small.mend_part("watchdog-dead")
        small.power_cut()  # whatever it counts


def test_second_stage_resets_a_machine_that_ignores_the_nmi(
    artefacts: Path, small_payload: Payload, tmp_path: Path
) -> None:
    """A kernel that ignores the NMI stays inline, unfed, until the board's second stage resets it."""
    deaf = replace(small_payload, append="console=ttyS0 quiet net.ifnames=0 panic=0")
    timing = Timing(second_stage_s=1.0)
    with Board(tmp_path / "b", deaf, timing=timing, accelerator=board_harness.accelerator(artefacts)) as board:
        board.power_on()
        drive(board)
        fault = board.fault("starve the watchdog")
        board.sh(STARVE)
        first = board.wait_event(event="watchdog", stage=1, since=fault["n"])
        second = board.wait_event(event="watchdog", stage=2, since=fault["n"])
        assert second["mono_ns"] - first["mono_ns"] >= 1_000_000_000
        relay = board.wait_event(event="relay", since=fault["n"])
        assert (relay["state"], relay["cause"]) == ("bypass", "queue stopped")
        assert relay["n"] > second["n"]
        assert board.wait_event(event="reset", since=fault["n"])["cause"] == "watchdog second stage"


def test_unordered_panic_fails_at_once(small: Board) -> None:
    """The harness does not wait for a dead kernel: waits end with the panic, not with a timeout."""
    mark = small.events.mark()
    small.debug.send("echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger\n")
    with pytest.raises(BoardPanic, match="panicked"):
        small.console.expect("these words never come", timeout=60)
    with pytest.raises(BoardPanic):
        small.wait_event(event="no such event", since=mark)
    with small.panic_ordered():
        small.events.forgive()
        small.wait_event(event="reset", since=mark)
    assert {event["source"] for event in small.events.since(mark, event="panic")} == {"pvpanic", "console"}


def test_ordered_panic_leaves_a_record(small: Board) -> None:
    """NMI button: panic, and after the restart the crash log is in pstore (ERST)."""
    with small.panic_ordered():
        fault = small.nmi()
        small.wait_event(event="panic", since=fault["n"])
        small.wait_event(event="reset", since=fault["n"])
    small.sh("mount -t pstore none /sys/fs/pstore")
    assert "dmesg-erst" in small.sh("ls /sys/fs/pstore").output
