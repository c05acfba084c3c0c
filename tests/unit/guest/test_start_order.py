# SPDX-License-Identifier: GPL-2.0-only
"""The order in which guests start, and that waiting ends by events and not by time."""

from __future__ import annotations

import asyncio

import pytest

from appliance.config.schema import model
from appliance.guest.start_order import PATIENCE_NS, StartOrder, why_not
from appliance.hop.lifecycle import HopState

A = model.Guest(name="a", image="a", start_order=1)
B = model.Guest(name="b", image="b", start_order=2)
C = model.Guest(name="c", image="c", after=("a",))
ALL = (A, B, C)


@pytest.mark.parametrize(
    ("guest", "states", "waited", "expected"),
    [
        (A, {}, 0, ""),
        (B, {}, 0, "waits for guest a, which comes before it (start_order 1)"),
        (B, {"a": HopState.PROVING}, 0, "waits for guest a, which comes before it (start_order 1)"),
        (B, {"a": HopState.AVAILABLE}, 0, ""),
        (B, {"a": HopState.FAILED}, 0, ""),
        (B, {"a": HopState.STOPPED}, 0, ""),
        (B, {"a": HopState.PROVING}, PATIENCE_NS, ""),
        (C, {"a": HopState.PROVING}, PATIENCE_NS, "waits until guest a is available; it is proving"),
        (C, {"a": HopState.FAILED}, PATIENCE_NS, "waits until guest a is available; it is failed"),
        (C, {"a": HopState.AVAILABLE, "b": HopState.AVAILABLE}, 0, ""),
    ],
)
def test_rule(guest: model.Guest, states: dict[str, HopState], waited: int, expected: str) -> None:
    assert why_not(guest, ALL, states, waited) == expected


def test_who_waits_for_it_is_not_waited_for() -> None:
    """`after` goes before `start_order`: two that would wait for each other do not."""
    first = model.Guest(name="first", image="x", start_order=1, after=("second",))
    second = model.Guest(name="second", image="y", start_order=2)
    assert why_not(second, (first, second), {}, 0) == ""


def test_a_guest_starts_when_the_other_is_available() -> None:
    async def body() -> list[str]:
        order, said = StartOrder((A, C), lambda: 0), list[str]()
        waiting = asyncio.ensure_future(order.turn(C, said.append))
        for state in (HopState.STARTING, HopState.PROVING, HopState.AVAILABLE):
            await asyncio.sleep(0)
            assert not waiting.done()
            order.tell("a", state)
        await asyncio.wait_for(waiting, 5)
        return said

    assert asyncio.run(body())[0] == "waits until guest a is available; it is defined"
