# SPDX-License-Identifier: GPL-2.0-only
"""How a guest gets its QEMU: the one that an earlier bypassd left, if it matches the configuration, or a new one.

Everything here blocks: it reads images, removes what a crash left, and waits for a process to end.
"""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from appliance.config.schema import model
from appliance.errors import GuestError
from appliance.guest.qemu import cgroup, command, resources, spawn
from appliance.guest.qemu.process import Process
from appliance.guest.qemu.record import STATE_FILE, Record, read_record, write_record
from appliance.guest.run_context import RunContext

log = logging.getLogger(__name__)

MACHINE_KEYS = (
    *("image", "kernel", "initrd", "cmdline", "memory", "cpus", "accel", "firmware", "disks", "storage", "pin"),
    *("hugepages", "management", "management_mac", "lan_mac", "wan_mac"),
)
"""Keys of a guest whose change needs another process; all others can change while it runs."""
LATER_KEYS = ("queues", "queue_pin", "queue_poll")
"""The same, added later: they count where they are set, so that the guests of a bypassd without them are adopted."""


class Begun(NamedTuple):
    """A process that exists. It is not known yet whether QEMU answers."""

    process: Process
    record: Record
    machine: command.Machine | None  # what it was started as; None: adopted


def end_process(folder: Path) -> bool:
    """Kill the process that an earlier bypassd left for this folder; returns whether there was one."""
    record = read_record(folder)
    found = Process.adopt(record) if record is not None else None
    (folder / STATE_FILE).unlink(missing_ok=True)
    if found is None:
        return False
    found.kill()
    found.wait()
    found.reap()
    return True


def scratch_folder(context: RunContext, name: str) -> Path:
    """Where a guest's QEMU may write; removed when the process has ended."""
    return context.paths.state / "scratch" / name


def adopt_or_start(guest: model.Guest, context: RunContext) -> Begun:
    """The guest's process. NotReadyError or GuestError: it cannot have one, and none is left."""
    folder, digest = context.paths.guests / guest.name, digest_of(guest, context)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GuestError(f"{folder}: cannot be created: {error.strerror}") from error
    record = read_record(folder)
    if record is not None and record.digest == digest and (process := Process.adopt(record)) is not None:
        context.cgroups.make(guest.name, cgroup.settings(guest, huge=record.huge, page=context.huge.page))
        return Begun(process, record, None)
    if end_process(folder):
        log.info("guest %s: restarted: its configuration changed while bypassd was not running", guest.name)
    return _start(guest, context, folder, digest)


def _start(guest: model.Guest, context: RunContext, folder: Path, digest: str) -> Begun:
    accel = context.accel or _choose_accel(guest)
    machine, warnings = _ready(guest, context, accel)
    huge = machine.memory if machine.hugepages else 0
    wanted = cgroup.settings(guest, huge=huge, page=context.huge.page)
    group, lacking = context.cgroups.make(guest.name, wanted)
    tap_names = [name for pair in context.pairs for name in (pair.lan, pair.wan)]
    place = spawn.SpawnPlace(tap_names, context.management, folder, scratch_folder(context, guest.name), group)
    process = spawn.spawn(machine, place)
    warnings = tuple(filter(None, (*warnings, lacking)))
    record = Record(process.pid, process.started, digest, accel, context.clock(), False, warnings, huge)
    try:
        write_record(folder, record)
    except OSError as error:
        # Without it the next bypassd would start a second QEMU beside this one.
        process.kill()
        process.wait()
        process.reap()
        raise GuestError(f"{folder}: its process cannot be recorded there: {error.strerror}") from error
    return Begun(process, record, machine)


def digest_of(guest: model.Guest, context: RunContext) -> str:
    """A digest of everything that a running QEMU cannot change: if it differs, another process is needed."""
    third = context.management
    shape = [str(command.RECIPE), repr(context.pairs), str(context.accel)]
    shape += [third.address] if third is not None else []
    shape += [f"{key}={getattr(guest, key)!r}" for key in MACHINE_KEYS]
    unset = model.Guest(name=guest.name)
    shape += [f"{key}={value!r}" for key in LATER_KEYS if (value := getattr(guest, key)) != getattr(unset, key)]
    return hashlib.sha256("\0".join(shape).encode()).hexdigest()


def _choose_accel(guest: model.Guest) -> command.Accel:
    if guest.accel == "auto":
        return "kvm" if resources.kvm_works() else "tcg"
    return guest.accel


def _ready(guest: model.Guest, context: RunContext, accel: command.Accel) -> tuple[command.Machine, tuple[str, ...]]:
    """The machine that can be started now, and warnings about what it lacks compared to the configuration."""
    resources.check_processors(guest, os.sched_getaffinity(0))
    third = context.management.address if context.management is not None else ""
    machine, notes = resources.machine_of(
        guest, context.paths, context.hop, len(context.pairs), accel, management=third, mtus=context.mtus()
    )
    warnings = list(notes)
    if accel == "tcg" and guest.accel != "tcg":
        warnings.append("no KVM: it is emulated, and slow")
    if not machine.vhost and (guest.queues > 1 or guest.queue_poll):
        warnings.append("no vhost: QEMU moves the frames of all queues by itself, one after the other")
    if machine.hugepages:
        huge, why = context.huge.claim(guest.name, machine.memory)
        warnings += [why] if why else []
        machine = replace(machine, hugepages=bool(huge), memory=huge or machine.memory)
    if not machine.hugepages:
        resources.check_memory(guest.name, machine.memory, Path("/proc/meminfo").read_text())
    return machine, tuple(warnings)
