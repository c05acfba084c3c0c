# SPDX-License-Identifier: GPL-2.0-only
"""Commands about traffic in use: the real command, control socket and datapath. Captures are read by tshark."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import msgspec
import pytest
from boardspec import REPO

from appliance.api.schema import configuration, methods
from appliance.api.schema.guests import Guest
from appliance.api.schema.remotes import Remote
from appliance.api.server import ControlServer, Param, Params, Registry
from appliance.config.schema.model import Shunts
from appliance.steering.capture_api import Captures
from appliance.steering.datapath import Datapath
from appliance.steering.kernel.layout import Side
from appliance.steering.kernel.shunted_flow import flow_of
from appliance.steering.shunts_api import ShuntsApi
from tests.support.frames import tcp, udp
from tests.support.wire import Wire
from tests.support.wired_datapath import ALL, appliance, available

pytestmark = pytest.mark.root
RUNNING = """
[[segment]]
name = "main"
lan = "lan0"
wan = "wan0"
[[guest]]
name = "ips"
kernel = "k"
[[rule]]
name = "all"
path = ["ips"]
"""
CANDIDATE = RUNNING.replace(
    'name = "all"', 'name = "numbered"\nmatch = "ether proto 0x9000"\npath = []\n[[rule]]\nname = "all"'
)
MAY_SHUNT = msgspec.structs.replace(ALL, guest=(msgspec.structs.replace(ALL.guest[0], shunts=Shunts(max=10)),))


class Served:
    """A datapath behind a control socket, and the traffic that crosses it."""

    def __init__(self, made: Datapath, wire: Wire, path: Path) -> None:
        self.datapath, self.wire, self.path = made, wire, path
        registry = Registry()
        Captures(lambda: (ALL, made)).register(registry)
        ShuntsApi(lambda: made).register(registry)
        self._configure(registry)
        self.server = ControlServer(path, registry)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self.server.start(), self._loop).result(10)

    @staticmethod
    def _configure(registry: Registry) -> None:
        """What `compare traffic` asks about the configurations and the hops."""

        async def show(params: Params) -> configuration.Shown:
            return configuration.Shown(text={"running": RUNNING, "candidate": CANDIDATE}[params["of"]], of=params["of"])

        async def guests(_: Params) -> list[Guest]:
            return []

        async def remotes(_: Params) -> list[Remote]:
            return []

        which = {"of": Param("string", "which"), "secrets": Param("boolean", "all of it")}
        registry.add(methods.CONFIG_SHOW, show, doc="a configuration", params=which)
        registry.add(methods.GUESTS_SHOW, guests, doc="guests")
        registry.add(methods.REMOTES_SHOW, remotes, doc="remotes")

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self.server.stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def run(self, *args: str, out: IO[bytes] | int = subprocess.PIPE) -> subprocess.Popen[bytes]:
        environ = {**os.environ, "BYPASS_SOCKET": str(self.path), "PYTHONPATH": str(REPO)}
        return subprocess.Popen(
            [sys.executable, "-m", "console", *args], stdout=out, stderr=subprocess.PIPE, env=environ
        )

    @property
    def captures(self) -> int:
        """How many captures run; none is only half started."""

        async def count() -> int:
            return len(self.datapath.copies._wishes)

        return asyncio.run_coroutine_threadsafe(count(), self._loop).result(10)

    def until_captures(self, count: int) -> None:
        """Keep traffic going until so many captures run; not one frame of it may be lost."""
        while self.captures != count:
            assert self.wire.stream(32) == []

    def until_end(self, process: subprocess.Popen[bytes]) -> None:
        """Keep traffic going until a capture with a count has all of it, which may be at once."""
        while process.poll() is None:
            assert self.wire.stream(32) == []


@pytest.fixture
def served(wire: Wire, bpf_object: Path, tmp_path: Path) -> Iterator[Served]:
    with appliance(wire, bpf_object) as made:
        available(made)
        one = Served(made, wire, tmp_path / "control.sock")
        try:
            yield one
        finally:
            one.close()


def tshark(data: bytes, *fields: str, tmp_path: Path) -> list[list[str]]:
    """The fields of each frame, as read by Wireshark."""
    file = tmp_path / "read.pcapng"
    file.write_bytes(data)
    asked = [part for field in fields for part in ("-e", field)]
    done = subprocess.run(
        ["tshark", "-n", "-r", str(file), "-T", "fields", *asked], capture_output=True, text=True, check=True
    )
    assert "damaged" not in done.stderr, done.stderr
    return [line.split("\t") for line in done.stdout.splitlines()]


def test_capture_is_read_by_tshark(served: Served, tmp_path: Path) -> None:
    """A whole segment: every place a numbered frame passes, in order, with interface, direction, length and time."""
    file = tmp_path / "captured"
    with file.open("wb") as out:
        process = served.run("capture", "segment", "main", "ether proto 0x9000", "count", "640", out=out)
    served.until_end(process)
    assert (process.returncode, process.communicate()[1].decode()) == (0, "640 frames captured\n")
    data = file.read_bytes()
    fields = ("frame.interface_name", "frame.packet_flags_direction", "eth.type", "frame.len", "frame.time_epoch",
              "eth.src", "data.data")  # fmt: skip
    rows = tshark(data, *fields, tmp_path=tmp_path)
    assert len(rows) == 640
    ways: dict[str, list[tuple[str, str]]] = {}
    for name, direction, _, _, _, source, content in rows:
        ways.setdefault(source + content, []).append((name, direction))
    there = [name for name, _ in next(way for way in ways.values() if way[0][0] == "lan0" and len(way) == 4)]
    back = [name for name, _ in next(way for way in ways.values() if way[0][0] == "wan0" and len(way) == 4)]
    assert there == ["lan0", "ips.lan", "ips.wan", "wan0"]
    assert back == there[::-1]
    assert len({row[1] for row in rows if row[0] == "lan0"}) == 2, "in and out differ"
    assert {(row[2], row[3]) for row in rows} == {("0x9000", "68")}
    times = [float(row[4]) for row in rows]
    assert abs(times[0] - os.stat(tmp_path / "read.pcapng").st_mtime) < 600
    served.until_captures(0)


def test_filter_snap_and_direction(served: Served, tmp_path: Path) -> None:
    """tcpdump's filters; a limited number of bytes of each frame, with its full length; one direction only."""
    process = served.run(
        "capture", "port", "lan0", "direction", "in", "bytes", "40", "count", "3", "ether src 2:0:0:0:0:1"
    )
    served.until_end(process)
    data, said = process.communicate()
    assert process.returncode == 0, said
    rows = tshark(data, "eth.src", "frame.cap_len", "frame.len", tmp_path=tmp_path)
    assert rows == [["02:00:00:00:00:01", "40", "68"]] * 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupt_leaves_a_whole_file(served: Served, tmp_path: Path, number: int) -> None:
    """Ctrl-C, or the end of an SSH connection: the stream ends with its statistics, the datapath copies no more."""
    process = served.run("capture", "guest", "ips")
    served.until_captures(1)
    assert served.wire.stream(32) == []
    os.kill(process.pid, number)
    data, said = process.communicate(timeout=20)
    assert process.returncode == 0, said
    rows = tshark(data, "frame.interface_name", tmp_path=tmp_path)
    assert f"{len(rows)} frames captured\n" == said.decode()
    assert {row[0] for row in rows} == {"ips.lan", "ips.wan"}
    served.until_captures(0)
    assert served.datapath.copies.flags(0) == 0


def test_the_reader_that_leaves_and_the_one_that_never_reads(served: Served) -> None:
    """`capture ... | head`: ends by itself, also without frames. Without a reader, copies are lost, but no frames."""
    read, write = os.pipe()
    process = served.run("capture", "port", "lan0", "udp port 9", out=write)
    os.close(write)
    served.until_captures(1)
    os.close(read)
    assert process.wait(20) == 0
    served.until_captures(0)
    read, write = os.pipe()
    stuck = served.run("capture", "segment", "main", out=write)
    os.close(write)
    served.until_captures(1)
    while served.datapath.copies.counts(1)[1] == 0:
        assert (
            served.wire.stream(
                320,
            )
            == []
        )
        for number in range(32):
            served.wire.send(number, pad=1400)
    stuck.kill()
    stuck.communicate()
    os.close(read)
    served.until_captures(0)


def test_bypassd_ends(served: Served) -> None:
    """The capture ends with it, with a message and its own exit code; the frames so far are complete."""
    process = served.run("capture", "port", "lan0")
    served.until_captures(1)
    assert served.wire.stream(32) == []
    asyncio.run_coroutine_threadsafe(served.server.stop(), served._loop).result(10)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 3
    assert b"bypassd exited, which ended the capture" in said


REFUSED = [
    (["port", "lan9"], 1, 'there is no port "lan9"; there is: lan0, wan0'),
    (["guest", "nobody"], 1, 'there is no guest "nobody"; there is: ips'),
    (["port", "lan0", "tcp prot 80"], 1, 'did you mean "proto"?'),
    (["port", "lan0", "count", "0"], 2, "count must be 1 or more"),
    (["port", "lan0", "bytes", "x"], 2, "must be a number"),
    (["port", "lan0", "file", "/nonexistent/x"], 1, "No such file or directory"),
]


@pytest.mark.parametrize(("words", "code", "says"), REFUSED, ids=[" ".join(case[0]) for case in REFUSED])
def test_what_is_refused(served: Served, words: list[str], code: int, says: str) -> None:
    """With a message that lists the valid names; standard output stays empty, or it would be taken for a capture."""
    process = served.run("capture", *words)
    data, said = process.communicate(timeout=20)
    assert (process.returncode, data, says in said.decode()) == (code, b"", True), said
    assert served.captures == 0


def test_into_a_file(served: Served, tmp_path: Path) -> None:
    """`file NAME` makes a new file that only its owner reads, and never overwrites one."""
    file = tmp_path / "kept.pcapng"
    process = served.run("capture", "port", "wan0", "file", str(file), "count", "5")
    served.until_end(process)
    assert process.communicate()[0] == b""
    assert len(tshark(file.read_bytes(), "frame.len", tmp_path=tmp_path)) == 5
    assert file.stat().st_mode & 0o777 == 0o600
    again = served.run("capture", "port", "wan0", "file", str(file))
    assert b"already exists" in again.communicate(timeout=20)[1]


def test_show_packets(served: Served) -> None:
    """Frames in words, by scapy in a process without rights; a hostile frame is one line like any other."""
    process = served.run("show", "packets", "port", "lan0", "udp", "or", "arp", "count", "3", "--json")
    served.until_captures(1)
    sender = served.wire._sockets[b"\x02\x00\x00\x00\x00\x01"]
    from scapy.layers.dns import DNS, DNSQR
    from scapy.layers.inet import IP, UDP
    from scapy.layers.l2 import ARP, Ether

    head = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    question = head / IP(src="10.0.0.1", dst="10.1.0.1") / UDP() / DNS(qd=DNSQR(qname="example.org"))
    hostile = head / IP(src="10.0.0.1", dst="10.1.0.1") / UDP(sport=53) / (b"\xc0\x0c\x1b[2J" * 20)
    for frame in (question, head / ARP(pdst="10.1.0.1"), hostile):
        sender.send(bytes(frame))
    data, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    rows = json.loads(data)
    assert "example.org" in rows[0]["text"]
    assert "ARP who has 10.1.0.1" in rows[1]["text"]
    assert [(row["place"], row["way"], row["length"]) for row in rows[1:2]] == [("lan0", "in", 42)]
    assert "UDP" in rows[2]["text"]


def test_the_decoder_has_no_rights(tmp_path: Path) -> None:
    """The process that parses untrusted frames runs as nobody, and cannot open files."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "console.commands.decode"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(REPO)},
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"\x0e\0\0\0" + bytes(14))
    process.stdin.flush()
    assert "00:00:00:00:00:00" in json.loads(process.stdout.readline())["text"]
    status = Path(f"/proc/{process.pid}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert set(fields["Uid"].split()) == {"65534"}
    assert int(fields["CapEff"], 16) == 0
    assert "Max open files            3 " in Path(f"/proc/{process.pid}/limits").read_text()
    process.stdin.close()
    assert process.wait(20) == 0


def test_a_client_gets_a_copy_of_the_ring_alone(served: Served) -> None:
    """The descriptor comes with the answer, and nothing stays open in bypassd when the client has gone."""
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            link.connect(str(served.path))
            request = {"jsonrpc": "2.0", "id": 1, "method": "capture.start", "params": {"kind": "port", "name": "lan0"}}
            link.sendall(json.dumps(request).encode() + b"\n")
            line, fds, _, _ = socket.recv_fds(link, 1 << 16, 4)
            assert json.loads(line)["result"]["points"][0]["name"] == "lan0"
            (ring,) = fds
            os.close(ring)
        served.until_captures(0)
    for _ in range(100):  # a connection ends a little after its capture
        if len(os.listdir("/proc/self/fd")) <= before + 1:
            break
        assert served.wire.stream(32) == []
    assert len(os.listdir("/proc/self/fd")) <= before + 1


def test_compare_traffic(served: Served) -> None:
    """Frames of the link, given to both configurations: those that the new rule leads past the guest."""
    process = served.run("configure", "compare", "traffic", "1")
    served.until_end(process)
    said, errors = process.communicate()
    assert process.returncode == 0, errors.decode()
    lines = said.decode().splitlines()
    numbers = re.fullmatch(r"(\d+) frames? of (\d+) would go another way", lines[0])
    assert numbers is not None, lines
    assert 0 < int(numbers[1]) <= int(numbers[2])
    row = next(line for line in lines if "numbered" in line)
    assert re.search(r"all +ips +numbered +straight +ethertype 0x9000", row), row
    served.until_captures(0)


def test_shunts_are_shown_and_cleared(served: Served) -> None:
    """By guest and by either end; what is cleared goes to the guest again."""

    def said(*words: str) -> str:
        process = served.run(*words)
        out, errors = process.communicate(timeout=60)
        return (out + errors).decode()

    assert "no guest may shunt flows" in said("show", "shunts")
    served.datapath.set_policy(MAY_SHUNT)
    for frame in (tcp(), udp(), tcp(sport=7)):
        flow = flow_of(frame, served.datapath.segment_id("main"), Side.LAN)
        assert flow is not None
        served.datapath.shunt("ips", flow, 10**12, 10**12, 3)
    shown = json.loads(said("show", "shunts", "ips", "--json"))
    assert shown["guests"][0]["flows"] == 3
    assert [(row["protocol"], row["lan"], row["lan_port"], row["direction"]) for row in shown["shunts"]] == [
        ("tcp", "10.0.0.1", 1234, "both"), ("udp", "10.0.0.1", 1234, "both"), ("tcp", "10.0.0.1", 7, "both"),
    ]  # fmt: skip
    assert "10.1.0.1:53" in said("show", "shunts")
    assert "there is no guest" in said("show", "shunts", "other")
    assert "write ADDRESS" in said("clear", "shunts", "ips", "10.0.0.1:x")
    assert "1 shunt removed" in said("clear", "shunts", "ips", "10.1.0.1:53")
    assert "2 shunts removed" in said("clear", "shunts")
    assert json.loads(said("show", "shunts", "--json"))["shunts"] == []
