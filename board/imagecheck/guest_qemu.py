# SPDX-License-Identifier: GPL-2.0-only
"""Starts a QEMU with the words that guests are started with, as far as its monitor, and ends it.

No table of ours can know what a QEMU was built without. The words are those of `command.build()`, the files are empty
ones; only what a build machine may lack is replaced: /dev/kvm (another accelerator), taps (a hub). Takes half a second.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from appliance.guest.qemu import command
from appliance.guest.qemu.command import Drive, Machine, Uefi

PATIENCE_S = 60.0
_FLASH = 1 << 20  # bytes, of code and of variables: QEMU takes them in whole pages of a flash device


def machines(folder: Path) -> Iterator[tuple[str, Machine]]:
    """The kinds of guests, with files that are made in `folder`."""
    kernel = folder / "kernel"  # a boot sector that says Linux boot protocol 2.10, no more: it is never run
    header = bytearray(4096)
    header[0x1F1], header[0x1FE:0x200], header[0x202:0x206] = 1, b"\x55\xaa", b"HdrS"
    header[0x206:0x208], header[0x211] = b"\x0a\x02", 1
    kernel.write_bytes(header)
    for name, size in (("initrd", 512), ("disk", 1 << 20), ("code", _FLASH), ("variables", _FLASH)):
        (folder / name).write_bytes(bytes(size))
    (folder / "zstd").write_bytes(qcow2())
    subject = Machine("check", 1, 64 << 20, 1, "kvm")
    yield "a kernel", _with(subject, kernel=kernel, initrd=folder / "initrd")
    yield "a disk image", _with(subject, drives=(Drive(folder / "disk", "raw"),), mtus=(1500,), segments=2)
    yield "a qcow2 image compressed with zstd", _with(subject, drives=(Drive(folder / "zstd", "qcow2"),))
    yield "UEFI", _with(subject, uefi=Uefi(folder / "code", folder / "variables"))


def qcow2() -> bytes:
    """An empty qcow2 image of 1 MiB whose clusters would be compressed with zstd (pure)."""
    cluster = 1 << 16
    fields = (b"QFI\xfb", 3, 0, 0, 16, 1 << 20, 0, 1, 3 * cluster, cluster, 1, 0, 0)
    header = struct.pack(">4sIQIIQIIQQIIQ", *fields) + struct.pack(
        ">QQQIIB", 8, 0, 0, 4, 112, 1
    )  # 8: another compression
    table = struct.pack(">Q", 2 * cluster)  # of the blocks of reference counts, the first of which says: four clusters
    return b"".join(part.ljust(cluster, b"\0") for part in (header, table, struct.pack(">4H", 1, 1, 1, 1), b""))


def _with(machine: Machine, **changes: object) -> Machine:
    return Machine(**{**machine.__dict__, **changes})


def words(machine: Machine) -> list[str]:
    """The argument vector of the guest, made such that a build machine can start it; it never runs (-S) (pure)."""
    argv = command.build(machine)
    for number, word in enumerate(argv):
        if word == "-machine":
            argv[number + 1] += ",accel=qtest:tcg"  # QEMU may have either of them built in
        elif word == "-accel":
            argv[number : number + 2] = ["-name", "check"]
        elif word == "-cpu":
            argv[number + 1] = "qemu64"
        elif word == "-netdev":
            name = argv[number + 1].split(",")[1]
            argv[number + 1] = f"hubport,{name},hubid={number}"
    return [*argv, "-S"]


def refused(program: Sequence[str], machine: Machine) -> str:
    """What QEMU says against the guest's words, "" when it starts. `program` are the words that start it."""
    plan = command.plan(machine)
    wanted: dict[int, int] = {}
    ours, theirs = [], []
    with tempfile.TemporaryDirectory(prefix="check-image-") as folder:
        for fd in (command.QMP_FD, command.CONSOLE_FD, command.AGENT_FD):
            server = socket.socket(socket.AF_UNIX)
            server.bind(f"{folder}/{fd}")
            server.listen()
            ours.append(server)
            wanted[fd] = server.fileno()
        for file in plan.files:
            for fd, written in file.descriptors:
                theirs.append(os.open(file.path, os.O_RDWR if written else os.O_RDONLY))
                wanted[fd] = theirs[-1]
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE_S)
            client.connect(f"{folder}/{command.QMP_FD}")  # QEMU answers once it has read its words
            try:
                process = _start([*program, *words(machine)[1:]], wanted)
            finally:  # from here on the sockets are QEMU's alone, and end with it
                for server in ours:
                    server.close()
                for fd in theirs:
                    os.close(fd)
            with process:
                try:
                    if b"QMP" in client.recv(4096):
                        client.sendall(b'{"execute": "qmp_capabilities"}{"execute": "quit"}')
                        process.communicate(timeout=PATIENCE_S)
                        return ""
                except (TimeoutError, ConnectionError, subprocess.TimeoutExpired):
                    process.kill()
                said = process.communicate()[0].decode(errors="replace").strip().splitlines()
    return said[-1] if said else "it ended, or did not answer, without a word"


def _start(argv: list[str], wanted: dict[int, int]) -> subprocess.Popen[bytes]:
    """Give the descriptors their numbers in a process between, because they may be in each other's way in this one."""
    # Above all that are wanted, and none that this process has already
    moved = {fcntl.fcntl(number, fcntl.F_DUPFD, 200): fd for fd, number in wanted.items()}
    moves = " ".join(f"{fd}<&{number} {number}<&-" for number, fd in moved.items())
    try:
        return subprocess.Popen(
            ["bash", "-c", f'exec "$@" {moves}', "bash", *argv],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, pass_fds=list(moved),
        )  # fmt: skip
    finally:
        for number in moved:
            os.close(number)


def complaints(program: Sequence[str]) -> list[str]:
    """What this QEMU refuses, one line for each kind of guest. OSError: it cannot be run."""
    found = []
    with tempfile.TemporaryDirectory(prefix="check-image-") as place:
        for kind, machine in machines(Path(place)):
            if said := refused(program, machine):
                found.append(f"QEMU does not start a guest with {kind}: {said}")
    return found
