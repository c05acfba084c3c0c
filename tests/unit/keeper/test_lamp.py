# SPDX-License-Identifier: GPL-2.0-only
"""What the LEDs show: inline, bypass, a relay that does not work, and where the box is."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from appliance.keeper.board import Board
from appliance.keeper.core import KeeperCore
from appliance.keeper.lamp import FAST, SLOW
from appliance.keeper.limits import MS, SECOND
from appliance.keeper.logger import Logger
from appliance.keeper.loop import Keeper
from appliance.keeper.messages import INLINE, Ask, CheckIn, Exited, Led, Started
from tests.support.keeper_bench import RELAY, Bench

ROOT = Path(__file__).parents[3]


def lit(bench: Bench, since: int, name: str = "status") -> list[tuple[int, bool]]:
    """When the LED changed from then on, and to what."""
    return [(at, a.on) for at, a in bench.log if at >= since and isinstance(a, Led) and a.name == name]


def locate(bench: Bench, seconds: int, on: bool = True) -> int:
    """bypassd checks in for so long; returns when that began."""
    began = bench.now
    while bench.now < began + seconds * SECOND:
        bench.feed(CheckIn({RELAY: Ask(INLINE, "healthy")}, locate=on))
        bench.run(bench.now + 50 * MS)
    return began


def test_it_blinks_slowly_while_a_relay_does_not_work() -> None:
    bench = Bench()
    bench.serve()
    assert lit(bench, 0)[-1][1] is True
    bench.relay_error = "the line is gone"
    bench.serve(4)
    times = [at for at, _ in lit(bench, bench.now - 2 * SECOND)]
    assert {later - earlier for earlier, later in pairwise(times)} == {SLOW}
    bench.relay_error = ""
    bench.serve(3)
    assert [on for _, on in lit(bench, bench.now - SECOND)] == []
    assert lit(bench, 0)[-1][1] is True, "steady again"


@pytest.mark.parametrize("own", [False, True])
def test_it_blinks_fast_for_who_looks_for_the_box(own: bool) -> None:
    """An LED of its own if the board has one: the status LED then goes on showing the state."""
    bench = Bench()
    bench.core.lamps.begin(frozenset(("status", "locate") if own else ("status",)))
    bench.serve()
    began = locate(bench, 2)
    times = [at for at, _ in lit(bench, began + SECOND, "locate" if own else "status")]
    assert {later - earlier for earlier, later in pairwise(times)} == {FAST}
    assert bool(lit(bench, began + SECOND, "status" if own else "locate")) is False
    began = locate(bench, 1, on=False)
    assert lit(bench, began + SECOND // 2, "locate" if own else "status") == []
    assert lit(bench, 0)[-1][1] is True, "inline"
    assert not own or lit(bench, 0, "locate")[-1][1] is False


def test_a_bypassd_that_ends_no_longer_looks_for_the_box() -> None:
    bench = Bench()
    bench.serve()
    locate(bench, 1)
    bench.feed(Exited("killed by signal 9"))
    bench.run(bench.now + 50 * MS)
    assert not bench.core.lamps.locate


def test_the_patterns_are_documented() -> None:
    """In the board's README, with their periods."""
    text = (ROOT / "board/README.md").read_text()
    for pattern in (f"{2 * SLOW / SECOND:g} s", f"{2 * FAST / SECOND:g} s"):
        assert pattern in text


def test_a_keeper_begins_with_the_leds_of_its_board() -> None:
    core = KeeperCore()
    core.step(1, Started((RELAY,), leds=frozenset(("locate",))))
    assert core.lamps._own


class Threads:
    """A bus that stalls: what is put aside waits."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []

    def aside(self, bus: str, work: Callable[[], None]) -> None:
        self.waiting.append(work)


def test_a_bus_that_stalls_makes_no_queue_and_shows_the_newest(tmp_path: Path) -> None:
    path = tmp_path / "board.toml"
    path.write_text('[[led]]\nname = "status"\nline = "x"\n')
    keeper = Keeper(Board(str(path)), [], Logger("stderr"))
    shown: list[bool] = []
    threads = Threads()
    keeper._relays = threads  # type: ignore[assignment]
    keeper._leds = {"status": SimpleNamespace(is_open=True, drive=shown.append)}  # type: ignore[dict-item]
    for on in (True, False, True, False):
        keeper._set_led("status", on)
    assert len(threads.waiting) == 1
    threads.waiting.pop()()
    assert shown == [False]
    keeper._set_led("status", True)
    threads.waiting.pop()()
    assert shown == [False, True]
    keeper._set_led("locate", True)
    assert threads.waiting == [], "the board has no LED of that name"
