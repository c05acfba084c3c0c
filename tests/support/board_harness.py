# SPDX-License-Identifier: GPL-2.0-only
"""The basis of tests on a booted board: the image, a small machine for the board's own tests, and waiting rules.

The small machine is the image's kernel with a busybox initramfs and the appliance's kernel settings: two ports in a
bridge, a program that drives lines, a shell on ttyS1. It boots in two seconds and depends on no part of the appliance,
so the board is tested by itself.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import boardspec
from simulator import Board, Payload, accel, initramfs
from simulator.machine import Accelerator

if TYPE_CHECKING:
    import pytest

TOP = Path(__file__).parents[2]
QEMU = boardspec.load().arch.qemu
SMALL_INIT = f"""#!/bin/sh
mount -t devtmpfs none /dev
mount -t proc none /proc
mount -t sysfs none /sys
while read -r name value; do
  case "$name" in ''|'#'*) continue ;; /*) ;; *) name=/proc/sys/$name ;; esac
  echo "$value" >"$name"
done </etc/sysctl.bypass 2>/dev/null
ip link add br0 type bridge
for port in eth0 eth1; do ip link set $port master br0; ip link set $port up; done
ip link set br0 up
echo small machine up
while true; do setsid sh -c 'exec sh -i </dev/{QEMU.debug} >/dev/{QEMU.debug} 2>&1'; done
"""
SMALL_COMMAND_LINE = f"console={QEMU.console} quiet net.ifnames=0 unknown_nmi_panic=1 panic=-1"


def artefacts() -> Path:
    """The folder of the built image; missing or outdated parts are built first."""
    from imagebuild import artefacts as image

    return image.build(progress=print).folder


def accelerator(folder: Path) -> Accelerator:
    return accel.choose(boardspec.load(), folder)


def without_guest(load: Payload) -> None:
    """Give the board's data disk, before its first boot, the configuration of boards that bring no guest."""
    (disk,) = (drive.path for drive in load.drives if not drive.readonly)
    orders = f"mkdir etc\ncd etc\nwrite {TOP / 'rootfs/etc/bypass/config.toml'} config.toml\n"
    subprocess.run(["debugfs", "-w", "-f", "-", str(disk)], input=orders, text=True, check=True, capture_output=True)


def small_payload(kernel: Path, directory: Path, command_line: str = SMALL_COMMAND_LINE) -> Payload:
    """The small machine; its parts are built in `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    compiler = shutil.which("gcc") or shutil.which("clang") or "cc"
    programs = {f"bin/{name}": directory / name for name in ("lines", "xdp")}
    for made in programs.values():
        subprocess.run(
            [compiler, "-O1", "-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector",
             "-o", str(made), str(Path(__file__).with_name(f"{made.name}.c"))],
            check=True,
        )  # fmt: skip
    initrd = initramfs.build(
        directory / "small.cpio",
        SMALL_INIT,
        {**programs, "etc/sysctl.bypass": TOP / "rootfs/etc/sysctl.bypass"},
    )
    # one processor: with two, QEMU's TCG sometimes hangs the kernel at boot, and that is not under test here
    return Payload(kernel, initrd, append=command_line, memory_mb=256, cpus=1)


def drive(board: Board) -> None:
    """Have the small machine drive relay and LED, as the keeper would; returns when the relay is inline."""
    mark = board.events.mark()
    board.sh("lines relay-inline led-status >/dev/null 2>&1 & echo $! >/run/lines")
    board.wait_event(event="led", state="on", since=mark)
    board.wait_event(event="relay", state="inline", since=mark)


def release(board: Board) -> None:
    board.sh("kill -9 $(cat /run/lines)")


def frames_through(board: Board, port: str) -> int:
    """Frames the machine has received at one of its ports."""
    return int(board.sh(f"cat /sys/class/net/{port}/statistics/rx_packets").output)


def watched(board: Board, request: pytest.FixtureRequest) -> Iterator[Board]:
    """The board for one test. What it went through is shown if the test fails, and what befell it fails the test."""
    board.events.check()
    mark, said = board.events.mark(), board.console.mark()
    yield board
    report = getattr(request.node, "call_report", None)
    if report is not None and report.failed:
        events = "\n".join(str(event) for event in board.events.since(mark)[-40:])
        report.sections.append(("board events", events))
        report.sections.append(("pace", str(board.pace)))
        report.sections.append(("serial line", board.console.text[said:][-6000:]))
    board.events.check()
    for event in board.events.since(mark):
        if event["event"] == "shell lost":
            assert not re.search("Out of memory|oom-kill", event["text"]), event["text"]
            warnings.warn(event["text"], stacklevel=1)
