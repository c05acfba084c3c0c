# SPDX-License-Identifier: GPL-2.0-only
"""`make bench`: steering speed side by side with its limit and its peers, interleaved in one run.

Rounds go over all subjects in turn, so that a machine whose speed drifts slows all of them alike; a row tells the
median of the rounds and their spread. `ratio` is to the bare XDP redirect on the same path, of the same round. `ns` is
the time of the entry program and all that follows it by BPF_PROG_TEST_RUN, without the wire, the cost of measuring
taken off.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests import figures
from tests.bench import topology
from tests.bench.decision import decision_ns
from tests.bench.generator import SIZES, Generator
from tests.bench.subjects import Subject, subjects

BUILD = Path("build/bench")
FLOWS = (1, 100_000)
CORE = 1  # generator, kernel datapath and sink; processes of user-space peers run on core 0


def say(text: str) -> None:
    """Progress, for a person."""
    print(text, file=sys.stderr, flush=True)


def build() -> Path:
    """Compile the benchmark's own programs."""
    BUILD.mkdir(parents=True, exist_ok=True)
    here = Path(__file__).parent
    target = BUILD / "bench.bpf.o"
    include = f"-I/usr/include/{os.uname().machine}-linux-gnu"
    topology.run("clang", "-O2", "-g", "-Wall", "-Werror", "-target", "bpf", "-mcpu=v3", include,
                 "-c", str(here / "bench.bpf.c"), "-o", str(target))  # fmt: skip
    topology.run("gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(BUILD / "echo"), str(here / "echo.c"))
    return target


Case = tuple[Subject, int, str]


def cases(every: list[Subject], sizes: list[str]) -> list[Case]:
    """(subject, flows, size): slow peers only with one flow and 64 bytes, the rest with all."""
    quick = [subject for subject in every if subject.settle == 0.0 or subject.path == "one guest"]
    return [
        (subject, flows, size)
        for subject in every
        if not subject.skip
        for flows in (FLOWS if subject in quick else FLOWS[:1])
        for size in (sizes if subject in quick else sizes[:1])
    ]


def measure(generator: Generator, wanted: list[Case], rounds: int, seconds: float) -> dict[Case, list[float]]:
    """Frames per second of every case, one value a round."""
    rates: dict[Case, list[float]] = {case: [] for case in wanted}
    for number in range(1, rounds + 1):
        for subject in dict.fromkeys(case[0] for case in wanted):
            say(f"bench: round {number}/{rounds}: {subject.implementation}, {subject.path}, {subject.rules} rules")
            with subject.put(generator):
                for case in wanted:
                    if case[0] is subject:
                        generator.aim("gen", case[1])
                        rates[case].append(generator.burst(case[2], seconds, subject.settle).per_second)
    return rates


def rows(generator: Generator, rates: dict[Case, list[float]]) -> list[figures.Row]:
    """Medians and spreads; the ratio is taken round by round."""
    result: list[figures.Row] = []
    for case, values in rates.items():
        subject, flows, size = case
        limit = next(
            rates[other]
            for other in rates
            if other[0].implementation == "limit" and other[0].path == subject.path and other[1:] == (flows, size)
        )
        ratios = [ours / bare for ours, bare in zip(values, limit, strict=True)]
        row: figures.Row = {
            "implementation": subject.implementation,
            "path": subject.path,
            "rules": subject.rules,
            "match": subject.match,
            "flows": flows,
            "frame_bytes": int(size) if size.isdigit() else size,
            "ratio": round(statistics.median(ratios), 4),
            "low_ratio": round(min(ratios), 4),
            "high_ratio": round(max(ratios), 4),
            "frames_per_s": round(statistics.median(values)),
            "runs": len(values),
        }
        if subject.implementation == "throughwire" and subject.path == "straight" and (flows, size) == (1, "64"):
            row["ns"] = round(decision_ns(generator, subject.rules, subject.match), 1)
        result.append(row)
    return result


def plot(result: list[figures.Row]) -> Any:
    """Ratios to the limit, 64 bytes and one flow."""

    def draw(axes: Any) -> None:
        shown = [row for row in result if row["flows"] == 1 and row["frame_bytes"] == 64]
        names = [
            f"{row['implementation']}, {row['path']}"
            + (f", {row['rules']} rules, {row['match']}" if row["rules"] else "")
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
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.3, help="of sending, for each case and round")
    parser.add_argument("--only", default="", help="a part of the implementation's name; the limit always runs")
    parser.add_argument("--size", action="append", choices=list(SIZES), help="frame sizes; all when left out")
    options = parser.parse_args()
    program = build()
    try:
        topology.enter_new_namespace()
    except OSError as error:
        parser.exit(1, f"bench: {error}\n")
    topology.build()
    os.sched_setaffinity(0, {CORE})
    generator = Generator(program)
    sink = generator.attach_sink("sink")
    every = [
        subject for subject in subjects() if options.only in subject.implementation or subject.implementation == "limit"
    ]
    for subject in every:
        if subject.skip:
            say(f"bench: left out: {subject.implementation}: {subject.skip}")
    wanted = cases(every, options.size or list(SIZES))
    result = rows(generator, measure(generator, wanted, options.rounds, options.seconds))
    os.close(sink)
    target = figures.write("bench", result, plot(result), left_out=[s.implementation for s in every if s.skip])
    print(figures.table(result))
    print(f"written: {target}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.SubprocessError as error:
        sys.exit(f"bench: {error}")
