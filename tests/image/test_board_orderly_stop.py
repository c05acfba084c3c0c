# SPDX-License-Identifier: GPL-2.0-only
"""Orders to stop that the machine cannot finish: something hangs on the way down, and the watchdog resets it.

Whatever hangs, init is told, the relay is in bypass at once, the wire carries all the while, and the machine is inline
again after the reset. A disk that does not answer is one with a limit of a byte a second, set in QEMU.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from simulator import Board
from simulator.stream import Stream

from tests.support import board_appliance, board_crashes
from tests.support.board_crashes import MODULE, seconds

pytestmark = pytest.mark.slow  # each waits for the minute of a watchdog

MINUTE_S = 60.0  # Limits.watchdog_stop_ms of the keeper
ENDING_S = 5.0  # what bypassd gets for its end
KEEPER_S = 15.0  # what rcK gives the keeper
MARGIN_S = 7.0  # a start of a program, the steps of the watchdog, a host that is busy
TO_WIRE_S = 1.0  # from the order to the relay, through a shell and init on an emulated machine
FRAMES = 100  # a second, as long as it takes

HANGING_UMOUNT = (
    f"insmod {MODULE} time_secs=600 state=D lock_sb_umount=1 file_path=/var/lib/bypass/last-run.json >/dev/null 2>&1 &"
)
# A partition table that is never read: the driver meanwhile holds the disk's lock, for which `sync` waits
HANGING_PROBE = (
    f"{board_crashes.DISK}; device=$(readlink -f /sys/block/${{from##*/}}/device); device=${{device##*/}}; "
    "dd if=$from of=/dev/null bs=4096 count=1 iflag=direct 2>/dev/null; cd /sys/bus/virtio/drivers/virtio_blk; "
    "echo $device >unbind; echo $device >bind &"
)


@pytest.fixture(scope="module")
def hanging(artefacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    with board_crashes.board_that_hangs(artefacts, tmp_path_factory.mktemp("stop-board")) as made:
        yield made


@pytest.fixture
def ready(hanging: Board) -> Iterator[Board]:
    board_crashes.ready(hanging)
    yield hanging
    if hanging.qemu_pid is not None:
        for disk in ("data", "module"):
            throttle(hanging, disk, 0)


def throttle(board: Board, disk: str, bytes_per_second: int) -> None:
    """Let a disk answer so slowly that it never does; 0: as fast as it can."""
    limits = dict.fromkeys(("bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"), 0)
    board.qmp("block_set_io_throttle", device=disk, bps=bytes_per_second, **limits)


@dataclass(frozen=True)
class Obstacle:
    """What hangs on the way down: a disk that does not answer, a command that makes it; `longest_s` until the reset."""

    order: str
    longest_s: float
    disk: str = ""
    command: str = "true"


OBSTACLES = {
    "umount": Obstacle("reboot", ENDING_S + MINUTE_S, command=HANGING_UMOUNT),
    # bypassd waits for the disk and so the keeper for bypassd; rcK ends the keeper, whose watchdog has two seconds then
    "data disk": Obstacle("reboot", KEEPER_S + MINUTE_S + 2.0, disk="data"),
    "driver of a disk": Obstacle("poweroff", ENDING_S + MINUTE_S, disk="module", command=HANGING_PROBE),
}


@pytest.mark.parametrize("obstacle", OBSTACLES.values(), ids=OBSTACLES.keys())
def test_a_stop_that_hangs_ends_in_a_reset(ready: Board, tmp_path: Path, obstacle: Obstacle) -> None:
    """After the watchdog's minute, no sooner and not much later; frames cross the wire until then."""
    if obstacle.disk:
        throttle(ready, obstacle.disk, 1)
    ready.sh(obstacle.command)
    with ready.panic_ordered():
        fault = ready.fault(f"{obstacle.order}, {obstacle}")
        ready.debug.send(f"{obstacle.order}\n")
        relay = ready.wait_event(event="relay", since=fault["n"])
        stream = Stream(ready.lan, ready.wan, tmp_path / "wire", FRAMES)
        try:
            reset = ready.wait_event(event="reset", since=fault["n"], timeout=2 * obstacle.longest_s)
        finally:
            report = stream.stop()
        for disk in ("data", "module"):
            throttle(ready, disk, 0)
        expired = ready.wait_event(event="watchdog", stage=1, since=fault["n"])
    took = seconds(relay, reset)
    print(
        f"{obstacle.order}: relay after {seconds(fault, relay):.2f} s, reset {took:.1f} s later, {report.sent} frames"
    )
    assert (relay["state"], relay["cause"]) == ("bypass", "line released")
    assert seconds(fault, relay) <= ready.pace.wait(TO_WIRE_S)
    assert expired["n"] < reset["n"]
    assert MINUTE_S <= took <= obstacle.longest_s + MARGIN_S
    assert report.received > 0
    assert report.whole, report
    assert board_crashes.come_up(ready)["last_reset"]["kind"] == "watchdog"
    ready.wait_inline()


def test_ctrl_alt_del_restarts_in_good_order(ready: Board) -> None:
    """From a keyboard or the board's management controller."""
    mark = ready.events.mark()
    ready.qmp("send-key", keys=[{"type": "qcode", "data": key} for key in ("ctrl", "alt", "delete")])
    assert ready.wait_event(event="relay", since=mark)["cause"] == "line released"
    ready.wait_event(event="reset", since=mark)
    assert board_crashes.come_up(ready)["last_reset"]["kind"] == "orderly"
    board_appliance.wait_healthy(ready)
