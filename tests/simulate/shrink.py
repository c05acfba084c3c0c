# SPDX-License-Identifier: GPL-2.0-only
"""Reduces a failed run to the shortest list of faults that fails in the same way."""

from __future__ import annotations

from collections.abc import Callable

from tests.simulate.clock import SECOND
from tests.simulate.faults import Burst, Fault, Plan

Fails = Callable[[Plan], bool]
TRIES = 200


def shrink(plan: Plan, fails: Fails, tries: int = TRIES) -> Plan:
    """`fails` runs a plan and says whether it fails as before. The plan that comes back does."""
    left = tries

    def still(candidate: Plan) -> bool:
        nonlocal left
        left -= 1
        return left >= 0 and fails(candidate)

    plan = _last_bursts(plan, still)
    size = max(1, len(plan.faults) // 2)
    while left > 0:
        faults = plan.faults
        for first in range(0, len(faults), size):
            shorter = plan.without(set(faults[first : first + size]))
            if shorter.faults and still(shorter):
                plan = shorter
                break
        else:
            if size == 1:
                break
            size = max(1, size // 2)
            continue
        size = max(1, min(size, len(plan.faults)))
    return _sooner(_shorter(plan, still), still)


def _last_bursts(plan: Plan, still: Fails) -> Plan:
    """Most failures need the last burst only."""
    for count in (1, 2, 4, 8):
        if count < len(plan.bursts):
            candidate = plan._replace(bursts=plan.bursts[-count:])
            if still(candidate):
                return candidate
    return plan


def _shorter(plan: Plan, still: Fails) -> Plan:
    """Faults that last no longer than they must, to a factor of two."""
    for fault in plan.faults:
        shorter = fault
        while shorter.length >= 20_000_000:
            halved = shorter._replace(length=shorter.length // 2)
            candidate = _exchange(plan, shorter, halved)
            if not still(candidate):
                break
            plan, shorter = candidate, halved
    return plan


def _sooner(plan: Plan, still: Fails) -> Plan:
    """The first burst at the beginning."""
    first = min((fault.at for fault in plan.faults), default=0)
    by = first - 60 * SECOND
    if by <= 0:
        return plan
    bursts = tuple(Burst(tuple(f._replace(at=f.at - by) for f in burst.faults)) for burst in plan.bursts)
    candidate = plan._replace(bursts=bursts, end=plan.end - by)
    return candidate if still(candidate) else plan


def _exchange(plan: Plan, old: Fault, new: Fault) -> Plan:
    bursts = (Burst(tuple(new if fault == old else fault for fault in burst.faults)) for burst in plan.bursts)
    return plan._replace(bursts=tuple(bursts))
