# SPDX-License-Identifier: GPL-2.0-only
"""What a guest needs of the machine, looked at before QEMU is started, so that what is missing is said in clear words.

Turns the configuration's table into a `Machine` (command.py). Nothing is kept.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Literal

from appliance.causes import Cause
from appliance.config import model
from appliance.errors import GuestError
from appliance.guest.command import MAX_GUEST_SEGMENTS, Accel, Machine
from appliance.paths import Paths

_KVM_GET_API_VERSION = 0xAE00
_KVM_CREATE_VM = 0xAE01
_KVM_API = 12
_QCOW2_MAGIC = b"QFI\xfb"

MEMORY_RESERVE = 96 << 20
"""Bytes that must stay free for the supervisor and the kernel when a guest is started."""


class NotReadyError(GuestError):
    """The guest cannot be started; `cause` is what the console and the ledger show."""

    def __init__(self, cause: Cause, what: str) -> None:
        self.cause = cause
        super().__init__(what)


def kvm_works() -> bool:
    """Whether the kernel makes a virtual machine for us: found out by making one, not by looking at flags."""
    try:
        fd = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        if fcntl.ioctl(fd, _KVM_GET_API_VERSION) != _KVM_API:
            return False
        os.close(fcntl.ioctl(fd, _KVM_CREATE_VM, 0))
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def vhost_works() -> bool:
    """Whether frames can be moved by the kernel's vhost worker instead of QEMU's loop."""
    return os.access("/dev/vhost-net", os.R_OK | os.W_OK)


def _readable(name: str, what: str, path: Path) -> Path:
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise NotReadyError(Cause.IMAGE_UNREADABLE, f"guest {name}: {what} {path}: {error.strerror}") from error
    if not path.is_file() and not path.is_block_device():
        raise NotReadyError(Cause.IMAGE_UNREADABLE, f"guest {name}: {what} {path}: not a file")
    return path


def _disk_format(path: Path) -> Literal["raw", "qcow2"]:
    with path.open("rb") as image:
        return "qcow2" if image.read(4) == _QCOW2_MAGIC else "raw"


def available_memory(meminfo: str) -> int:
    """Bytes that can be used without swapping, from the text of /proc/meminfo."""
    for line in meminfo.splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return 0


def machine_of(guest: model.Guest, paths: Paths, hop: int, segments: int, accel: Accel) -> Machine:
    """The guest as QEMU must run it; NotReadyError when its files cannot be read or it asks for what cannot be."""
    if segments > MAX_GUEST_SEGMENTS:
        what = f"guest {guest.name}: it is in the way of {segments} segments; at most {MAX_GUEST_SEGMENTS} fit"
        raise NotReadyError(Cause.GUEST_FAILED, what)
    if not guest.image and not guest.kernel:
        raise NotReadyError(Cause.IMAGE_UNREADABLE, f"guest {guest.name}: give it an image, or a kernel")
    files: dict[str, Path | None] = {"image": None, "kernel": None, "initrd": None}
    for what in files:
        value = getattr(guest, what)
        if value:
            # An absolute path stays itself below the root of `paths`; a relative one is an imported image.
            path = paths.root / value.lstrip("/") if value.startswith("/") else paths.images / value
            files[what] = _readable(guest.name, what, path)
    disk = files["image"]
    return Machine(
        name=guest.name,
        hop=hop,
        memory=guest.memory,
        cpus=guest.cpus,
        accel=accel,
        pidfile=paths.guests / guest.name / "qemu.pid",
        segments=segments,
        kernel=files["kernel"],
        initrd=files["initrd"],
        cmdline=guest.cmdline,
        disk=disk,
        disk_format=_disk_format(disk) if disk is not None else "raw",
        vhost=accel == "kvm" and vhost_works(),
    )


def check_memory(name: str, wanted: int, meminfo: str) -> None:
    """NotReadyError when the guest's memory is not there; the appliance itself must not be starved."""
    free = available_memory(meminfo) - MEMORY_RESERVE
    if wanted > free:
        what = f"guest {name}: it wants {wanted >> 20} MiB of memory, {max(free, 0) >> 20} MiB can be given"
        raise NotReadyError(Cause.MEMORY_SHORT, what)
