# SPDX-License-Identifier: GPL-2.0-only
"""Mutants for which no test is wanted: module, function and change, with the reason."""

from __future__ import annotations

KEPT: dict[str, str] = {
    "health.verdict hold_down: 16 -> 17": "equivalent: the limit of a minute is reached long before",
    "hop.hop Hop.__init__: False -> True (2)": "equivalent: a drain sets it, and while it stops it is not asked for",
    "keeper.silence Silence.__init__: 0 -> 1": "equivalent: a silence is judged only after it was heard",
}
