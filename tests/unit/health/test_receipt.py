# SPDX-License-Identifier: GPL-2.0-only
"""How old a message may be that is read now."""

from __future__ import annotations

from appliance.health.receipt import LATE_NS, Receipt

MS = 1_000_000


def on_time() -> Receipt:
    """Heartbeats every 100 ms; the loop ran at 0 and at 20 ms, and is expected at 40 ms."""
    receipt = Receipt(100 * MS)
    receipt.tick(0, 20 * MS)
    receipt.tick(20 * MS, 40 * MS)
    return receipt


def test_a_message_is_new_while_the_loop_is_on_time() -> None:
    receipt = on_time()
    assert receipt.sent(30 * MS) == 30 * MS
    assert receipt.sent(40 * MS + LATE_NS) == 40 * MS + LATE_NS


def test_before_the_first_tick_nothing_is_known_to_be_late() -> None:
    assert Receipt(100 * MS).sent(5) == 5


def test_what_is_read_before_the_late_tick_may_be_as_old_as_the_last_one() -> None:
    assert on_time().sent(2000 * MS) == 20 * MS


def test_what_is_read_within_an_interval_after_the_late_tick_may_be_as_old_too() -> None:
    receipt = on_time()
    receipt.tick(2000 * MS, 2020 * MS)
    assert [receipt.sent(now * MS) for now in (2000, 2050, 2099)] == [20 * MS] * 3
    receipt.tick(2020 * MS, 2120 * MS)
    assert receipt.sent(2100 * MS) == 2100 * MS


def test_a_second_delay_does_not_make_the_first_forgotten() -> None:
    receipt = on_time()
    receipt.tick(2000 * MS, 2020 * MS)
    receipt.tick(2090 * MS, 2110 * MS)
    assert receipt.sent(2100 * MS) == 20 * MS
    receipt.tick(2150 * MS, 2250 * MS)
    assert receipt.sent(2200 * MS) == 2200 * MS
