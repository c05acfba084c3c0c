# SPDX-License-Identifier: GPL-2.0-only
"""QEMU's command line: what every guest must have, and that the QEMU of this machine takes it."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.guest import command, resources
from appliance.guest.command import FIRST_TAP_FD, Machine, build
from appliance.guest.process import Process, last_words, listen

MACHINE = Machine("ips1", hop=3, memory=512 << 20, cpus=2, accel="tcg", pidfile=Path("/run/p"), kernel=Path("/k"))


def option(words: list[str], name: str) -> list[str]:
    """All values of an option."""
    return [value for word, value in itertools.pairwise(words) if word == name]


def test_nothing_but_what_is_asked_for() -> None:
    words = build(MACHINE)
    assert "-nodefaults" in words
    assert "-no-user-config" in words
    assert option(words, "-display") == ["none"]
    assert option(words, "-sandbox")[0].startswith("on,")
    assert option(words, "-m") == ["512M"]
    assert option(words, "-smp") == ["2"]


@pytest.mark.parametrize("segments", [1, 2, command.MAX_GUEST_SEGMENTS])
def test_two_ports_a_segment_in_order(segments: int) -> None:
    """LAN before WAN, at fixed PCI addresses below q35's own, each with an address and a tap of its own."""
    words = build(replace(MACHINE, segments=segments))
    nets, ports = option(words, "-netdev"), [d for d in option(words, "-device") if d.startswith("virtio-net")]
    assert len(nets) == len(ports) == 2 * segments
    assert [f"fd={FIRST_TAP_FD + n}" in net for n, net in enumerate(nets)] == [True] * len(nets)
    slots = [int(port.split("addr=")[1].split(",")[0], 16) for port in ports]
    assert slots == list(range(0x10, 0x10 + 2 * segments))
    assert max(slots) < 0x1F
    assert len({port.split("mac=")[1].split(",")[0] for port in ports}) == len(ports)


def test_frames_are_whole_on_the_wire() -> None:
    """No offload in either direction; long frames fit."""
    (port, _) = [d for d in option(build(MACHINE), "-device") if d.startswith("virtio-net")]
    for off in ("csum", "guest_csum", "gso", "guest_tso4", "guest_tso6", "host_tso4", "host_tso6"):
        assert f",{off}=off" in port
    assert "mrg_rxbuf=off" not in port


def test_port_addresses_are_local_unicast_and_stable() -> None:
    address = command.port_address(3, 0, 0)
    assert int(address[:2], 16) & 3 == 2
    assert address == command.port_address(3, 0, 0)


def test_accelerators() -> None:
    assert option(build(replace(MACHINE, accel="kvm")), "-cpu") == ["host"]
    assert "accel=tcg" in option(build(MACHINE), "-machine")[0]


def test_a_comma_in_a_path_stays_in_the_path() -> None:
    words = build(replace(MACHINE, kernel=None, disk=Path("/i/a,b.img")))
    assert "file=/i/a,,b.img," in option(words, "-drive")[0]
    assert "-kernel" not in words


@pytest.mark.skipif(shutil.which(MACHINE.program) is None, reason="no QEMU here")
def test_this_machines_qemu_takes_it(tmp_path: Path) -> None:
    """QEMU accepts every word, up to the kernel, which is not there: so it stops there and says so.

    Hubs stand in for the taps, which only root can make.
    """
    machine = replace(MACHINE, memory=64 << 20, cpus=1, pidfile=tmp_path / "pid", kernel=tmp_path / "no-kernel")
    words = build(machine)
    words = [re.sub(r"^tap,(id=\w+),fd=(\d+)$", r"hubport,\1,hubid=\2", word) for word in words]
    sockets = [listen(tmp_path / name) for name in ("q", "c", "a")]
    fds = {command.FIRST_FD + n: sock.fileno() for n, sock in enumerate(sockets)}
    process = Process.start(words, fds, tmp_path / "log")
    process.wait(20)
    process.kill()
    process.wait()
    how = process.reap()
    said = last_words(tmp_path / "log")
    assert how == "exited with status 1", said
    for sock in sockets:
        sock.close()
    assert "no-kernel" in said


def test_memory_that_is_not_there() -> None:
    meminfo = "MemTotal: 1000000 kB\nMemAvailable: 300000 kB\n"
    resources.check_memory("ips1", 128 << 20, meminfo)
    with pytest.raises(resources.NotReadyError, match=r"guest ips1: it wants 512 MiB of memory, 196 MiB") as caught:
        resources.check_memory("ips1", 512 << 20, meminfo)
    assert caught.value.cause == "memory_short"


def test_the_words_come_from_subprocess_free_code() -> None:
    """Pure: the same description gives the same words, so a running guest can be compared with what is wanted."""
    assert build(MACHINE) == build(replace(MACHINE))
    assert subprocess.list2cmdline(build(MACHINE)).count("-chardev") == 3
