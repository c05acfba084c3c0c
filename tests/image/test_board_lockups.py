# SPDX-License-Identifier: GPL-2.0-only
"""The whole image with a kernel or a keeper that hangs: who notices, how soon, and how soon the wire is there.

The crash record has the times when a processor began to hang and when the kernel panicked, in the board's time; from
there to the wire the board's events count. Several detectors watch each processor, and the watchdog watches the
keeper's processor too: a test about one of them keeps the others out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from simulator import Board
from simulator.stream import Stream

from tests.support import board_appliance, board_crashes
from tests.support.board_appliance import KEEPER
from tests.support.board_crashes import MODULE, crash, record, seconds, took

TO_WIRE_S = 0.5  # from the watchdog's expiry, or from the panic, until the connectors are joined
TIMEOUT_S = 2.0  # of the watchdog, as the image is configured
HUNG_S = 60  # longer than any detector takes

HARD, SOFT, READER = "disable_irq=1", "disable_preempt=1", "lock_rcu=1"
NMI = "NMI: Not continuing"  # the watchdog's
# The kernel has its 3 s from when somebody waits for a reader: here whoever frees what a process leaves when it ends
ENDS = "while true; do sleep 0.1; done &"


@pytest.fixture(scope="module")
def hanging(artefacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    with board_crashes.board_that_hangs(artefacts, tmp_path_factory.mktemp("lockup-board")) as made:
        yield made


@pytest.fixture
def ready(hanging: Board) -> Board:
    board_crashes.ready(hanging)
    return hanging


@dataclass(frozen=True)
class Hang:
    """How which processors hang, where the keeper runs meanwhile, and who is to notice how soon.

    `cpu`: its number, or None for all. `mute`: kernel settings without which other detectors stay silent. `reasons`: of
    the panic.
    """

    how: str
    cpu: int | None
    limit_s: float
    reasons: str
    mute: tuple[str, ...] = ()

    def command(self) -> str:
        module = f"insmod {MODULE} time_secs={HUNG_S} {self.how}"
        hung = f"{module} all_cpus=1 &" if self.cpu is None else f"taskset {1 << self.cpu:x} {module} &"
        return f"{hung} {ENDS}" if self.how == READER else hung

    def prepare(self, board: Board) -> None:
        """The keeper runs on the other processor, or the watchdog would expire too."""
        if self.cpu is not None:
            board_crashes.keeper_beside(board, self.cpu)
        for setting in self.mute:
            board.sh(f"echo 0 >/proc/sys/kernel/{setting}")


STALL = "panic_on_rcu_stall"
LOCKUPS = {
    "interrupts off, processor 0": Hang(HARD, 0, 2.5, f"Hard LOCKUP|{NMI}"),
    "interrupts off, processor 1": Hang(HARD, 1, 2.5, f"Hard LOCKUP|{NMI}"),
    "interrupts off, all": Hang(HARD, None, 2.5, f"{NMI}|Hard LOCKUP"),
    "no task switched, processor 0": Hang(SOFT, 0, 4.0, "softlockup", (STALL,)),
    "no task switched, processor 1": Hang(SOFT, 1, 4.0, "softlockup", (STALL,)),
    "no task switched, all": Hang(SOFT, None, 2.5, NMI),
    "reader of RCU, processor 0": Hang(READER, 0, 4.0, "RCU Stall"),
    "reader of RCU, processor 1": Hang(READER, 1, 4.0, "RCU Stall"),
}
LONG = {"no task switched, processor 0", "no task switched, all", "reader of RCU, processor 0"}


@pytest.mark.parametrize(
    "hang",
    [pytest.param(hang, id=name, marks=[pytest.mark.slow] if name in LONG else []) for name, hang in LOCKUPS.items()],
)
def test_a_processor_that_hangs_is_a_panic_and_the_wire_is_joined(ready: Board, hang: Hang) -> None:
    """Within 2.5 s with interrupts off, 4 s with interrupts on; the reset follows at once, and is explained."""
    hang.prepare(ready)
    _, panic, relay = crash(ready, hang.command(), f"test_lockup {hang.how}")
    assert relay["cause"] == "queue stopped"
    until_panic = took(record(ready), hang.reasons)
    print(f"{hang.how} {hang.cpu}: panic after {until_panic:.2f} s, wire {seconds(panic, relay):.3f} s later")
    assert until_panic <= hang.limit_s
    assert seconds(panic, relay) <= TO_WIRE_S
    status = board_appliance.show(ready, "status")
    assert status["last_reset"]["kind"] in ("panic", "watchdog")
    assert status["crashes"]["count"] == 1


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param("kill -STOP $(cat /run/keeper-to-stop) &", id="keeper stopped"),
        pytest.param(Hang(HARD, None, 0, "").command(), id="kernel hung", marks=pytest.mark.slow),
    ],
)
def test_the_wire_carries_half_a_second_after_the_watchdog_expires(ready: Board, tmp_path: Path, fault: str) -> None:
    """Nobody feeds it: NMI, panic, reset, and frames cross the wire, at most 2.5 s after the fault."""
    ready.sh(f"echo {ready.pids(KEEPER)[0]} >/run/keeper-to-stop")
    assert board_appliance.show(ready, "status")["watchdog"]["timeout_ms"] == TIMEOUT_S * 1000
    stream = Stream(ready.lan, ready.wan, tmp_path / "up", ready.pace.frames)
    try:
        began, _, relay = crash(ready, fault, fault)
        expired = ready.wait_event(event="watchdog", stage=1, since=began["n"])
        carried_ns = stream.wait_arrival(relay["mono_ns"])
    finally:
        stream.stop()
    assert relay["cause"] == "queue stopped"
    assert not ready.events.since(began["n"], event="watchdog", stage=2)
    carried_s = (carried_ns - expired["mono_ns"]) / 1e9
    print(
        f"{fault}: watchdog after {seconds(began, expired):.3f} s, then relay after {seconds(expired, relay):.3f} s, "
        f"first frame by wire after {carried_s:.3f} s"
    )
    assert carried_s <= TO_WIRE_S
    assert seconds(began, relay) <= TIMEOUT_S + TO_WIRE_S
    status = board_crashes.come_up(ready)
    assert status["last_reset"]["kind"] == "watchdog"
    assert status["crashes"]["count"] == 1
