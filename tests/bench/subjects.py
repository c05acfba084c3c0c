# SPDX-License-Identifier: GPL-2.0-only
"""The compared implementations: each is put between `lan` and `wan`, measured, and removed again."""

from __future__ import annotations

import os
import shlex
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from simulator.netns import run

from appliance.config.check.load import loads
from appliance.counted import counted
from appliance.guest.port import tap
from appliance.steering.datapath import Datapath
from appliance.steering.kernel.layout import Side
from appliance.steering.kernel.shunted_flow import flow_of
from tests.bench import topology
from tests.bench.generator import Generator, frame
from tests.bench.topology import index

BPF_OBJECT = Path("build/bpf/steer.bpf.o")
FAR_NS = 1 << 62
TAPS = ("tapl", "tapw")
LIMIT_TAPS = ("tapl0", "tapw0")
VETHS, LIMIT_VETHS = ("hopl", "hopw"), ("hopl0", "hopw0")
MISSING_PORT = 60000  # no generated frame goes to this port


@dataclass(frozen=True)
class Subject:
    """One implementation on one path. `settle`: seconds until its queues are empty after the last frame."""

    implementation: str
    path: str
    put: Callable[[Generator], AbstractContextManager[object]]
    rules: int = 0
    match: str = "none"  # which rule the frames match: none, first, last
    settle: float = 0.0
    one_flow: bool = False
    skip: str = ""  # why it is not there on this machine

    @property
    def title(self) -> str:
        """Its name, for display."""
        rules = f", {counted(self.rules, 'rule')}, {self.match} matches" if self.rules else ""
        return f"{self.implementation}{rules}"


# -- the limit, on a wire of its own


@contextmanager
def limit(generator: Generator) -> Iterator[None]:
    """Only a bare XDP redirect."""
    generator.update(generator.limit_tx, 0, struct.pack("=I", index("wan0")))
    link = generator.attach("limit", "lan0")
    try:
        yield
    finally:
        os.close(link)


@contextmanager
def limit_echo(generator: Generator) -> Iterator[None]:
    """A bare redirect to the tap of an echo, and another from its second tap to the far port."""
    with echo(LIMIT_TAPS):
        generator.update(generator.limit_tx, 0, struct.pack("=I", index(LIMIT_TAPS[0])))
        generator.update(generator.limit_tx, 1, struct.pack("=I", index("wan0")))
        links = [generator.attach("limit", "lan0"), generator.attach("limit_back", LIMIT_TAPS[1])]
        try:
            yield
        finally:
            for link in links:
                os.close(link)


@contextmanager
def limit_hand_over(generator: Generator) -> Iterator[None]:
    """A bare redirect to a tap that is open, and that nobody reads."""
    with open_taps(LIMIT_TAPS[:1]):
        generator.update(generator.limit_tx, 0, struct.pack("=I", index(LIMIT_TAPS[0])))
        link = generator.attach("limit", "lan0")
        try:
            yield
        finally:
            os.close(link)


@contextmanager
def limit_kernel_guest(generator: Generator) -> Iterator[None]:
    """Three bare redirects: into a guest in the kernel, through it, and out."""
    with kernel_guest(generator, LIMIT_VETHS, "guest0", 3):
        generator.update(generator.limit_tx, 0, struct.pack("=I", index(LIMIT_VETHS[0])))
        generator.update(generator.limit_tx, 1, struct.pack("=I", index("wan0")))
        links = [generator.attach("limit", "lan0"), generator.attach("limit_back", LIMIT_VETHS[1])]
        try:
            yield
        finally:
            for link in links:
                os.close(link)


@dataclass(frozen=True)
class Way:
    """A path with its limit. `settle`: seconds until the queues of the limit are empty. `sent`: the rate is that of the
    frames sent, because none arrives."""

    limit: Callable[[Generator], AbstractContextManager[object]]
    settle: float = 0.0
    sent: bool = False


WAYS = {
    "straight": Way(limit),
    "hand-over": Way(limit_hand_over, sent=True),
    "kernel guest": Way(limit_kernel_guest),
    "one guest": Way(limit_echo, settle=0.05),
}


# -- ours


def rules_text(count: int, match: str) -> str:
    """`count` rules of the usual kind, straight through; the generator's frames (udp to port 53) match as told."""
    lines = []
    for number in range(count):
        hit = (match == "first" and number == 0) or (match == "last" and number == count - 1)
        text = "udp dst port 53" if hit else KINDS[number % len(KINDS)](number)
        lines.append(f'[[rule]]\nname = "r{number}"\nmatch = "{text}"\npath = []\n')
    return "\n".join(lines)


KINDS: tuple[Callable[[int], str], ...] = (
    lambda n: f"tcp dst port {MISSING_PORT - n}",
    lambda n: f"udp port {MISSING_PORT - n}",
    lambda n: f"net 172.16.{n % 256}.0/24",
    lambda n: f"host 192.168.{n % 256}.7 and tcp",
    lambda n: f"ip6 and tcp port {MISSING_PORT - n}",
    lambda n: f"udp portrange {30000 + 16 * n}-{30007 + 16 * n}",
    lambda n: f"src net 172.20.{n % 256}.0/24 and dst net 10.9.0.0/16 and tcp port 443",
    lambda n: f"vlan {n + 1} and ip",
)
SEGMENT = '[[segment]]\nname = "main"\nlan = "lan"\nwan = "wan"\n'


def throughwire(rules: int, match: str, mode: str = "xdp") -> Callable[[Generator], AbstractContextManager[object]]:
    """Straight through, behind `rules` rules."""

    @contextmanager
    def put(_: Generator) -> Iterator[None]:
        datapath = Datapath.open(BPF_OBJECT)
        try:
            datapath.attach_segment("main", "lan", "wan", mode, whole=True)
            datapath.set_policy(loads(SEGMENT + rules_text(rules, match), "bench"))
            yield
        finally:
            datapath.unload()

    return put


def shunt(datapath: Datapath) -> None:
    """The flow of the generator's frames skips the guest."""
    flow = flow_of(frame(64), datapath.segment_id("main"), Side.LAN)
    assert flow is not None
    datapath.shunt("g", flow, FAR_NS, FAR_NS, 3)


@contextmanager
def throughwire_shunted(_: Generator) -> Iterator[None]:
    """Straight through, because a guest has shunted the flow."""
    guest = '[[guest]]\nname = "g"\nkernel = "none"\nshunts = { max = 1000 }\n'
    with taps(TAPS):
        datapath = Datapath.open(BPF_OBJECT)
        try:
            datapath.attach_segment("main", "lan", "wan", "xdp", whole=True)
            for side, tap in zip((Side.LAN, Side.WAN), TAPS, strict=True):
                datapath.attach_hop(tap, "g", "main", side)
            datapath.set_policy(loads(f'{SEGMENT}{guest}[[rule]]\nname = "all"\npath = ["g"]\n', "bench"))
            datapath.leases.renew_supervisor(FAR_NS)
            datapath.leases.renew("g", FAR_NS)
            shunt(datapath)
            yield
        finally:
            datapath.unload()


def through_guest(
    place: Callable[[Generator], AbstractContextManager[object]], names: tuple[str, str]
) -> Callable[[Generator], AbstractContextManager[object]]:
    """Every frame to one guest, by these devices, which `place` makes with what stands for the guest."""
    text = SEGMENT + '[[guest]]\nname = "g"\nkernel = "none"\n[[rule]]\nname = "all"\npath = ["g"]\n'

    @contextmanager
    def put(generator: Generator) -> Iterator[None]:
        with place(generator):
            datapath = Datapath.open(BPF_OBJECT)
            try:
                datapath.attach_segment("main", "lan", "wan", "xdp", whole=True)
                for side, device in zip((Side.LAN, Side.WAN), names, strict=True):
                    datapath.attach_hop(device, "g", "main", side)
                datapath.set_policy(loads(text, "bench"))
                datapath.leases.renew_supervisor(FAR_NS)
                datapath.leases.renew("g", FAR_NS)
                yield
            finally:
                datapath.unload()

    return put


# -- the peers


@contextmanager
def bridge(_: Generator) -> Iterator[None]:
    """The kernel's bridge, without netfilter."""
    hook = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
    if hook.exists():
        hook.write_text("0")
    run("ip", "link", "add", "br0", "type", "bridge")
    try:
        for name in ("lan", "wan"):
            run("ip", "link", "set", name, "master", "br0")
        run("ip", "link", "set", "br0", "up")
        yield
    finally:
        run("ip", "link", "del", "br0")


@contextmanager
def mirred(_: Generator) -> Iterator[None]:
    """tc: a u32 filter that matches everything and redirects."""
    run("tc", "qdisc", "add", "dev", "lan", "ingress")
    try:
        command = (
            "tc filter add dev lan parent ffff: protocol all u32 match u32 0 0 action mirred egress redirect dev wan"
        )
        run(*shlex.split(command))
        yield
    finally:
        run("tc", "qdisc", "del", "dev", "lan", "ingress")


def python_process(code: str) -> Callable[[Generator], AbstractContextManager[object]]:
    """A Python process that forwards; it says "ready" when it does. It runs on another core than the generator."""

    @contextmanager
    def put(_: Generator) -> Iterator[None]:
        command = ["taskset", "-c", "0", sys.executable, "-c", code]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            assert process.stdout is not None
            if process.stdout.readline().strip() != "ready":
                raise RuntimeError("the forwarding process did not start")
            yield
        finally:
            process.kill()
            process.wait()

    return put


AF_PACKET = """
import socket
a, b = (socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) for _ in range(2))
a.bind(("lan", 3)); b.bind(("wan", 3))
print("ready", flush=True)
while True:
    b.send(a.recv(65536))
"""
SCAPY = """
from scapy.all import bridge_and_sniff
bridge_and_sniff("lan", "wan", store=False, prn=None, started_callback=lambda: print("ready", flush=True))
"""


@contextmanager
def open_vswitch(_: Generator) -> Iterator[None]:
    """Open vSwitch with its user-space datapath, in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as undo:
        environment = {**os.environ, "OVS_RUNDIR": folder, "OVS_DBDIR": folder, "OVS_LOGDIR": folder}
        database, socket = f"{folder}/conf.db", f"unix:{folder}/db.sock"
        run("ovsdb-tool", "create", database, "/usr/share/openvswitch/vswitch.ovsschema")
        for command in (
            ["ovsdb-server", database, f"--remote=p{socket}"],
            ["taskset", "-c", "0", "ovs-vswitchd", socket],
        ):
            daemon = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            undo.callback(daemon.wait)
            undo.callback(daemon.kill)
            deadline = time.monotonic() + 10
            while not Path(f"{folder}/db.sock").exists() and time.monotonic() < deadline:
                time.sleep(0.05)
        words = "-- add-br ovs0 -- set bridge ovs0 datapath_type=netdev -- add-port ovs0 lan -- add-port ovs0 wan"
        run("ovs-vsctl", f"--db={socket}", *shlex.split(words))
        undo.callback(run, "ovs-vsctl", f"--db={socket}", "del-br", "ovs0")  # its tap would outlive the daemon
        yield


# -- the guest's stand-in


@contextmanager
def taps(names: tuple[str, str]) -> Iterator[None]:
    """Two taps."""
    for name in names:
        run("ip", "tuntap", "add", name, "mode", "tap")
        run("ip", "link", "set", name, "up", "mtu", "1600")
    try:
        yield
    finally:
        for name in names:
            run("ip", "link", "del", name)


@contextmanager
def echo(names: tuple[str, str] = TAPS) -> Iterator[None]:
    """Two taps and the process that passes frames between them."""
    program = Path("build/bench/echo")
    with taps(names):
        process = subprocess.Popen(
            ["taskset", "-c", "0", str(program), *names], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            assert process.stdout is not None
            if process.stdout.readline().strip() != "ready":
                raise RuntimeError("the echo did not start")
            yield
        finally:
            process.kill()
            process.wait()


@contextmanager
def open_taps(names: tuple[str, ...]) -> Iterator[None]:
    """Taps that are open, and that nobody reads: once their queues are full, each frame is handed over and dropped."""
    opened = [tap.open_tap(name) for name in names]
    try:
        for name in names:
            run("ip", "link", "set", name, "up", "mtu", "1600")
        yield
    finally:
        for fd in opened:
            os.close(fd)
        for name in names:
            run("ip", "link", "del", name)


@contextmanager
def kernel_guest(generator: Generator, names: tuple[str, str], program: str, place: int) -> Iterator[None]:
    """A guest in the kernel: two wires, and at their other ends a bare redirect from the first to the second one."""
    inside = [f"{name}g" for name in names]
    for name, other in zip(names, inside, strict=True):
        topology.wire(name, other)
    try:
        generator.update(generator.limit_tx, place, struct.pack("=I", index(inside[1])))
        # both ends of a wire have a program: one that frames are sent to by XDP needs it at its other end
        links = [generator.attach(program, inside[0]), generator.attach("nothing", inside[1])]
        try:
            yield
        finally:
            for link in links:
                os.close(link)
    finally:
        for name in names:
            run("ip", "link", "del", name)


def subjects() -> list[Subject]:
    """All implementations that are compared with the limit of their path."""
    ovs = "" if shutil.which("ovs-vswitchd") else "not installed (apt-get install openvswitch-switch)"
    ours = [Subject("throughwire", "straight", throughwire(0, "none"))]
    for count in (1, 8, 64, 256, 1024):
        ours += [Subject("throughwire", "straight", throughwire(count, m), count, m) for m in ("first", "last", "none")]
    return [
        *ours,
        Subject("throughwire, shunted flow", "straight", throughwire_shunted, 1, "first", one_flow=True),
        Subject("throughwire tc", "straight", throughwire(0, "none", "tc")),
        Subject("bridge", "straight", bridge),
        Subject("u32 + mirred", "straight", mirred),
        Subject("AF_PACKET loop", "straight", python_process(AF_PACKET), settle=0.2),
        Subject("scapy bridge_and_sniff", "straight", python_process(SCAPY), settle=0.2),
        Subject("Open vSwitch userspace", "straight", open_vswitch, settle=0.2, skip=ovs),
        Subject("throughwire", "hand-over", through_guest(lambda _: open_taps(TAPS), TAPS), one_flow=True),
        Subject(
            "throughwire",
            "kernel guest",
            through_guest(lambda g: kernel_guest(g, VETHS, "guest", 2), VETHS),
            one_flow=True,
        ),
        Subject("throughwire", "one guest", through_guest(lambda _: echo(), TAPS), settle=0.05),
    ]
