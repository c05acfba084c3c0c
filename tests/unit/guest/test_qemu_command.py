# SPDX-License-Identifier: GPL-2.0-only
"""QEMU's command line: what every guest must have, and that the QEMU of this machine takes it."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.guest.port.mac_address import port_address
from appliance.guest.qemu import command, resources
from appliance.guest.qemu.command import FIRST_TAP_FD, Drive, Machine, Uefi, build, plan, with_file_names
from appliance.guest.qemu.process import Process, last_words, listen

MACHINE = Machine("ips1", hop=3, memory=512 << 20, cpus=2, accel="tcg", kernel=Path("/k"))


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
    assert "dump-guest-core=off" in option(words, "-machine")[0].split(",")


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


def test_ports_announce_the_mtu_of_their_segment() -> None:
    """host_mtu: a guest's driver takes and sends what the wire of that segment does; not known: nothing is said."""
    words = build(replace(MACHINE, segments=2, mtus=(3498, 0), management="02:00:00:00:00:09"))
    ports = [d for d in option(words, "-device") if d.startswith("virtio-net")]
    assert [port.partition("host_mtu=")[2].split(",")[0] for port in ports] == ["3498", "3498", "", "", ""]


def test_port_addresses_are_local_unicast_and_stable() -> None:
    address = port_address(3, 0, 0)
    assert int(address[:2], 16) & 3 == 2
    assert address == port_address(3, 0, 0)


def test_accelerators() -> None:
    assert option(build(replace(MACHINE, accel="kvm")), "-cpu") == ["host"]
    assert option(build(MACHINE), "-accel")[0].startswith("tcg")


def test_files_come_as_descriptors() -> None:
    """No path is on the command line, so none needs quoting; each file has a number of its own beyond the taps'."""
    drives = (Drive(Path("/i/a,b.img"), "raw"), Drive(Path("/i/c"), "qcow2", readonly=True))
    uefi = Uefi(Path("/f/code"), Path("/f/vars"))
    machine = replace(MACHINE, initrd=Path("/i"), drives=drives, uefi=uefi, management="02:00:00:00:00:0a", vhost=True)
    fds = plan(machine)
    numbers = [*fds.taps, fds.management, *fds.vhost, *(fd for file in fds.files for fd, _ in file.descriptors)]
    assert numbers == list(range(FIRST_TAP_FD, FIRST_TAP_FD + len(numbers)))
    assert len(fds.vhost) == 3
    assert {file.path: file.written for file in fds.files} == {
        Path("/k"): False,
        Path("/i"): False,
        uefi.code: False,
        uefi.variables: True,
        drives[0].path: True,
        drives[1].path: False,
    }
    words = " ".join(build(machine))
    for file in fds.files:
        assert str(file.path) not in words.split()
        assert f"/{file.fd}" in words


def test_each_queue_has_a_descriptor_of_its_own() -> None:
    """LAN's first; with vhost as many of its; an interrupt for each way of a queue, for control and configuration."""
    machine = replace(MACHINE, queues=2, vhost=True, poll_us=50, management="02:00:00:00:00:09")
    lan, wan, third = option(build(machine), "-netdev")
    assert lan == "tap,id=port0l,fds=13:14,vhost=on,vhostfds=18:19,poll-us=50"
    assert wan == "tap,id=port0w,fds=15:16,vhost=on,vhostfds=20:21,poll-us=50"
    assert third == "tap,id=management,fd=17,vhost=on,vhostfd=22"
    ports = [device for device in option(build(machine), "-device") if device.startswith("virtio-net")]
    assert [",mq=on,vectors=6," in port for port in ports] == [True, True, False]
    assert plan(machine).kernel == command.File(23, Path("/k"))


def test_one_queue_is_named_as_ever() -> None:
    """So that QEMU of any version, and guests that run, see no difference."""
    words = build(replace(MACHINE, vhost=True))
    assert option(words, "-netdev")[0] == "tap,id=port0l,fd=13,vhost=on,vhostfd=15"
    assert "mq=on" not in " ".join(words)


def test_what_qemu_says_names_files() -> None:
    machine = replace(MACHINE, drives=(Drive(Path("/i/a.img"), "raw"),))
    number = plan(machine).drives[0].fd
    assert with_file_names(machine, f"/dev/fdset/{number}: bad") == "/i/a.img: bad"


def test_snapshot_readonly_and_ordinary_disks() -> None:
    drives = tuple(Drive(Path("/i"), "raw", readonly, snapshot) for readonly in (0, 1) for snapshot in (0, 1))  # type: ignore[arg-type]
    assert [drive.written for drive in drives] == [True, False, False, False]
    values = option(build(replace(MACHINE, kernel=None, drives=drives)), "-drive")
    assert ["snapshot=on" in value for value in values] == [False, True, False, False]
    assert ["readonly=on" in value for value in values] == [False, False, True, True]


def test_no_backing_file_is_followed() -> None:
    """Of a qcow2 image, however it is used; a raw one has none. In QEMU's words it is the file again."""
    uses = tuple(Drive(Path("/i/q"), "qcow2", *use) for use in ((False, False), (True, False), (False, True)))
    machine = replace(MACHINE, drives=(*uses, Drive(Path("/i/r"), "raw")))
    values = option(build(machine), "-drive")
    assert ['"backing": null' in value.replace(",,", ",") for value in values] == [True, True, True, False]
    assert [value.split(",format=")[1].split(",")[0] for value in values] == ["qcow2"] * 3 + ["raw"]
    assert with_file_names(machine, f"-drive {values[0]}: bad").startswith("-drive file=/i/q,if=none,id=disk0")


def test_ports_can_have_given_addresses() -> None:
    """At the first segment; the others keep their own."""
    machine = replace(MACHINE, segments=2, addresses=("52:54:00:00:00:01", ""))
    macs = [port.split("mac=")[1].split(",")[0] for port in option(build(machine), "-device") if "mac=" in port]
    assert macs == ["52:54:00:00:00:01", *(port_address(3, *at) for at in ((0, 1), (1, 0), (1, 1)))]


def test_huge_pages_and_management() -> None:
    words = build(replace(MACHINE, hugepages=True, management="02:00:00:00:00:0a"))
    assert "hugetlb=on" in option(words, "-object")[0]
    assert option(words, "-netdev")[-1].startswith("tap,id=management,")
    assert "mac=02:00:00:00:00:0a,addr=0x1e," in next(d for d in option(words, "-device") if "netdev=management" in d)


@pytest.mark.skipif(shutil.which(MACHINE.program) is None, reason="no QEMU here")
def test_this_machines_qemu_takes_it(tmp_path: Path) -> None:
    """QEMU accepts every word, up to the kernel, which is empty: so it stops there and says so.

    Hubs stand in for the taps, which only root can make.
    """
    (tmp_path / "k").touch()
    for name in ("disk", "other", "code", "vars"):
        (tmp_path / name).write_bytes(bytes(1 << 20))
    drives = [Drive(tmp_path / "disk", "raw"), Drive(tmp_path / "other", "raw", readonly=True, snapshot=True)]
    for number, use in enumerate(((False, False), (True, False), (False, True))):
        image = tmp_path / f"outside{number}"  # its backing file is not there: QEMU would stop at it
        backing = ("-u", "-b", "/not/there", "-F", "raw")
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *backing, str(image), "1M"], check=True)
        drives.append(Drive(image, "qcow2", *use))
    uefi = Uefi(tmp_path / "code", tmp_path / "vars")
    machine = replace(MACHINE, memory=64 << 20, cpus=1, kernel=tmp_path / "k", drives=tuple(drives), uefi=uefi)
    machine = replace(machine, management="02:00:00:00:00:0a")
    words = build(machine)
    words = [re.sub(r"^tap,(id=\w+),fd=(\d+)$", r"hubport,\1,hubid=\2", word) for word in words]
    sockets = [listen(tmp_path / name) for name in ("q", "c", "a")]
    fds = {command.FIRST_FD + n: sock.fileno() for n, sock in enumerate(sockets)}
    files = {
        number: os.open(file.path, os.O_RDWR if written else os.O_RDONLY)
        for file in plan(machine).files
        for number, written in file.descriptors
    }
    process = Process.start(words, fds | files, tmp_path / "log")
    process.wait(20)
    process.kill()
    process.wait()
    how = process.reap()
    said = with_file_names(machine, last_words(tmp_path / "log"))
    for fd in files.values():
        os.close(fd)
    for sock in sockets:
        sock.close()
    assert how == "exited with status 1", said
    assert str(tmp_path / "k") in said


def test_memory_that_is_not_there() -> None:
    meminfo = "MemTotal: 1000000 kB\nMemAvailable: 300000 kB\n"
    resources.check_memory("ips1", 128 << 20, meminfo)
    short = r"guest ips1: it needs 512 MiB of memory; only 196 MiB"
    with pytest.raises(resources.NotReadyError, match=short) as caught:
        resources.check_memory("ips1", 512 << 20, meminfo)
    assert caught.value.cause == "memory_short"


def test_the_words_come_from_subprocess_free_code() -> None:
    """Pure: the same description gives the same words, so a running guest can be compared with what is wanted."""
    assert build(MACHINE) == build(replace(MACHINE))
    assert subprocess.list2cmdline(build(MACHINE)).count("-chardev") == 3
