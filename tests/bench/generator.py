# SPDX-License-Identifier: GPL-2.0-only
"""Frames at the kernel's own speed: BPF_PROG_TEST_RUN in live-frames mode sends them, a sink program counts them.

Rates are frames that *arrived* at the sink per second between the first frame sent and the last arrival, by the
kernel's clock, on one core: generator, device under test and sink share it, so every implementation carries the same
fixed cost. The cost of the decision itself is measured apart (`ns`).
"""

from __future__ import annotations

import ctypes
import os
import struct
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from simulator import netns

from appliance.steering.kernel import bpf_object
from appliance.system import libbpf
from tests.bench.topology import index

BUILD = Path("build/bench")
CORE = 1  # generator, kernel datapath and sink; processes of user-space peers run on core 0
LIVE_FRAMES = 1 << 1  # BPF_F_TEST_XDP_LIVE_FRAMES
BATCH = 64
LANES_SETTLE_S = 0.02  # until the queues behind the last frame are empty
PROBE_FRAMES = 100_000
TALLY = struct.Struct("=4Q")  # as in bench.bpf.c
SENT, ARRIVED = 0, 1  # keys
IMIX = ((64, 7), (594, 4), (1500, 1))
SIZES: dict[str, tuple[tuple[int, int], ...]] = {"64": ((64, 1),), "imix": IMIX, "1500": ((1500, 1),)}


def build() -> Path:
    """Compile the benchmark's own programs."""
    BUILD.mkdir(parents=True, exist_ok=True)
    here = Path(__file__).parent
    target = BUILD / "bench.bpf.o"
    include = f"-I/usr/include/{os.uname().machine}-linux-gnu"
    netns.run("clang", "-O2", "-g", "-Wall", "-Werror", "-target", "bpf", "-mcpu=v3", include,
                 "-c", str(here / "bench.bpf.c"), "-o", str(target))  # fmt: skip
    netns.run("gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread", "-o", str(BUILD / "echo"), str(here / "echo.c"))
    return target


def frame(size: int, *, source_port: int = 1024, target_port: int = 53) -> bytes:
    """An IPv4 UDP frame of `size` bytes, the check sequence of a real wire (4 bytes) not counted in."""
    payload = max(0, size - 4 - 42)
    ip = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 28 + payload, 0, 0, 64, 17, 0, bytes((10, 0, 0, 1)), bytes((10, 1, 0, 1))
    )
    total = sum(struct.unpack("!10H", ip))
    total = (total & 0xFFFF) + (total >> 16)
    ip = ip[:10] + struct.pack("!H", ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF) + ip[12:]
    udp = struct.pack("!HHHH", source_port, target_port, 8 + payload, 0)
    return bytes.fromhex("020000000002 020000000001 0800") + ip + udp + bytes(payload)


@dataclass(frozen=True)
class Rate:
    """The result of one burst."""

    sent: int
    arrived: int
    per_second: float


class Generator:
    """The generator's and the sink's programs, loaded; lives as long as the process."""

    def __init__(self, object_path: Path) -> None:
        self.object = bpf_object.Object(object_path, None)
        self._generate = self.object.program_fd("generate")
        self._tally = self.object.map_fd("tally")
        self._setting = self.object.map_fd("generator_setting")
        self.limit_tx = self.object.map_fd("limit_tx")

    def attach_sink(self, name: str) -> int:
        """Count arrivals at this device; closing the returned link ends it."""
        return self.attach("sink", name)

    def attach(self, program: str, name: str) -> int:
        """Attach one of the benchmark's programs natively; closing the returned link detaches it."""
        fd = self.object.program_fd(program)
        return libbpf.link_create(fd, index(name), libbpf.BPF_XDP, libbpf.XDP_FLAGS_DRIVER)

    def aim(self, name: str, flows: int) -> None:
        """Send out of this device, as this many flows."""
        self.update(self._setting, 0, struct.pack("=II", index(name), flows))

    @staticmethod
    def update(map_fd: int, key: int, value: bytes) -> None:
        """Set one entry of an array."""
        position = ctypes.c_uint32(key)
        libbpf.check("update", libbpf.library().bpf_map_update_elem(map_fd, ctypes.byref(position), value, 0))

    def _zero(self) -> None:
        """Reset the counters."""
        nothing = bytes(TALLY.size * libbpf.possible_cpus())
        for key in (SENT, ARRIVED):
            self.update(self._tally, key, nothing)

    def _counted(self, key: int) -> list[tuple[int, int, int, int]]:
        """Frames, time of the first, of the last that was stamped, and its number, of each processor that had any."""
        values = ctypes.create_string_buffer(TALLY.size * libbpf.possible_cpus())
        position = ctypes.c_uint32(key)
        libbpf.check("tally", libbpf.library().bpf_map_lookup_elem(self._tally, ctypes.byref(position), values))
        return [row for row in TALLY.iter_unpack(values.raw) if row[0]]

    def length(self, size: str, seconds: float) -> int:
        """How many times the mix of `size` takes about `seconds` to send; found out by sending some."""
        shares = sum(share for _, share in SIZES[size])
        self._zero()
        self._run(frame(SIZES[size][0][0]), PROBE_FRAMES)
        ((_, begin, stamp, stamped),) = self._counted(SENT)
        return max(BATCH, round(stamped / (stamp - begin) * 1e9 * seconds / shares))

    def sending(self, count: int) -> float:
        """Send a frame of 64 bytes `count` times; frames a second that are sent, whether they arrive or not."""
        self._zero()
        self._run(frame(64), count)
        ((_, begin, stamp, stamped),) = self._counted(SENT)
        return stamped / (stamp - begin) * 1e9

    def burst(self, size: str, count: int, settle: float = 0.0) -> Rate:
        """Send the mix `count` times and count arrivals; `settle` seconds more for implementations with queues."""
        sent = arrived = stamped = elapsed = 0
        for at, (length, share) in enumerate(SIZES[size]):
            self._zero()
            self._run(frame(length), share * count)
            if settle and at + 1 == len(SIZES[size]):
                time.sleep(settle)
            begin = min(row[1] for row in self._counted(SENT))
            rows = self._counted(ARRIVED)
            sent += sum(row[0] for row in self._counted(SENT))
            arrived += sum(row[0] for row in rows)
            stamped += sum(row[3] for row in rows)
            elapsed += max((row[2] - begin for row in rows if row[3]), default=0)
        return Rate(sent, arrived, stamped / elapsed * 1e9 if elapsed else 0.0)

    def lanes(self, processors: list[int], size: str, count: int) -> float:
        """Send the frame `count` times on each processor at once; frames a second that arrive, of all together."""
        self._zero()
        begin = threading.Barrier(len(processors))

        def lane(processor: int) -> None:
            os.sched_setaffinity(0, {processor})
            begin.wait()
            self._run(frame(SIZES[size][0][0]), count)

        threads = [threading.Thread(target=lane, args=(processor,)) for processor in processors]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        time.sleep(LANES_SETTLE_S)
        first = min(row[1] for row in self._counted(SENT))
        # each lane by its own time: where one has to share its processor, the others do not stand still
        return sum(row[3] / (row[2] - first) * 1e9 for row in self._counted(ARRIVED) if row[3])

    def _run(self, data: bytes, repeat: int) -> None:
        buffer = ctypes.create_string_buffer(data, len(data))
        options = libbpf.TestRunOptions(
            sz=ctypes.sizeof(libbpf.TestRunOptions),
            data_in=ctypes.addressof(buffer),
            data_size_in=len(data),
            repeat=repeat,
            flags=LIVE_FRAMES,
            batch_size=BATCH,
        )
        libbpf.check("generate", libbpf.library().bpf_prog_test_run_opts(self._generate, ctypes.byref(options)))
