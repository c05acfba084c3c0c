# SPDX-License-Identifier: GPL-2.0-only
"""`make bench`: steering speed compared with its limit and its peers, interleaved in one run.

`ratio` is relative to the bare XDP redirect on the same path. Bursts through both alternate, a twentieth of a second
each, and a ratio is taken for each pair, so that a drift of the machine's speed affects both alike; a row has the
median of all pairs and the quartiles, and `p90_ratio`, the ratio of the 90th percentiles of both rates, from bursts
that nothing else disturbed. Rounds go over all subjects in turn. `ns` is the time of the entry program and everything
after it by BPF_PROG_TEST_RUN, without the wire, minus the cost of measuring; `instructions` has no noise at all
(tests/support/executed.py). `filters.json` has the filters of 1,024 rules alone (filters.py).

Paths: *hand-over* is into a tap that nobody reads, so that each frame is handed over and dropped: the rate is that of
the sending processor. *kernel guest* goes through a guest that is a redirect between two veths, so its limit is three
bare redirects. Through *one guest*, the limit is the process that replaces the guest: the sender is faster, and its
excess is lost in the tap's ring; a ratio above 1 means that we disturb that process less by sending more slowly.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from typing import Any

from simulator import netns

from appliance.counted import counted
from tests.bench import bulk, filters, remap, scaling, topology
from tests.bench.decision import decision, flow_cache, to_a_hop
from tests.bench.generator import CORE, SIZES, Generator, build
from tests.bench.subjects import WAYS, Subject, subjects
from tests.support import figures

FLOWS = (1, 100_000)


Case = tuple[Subject, int, str]
Pair = tuple[float, float]  # frames per second of the subject, and of the limit


def cases(every: list[Subject], sizes: list[str]) -> list[Case]:
    """(subject, flows, size): slow peers only with one flow and 64 bytes, the rest with all."""
    quick = [subject for subject in every if subject.settle == 0.0 or subject.path == "one guest"]
    small = [subject for subject in every if WAYS[subject.path].sent]
    return [
        (subject, flows, size)
        for subject in every
        if not subject.skip
        for flows in (FLOWS if subject in quick and not subject.one_flow else FLOWS[:1])
        for size in (sizes if subject in quick and subject not in small else sizes[:1])
    ]


def measure(
    generator: Generator, wanted: list[Case], rounds: int, pairs: int, seconds: float
) -> dict[Case, list[Pair]]:
    """Rates of every case: `pairs` of bursts per round, the subject's and then the limit's."""
    rates: dict[Case, list[Pair]] = {case: [] for case in wanted}
    for path, way in WAYS.items():
        mine = [case for case in wanted if case[0].path == path]
        if not mine:
            continue
        with way.limit(generator):
            for number in range(1, rounds + 1):
                for subject in dict.fromkeys(case[0] for case in mine):
                    figures.say(f"bench: {path}, round {number}/{rounds}: {subject.title}")
                    with subject.put(generator):
                        if subject.implementation != "throughwire":  # it has XDP there
                            topology.reach("lan")
                        for case in mine:
                            if case[0] is subject:
                                generator.aim("gen", case[1])
                                count = generator.length(case[2], seconds)
                                rates[case] += [pair(generator, case, count) for _ in range(pairs)]
    return rates


def pair(generator: Generator, case: Case, count: int) -> Pair:
    """One burst through the subject, and one through the limit."""
    subject, flows, size = case
    way = WAYS[subject.path]
    generator.aim("gen", flows)
    if way.sent:
        ours = generator.sending(count)
        generator.aim("gen0", flows)
        return ours, generator.sending(count)
    ours = generator.burst(size, count, subject.settle).per_second
    generator.aim("gen0", flows)
    return ours, generator.burst(size, count, way.settle).per_second


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    return figures.percentile(values, 0.25), statistics.median(values), figures.percentile(values, 0.75)


def undisturbed(found: list[Pair]) -> float:
    """The ratio of the 90th percentiles of both rates: bursts that nothing else on the machine has disturbed."""
    ours, limit = (figures.percentile(rates, 0.9) for rates in zip(*found, strict=True))
    return ours / limit


def rows(generator: Generator, rates: dict[Case, list[Pair]]) -> list[figures.Row]:
    """One row per case, and one for the limit of each path, flows and size."""
    result: list[figures.Row] = []
    bare: dict[tuple[str, int, str], list[float]] = {}
    for (subject, flows, size), found in rates.items():
        bare.setdefault((subject.path, flows, size), []).extend(limit for _, limit in found)
        low, middle, high = quartiles([ours / limit for ours, limit in found])
        row = _row(subject.implementation, subject.path, flows, size, [ours for ours, _ in found])
        row |= {"rules": subject.rules, "match": subject.match, "ratio": round(middle, 4)}
        row |= {"low_ratio": round(low, 4), "high_ratio": round(high, 4), "p90_ratio": round(undisturbed(found), 4)}
        if subject.implementation == "throughwire" and subject.path == "straight" and (flows, size) == (1, "64"):
            row |= decision(generator, subject.rules, subject.match)
        result.append(row)
    limits = [
        {**_row("limit", path, flows, size, values), "ratio": 1.0} for (path, flows, size), values in bare.items()
    ]
    return limits + result


def _row(implementation: str, path: str, flows: int, size: str, rates: list[float]) -> figures.Row:
    return {
        "implementation": implementation,
        "path": path,
        "rules": 0,
        "match": "none",
        "flows": flows,
        "frame_bytes": int(size) if size.isdigit() else size,
        "frames_per_s": round(statistics.median(rates)),
        "runs": len(rates),
    }


def plot(result: list[figures.Row]) -> Any:
    """Ratios to the limit, 64 bytes and one flow."""

    def draw(axes: Any) -> None:
        shown = [row for row in result if "low_ratio" in row and row["flows"] == 1 and row["frame_bytes"] == 64]
        names = [
            f"{row['implementation']}, {row['path']}"
            + (f", {counted(row['rules'], 'rule')}, {row['match']}" if row["rules"] else "")
            for row in shown
        ]
        spread = [
            [row["ratio"] - row["low_ratio"] for row in shown],
            [row["high_ratio"] - row["ratio"] for row in shown],
        ]
        axes.barh(names, [row["ratio"] for row in shown], xerr=spread)
        axes.invert_yaxis()
        axes.set_xlabel("ratio to a bare XDP redirect on the same path (64 bytes, one flow)")

    return draw


def main() -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="tests.bench", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--pairs", type=int, default=10, help="bursts of each case and round, each with one of the limit"
    )
    parser.add_argument("--seconds", type=float, default=0.05, help="of sending, for each burst")
    parser.add_argument("--only", default="", help="a part of the implementation's name")
    parser.add_argument("--path", choices=list(WAYS), help="only this path, and what belongs to no path left out")
    parser.add_argument("--size", action="append", choices=list(SIZES), help="frame sizes; all when left out")
    parser.add_argument("--scaling", action="store_true", help="only how it scales with processors")
    options = parser.parse_args()
    program = build()
    try:
        netns.leave()
    except OSError as error:
        parser.exit(1, f"bench: {error}\n")
    generator = Generator(program)
    if not options.only and not options.path:
        scaled = scaling.rows(scaling.measure(generator, options.rounds, options.pairs, options.seconds))
        print(figures.table(scaled))
        print(f"written: {figures.write('scaling', scaled, scaling.plot(scaled))}")
    if options.scaling:
        return 0
    topology.build()
    os.sched_setaffinity(0, {CORE})
    sinks = [generator.attach_sink(name) for name in ("sink", "sink0")]
    every = [
        subject
        for subject in subjects()
        if options.only in subject.implementation and options.path in (None, subject.path)
    ]
    for subject in every:
        if subject.skip:
            figures.say(f"bench: left out: {subject.implementation}: {subject.skip}")
    wanted = cases(every, options.size or list(SIZES))
    result = rows(generator, measure(generator, wanted, options.rounds, options.pairs, options.seconds))
    if not options.path:
        result += to_a_hop(generator) + flow_cache(generator)
    for sink in sinks:
        os.close(sink)
    target = figures.write("bench", result, plot(result), left_out=[s.implementation for s in every if s.skip])
    print(figures.table(result))
    print(f"written: {target}")
    if not options.path:
        moved = remap.rows()
        print(figures.table(moved))
        print(f"written: {figures.write('groups', moved, remap.plot(moved))}")
        figures.say("bench: bulk TCP through a guest with offloads")
        tcp = bulk.rows()
        print(figures.table(tcp))
        print(f"written: {figures.write('bulk', tcp)}")
        figures.say(f"bench: filters of {filters.MANY_RULES} rules alone")
        alone = filters.rows()
        print(figures.table(alone))
        print(f"written: {figures.write('filters', alone)}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.SubprocessError as error:
        sys.exit(f"bench: {error}")
