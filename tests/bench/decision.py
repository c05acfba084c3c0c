# SPDX-License-Identifier: GPL-2.0-only
"""The cost of a decision in ns, by BPF_PROG_TEST_RUN of the program where a port's frames begin, without a wire."""

from __future__ import annotations

import json
import os
import statistics
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from appliance.config.check.load import loads
from appliance.filter import classifier
from appliance.filter import compiler as pcap
from appliance.steering.datapath import Datapath
from appliance.steering.kernel.layout import Side
from appliance.system import libbpf
from tests.bench.generator import Generator, frame
from tests.bench.subjects import BPF_OBJECT, FAR_NS, SEGMENT, TAPS, rules_text, shunt, taps
from tests.bench.topology import index
from tests.support import figures
from tests.support.executed import executed

REPEAT = 200_000
MORE_TAPS = ("taph", "tapi")
RUNS = 7
CACHED_RULES = 64
HOPS = """
[[guest]]
name = "g"
kernel = "none"
%s[[guest]]
name = "h"
kernel = "none"
[[group]]
name = "s"
standby = ["g", "h"]
"""
HOP_PATHS = (("to a hop", ["g"], True), ("to the first of two hops", ["g", "h"], True),
             ("to the first of two hops, the second not available", ["g", "h"], True),
             ("to a group", ["s"], True), ("past a hop", ["g"], False),
             ("past a hop, shunted", ["g"], True))  # fmt: skip


def decision(generator: Generator, rules: int, match: str) -> figures.Row:
    """`ns` and `instructions` of a frame at the LAN port; `policy_ms` to compile and load, first time."""
    with _datapath() as datapath:
        row: figures.Row = {}
        pcap.forget()
        took = datapath.set_policy(loads(SEGMENT + rules_text(rules, match), "bench")).took_ns
        row["policy_ms"] = round(took / 1e6, 1)
        row["ns"] = round(cost(generator, datapath, frame(64)), 1)
        row["instructions"] = instructions(datapath, frame(64))
        return row


def flow_cache(generator: Generator) -> list[figures.Row]:
    """Rules that a flow's key decides, rule by rule as where merging fails: with the flow cache and without it.

    Sets that can be merged are faster than any look into a table; so here merging is switched off.
    """
    rules = (
        f'[[rule]]\nname = "r{number}"\nmatch = "udp port {20000 + number}"\npath = []\n'
        for number in range(CACHED_RULES)
    )
    text = SEGMENT + "\n".join(rules)
    found: list[figures.Row] = []
    merged_from, cached_from = classifier.CHAIN_RULES, pcap.CACHE_FROM_NS
    for name, chained, threshold in (
        ("throughwire, rule by rule", CACHED_RULES, 1 << 30),
        ("throughwire, rule by rule, flow cache", CACHED_RULES, cached_from),
        ("throughwire, merged", merged_from, cached_from),
    ):
        classifier.CHAIN_RULES, pcap.CACHE_FROM_NS = chained, threshold
        pcap.forget()
        try:
            with _datapath() as datapath:
                datapath.set_policy(loads(text, "bench"))
                (about, *_) = (row for row in datapath.compiled() if row.by == "xdp")
                ns = round(cost(generator, datapath, frame(64)), 1)
        finally:
            classifier.CHAIN_RULES, pcap.CACHE_FROM_NS = merged_from, cached_from
        found.append({
            "implementation": name, "path": "straight", "rules": CACHED_RULES, "match": "none", "flows": 1,
            "frame_bytes": 64, "runs": RUNS, "ns": ns, "method": about.method, "cached": about.flow_cache,
        })  # fmt: skip
    pcap.forget()
    return found


def to_a_hop(generator: Generator) -> list[figures.Row]:
    """`ns` of a frame at the LAN port that goes to a hop, or past it, and `back_ns` of one that comes from it.

    Both with the instructions that they take, once the flow is known.
    """
    found: list[figures.Row] = []
    for name, path, available in HOP_PATHS:
        shunted = "shunted" in name
        hops = HOPS % ("shunts = { max = 1000 }\n" if shunted else "")
        text = f'{SEGMENT}{hops}[[rule]]\nname = "all"\npath = {json.dumps(path)}\n'
        both = "h" in path and "not available" not in name
        with taps(TAPS), taps(MORE_TAPS), _datapath() as datapath:
            for side, tap, other in zip((Side.LAN, Side.WAN), TAPS, MORE_TAPS, strict=True):
                datapath.attach_hop(tap, "g", "main", side)
                datapath.attach_hop(other, "h", "main", side)
            datapath.set_policy(loads(text, "bench"))
            datapath.leases.renew_supervisor(FAR_NS)
            if available:
                datapath.leases.renew("g", FAR_NS)
            if both:
                datapath.leases.renew("h", FAR_NS)
            if shunted:
                shunt(datapath)
            ns, back = (round(cost(generator, datapath, frame(64), device), 1) for device in ("lan", TAPS[1]))
            steps, steps_back = (instructions(datapath, frame(64), device) for device in ("lan", TAPS[1]))
        found.append({
            "implementation": "throughwire", "path": name, "rules": 1, "match": "first", "flows": 1,
            "frame_bytes": 64, "runs": RUNS, "ns": ns, "back_ns": back,
            "instructions": steps, "back_instructions": steps_back,
        })  # fmt: skip
    return found


@contextmanager
def _datapath() -> Iterator[Datapath]:
    datapath = Datapath.open(BPF_OBJECT)
    try:
        datapath.attach_segment("main", "lan", "wan", "xdp", whole=True)
        yield datapath
    finally:
        datapath.unload()


def begins_in(datapath: Datapath, device: str) -> int:
    """The id of the program that this device's frames begin in."""
    port = next(one for one in datapath.attachments() if one.device.name == device)
    return datapath.begins_in(port) or 0


def instructions(datapath: Datapath, data: bytes, device: str = "lan") -> int:
    """How many instructions a frame from this device takes, after what frames before it have left in the maps."""
    return executed(begins_in(datapath, device), data, index(device)).instructions


def cost(generator: Generator, datapath: Datapath, data: bytes, device: str = "lan") -> float:
    """Nanoseconds for one frame from this device, the median of runs."""
    # struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex
    context = struct.pack("=6I", 0, len(data), 0, index(device), 0, 0)
    begin, nothing = libbpf.program_by_id(begins_in(datapath, device)), generator.object.program_fd("nothing")
    try:
        costs = [
            libbpf.run_frame(begin, data, REPEAT, context)[2] - libbpf.run_frame(nothing, data, REPEAT, context)[2]
            for _ in range(RUNS)
        ]
    finally:
        os.close(begin)
    return statistics.median(costs)
