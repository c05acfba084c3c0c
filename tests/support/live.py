# SPDX-License-Identifier: GPL-2.0-only
"""A whole appliance without a board: real keeper, real bypassd, real datapath, in the namespace of a Wire.

The relay's coil and the watchdog are files (tests/support/keeper_on_files.py); a test uses the control socket like any
client, and sends frames over the Wire meanwhile. `close` removes everything.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import boardspec
from simulator import netns

from appliance.errors import UnreachableError
from appliance.system.loop_watch import LIMIT_S
from console.client import Client, RemoteError
from tests.support import board_harness, leftovers, stalls
from tests.support.waiting import wait_until
from tests.support.wire import Wire

REPOSITORY = Path(__file__).resolve().parents[2]
PATIENCE_S = 60.0

CONFIG = """\
# the administrator's own words

[system]
hostname = "live"

[[segment]]
name = "main"
lan = "lan0"
wan = "wan0"
rearm_delay = "0s"  # no waiting here

[[rule]]
name = "web"
match = "tcp port 80"
path = []
"""
PORTS = ("lan0", "wan0", "tapl", "tapw", "dumb")
_KEEPER = """
import sys
sys.argv = ["keeper", *sys.argv[1:]]
from tests.support import keeper_on_files
from appliance.keeper.limits import Limits
sys.exit(keeper_on_files.main(Limits()))
"""


def bring_demo_guest(root: Path) -> None:
    """Put the demo guest's kernel and initrd where a guest below this root looks for them."""
    (root / "guest-demo").mkdir()
    for name, source in (("bzImage", boardspec.load().arch.kernel.target), ("initrd.gz", "guest-initrd.gz")):
        shutil.copy(board_harness.artefacts() / source, root / "guest-demo" / name)


class Live:
    """One appliance; `root` is an empty folder."""

    def __init__(self, wire: Wire, root: Path, bpf_object: Path, config: str = CONFIG) -> None:
        self.wire, self.root = wire, root
        for folder in ("etc/bypass", "sys/fs/bpf", "run/bypass", "var/lib/bypass", "keeper"):
            (root / folder).mkdir(parents=True)
        (root / "etc/bypass/config.toml").write_text(config)
        self._bpf_object = bpf_object
        self._keeper: subprocess.Popen[str] | None = None
        self.log: list[str] = []

    @property
    def startup(self) -> Path:
        return self.root / "etc/bypass/config.toml"

    def __enter__(self) -> Self:
        netns.run("mount", "-t", "bpf", "bpf", str(self.root / "sys/fs/bpf"))
        netns.run("ip", "-n", self.wire.box, "link", "add", "dumb", "up", "type", "bridge")  # takes no native XDP
        board = "".join(f'[[port]]\nname = "{port}"\nmac = "{self._mac(port)}"\n' for port in PORTS)
        board += '[[relay]]\nports = ["lan0", "wan0"]\nline = "relay-inline"\n'
        board += '[[relay]]\nports = ["lan0", "dumb"]\nline = "odd"\n'
        board += '[[relay]]\nports = ["tapl", "tapw"]\nline = "second"\n[watchdog]\ndriver = "file"\n'
        (self.root / "keeper/board.toml").write_text(f'name = "test"\n{board}')
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.stop()
        print(*self.log[-200:], sep="\n")  # pytest shows it with a failure
        leftovers.end(self.root)  # guests outlive bypassd, and would take processor time from all later tests

    def _mac(self, port: str) -> str:
        return netns.run("ip", "netns", "exec", self.wire.box, "cat", f"/sys/class/net/{port}/address").strip()

    # -- life

    def start(self) -> None:
        """Start the keeper, which starts bypassd; returns when the segment is inline."""
        path = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "board")])
        bypassd = [sys.executable, "-m", "appliance", "--root", str(self.root)]
        bypassd += ["--board", str(self.root / "keeper/board.toml"), "--bpf-object", str(self._bpf_object)]
        command = [sys.executable, "-c", _KEEPER, str(self.root / "keeper"), *bypassd]
        self._keeper = subprocess.Popen(
            ["ip", "netns", "exec", self.wire.box, *command],
            env={**os.environ, "PYTHONPATH": path},
            stderr=subprocess.PIPE,
            text=True,
        )
        threading.Thread(target=self._read, args=(self._keeper,), daemon=True).start()
        self.until(self.inline, "inline")

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr
        for line in process.stderr:
            self.log.append(line.rstrip("\n"))

    def check_loop(self) -> None:
        """AssertionError: something blocked bypassd's event loop for four times its limit (the machine may be busy)."""
        long = [one.line for one in stalls.parse("\n".join(self.log)) if one.own_s > 4 * LIMIT_S]
        assert not long

    def stop(self) -> None:
        """An orderly end."""
        if self._keeper is not None:
            self._keeper.terminate()
            try:
                self._keeper.wait(20)
            except subprocess.TimeoutExpired:
                self._keeper.kill()
                self._keeper.wait()
            self._keeper = None

    @property
    def bypassd(self) -> int:
        """Its process id: a child of whichever keeper thread started it."""
        assert self._keeper is not None
        threads = Path(f"/proc/{self._keeper.pid}/task").iterdir()
        (child,) = (pid for thread in threads for pid in (thread / "children").read_text().split())
        return int(child)

    def kill_bypassd(self) -> None:
        """Kill only bypassd, like a fault; the keeper restarts it."""
        os.kill(self.bypassd, signal.SIGKILL)

    # -- the control socket

    @property
    def client(self) -> Client:
        return Client(str(self.root / "run/bypass/control.sock"))

    def call(self, method: str, **params: object) -> Any:
        return self.client.call(method, params, wait=PATIENCE_S)

    def set(self, *lines: str) -> None:
        """Execute `set` lines as typed."""
        for line in lines:
            self.call("config.set", words=line.split())

    def commit(self, **params: object) -> Any:
        return self.call("config.commit", **params)

    def inline(self, count: int = 1) -> bool:
        """Whether every segment is inline."""
        rows = self.call("segments.show")
        return len(rows) == count and all(row["state"] == "inline" for row in rows)

    def until(self, true: Callable[[], bool], what: str) -> None:
        """Wait until `true`; a bypassd that is just restarting does not answer meanwhile."""

        def holds() -> bool:
            try:
                return true()
            except (UnreachableError, RemoteError):
                return False

        def runs() -> None:
            assert self._keeper is None or self._keeper.poll() is None, "\n".join(self.log[-60:])

        wait_until(holds, what, PATIENCE_S, runs, lambda: "\n" + "\n".join(self.log[-60:]))


def during(live: Live, work: Callable[[], object]) -> list[int]:
    """Send frames in both directions while `work` runs; returns the numbers of lost ones."""
    failed: list[BaseException] = []

    def body() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    lost: list[int] = []
    while thread.is_alive():
        lost += live.wire.stream(64)
    lost += live.wire.stream(64)
    thread.join()
    if failed:
        raise failed[0]
    return lost
