# SPDX-License-Identifier: GPL-2.0-only
"""Leases end in the kernel with the process that they are tied to. Real processes, without a watcher in user space."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.config.schema import model
from appliance.steering.datapath import Datapath
from tests.support.wire import Wire

FAR = 10**12  # ns
CONFIG = model.Config(
    segment=(model.Segment(name="main", lan="lan0", wan="wan0"),),
    guest=(model.Guest(name="ips1", kernel="/x"), model.Guest(name="ips2", kernel="/x")),
)
# Two threads that stay; a third one ends when told so.
CODE = """
import threading, time
passing = threading.Thread(target=input)
for thread in (passing, threading.Thread(target=time.sleep, args=(600,), daemon=True)):
    thread.start()
print(passing.native_id, flush=True)
passing.join()
print("gone", flush=True)
time.sleep(600)
"""


class Victim:
    """A process with threads."""

    def __init__(self) -> None:
        self._process = subprocess.Popen([sys.executable, "-c", CODE], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        passing = int(self._process.stdout.readline())
        tasks = {int(task) for task in os.listdir(f"/proc/{self._process.pid}/task")}
        self.threads = sorted(tasks - {passing})

    def end_a_thread(self) -> None:
        """One that nothing is tied to; returns when it has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == b"gone\n"

    def kill(self) -> None:
        """Returns when the kernel has reported its end."""
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def victim() -> Iterator[Victim]:
    made = Victim()
    yield made
    made.kill()


@pytest.fixture
def datapath(bpf_object: Path) -> Iterator[Datapath]:
    made = Datapath.open(bpf_object)
    if not made.leases.end_with_processes:
        pytest.skip("this kernel has no tracing for BPF (CONFIG_BPF_EVENTS)")
    made.set_policy(CONFIG)
    made.leases.renew_supervisor(time.monotonic_ns() + FAR)
    yield made
    made.unload()


def available(datapath: Datapath, hop: str = "ips1") -> bool:
    return datapath.leases.available(hop, time.monotonic_ns())


def test_a_killed_process_ends_its_own_lease_only(datapath: Datapath, victim: Victim) -> None:
    leases = datapath.leases
    for hop in ("ips1", "ips2"):
        leases.renew(hop, time.monotonic_ns() + FAR)
    leases.tie("ips1", victim.threads)
    victim.end_a_thread()
    assert available(datapath)
    assert leases.ended("ips1") == 0
    before = time.monotonic_ns()
    victim.kill()
    assert not available(datapath)
    assert available(datapath, "ips2")
    assert before < leases.ended("ips1") < time.monotonic_ns()
    assert list(datapath.kernel.maps["threads"].items()) == [], "numbers of threads are used again"


def test_late_evidence_counts_no_more_until_there_is_another_process(datapath: Datapath, victim: Victim) -> None:
    leases = datapath.leases
    leases.tie("ips1", victim.threads)
    leases.renew("ips1", time.monotonic_ns() + FAR)
    victim.kill()
    leases.renew("ips1", time.monotonic_ns() + FAR)
    assert not available(datapath)
    assert leases.first_skip("ips1") == 0
    fresh = Victim()
    try:
        leases.tie("ips1", fresh.threads)
        leases.renew("ips1", time.monotonic_ns() + FAR)
        assert available(datapath)
    finally:
        fresh.kill()
    assert not available(datapath)
    leases.untie("ips1")
    leases.renew("ips1", time.monotonic_ns() + FAR)
    assert available(datapath), "a hop without a process"


def test_each_hop_keeps_its_own_process(datapath: Datapath, victim: Victim) -> None:
    """One is tied anew while the other's is there."""
    other = Victim()
    try:
        for hop, process in (("ips1", victim), ("ips2", other), ("ips2", other)):
            datapath.leases.tie(hop, process.threads)
            datapath.leases.renew(hop, time.monotonic_ns() + FAR)
        datapath.leases.untie("ips2")
        victim.kill()
        assert not available(datapath)
    finally:
        other.kill()
    assert available(datapath, "ips2")


def test_a_process_that_was_gone_before_leaves_nothing(datapath: Datapath, victim: Victim) -> None:
    victim.kill()
    datapath.leases.tie("ips1", victim.threads)
    assert list(datapath.kernel.maps["threads"].items()) == []


def test_nobody_has_to_be_there(wire: Wire, bpf_object: Path, victim: Victim) -> None:
    """Without bypassd: a guest that ends gets no more frames, and the next bypassd detects that."""
    first = Datapath.open(bpf_object, wire.pins)
    if not first.leases.end_with_processes:
        pytest.skip("this kernel has no tracing for BPF (CONFIG_BPF_EVENTS)")
    number = first.hop_id("ips1")
    first.leases.renew_supervisor(time.monotonic_ns() + FAR)
    first.leases.renew("ips1", time.monotonic_ns() + FAR)
    first.leases.tie("ips1", victim.threads)
    first.close()
    victim.kill()
    second = Datapath.open(bpf_object, wire.pins)
    try:
        assert second.adopted
        assert second.leases.end_with_processes
        assert second.hop_id("ips1") == number
        assert not available(second)
        assert second.leases.ended("ips1") > 0
    finally:
        second.unload()
    assert not wire.pins.exists()
