# SPDX-License-Identifier: GPL-2.0-only
"""How many flows of a group move when its members change, compared with the minimum: `build/figures/groups.json`.

Pure: the table that the datapath reads, asked for the buckets of 100,000 flows. The fewest are what the shares before
and after demand. `modulo_flows` is what hash modulo number of members would move.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

from appliance.frames.flow import flow_of
from appliance.steering import groups
from appliance.steering.kernel.layout import BUCKETS
from tests.bench.generator import frame
from tests.support import figures

FLOWS = 100_000
Weights = dict[str, int]
CHANGES: tuple[tuple[str, Weights, Weights], ...] = (
    ("member lost, 50/50", {"a": 50, "b": 50}, {"b": 50}),
    ("member lost, 90/10", {"a": 90, "b": 10}, {"b": 10}),
    ("member lost, 4 alike", dict.fromkeys("abcd", 1), dict.fromkeys("abd", 1)),
    ("member lost, 8 alike", dict.fromkeys("abcdefgh", 1), dict.fromkeys("abcdefg", 1)),
    ("member added, 1 to 2", {"a": 1}, {"a": 1, "b": 1}),
    ("member added, 4 to 5", dict.fromkeys("abcd", 1), dict.fromkeys("abcde", 1)),
    ("weights 50/50 to 90/10", {"a": 50, "b": 50}, {"a": 90, "b": 10}),
    ("weights 50/50 to 60/40", {"a": 50, "b": 50}, {"a": 60, "b": 40}),
)


def rows() -> list[figures.Row]:
    """One row per change."""
    rng = random.Random(5)
    ports = [rng.randrange(1 << 32) for _ in range(FLOWS)]
    base = bytearray(frame(64))
    hashes = []
    for number in ports:  # as many source addresses and ports
        base[28:30], base[34:36] = (number >> 16).to_bytes(2, "big"), (number & 0xFFFF).to_bytes(2, "big")
        hashes.append(flow_of(bytes(base)).hash)
    return [_row(event, before, after, hashes) for event, before, after in CHANGES]


def _row(event: str, before: Weights, after: Weights, hashes: list[int]) -> figures.Row:
    """A failed or returning member only changes its use in the present table; other changes make a new one."""
    table = groups.balance(list(before.items()))
    lost = before.keys() > after.keys()
    fresh = table if lost else groups.balance(list(after.items()))
    was = [table[value % BUCKETS][0] for value in hashes]
    now = [next(name for name in fresh[value % BUCKETS] if name in after) for value in hashes]
    moved = sum(old != new for old, new in zip(was, now, strict=True))
    share = groups.shares(after, FLOWS)
    held = Counter(was)
    names, others = sorted(before), sorted(after)
    alike = len({*before.values(), *after.values()}) == 1  # modulo knows no weights
    return {
        "event": event,
        "flows": FLOWS,
        "moved_flows": moved,
        "fewest_flows": sum(max(0, held[name] - share.get(name, 0)) for name in before),
        "modulo_flows": sum(names[v % len(names)] != others[v % len(others)] for v in hashes) if alike else None,
        "back_moves_flows": moved if lost else None,
        "largest_error_ratio": round(max(abs(Counter(now)[n] - share[n]) / FLOWS for n in after), 4),
    }


def plot(result: list[figures.Row]) -> Any:
    """Moved flows compared with the minimum and with modulo."""

    def draw(axes: Any) -> None:
        places = range(len(result))
        for offset, key, label in ((-0.27, "moved_flows", "ours"), (0, "fewest_flows", "fewest possible"),
                                   (0.27, "modulo_flows", "hash modulo members")):  # fmt: skip
            axes.barh([place + offset for place in places], [row[key] or 0 for row in result], 0.25, label=label)
        axes.set_yticks(list(places), [row["event"] for row in result])
        axes.invert_yaxis()
        axes.set_xlabel(f"flows of {FLOWS:,} that change their member")
        axes.legend()

    return draw
