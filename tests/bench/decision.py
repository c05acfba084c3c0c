# SPDX-License-Identifier: GPL-2.0-only
"""What a decision costs in ns, by BPF_PROG_TEST_RUN: entry program, policy and dispatch, without any wire."""

from __future__ import annotations

import statistics
import struct

from appliance.config.load import loads
from appliance.steering import libbpf
from appliance.steering.datapath import Datapath
from tests.bench.generator import Generator, frame
from tests.bench.subjects import BPF_OBJECT, SEGMENT, rules_text
from tests.bench.topology import index

REPEAT = 200_000
RUNS = 5


def decision_ns(generator: Generator, rules: int, match: str) -> float:
    """Nanoseconds for one frame that arrives at the LAN port, the cost of measuring taken off (median of runs)."""
    data = frame(64)
    datapath = Datapath.open(BPF_OBJECT)
    try:
        datapath.attach_segment("main", "lan", "wan", "xdp")
        if rules:
            datapath.set_policy(loads(SEGMENT + rules_text(rules, match), "bench"))
        # struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex
        context = struct.pack("=6I", 0, len(data), 0, index("lan"), 0, 0)
        entry, nothing = datapath.kernel.programs["entry_xdp"], generator.object.program_fd("nothing")
        costs = [
            libbpf.run_frame(entry, data, REPEAT, context)[2] - libbpf.run_frame(nothing, data, REPEAT, context)[2]
            for _ in range(RUNS)
        ]
        return statistics.median(costs)
    finally:
        datapath.unload()
