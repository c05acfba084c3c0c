# SPDX-License-Identifier: GPL-2.0-only
"""Whether two decision graphs give the same answer for every frame. Pure.

Used to compare libpcap's optimised code with its unoptimised code: the optimiser of libpcap 1.10 miscompiles some
filters (`ether[0:1] & 0xffffffff != 0` becomes "every frame"). "Equal" is certain. "Not equal" may also mean that it
could not be shown: fields that share bytes count as independent, an opaque end equals only itself, and the search is
bounded.
"""

from __future__ import annotations

from typing import Final

from appliance.filter.graph import ACCEPT, OPAQUE_FIELD, Graph

MAX_STEPS: Final = 20_000  # pairs of nodes; a filter of 8,192 characters takes about a tenth


def equal(graph: Graph, first: int, second: int, max_steps: int = MAX_STEPS) -> bool:
    """Whether both roots give the same answer for all values of the fields."""
    known: set[tuple[int, int]] = set()  # pairs that were looked at, or are about to be
    todo = [(first, second)]
    steps = 0
    while todo:
        pair = todo.pop()
        left, right = pair
        if left == right or pair in known:
            continue
        known.add(pair)
        if left <= ACCEPT:
            left, right = right, left
        number = graph.field[left]
        if left <= ACCEPT or OPAQUE_FIELD in (number, graph.field[right] if right > ACCEPT else 0):
            return False  # accept against reject, or an end of which nothing is known
        starts = (0, *sorted(graph.cuts(left, number) | graph.cuts(right, number)))
        ends = (*(start - 1 for start in starts[1:]), graph.fields[number].largest)
        steps += len(starts)
        if steps > max_steps:
            return False
        for low, high in zip(starts, ends, strict=True):
            todo.append((graph.restrict(left, number, low, high), graph.restrict(right, number, low, high)))
    return True
