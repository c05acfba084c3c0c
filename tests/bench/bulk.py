# SPDX-License-Identifier: GPL-2.0-only
"""A TCP download through a guest that takes whole segments, beside the same guest on two of the kernel's bridges.

    host ═ lan0 ─ tap ─ [guest's stand-in] ─ tap ─ wan0 ═ host      [ours: tc]  [the peer: bridge, bridge]

A guest with offloads gets segments of up to 64 KiB as the sender made them, with a virtio header that says what is left
to do (segmentation, checksum), and sends them on the same way; XDP has no such frames, so the datapath is at tc. The
stand-in is the process that passes frames from tap to tap, in both cases the same: it is what vhost and a guest would
be, so the ratio is that of the two ways between port and tap alone. Downloads take turns, so that a drift of the
machine's speed affects both alike.
"""

from __future__ import annotations

import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from simulator import netns

from appliance.config.check.load import loads
from appliance.steering.datapath import Datapath
from appliance.steering.kernel.layout import Side
from tests.bench.subjects import BPF_OBJECT, FAR_NS
from tests.support import figures
from tests.support.wire import Wire

ECHO = Path("build/bench/echo")
TAPS = ("tap0", "tap1")
CONFIG = """\
[[segment]]
name = "main"
lan = "lan0"
wan = "wan0"
attach = "tc"
[[guest]]
name = "g"
kernel = "none"
[[rule]]
name = "all"
path = ["g"]
"""
SERVER, CLIENT, PORT = "198.51.100.2", "198.51.100.1", 8080
SECONDS, PAIRS = 1.0, 15
PIECE = 1 << 20


@contextmanager
def _stand_in(wire: Wire) -> Iterator[None]:
    command = ["ip", "netns", "exec", wire.box, str(ECHO), "-o", *TAPS]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            raise RuntimeError("the echo did not start")
        for name in TAPS:
            netns.run("ip", "-n", wire.box, "link", "set", name, "up")
        yield
    finally:
        process.kill()
        process.wait()


def _address_hosts(wire: Wire) -> None:
    for space, address in ((wire.lan, CLIENT), (wire.wan, SERVER)):
        netns.run("ip", "-n", space, "address", "add", f"{address}/24", "dev", "eth0")


@contextmanager
def ours(wire: Wire) -> Iterator[Datapath]:
    """The datapath at tc, and every frame to the guest."""
    with _stand_in(wire):
        datapath = Datapath.open(BPF_OBJECT, wire.pins)
        try:

            def attach() -> None:
                datapath.attach_segment("main", "lan0", "wan0", "tc")
                for side, name in zip(Side, TAPS, strict=True):
                    datapath.attach_hop(name, "g", "main", side)

            wire.inside(attach)
            datapath.set_policy(loads(CONFIG, "bench"))
            datapath.leases.renew_supervisor(FAR_NS)
            datapath.leases.renew("g", FAR_NS)
            yield datapath
        finally:
            datapath.unload()


@contextmanager
def bridges(wire: Wire) -> Iterator[None]:
    """Each port in a bridge with one of the taps."""
    with _stand_in(wire):
        for name, *ports in (("br0", "lan0", TAPS[0]), ("br1", "wan0", TAPS[1])):
            netns.run("ip", "-n", wire.box, "link", "add", name, "type", "bridge", "forward_delay", "0")
            netns.run("ip", "-n", wire.box, "link", "set", name, "up")
            for port in ports:
                netns.run("ip", "-n", wire.box, "link", "set", port, "master", name)
        yield


def download(wire: Wire, seconds: float) -> float:
    """Bits a second that arrive at the LAN host, after the first tenth of the time."""
    server = netns.enter(wire.wan, lambda: socket.create_server((SERVER, PORT)))
    over = threading.Event()

    def serve() -> None:
        peer, _ = server.accept()
        content = memoryview(bytes(PIECE))
        with peer:
            while not over.is_set():
                peer.sendall(content)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    into = bytearray(PIECE)
    with server, netns.enter(wire.lan, lambda: socket.create_connection((SERVER, PORT), 10)) as client:
        begun, counted, got = time.monotonic(), 0.0, 0
        while (now := time.monotonic()) < begun + seconds:
            if not counted and now > begun + seconds / 10:
                counted, got = now, 0
            got += client.recv_into(into)
        over.set()
        while client.recv_into(into):
            pass
    thread.join(10)
    return got * 8 / (now - counted)


def rows(pairs: int = PAIRS, seconds: float = SECONDS) -> list[figures.Row]:
    """Measure both, in turns."""
    rates: dict[str, list[float]] = {"throughwire": [], "bridge": []}
    with Wire() as wire, Wire() as other, ours(wire) as datapath, bridges(other):
        wires = {"throughwire": wire, "bridge": other}
        for each in wires.values():
            _address_hosts(each)
            download(each, seconds / 2)
        for _ in range(pairs):
            for name, each in wires.items():
                rates[name].append(download(each, seconds))
        to_guest = datapath.counters().hops["g"]
    ratios = [one / peer for one, peer in zip(*rates.values(), strict=True)]
    shared = {"path": "one guest, bulk TCP", "runs": pairs}
    spread = {
        "ratio": round(statistics.median(ratios), 4),
        "low_ratio": round(figures.percentile(ratios, 0.25), 4),
        "high_ratio": round(figures.percentile(ratios, 0.75), 4),
        "frame_mean_bytes": round(to_guest.to_octets / to_guest.to_frames),  # acknowledgements included
    }
    return [
        {"implementation": name, "gbit_per_s": round(statistics.median(found) / 1e9, 2), **shared, **more}
        for (name, found), more in zip(rates.items(), (spread, {"ratio": 1.0}), strict=True)
    ]
