# SPDX-License-Identifier: GPL-2.0-only
"""What a guest needs from the machine, checked before QEMU is started, so that errors name clearly what is missing.

Turns the configuration's table into a `Machine` (command.py). Keeps no state.
"""

from __future__ import annotations

import fcntl
import logging
import os
import stat
from collections.abc import Collection
from pathlib import Path

from appliance.causes import Cause
from appliance.config.schema import model
from appliance.errors import GuestError, RefusedError
from appliance.guest.image import disk_format
from appliance.guest.qemu.command import MAX_GUEST_SEGMENTS, Accel, Drive, Machine, Uefi
from appliance.paths import Paths
from appliance.system import files

log = logging.getLogger(__name__)

_KVM_GET_API_VERSION = 0xAE00
_KVM_CREATE_VM = 0xAE01
_KVM_API = 12

FIRMWARE = (
    ("usr/share/OVMF/OVMF_CODE_4M.fd", "usr/share/OVMF/OVMF_VARS_4M.fd"),  # Debian
    ("usr/share/qemu/edk2-x86_64-code.fd", "usr/share/qemu/edk2-i386-vars.fd"),  # QEMU's own
)
"""Where images have firmware for guests with UEFI: code, and the template of the variables."""

KEPT_VARIABLES = 32
"""How many files of UEFI variables (half a MiB each) are kept of guests that are no longer configured."""

MEMORY_RESERVE = 96 << 20
"""Bytes that must remain free for the supervisor and the kernel when a guest starts."""


class NotReadyError(GuestError):
    """The guest cannot be started; the console and the ledger show `cause`."""

    def __init__(self, cause: Cause, what: str) -> None:
        self.cause = cause
        super().__init__(what)


def kvm_works() -> bool:
    """Whether the kernel can create a virtual machine: found by creating one, not from CPU flags."""
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
    """Whether the kernel's vhost worker can move frames instead of QEMU's loop."""
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


def available_memory(meminfo: str) -> int:
    """Bytes that can be used without swapping, from the text of /proc/meminfo."""
    for line in meminfo.splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return 0


def image_path(paths: Paths, value: str) -> Path:
    """The file of an image: an absolute path is below the root of `paths`, a relative one names an imported image."""
    return paths.root / value.lstrip("/") if value.startswith("/") else paths.images / value


def machine_of(
    guest: model.Guest,
    paths: Paths,
    hop: int,
    segments: int,
    accel: Accel,
    *,
    management: str = "",
    mtus: tuple[int, ...] = (),
) -> tuple[Machine, tuple[str, ...]]:
    """The guest as QEMU must run it, and what an operator should know about its disks.

    `management` is the MAC address of its third port, "" if it has none. `mtus`: of its segments' ports, 0 if not
    known. NotReadyError if its files cannot be used or its configuration is impossible.
    """
    if segments > MAX_GUEST_SEGMENTS:
        what = f"guest {guest.name}: it is in the paths of {segments} segments; the limit is {MAX_GUEST_SEGMENTS}"
        raise NotReadyError(Cause.GUEST_FAILED, what)
    if not guest.image and not guest.kernel:
        raise NotReadyError(Cause.IMAGE_UNREADABLE, f"guest {guest.name}: it needs an image or a kernel")
    kernel, initrd = (_loaded(guest.name, what, paths, getattr(guest, what)) for what in ("kernel", "initrd"))
    drives, notes = _drives(guest, paths)
    machine = Machine(
        name=guest.name,
        hop=hop,
        memory=guest.memory,
        cpus=guest.cpus,
        accel=accel,
        segments=segments,
        kernel=kernel,
        initrd=initrd,
        cmdline=guest.cmdline,
        uefi=_uefi(guest, paths) if guest.firmware == "uefi" else None,
        drives=drives,
        hugepages=guest.hugepages,
        management=management,
        addresses=(guest.lan_mac, guest.wan_mac),
        mtus=tuple(guest.mtu or mtu for mtu in mtus or (0,) * segments),
        vhost=accel == "kvm" and vhost_works(),
        queues=guest.queues,
        poll_us=guest.queue_poll // 1000,
    )
    return machine, notes


def _drives(guest: model.Guest, paths: Paths) -> tuple[tuple[Drive, ...], tuple[str, ...]]:
    """Its image and its other disks, in order, and remarks about them."""
    drives, notes = [], []
    disks = [("image", model.Disk(guest.image))] if guest.image else []
    for what, disk in (*disks, *(("disk", disk) for disk in guest.disks)):
        path = _readable(guest.name, what, image_path(paths, disk.image))
        drive = Drive(path, "raw", disk.readonly, guest.storage == "snapshot")
        try:
            found = disk_format.find(path, paths, written=drive.written)
        except (RefusedError, OSError) as error:
            text = f"guest {guest.name}: {what} {path}: {error}"
            raise NotReadyError(Cause.IMAGE_UNREADABLE, text) from error
        drives.append(drive._replace(format=found.format))
        notes += [found.note] if found.note else []
    return tuple(drives), tuple(notes)


def _loaded(name: str, what: str, paths: Paths, value: str) -> Path | None:
    """A kernel or initrd, which QEMU opens itself as an unprivileged user."""
    if not value:
        return None
    path = _readable(name, what, image_path(paths, value))
    if not path.stat().st_mode & stat.S_IROTH:
        text = f"guest {name}: {what} {path} must be readable by everybody: chmod a+r {path}"
        raise NotReadyError(Cause.IMAGE_UNREADABLE, text)
    return path


def _uefi(guest: model.Guest, paths: Paths) -> Uefi:
    """The firmware and this guest's variables, which are copied from the firmware's template if missing."""
    for code, template in ((paths.root / code, paths.root / template) for code, template in FIRMWARE):
        if code.is_file() and template.is_file():
            break
    else:
        looked = " or ".join(f"/{code}" for code, _ in FIRMWARE)
        what = f'guest {guest.name}: firmware = "uefi" needs a UEFI firmware file; there is no {looked}'
        raise NotReadyError(Cause.GUEST_FAILED, what)
    variables = paths.state / "uefi" / f"{guest.name}.fd"
    try:
        if guest.storage == "snapshot" or not variables.exists():
            files.replace(variables, template.read_bytes(), 0o644, synced=False)
    except OSError as error:
        what = f"guest {guest.name}: its UEFI variables {variables} cannot be created: {error.strerror}"
        raise NotReadyError(Cause.GUEST_FAILED, what) from error
    return Uefi(code, variables)


def forget_variables(paths: Paths, configured: Collection[str]) -> None:
    """Remove the UEFI variables of removed guests, except the newest: an older configuration may be restored."""
    try:
        gone = [path for path in (paths.state / "uefi").glob("*.fd") if path.stem not in configured]
        for path in sorted(gone, key=lambda path: path.stat().st_mtime, reverse=True)[KEPT_VARIABLES:]:
            path.unlink()
    except OSError as error:
        log.warning("UEFI variables of removed guests: %s", error)


def check_processors(guest: model.Guest, there: set[int]) -> None:
    """NotReadyError if the guest is pinned to a processor that this machine does not have."""
    for key in ("pin", "queue_pin"):
        missing = sorted(set(getattr(guest, key)) - there)
        if missing:
            what = f"guest {guest.name}: {key}: there is no processor {missing[0]}; there are: {sorted(there)}"
            raise NotReadyError(Cause.GUEST_FAILED, what)


def check_memory(name: str, wanted: int, meminfo: str) -> None:
    """NotReadyError if there is too little memory for the guest and the appliance itself."""
    free = available_memory(meminfo) - MEMORY_RESERVE
    if wanted > free:
        what = f"guest {name}: it needs {wanted >> 20} MiB of memory; only {max(free, 0) >> 20} MiB are available"
        raise NotReadyError(Cause.MEMORY_SHORT, what)
