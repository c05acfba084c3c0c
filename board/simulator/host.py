# SPDX-License-Identifier: GPL-2.0-only
"""A host connected to the board: a network namespace with one cable to the board, in which commands are run.

Owns the processes that it starts and ends them when it ends; if this process is killed, the kernel ends them.
"""

from __future__ import annotations

import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from simulator import netns


class Host:
    def __init__(self, namespace: str, ipv4: str, ipv6: str) -> None:
        self.namespace = namespace
        self.ipv4 = ipv4
        self.ipv6 = ipv6
        self._processes: list[subprocess.Popen[Any]] = []
        # the kernel ends children with the thread that started them, so one permanent thread starts them all
        self._starter = ThreadPoolExecutor(1, f"host-{namespace}")

    def popen(self, command: list[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a command in the background, in a session of its own; it ends when the host ends, at the latest."""
        options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("start_new_session", True)
        line = netns.inside(self.namespace, *command)
        process: subprocess.Popen[Any] = self._starter.submit(lambda: subprocess.Popen(line, **options)).result()
        self._processes = [old for old in self._processes if old.poll() is None] + [process]
        return process

    def run(self, command: list[str], timeout: float = 60.0, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command and return its output (both streams in `stdout`); CalledProcessError unless status is 0."""
        process = self.popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            output, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.end(process)
            raise
        if check and process.returncode != 0:
            raise subprocess.CalledProcessError(process.returncode, command, output)
        return subprocess.CompletedProcess(command, process.returncode, output)

    def ping(self, address: str, count: int = 1, timeout: float = 5.0) -> bool:
        """Whether all of `count` echo requests are answered."""
        wait = str(max(1, round(timeout)))
        done = self.run(["busybox", "ping", "-c", str(count), "-W", wait, address], timeout + 30, check=False)
        return done.returncode == 0 and " 0% packet loss" in done.stdout

    def end(self, process: subprocess.Popen[Any]) -> None:
        """Kill a process started here, with everything in its session."""
        if process.poll() is None:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()

    def close(self) -> None:
        for process in self._processes:
            self.end(process)
        self._starter.shutdown()
