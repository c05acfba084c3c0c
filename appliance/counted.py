# SPDX-License-Identifier: GPL-2.0-only
"""A number with its noun: "1 frame", "2 frames". Imports nothing, so that every part can use it."""

from __future__ import annotations


def counted(number: object, one: str, many: str = "") -> str:
    """`number` with the matching form of its noun; `many` where the plural is not `one` with an s, as for a verb.

    `number` is a whole number, or the text that is displayed for it.
    """
    return f"{number} {one if str(number) == '1' else many or one + 's'}"
