# SPDX-License-Identifier: GPL-2.0-only
"""Which member of a group gets which flow: a table of buckets, each an order of preference among members. Pure.

Balance: weighted rendezvous hashing, with exact shares. Each pair (bucket, member) has a score that depends on nothing
else; the best pairs are served first, until the member has its share of buckets. So weights are honoured to one bucket,
a member that fails gives up its own buckets only (each goes to the next in its order, and those are shared by weight
again), and a member that is added or removed moves little more than its share.

Spare: a bucket's second choice is a spare member, by a rendezvous among those alone.

Standby: every bucket has the configured order.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from appliance.frames.flow import finish, fold
from appliance.steering.kernel.layout import BUCKETS

Order = tuple[str, ...]


def _score(member: str, bucket: int, weight: int) -> float:
    """Lower is better. An exponential race: the chance to win is proportional to the weight."""
    seed = 0
    for byte in member.encode():
        seed = fold(seed ^ byte)
    uniform = ((finish(seed + fold(bucket + 1)) >> 11) + 0.5) / (1 << 53)
    return -math.log(uniform) / weight


def shares(weights: dict[str, int], number: int) -> dict[str, int]:
    """Split `number` by weight into whole parts (largest remainder, ties by name)."""
    total = sum(weights.values())
    parts = {name: number * weight // total for name, weight in weights.items()}
    by_remainder = sorted(weights, key=lambda name: (-(number * weights[name] % total), name))
    for name in by_remainder[: number - sum(parts.values())]:
        parts[name] += 1
    return parts


def balance(members: Sequence[tuple[str, int]], buckets: int = BUCKETS) -> list[Order]:
    """The order of preference of each bucket, for members (name, weight)."""
    weights = dict(members)
    score = {(name, bucket): _score(name, bucket, weight) for name, weight in members for bucket in range(buckets)}
    orders: list[Order] = [()] * buckets
    for _ in members:
        # Buckets whose earlier choices are the same share what is left of the members among them.
        alike: dict[Order, list[int]] = defaultdict(list)
        for bucket, order in enumerate(orders):
            alike[order].append(bucket)
        for order, these in alike.items():
            left = {name: weight for name, weight in weights.items() if name not in order}
            room = shares(left, len(these))
            open_buckets = set(these)
            for name, bucket in sorted(((n, b) for n in left for b in these), key=score.__getitem__):
                if bucket in open_buckets and room[name]:
                    room[name] -= 1
                    open_buckets.discard(bucket)
                    orders[bucket] = (*order, name)
    return orders


def with_spares(members: Sequence[tuple[str, int]], spares: Sequence[str], buckets: int = BUCKETS) -> list[Order]:
    """As `balance`, and before any other member the spare ones take over: each an equal share of what has failed."""
    orders = [()] * buckets if not spares else balance([(name, 1) for name in spares], buckets)
    return [(order[0], *spare, *order[1:]) for order, spare in zip(balance(members, buckets), orders, strict=True)]


def standby(members: Sequence[str], buckets: int = BUCKETS) -> list[Order]:
    """The configured order, in each bucket."""
    return [tuple(members)] * buckets


def pack(ids: Sequence[int]) -> int:
    """Hop ids as the datapath reads them: one a byte, the first lowest, 0 ends."""
    return sum(hop << (8 * place) for place, hop in enumerate(ids))
