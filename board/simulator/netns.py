# SPDX-License-Identifier: GPL-2.0-only
"""Network namespaces of one board, by name.

Owns nothing: `enter` runs a function in a new thread that joins the namespace and ends, so the caller's threads never
change theirs. Sockets opened there stay in the namespace as long as they live.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
RUN = Path("/run/netns")
CLONE_NEWNET = 0x40000000


def enter(name: str, function: Callable[[], T]) -> T:
    """Run `function` inside namespace `name` and return its result. OSError if there is no such namespace."""
    results: list[T] = []
    errors: list[BaseException] = []

    def body() -> None:
        try:
            fd = os.open(RUN / name, os.O_RDONLY | os.O_CLOEXEC)
            try:
                # os.setns came with Python 3.12
                if ctypes.CDLL(None, use_errno=True).setns(fd, CLONE_NEWNET) != 0:
                    code = ctypes.get_errno()
                    raise OSError(code, f"setns {name}: {os.strerror(code)}")
            finally:
                os.close(fd)
            results.append(function())
        except BaseException as error:  # handed to the caller below, whatever it is
            errors.append(error)

    thread = threading.Thread(target=body, name=f"netns-{name}")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def leave() -> None:
    """Move the calling thread into a network namespace of its own, which ends with its threads. Raises OSError."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"cannot create a network namespace: {os.strerror(number)}; run as root")


def run(*command: str) -> str:
    """Run a set-up command and return its output; RuntimeError has its error message if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip() or done.returncode}")
    return done.stdout


def inside(name: str, *command: str) -> list[str]:
    """The command line that runs `command` in namespace `name` and dies with the thread that started it."""
    return ["setpriv", "--pdeathsig", "KILL", "ip", "netns", "exec", name, *command]


def exists(name: str) -> bool:
    return (RUN / name).exists()


def create(name: str) -> None:
    """Create a namespace with loopback up. Raises RuntimeError."""
    run("ip", "netns", "add", name)
    run("ip", "-n", name, "link", "set", "lo", "up")


def delete(name: str) -> None:
    """End every process left in the namespace and remove it; does nothing if it does not exist."""
    if not exists(name):
        return
    found = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False)
    for pid in found.stdout.split():
        try:
            os.kill(int(pid), signal.SIGKILL)
        except ProcessLookupError:
            pass
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
