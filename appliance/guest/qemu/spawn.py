# SPDX-License-Identifier: GPL-2.0-only
"""Starts one guest's QEMU with everything that it inherits: sockets, taps, vhost, files, limits, a user of its own.

bypassd opens everything and passes the descriptors on; QEMU itself runs as a user that owns nothing, in a root folder
without the appliance's files (launch.py). This module defines the order of the steps and their clean-up; it keeps no
state.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from appliance.causes import Cause
from appliance.errors import GuestError
from appliance.guest.port import tap as taps
from appliance.guest.port.management_port import Port
from appliance.guest.qemu import command, launch, process
from appliance.guest.qemu.command import Machine
from appliance.guest.qemu.process import Process
from appliance.guest.qemu.resources import NotReadyError

FIRST_UID = 200_000
"""The guest with hop number N runs as user and group `FIRST_UID` + N, which Debian and Buildroot never assign."""

SOCKETS = ("qmp", "console", "agent")


def uid_of(hop: int) -> int:
    """The user that a guest's QEMU runs as; 0 if bypassd is not root and cannot change users."""
    return FIRST_UID + hop if os.geteuid() == 0 else 0


@dataclass(frozen=True)
class SpawnPlace:
    """Where a guest runs: its taps in the plan's order, its folders, its control group if there is one."""

    taps: Sequence[str]
    management: Port | None
    folder: Path
    scratch: Path
    group: Path | None


def spawn(machine: Machine, place: SpawnPlace) -> Process:
    """Start QEMU; GuestError if something that it needs is missing."""
    fds = command.plan(machine)
    uid = uid_of(machine.hop)
    given: dict[int, int] = {}
    log = place.folder / "qemu.log"
    if log.exists():
        log.replace(log.with_name("qemu.log.1"))
    with ExitStack() as opened:

        def give(number: int, fd: int) -> None:
            opened.callback(os.close, fd)
            given[number] = fd

        for number, name in enumerate(SOCKETS, command.FIRST_FD):
            sock = opened.enter_context(process.listen(place.folder / f"{name}.sock"))
            given[number] = sock.fileno()
        opened_queues = (fd for tap in place.taps for fd in taps.open_queues(tap, machine.queues))
        for number, fd in zip(fds.taps, opened_queues, strict=True):
            give(number, fd)
        if fds.management is not None and place.management is not None:
            give(fds.management, place.management.open())
        for number in fds.vhost:
            give(number, _open(machine.name, Path("/dev/vhost-net"), written=True))
        for file in fds.files:
            for number, written in file.descriptors:
                give(number, _open(machine.name, file.path, written=written))
        _make_scratch(place.scratch, uid)
        about = {
            "uid": uid,
            "groups": _groups(machine) if uid else [],
            "cgroup": str(place.group or ""),
            "scratch": str(place.scratch),
            "root": str(place.folder / "root"),
        }
        program, *argv = command.build(machine)
        # Looked up here: without privileges, the launcher may not even be able to read its own libraries.
        program = shutil.which(program) or program
        launcher = [sys.executable, "-I", "-S", str(launch.__file__), json.dumps(about)]
        return Process.start([*launcher, program, *argv], given, log)


def _open(name: str, path: Path, *, written: bool) -> int:
    try:
        return os.open(path, (os.O_RDWR if written else os.O_RDONLY) | os.O_CLOEXEC)
    except OSError as error:
        for_what = "read and written" if written else "read"
        what = f"guest {name}: {path} cannot be {for_what}: {error.strerror}"
        raise NotReadyError(Cause.IMAGE_UNREADABLE, what) from error


def _make_scratch(scratch: Path, uid: int) -> None:
    """The only folder that a guest's QEMU may write to, for snapshot data. Leftovers of a crash are removed first."""
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        if uid:
            os.chown(scratch, uid, uid)
        scratch.chmod(0o700)
    except OSError as error:
        raise GuestError(f"{scratch} cannot be created: {error.strerror}") from error


def _groups(machine: Machine) -> list[int]:
    """The group that may use KVM. If only root may, /dev/kvm is given to a group of ours, which the guest joins."""
    if machine.accel != "kvm":
        return []
    found = os.stat("/dev/kvm")
    if found.st_gid and found.st_mode & stat.S_IWGRP:
        return [found.st_gid]
    os.chown("/dev/kvm", -1, FIRST_UID)
    os.chmod("/dev/kvm", 0o660)
    return [FIRST_UID]
