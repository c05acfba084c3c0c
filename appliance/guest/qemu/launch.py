# SPDX-License-Identifier: GPL-2.0-only
"""Becomes a guest's QEMU: enters its limits, leaves the host's network and files, drops all privileges, executes QEMU.

It is a script of its own between bypassd and QEMU, because each step applies to the process that takes it, and QEMU
cannot undo it. QEMU's memory is charged to its control group from the first page on. A network namespace without
devices leaves it only the taps that it inherited. Its root folder has programs, libraries and its own scratch folder
and no other file of the appliance, so an attacker who breaks out of one guest cannot read another's image. It runs as a
user of its own. Whatever else it needs it inherits as open descriptors.
Nothing of this happens before bypassd says on standard input that it has recorded the process: one that bypassd left
unrecorded when it died would hold the guest's taps, and no later bypassd would know it.
Standard library only; lives for milliseconds. A failure is one line on standard error and exit status 125.

    python -I -S launch.py '{"uid": .., "groups": [..], "cgroup": "..", "scratch": "..", "root": ".."}' PROGRAM ARG...

`root` is an empty folder to build the root folder on, in a mount namespace that ends with QEMU.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import sys

REFUSED = 125
_CLONE_NEWNET, _CLONE_NEWIPC, _CLONE_NEWNS = 0x40000000, 0x08000000, 0x00020000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_REMOUNT, _MS_BIND = 1, 2, 4, 32, 4096
_MS_REC, _MS_PRIVATE = 16384, 1 << 18
PROGRAMS = ("/usr", "/lib", "/lib64", "/lib32", "/bin", "/sbin", "/etc/ld.so.cache", "/etc/ld.so.conf")
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom", "/dev/kvm")
OOM_SCORE = "500"  # when memory runs out, guests go before anything of the appliance


def _wait_until_recorded() -> None:
    if not os.read(0, 1):
        raise OSError(0, "bypassd ended before it had recorded this process")
    nothing = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    os.dup2(nothing, 0)
    os.close(nothing)


def _join(cgroup: str) -> None:
    if cgroup:
        with open(f"{cgroup}/cgroup.procs", "w", encoding="ascii") as file:
            file.write("0")


def _leave_network() -> None:
    """Enter an empty network namespace. On a kernel without namespaces, sandbox and user still protect the host."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET | _CLONE_NEWIPC) != 0 and ctypes.get_errno() not in (22, 38):  # EINVAL, ENOSYS
        raise OSError(ctypes.get_errno(), f"unshare: {os.strerror(ctypes.get_errno())}")


def _mount(source: str, target: str, flags: int, kind: str = "", data: str = "") -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(source.encode(), target.encode(), kind.encode(), flags, data.encode()) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"mount on {target}: {os.strerror(number)}")


def _leave_files(root: str, program: str, scratch: str) -> None:
    """Make `root` the root folder, with only what QEMU may see of the current one.

    chroot is safe here: the process drops its privileges, has no folder open, and cannot create a user namespace
    inside a chroot. pivot_root would not work if the root is the initramfs.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), f"unshare: {os.strerror(ctypes.get_errno())}")
    _mount("none", "/", _MS_REC | _MS_PRIVATE)
    os.makedirs(root, exist_ok=True)
    _mount("tmpfs", root, _MS_NOSUID | _MS_NODEV, "tmpfs", "size=256k,mode=755")
    seen = [*PROGRAMS, *(path for path in (os.path.dirname(program),) if not path.startswith(PROGRAMS))]
    for path in seen:
        _show(root, path, _MS_RDONLY | _MS_NOSUID | _MS_NODEV)
    for path in DEVICES:
        _show(root, path, _MS_NOSUID)
    _show(root, "/proc", _MS_NOSUID | _MS_NODEV)
    _show(root, scratch, _MS_NOSUID | _MS_NODEV)
    _mount("tmpfs", root, _MS_REMOUNT | _MS_RDONLY | _MS_NOSUID | _MS_NODEV, "tmpfs", "size=256k,mode=755")
    os.chroot(root)


def _show(root: str, path: str, flags: int) -> None:
    """Make the file, folder or link `path` visible below `root`."""
    there = root + path
    if os.path.lexists(there) or not os.path.lexists(path):
        return
    os.makedirs(os.path.dirname(there), exist_ok=True)
    if os.path.islink(path):
        os.symlink(os.readlink(path), there)
        return
    if os.path.isdir(path):
        os.mkdir(there)
    else:
        os.close(os.open(there, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC))
    _mount(path, there, _MS_BIND)
    _mount("none", there, _MS_REMOUNT | _MS_BIND | flags)


def _drop_privileges(uid: int, groups: list[int]) -> None:
    os.setgroups(groups)
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def main(arguments: list[str]) -> int:
    """Does not return if everything succeeds."""
    about, program, *argv = arguments
    asked = json.loads(about)
    try:
        _wait_until_recorded()
        _join(asked["cgroup"])
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write(OOM_SCORE)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if asked["uid"]:
            _leave_network()
            _leave_files(asked["root"], program, asked["scratch"])
            _drop_privileges(asked["uid"], asked["groups"])
        os.environ["TMPDIR"] = asked["scratch"]
        os.chdir("/")
        os.execv(program, [program, *argv])
    except OSError as error:
        print(f"{program} cannot be started: {error}", file=sys.stderr, flush=True)
    return REFUSED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
