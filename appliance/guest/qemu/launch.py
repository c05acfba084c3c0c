# SPDX-License-Identifier: GPL-2.0-only
"""Becomes a guest's QEMU: enters its limits, leaves the host's network, drops all privileges, then executes QEMU.

Run as a script of its own between bypassd and QEMU, because each step applies to the process that takes it and QEMU
cannot undo it: its memory is charged to its control group from the first page, a network namespace without devices
leaves it only the taps that it inherited, and it runs as a user of its own, who owns nothing but a scratch folder.
Standard library only; lives for milliseconds. A failure is one line on standard error and exit status 125.

    python -I -S launch.py '{"uid": .., "groups": [..], "cgroup": "..", "scratch": ".."}' PROGRAM ARGUMENT...
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import sys

REFUSED = 125
_CLONE_NEWNET, _CLONE_NEWIPC = 0x40000000, 0x08000000
OOM_SCORE = "500"  # when memory runs out, guests go before anything of the appliance


def _join(cgroup: str) -> None:
    if cgroup:
        with open(f"{cgroup}/cgroup.procs", "w", encoding="ascii") as file:
            file.write("0")


def _leave_network() -> None:
    """Enter an empty network namespace. On a kernel without namespaces, the sandbox and the user still protect."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET | _CLONE_NEWIPC) != 0 and ctypes.get_errno() not in (22, 38):  # EINVAL, ENOSYS
        raise OSError(ctypes.get_errno(), f"unshare: {os.strerror(ctypes.get_errno())}")


def _drop_privileges(uid: int, groups: list[int]) -> None:
    os.setgroups(groups)
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def main(arguments: list[str]) -> int:
    """Does not return when everything succeeds."""
    about, program, *argv = arguments
    asked = json.loads(about)
    try:
        _join(asked["cgroup"])
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write(OOM_SCORE)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if asked["uid"]:
            _leave_network()
            _drop_privileges(asked["uid"], asked["groups"])
        os.environ["TMPDIR"] = asked["scratch"]
        os.chdir("/")
        os.execv(program, [program, *argv])
    except OSError as error:
        print(f"{program} cannot be started: {error}", file=sys.stderr, flush=True)
    return REFUSED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
