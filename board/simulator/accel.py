# SPDX-License-Identifier: GPL-2.0-only
"""Chooses the QEMU, and KVM or TCG by a trial boot: an existing /dev/kvm may still not work.

The trial boots the board's own kernel with a two-line initramfs and waits for its greeting on the serial port. The
result is kept in a file under a key of kernel, processor, QEMU and the booted file, and the trial is repeated when one
of these changes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import select
import subprocess
import tempfile
import time
from pathlib import Path

from boardspec import Arch, BoardSpec

from simulator import initramfs
from simulator.machine import Accelerator

GREETING = b"the trial kernel is up"
PATIENCE_S = 12.0
INIT = f"#!/bin/sh\necho {GREETING.decode()}\nsleep 1000\n"


def program(arch: Arch, artefacts: Path) -> str:
    """The QEMU that was built with the image in `artefacts`; the host's own if there is none."""
    built = artefacts / "qemu"
    return str(built.resolve()) if built.exists() else arch.qemu.program


def choose(board: BoardSpec, artefacts: Path) -> Accelerator:
    """The accelerator for the board's kernel in `artefacts`, where the result of the last trial is kept too."""
    kernel, cache = artefacts / board.arch.kernel.boot, artefacts / "accelerator.json"
    qemu = program(board.arch, artefacts)
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return Accelerator("tcg", "there is no usable /dev/kvm", qemu)
    key = _key(kernel, qemu)
    try:
        kept = json.loads(cache.read_text())
        if kept["key"] == key:
            return Accelerator(kept["name"], kept["why"], qemu)
    except (OSError, ValueError, KeyError):
        pass
    complaint = trial(board.arch, kernel, qemu)
    name, why = ("tcg", f"KVM was tried: {complaint}") if complaint else ("kvm", "a trial boot worked")
    cache.parent.mkdir(parents=True, exist_ok=True)
    cache.write_text(json.dumps({"key": key, "name": name, "why": why}))
    return Accelerator(name, why, qemu)


def trial(arch: Arch, kernel: Path, qemu: str, name: str = "kvm") -> str:
    """Boot `kernel` once with the accelerator `name`; returns an empty string if it came up, otherwise the reason."""
    arguments = Accelerator(name).arguments(arch)
    with tempfile.TemporaryDirectory(prefix="simulator-") as place:
        initrd = initramfs.build(Path(place) / "initrd", INIT)
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", qemu, "-nodefaults", "-no-user-config",
             "-display", "none", "-M", arch.qemu.machine, *arguments, "-m", "256M", "-smp", "2",
             "-kernel", str(kernel), "-initrd", str(initrd), "-append", f"console={arch.qemu.console} panic=-1",
             "-no-reboot", "-serial", "stdio"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            return _listen(process)
        finally:
            process.kill()
            process.wait()


def _listen(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    said, deadline = b"", time.monotonic() + PATIENCE_S
    while GREETING not in said:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
            return f"no greeting from the trial kernel within {PATIENCE_S:g} s"
        data = os.read(process.stdout.fileno(), 65536)
        if not data:
            lines = said.decode(errors="replace").strip().splitlines()
            return f"QEMU ended: {lines[-1][:200] if lines else 'without a message'}"
        said += data
    return ""


def _key(kernel: Path, program: str) -> str:
    processor = re.findall(r"^model name.*|^flags.*|^microcode.*", Path("/proc/cpuinfo").read_text(), re.MULTILINE)[:3]
    qemu = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    status = kernel.resolve().stat()
    parts = (os.uname().release, *processor, qemu, str(kernel.resolve()), str(status.st_size), str(status.st_mtime_ns))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
