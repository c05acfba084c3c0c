# SPDX-License-Identifier: GPL-2.0-only
"""`make remote-figures`: what a frame to a remote costs that XDP encapsulates.

Two equal wires in a network namespace of their own, as in tests/bench: bursts through both alternate, and a ratio is
taken for each pair of them, so that a drift of the machine's speed affects both alike. A row has the median of all
pairs, and as `p90_*` the ratio of the 90th percentiles of both rates, from bursts that nothing else disturbed.

- `way` "xdp": frames are redirected to a pair of veth devices, and at its other end encapsulated and sent out of the
  port to the far end. `ratio_redirect`: the limit is the same with a bare redirect at that place, so the difference is
  what the encapsulation costs. `ratio_one_redirect`: the limit is one bare redirect from port to port, so the pair
  counts too. `by_kernel_ratio`: the share of the frames that the kernel's tunnel would have got.

The sender, the programs and the sink share one processor; frames have 64 and 1500 bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from simulator import netns
from simulator.netns import run

from appliance.config.schema import encapsulations
from appliance.config.schema.model import Tunnel
from appliance.steering.kernel.encaps import GENEVE_PORTS, Headers
from appliance.steering.kernel.layout import Encapsulated
from appliance.system import libbpf, netdev
from appliance.tunnel.plan import plans
from tests.bench import topology
from tests.bench.generator import CORE, Generator, build
from tests.bench.subjects import BPF_OBJECT
from tests.bench.topology import index
from tests.support import figures
from tests.support.encap_world import PLACE, Programs

KINDS = ("vxlan", "geneve", "gre-ethernet")
SIZES = ("64", "1500")
FAR = ("192.0.2.102", "192.0.2.112")
PORTS = (("mgmt0", "up0", "192.0.2.103/31", FAR[0]), ("mgmt1", "up1", "192.0.2.113/31", FAR[1]))
"""Port, far end's port, our address, far end's address: of the subject's wire and of the limit's."""
MTU = 1600
LIMIT, LIMIT_BACK, _, GUEST0 = range(4)  # keys of limit_tx, of the programs with these names (bench.bpf.c)
FLOWS = 64


def wires() -> None:
    """Two wires: gen ══ lan, pair ══ inner, mgmt ══ up; with the names of the limit's after them."""
    run("ip", "link", "set", "lo", "up")
    for left, right in (
        ("gen", "lan"),
        ("gen0", "lan0"),
        ("pair", "inner"),
        ("pair0", "inner0"),
        *(port[:2] for port in PORTS),
    ):
        topology.wire(left, right)
    for near, far, own, address in PORTS:
        for device in (near, far):
            run("ip", "link", "set", device, "mtu", str(MTU))
        run("ip", "address", "add", own, "dev", near)
        station = json.loads(run("ip", "-j", "link", "show", "dev", far))[0]["address"]
        run(*f"ip neighbour replace {address} lladdr {station} dev {near} nud permanent".split())
    netdev.set_sysctl("ipv4/conf/lo/forwarding", "1")


def tunnel_of(kind: str) -> Tunnel:
    return Tunnel(kind=kind, remote=FAR[0], lan_key=17, wan_key=18)  # type: ignore[arg-type]


class Rig(NamedTuple):
    """What measures, and for how long: pairs of bursts, seconds of sending for each."""

    generator: Generator
    pairs: int
    seconds: float

    def ratio(self, name: str, size: str, share: float = 1.0) -> figures.Row:
        """The subject's rate to the limit's. `share`: of the frames that the sender can send."""
        self.generator.aim("gen", FLOWS)
        count = max(round(self.generator.length(size, self.seconds) * share), 64)
        found = [(self._burst("gen", size, count), self._burst("gen0", size, count)) for _ in range(self.pairs)]
        ours, limit = (figures.percentile(rates, 0.9) for rates in zip(*found, strict=True))
        return {
            name: round(statistics.median(one / other for one, other in found), 4),
            f"p90_{name}": round(ours / limit, 4),
            "frames_per_s": round(statistics.median(one for one, _ in found)),
        }

    def _burst(self, name: str, size: str, count: int) -> float:
        self.generator.aim(name, FLOWS)
        return self.generator.burst(size, count, 0.02).per_second


@contextmanager
def attached(generator: Generator, *places: tuple[str, str, int, str]) -> Iterator[None]:
    """Programs of the benchmark: name, device, and which key of `limit_tx` leads to which device."""
    links = []
    try:
        for program, device, key, target in places:
            generator.update(generator.limit_tx, key, index(target).to_bytes(4, "little"))
            links.append(generator.attach(program, device))
        yield
    finally:
        for link in links:
            os.close(link)


def by_xdp(rig: Rig, programs: Programs, kind: str, size: str) -> figures.Row:
    """One row: encapsulation in XDP against the bare redirect."""
    plan = plans(tunnel_of(kind))[0]
    sources = GENEVE_PORTS if kind == "geneve" else (32768, 60999)
    headers = Headers(kind, PORTS[0][2].partition("/")[0], plan.remote, plan.key, plan.port, sources)
    programs.encaps.put(index("inner"), PLACE, headers, index("mgmt0"))
    programs.encaps.lead_to(PLACE, index("mgmt0"))
    programs.encaps.clear(PLACE)
    link = libbpf.link_create(programs.fds["encap_xdp"], index("inner"), libbpf.BPF_XDP, libbpf.XDP_FLAGS_DRIVER)
    try:
        with attached(rig.generator, ("limit", "lan", LIMIT, "pair")):
            with attached(rig.generator, ("limit_back", "lan0", LIMIT_BACK, "mgmt1")):
                row = rig.ratio("ratio_one_redirect", size)
            with attached(
                rig.generator, ("limit_back", "lan0", LIMIT_BACK, "pair0"), ("guest0", "inner0", GUEST0, "mgmt1")
            ):
                row |= rig.ratio("ratio_redirect", size)
    finally:
        os.close(link)
    found = programs.encaps.frames(PLACE)
    every = sum(found.values())
    handed = every - found.get(Encapsulated.SENT, 0)
    return {**head(kind, "xdp", size), **row, "by_kernel_ratio": round(handed / max(every, 1), 6)}


def head(kind: str, way: str, size: str) -> figures.Row:
    overhead = encapsulations.overhead(tunnel_of(kind))
    return {"tunnel": kind, "way": way, "frame_bytes": int(size), "overhead_bytes": overhead}


def main() -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="tests.remote_figures", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=20, help="bursts of each row, each with one of the limit")
    parser.add_argument("--seconds", type=float, default=0.05, help="of sending, for each burst")
    options = parser.parse_args()
    program = build()
    try:
        netns.leave()
    except OSError as error:
        parser.exit(1, f"remote-figures: {error}\n")
    wires()
    os.sched_setaffinity(0, {CORE})
    generator = Generator(program)
    rig = Rig(generator, options.pairs, options.seconds)
    sinks = [generator.attach_sink(far) for _, far, _, _ in PORTS]
    rows: list[figures.Row] = []
    programs = Programs(BPF_OBJECT, "encap_xdp")
    for kind in KINDS:
        for size in SIZES:
            figures.say(f"remote-figures: {kind} by XDP, {size} bytes")
            rows.append(by_xdp(rig, programs, kind, size))
    programs.close()
    for sink in sinks:
        os.close(sink)
    target = figures.write("remote", rows)
    print(figures.table(rows))
    print(f"written: {target}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.SubprocessError as error:
        sys.exit(f"remote-figures: {error}")
