# SPDX-License-Identifier: GPL-2.0-only
"""A button that is held for 5 s means it; everything else does not."""

from __future__ import annotations

import pytest

from appliance.hardware.held_button import HOLD_S, LOOK_S, HeldButton


@pytest.mark.parametrize(
    ("pressed", "times"),
    [
        ([(1, False), (4.5, True), (1, False)], 0),
        ([(1, False), (5.5, True), (1, False)], 1),
        ([(1, False), (60, True)], 1),
        ([(1, False), (4.5, True), (0.1, False), (4.5, True)], 0),
        ([(1, False), (6, True), (1, False), (6, True)], 2),
        ([(60, True)], 0),
        ([(60, True), (1, False), (6, True)], 1),
    ],
    ids=["short", "long", "for ever", "bounced", "twice", "stuck", "stuck, later held"],
)
def test_a_press_counts_once_when_it_has_lasted(pressed: list[tuple[float, bool]], times: int) -> None:
    button, now, counted = HeldButton(), 0.0, 0
    for seconds, level in pressed:
        end = now + seconds
        while now < end:
            counted += button.look(now, level)
            now += LOOK_S
    assert counted == times


def test_it_is_five_seconds() -> None:
    assert HOLD_S == 5.0
