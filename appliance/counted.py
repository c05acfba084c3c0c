# SPDX-License-Identifier: GPL-2.0-only
"""A number with its noun: "1 frame", "2 frames". Imports nothing, so that every part can use it."""

from __future__ import annotations


def counted(number: object, one: str, many: str = "") -> str:
    """`number` with the form that fits it; `many` is for what is not `one` and an s: a verb, an irregular plural.

    `number` is a whole number, or the text that stands for it on the screen.
    """
    return f"{number} {one if str(number) == '1' else many or one + 's'}"
