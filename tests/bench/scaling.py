# SPDX-License-Identifier: GPL-2.0-only
"""How steering scales with processors, straight and through a guest with several queues: `build/figures/scaling.json`.

A *lane* is one processor that does everything for its frames: it sends them, runs the datapath, stands for the guest
(a thread for each queue, which is preferred to the sender, so that no frame is lost in between) and counts them at the
far host. Lanes that shared nothing would carry as many times the frames of one (`speedup_ratio`) as there are lanes;
what is missing is what they share: locks, counters, caches, memory. With one queue, the guest has the thread of the
first lane only, and its processor is the limit.

Cases take turns, a round each, so that a drift of the machine's speed affects all alike. There are as many lanes as
processors at most, in powers of two. With two processors two lanes are the whole machine: what else runs there, the
measuring program included, takes from them, and more is not known from it. Nor do processors that are two threads of
one core have twice its speed. A real guest has its processors beside those of the datapath.
"""

from __future__ import annotations

import os
import statistics
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from simulator.netns import run

from appliance.config.check.load import loads
from appliance.guest.port import tap
from appliance.steering.datapath import Datapath
from appliance.steering.kernel.layout import Side
from tests.bench.generator import Generator
from tests.bench.subjects import BPF_OBJECT, FAR_NS
from tests.support import figures

PAIRS = (("genm", "lanm"), ("wanm", "sinkm"))
TAPS = ("tapml", "tapmw")
ECHO = Path("build/bench/echo")
SEGMENT = '[[segment]]\nname = "main"\nlan = "lanm"\nwan = "wanm"\n'
GUEST = '[[guest]]\nname = "g"\nkernel = "none"\n[[rule]]\nname = "all"\npath = ["g"]\n'
FLOWS = 1000


class Case(NamedTuple):
    """So many lanes; `queues` of the guest's taps, 0: straight."""

    lanes: int
    queues: int

    @property
    def path(self) -> str:
        """As in the other figures."""
        return "one guest" if self.queues else "straight"


def cases(processors: int) -> list[Case]:
    """Straight, through one queue, and through a queue for each lane."""
    lanes = [1 << power for power in range(processors.bit_length()) if 1 << power <= processors]
    return list(dict.fromkeys(Case(n, queues) for n in lanes for queues in (0, 1, n)))


def build(processors: int) -> None:
    """Wires with a queue for each processor, as a port's RSS gives them."""
    for left, right in PAIRS:
        queues = f"numrxqueues {processors} numtxqueues {processors}".split()
        run("ip", "link", "add", left, *queues, "type", "veth", "peer", "name", right, *queues)
        for name in (left, right):
            run("sysctl", "-qw", f"net.ipv6.conf.{name}.disable_ipv6=1")
            run("ethtool", "-K", name, "gro", "on")
            run("ip", "link", "set", name, "up", "promisc", "on")


@contextmanager
def echo(lanes: list[int], queues: int) -> Iterator[None]:
    """The guest's stand-in: a thread for each queue, on the processor of its lane."""
    for name in TAPS:
        tap.ensure(name, queues)
    words = ["chrt", "-f", "1", str(ECHO), *TAPS, *(str(lanes[queue]) for queue in range(queues))]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            raise RuntimeError("the echo did not start")
        yield
    finally:
        process.kill()
        process.wait()
        for name in TAPS:
            run("ip", "link", "del", name)


@contextmanager
def put(case: Case, processors: list[int]) -> Iterator[None]:
    """The datapath of one case."""
    datapath = Datapath.open(BPF_OBJECT)
    try:
        datapath.attach_segment("main", PAIRS[0][1], PAIRS[1][0], "xdp", whole=True)
        if not case.queues:
            datapath.set_policy(loads(SEGMENT, "bench"))
            yield
            return
        with echo(processors, case.queues):
            for side, name in zip((Side.LAN, Side.WAN), TAPS, strict=True):
                datapath.attach_hop(name, "g", "main", side)
            datapath.set_policy(loads(SEGMENT + GUEST, "bench"))
            datapath.leases.renew_supervisor(FAR_NS)
            datapath.leases.renew("g", FAR_NS)
            yield
            datapath.detach_hop("g")
    finally:
        datapath.unload()


def measure(generator: Generator, rounds: int, pairs: int, seconds: float) -> dict[Case, list[float]]:
    """Frames a second that arrive, of every burst of every case. As many `pairs` of bursts in a round as elsewhere."""
    processors = sorted(os.sched_getaffinity(0))
    build(processors[-1] + 1)
    sink = generator.attach_sink(PAIRS[1][1])
    rates: dict[Case, list[float]] = {case: [] for case in cases(len(processors))}
    try:
        for _ in range(rounds):
            for case, found in rates.items():
                with put(case, processors):
                    os.sched_setaffinity(0, processors[:1])  # `length` asks one processor
                    generator.aim(PAIRS[0][0], FLOWS)
                    count = generator.length("64", seconds)
                    for _ in range(pairs):
                        found.append(generator.lanes(processors[: case.lanes], "64", count))
    finally:
        os.close(sink)
    return rates


def rows(rates: dict[Case, list[float]]) -> list[figures.Row]:
    """One row per case; `speedup_ratio`: to one lane on the same path."""
    return [
        {
            "path": case.path,
            "lanes": case.lanes,
            "queues": case.queues,
            "frames_per_s": round(statistics.median(found)),
            "speedup_ratio": round(statistics.median(found) / statistics.median(_one_lane(rates, case)), 3),
            "runs": len(found),
        }
        for case, found in rates.items()
    ]


def _one_lane(rates: dict[Case, list[float]], case: Case) -> list[float]:
    return rates[Case(1, min(case.queues, 1))]


def plot(result: list[figures.Row]) -> Callable[[Any], None]:
    """Speed-up by lanes."""

    def draw(axes: Any) -> None:
        guests = [row for row in result if row["path"] == "one guest"]
        kinds = {
            "straight": [row for row in result if row["path"] == "straight"],
            "one guest, one queue": [row for row in guests if row["queues"] == 1],
            "one guest, a queue a lane": [row for row in guests if row["queues"] == row["lanes"]],
        }
        for name, shown in kinds.items():
            axes.plot([row["lanes"] for row in shown], [row["speedup_ratio"] for row in shown], "o-", label=name)
        most = max(row["lanes"] for row in result)
        axes.plot([1, most], [1, most], ":", label="lanes that share nothing")
        axes.set_xlabel("lanes, a processor each")
        axes.set_ylabel("frames a second, relative to one lane")
        axes.legend()

    return draw
