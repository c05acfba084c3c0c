# SPDX-License-Identifier: GPL-2.0-only
"""`make simulate HOURS= SEED=`: run this many simulated hours, and explain the first failure.

A run is at most a few days long, so that its seed is a small unit of work: runs are numbered from the seed on and
distributed over the processors. A failure is minimized, and the command that repeats it is printed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

from tests.simulate import runs
from tests.simulate.faults import KINDS
from tests.simulate.runs import Job, Outcome


@contextmanager
def outcomes(work: list[Job], processes: int) -> Iterator[Iterator[Outcome]]:
    """The outcomes of all jobs, in their order."""
    if processes < 2:
        yield map(runs.one, work)
        return
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        try:
            yield pool.map(runs.one, work)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="simulate", description=__doc__)
    parser.add_argument("--hours", type=float, default=1000, help="simulated hours (default 1000)")
    parser.add_argument("--seed", type=int, default=1, help="the first run's seed; each run has the next one")
    parser.add_argument("--only", default="", help="kinds of fault, with commas (default: all)")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes (default: all)")
    given = parser.parse_args(arguments)
    only = frozenset(filter(None, given.only.split(",")))
    if unknown := sorted(only - KINDS.keys()):
        parser.error(f"no kind of fault: {', '.join(unknown)}; there are: {', '.join(KINDS)}")
    began, struck, hours, boots = time.perf_counter(), Counter[str](), 0.0, 0
    failed: Job | None = None
    work = list(runs.jobs(given.seed, given.hours, only))
    with outcomes(work, given.jobs) as results:
        for job, outcome in zip(work, results, strict=True):
            struck += outcome.struck
            hours, boots = hours + outcome.hours, boots + outcome.boots
            if outcome.violation:
                failed = job
                break
    took = time.perf_counter() - began
    print(f"{hours:.0f} simulated hours, {struck.total()} faults, {boots} boots in {took:.1f} s")
    print("  " + ", ".join(f"{name} {count}" for name, count in sorted(struck.items())))
    if failed is None:
        return 0
    print(runs.explain(failed))
    return 1


if __name__ == "__main__":
    sys.exit(main())
