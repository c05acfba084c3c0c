# SPDX-License-Identifier: GPL-2.0-only
"""A number and its noun agree wherever the product counts something."""

from __future__ import annotations

import pytest

from appliance.counted import counted


@pytest.mark.parametrize(
    ("number", "one", "many", "said"),
    [
        (0, "frame", "", "0 frames"),
        (1, "frame", "", "1 frame"),
        (2, "frame", "", "2 frames"),
        ("1", "byte", "", "1 byte"),
        ("-", "instruction", "", "- instructions"),
        (1, "change is", "changes are", "1 change is"),
        (11, "change is", "changes are", "11 changes are"),
    ],
)
def test_number_and_noun_agree(number: object, one: str, many: str, said: str) -> None:
    assert counted(number, one, many) == said
