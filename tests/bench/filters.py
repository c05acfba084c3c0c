# SPDX-License-Identifier: GPL-2.0-only
"""The cost of the generated classifiers, in nanoseconds per frame, by BPF_PROG_TEST_RUN. Needs root.

    python tests/bench/filters.py [--rules 256] [--rounds 7] [--json FILE]

Two figures for each set of rules, merged and rule by rule, taken in turn: `none`, one frame that matches nothing, again
and again; `random`, 1,024 different frames in an order that no branch predictor learns (a driver program copies one of
them into the packet and goes on to the classifier). The time of an empty program in the same place is taken off.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import struct
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from appliance.filter import asm as e
from appliance.filter import compiler as pcap
from appliance.filter import loader
from appliance.filter.linkage import LoadableProgram
from appliance.system import libbpf
from tests.support.pcap_corpus import ALL_SETS, frames_for, rule_set

FRAME_BYTES = 96
FRAMES = 1024
REPEAT = 40_000
MANY_RULES = 1024


@dataclass
class Row:
    """One set of rules, one way to classify."""

    set: str
    rules: int
    implementation: str
    none_ns: float
    random_ns: float
    instructions: int
    programs: int
    table_bytes: int
    generate_ms: float
    load_ms: float
    method: str


def _program(code: e.Assembler, name: str, maps: dict[str, int]) -> int:
    return loader.load_program(LoadableProgram(name, code.finish(), tuple(code.relocations), None), "xdp", maps)


class Bench:
    """The driver, the empty program, and the array between them."""

    def __init__(self) -> None:
        self.array = libbpf.create_map(loader.MAP_PROG_ARRAY, "bench", 4, 4, 2)
        empty = e.Assembler()
        empty.mov_imm(e.R0, 2)
        empty.exit()
        self.empty = _program(empty, "empty", {})
        self.drivers: list[int] = []

    def driver(self, frames: list[bytes]) -> int:
        """A program that puts a random one of the frames into the packet and goes on to slot 0."""
        data = b"".join(f.ljust(FRAME_BYTES, b"\0")[:FRAME_BYTES] for f in frames)
        table = loader.create_table(data, "frames")
        code = e.Assembler()
        out = code.label()
        code.mov(e.R6, e.R1)
        code.call(e.Helper.RANDOM)
        code.alu_imm(e.AND, e.R0, FRAMES - 1)
        code.alu_imm(e.MUL, e.R0, FRAME_BYTES)
        code.map_value(e.R1, "frames", 0)
        code.add(e.R1, e.R0)
        code.load(4, e.R2, e.R6, 0)
        code.load(4, e.R3, e.R6, 4)
        code.mov(e.R4, e.R2)
        code.add_imm(e.R4, FRAME_BYTES)
        code.jump_reg(e.JGT, e.R4, e.R3, out, wide=True)
        for at in range(0, FRAME_BYTES, 8):
            code.load(8, e.R0, e.R1, at)
            code.store(8, e.R2, at, e.R0)
        code.mov(e.R1, e.R6)
        code.map_fd(e.R2, "bench")
        code.mov_imm(e.R3, 0)
        code.call(e.Helper.TAIL_CALL)
        code.place(out)
        code.mov_imm(e.R0, 0)
        code.exit()
        fd = _program(code, "driver", {"frames": table, "bench": self.array})
        self.drivers.append(fd)
        return fd

    def through(self, driver: int, program: int) -> float:
        """Mean time of driver and program together, ns."""
        loader.update(self.array, 0, struct.pack("=i", program))
        return loader.run_once(driver, bytes(FRAME_BYTES), repeat=REPEAT).duration_ns


def measure(name: str, texts: list[str], rounds: int, *, chain: bool = True) -> list[Row]:
    """Both ways for one set of rules."""
    bench, rng = Bench(), random.Random(11)
    filters = [pcap.compile_filter(text) for text in texts]
    reference = pcap.load_classifier(filters, kind="xdp")

    def taken_by(frame: bytes) -> bool:
        return loader.run_once(reference.entry_fd, frame).value != pcap.NO_MATCH

    def pick(count: int, *, hit: bool) -> list[bytes]:
        made: list[bytes] = []
        while len(made) < count:
            batch = frames_for(texts, rng, count, whole=True, hit=hit)
            made += [f for f in (b.ljust(FRAME_BYTES, b"\0") for b in batch) if taken_by(f) == hit]
        return made[:count]

    frames = pick(FRAMES // 2, hit=True) + pick(FRAMES // 2, hit=False)
    rng.shuffle(frames)
    driver = bench.driver(frames)
    # a whole IPv4 frame, UDP or TCP as most rules ask for: the longest way to no match
    wanted = 6 if sum("tcp" in text for text in texts) * 2 > len(texts) else 17
    spare = iter(frames_for(texts, rng, 20 * FRAMES, whole=True))
    none = next(
        f.ljust(FRAME_BYTES, b"\0")
        for f in spare
        if f[12:14] == b"\x08\x00" and f[23] == wanted and not taken_by(f.ljust(FRAME_BYTES, b"\0"))
    )
    reference.close()
    pcap.forget()
    ways = {}
    for way in ("merged", "chain") if chain else ("merged",):
        started = time.perf_counter()
        try:
            loaded = pcap.load_classifier(filters, kind="xdp", merge=way == "merged")
        except (loader.TooComplexError, pcap.FilterError) as error:
            print(f"{name}: {way} does not load: {error}", file=sys.stderr)
            continue
        ways[way] = (loaded, time.perf_counter() - started)
    taken: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, (loaded, _) in ways.items():
            empty = loader.run_once(bench.empty, none, repeat=REPEAT).duration_ns
            alone = loader.run_once(loaded.entry_fd, none, repeat=REPEAT).duration_ns - empty
            driven = bench.through(driver, loaded.entry_fd) - bench.through(driver, bench.empty)
            taken[way].append((alone, driven))
    rows = []
    for way, (loaded, _) in ways.items():
        report = loaded.report
        rows.append(
            Row(
                name,
                len(texts),
                way,
                statistics.median(t[0] for t in taken[way]),
                statistics.median(t[1] for t in taken[way]),
                report.instructions,
                report.programs,
                report.table_bytes,
                round(report.generate_s * 1000, 1),
                round(report.load_s * 1000, 1),
                report.method,
            )
        )
        loaded.close()
    loader.close(bench.array, bench.empty, *bench.drivers)
    return rows


def rows(rules: int = MANY_RULES, rounds: int = 7) -> list[dict[str, Any]]:
    """All kinds of sets of so many rules, as `make bench` measures them: as the appliance compiles them."""
    found: list[dict[str, Any]] = []
    for name in ALL_SETS:
        pcap.forget()
        for row in measure(name, rule_set(name, rules), rounds, chain=False):
            found.append({
                "set": row.set, "rules": row.rules, "method": row.method, "none_ns": round(row.none_ns, 1),
                "random_ns": round(row.random_ns, 1), "table_bytes": row.table_bytes,
                "generate_ms": row.generate_ms, "load_ms": row.load_ms,
            })  # fmt: skip
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rules", type=int, nargs="+", default=[256])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--set", action="append")
    parser.add_argument("--no-chain", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("needs root (BPF_PROG_TEST_RUN)")
    rows: list[Row] = []
    print("| set | rules | way | none ns | random ns | insns | tables | generate + load ms |")
    print("|---|---|---|---|---|---|---|---|")
    for rules in options.rules:
        for name in options.set or ALL_SETS:
            pcap.forget()
            for row in measure(name, rule_set(name, rules), options.rounds, chain=not options.no_chain):
                rows.append(row)
                print(
                    f"| {row.set} | {row.rules} | {row.method if row.implementation == 'merged' else 'rule by rule'} "
                    f"| {row.none_ns:.0f} | {row.random_ns:.0f} | {row.instructions} "
                    f"| {row.table_bytes} | {row.generate_ms:.0f} + {row.load_ms:.0f} |",
                    flush=True,
                )
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))


if __name__ == "__main__":
    main()
