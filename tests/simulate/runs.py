# SPDX-License-Identifier: GPL-2.0-only
"""Runs as units of work: their outcomes, and the explanation of a failed one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from tests.simulate import faults
from tests.simulate.clock import HOUR
from tests.simulate.faults import Plan
from tests.simulate.invariants import INVARIANTS
from tests.simulate.shrink import shrink
from tests.simulate.world import World, simulate

RUN_HOURS = 50.0


class Job(NamedTuple):
    seed: int
    hours: float
    only: frozenset[str]


class Outcome(NamedTuple):
    """The outcome of a run. `violation`: the invariant's name; empty: none."""

    seed: int
    hours: float
    struck: Counter[str]
    boots: int
    violation: str


def one(job: Job) -> Outcome:
    """One run."""
    plan = faults.plan(job.seed, job.hours, only=job.only)
    world = simulate(job.seed, plan)
    hours = (world.clock.now - world.began) / HOUR
    past = (fault.kind for fault in plan.faults if fault.at < world.clock.now - world.began)
    violation = world.violation.invariant if world.violation is not None else ""
    return Outcome(job.seed, hours, Counter(past), world.boots, violation)


def explain(job: Job) -> str:
    """The shortest trace of a failed run, and how to repeat it."""
    plan = faults.plan(job.seed, job.hours, only=job.only)
    invariant = one(job).violation

    def fails(candidate: Plan) -> bool:
        violation = simulate(job.seed, candidate).violation
        return violation is not None and violation.invariant == invariant

    return report(simulate(job.seed, shrink(plan, fails)), job)


def report(world: World, job: Job) -> str:
    """A run as text."""
    violation, plan = world.violation, world.plan
    assert violation is not None
    only = f' ONLY="{",".join(sorted(job.only))}"' if job.only else ""
    shown = " ".join(f"{key}={value}" for key, value in plan.setup._asdict().items())
    return "\n".join(
        (
            f"seed {job.seed}: {INVARIANTS[violation.invariant]}",
            f"  {violation.what}",
            f"  {shown}",
            *(f"  {fault}" for fault in plan.faults),
            "trace of these faults alone (seconds since power-on):",
            *world.lines,
            f"again, with all its faults: make simulate SEED={job.seed} HOURS={job.hours:g}{only}",
        )
    )


def jobs(seed: int, hours: float, only: frozenset[str]) -> Iterable[Job]:
    """The runs that make up this many hours."""
    number = 0
    while hours > 0:
        yield Job(seed + number, min(hours, RUN_HOURS), only)
        hours -= RUN_HOURS
        number += 1
