# SPDX-License-Identifier: GPL-2.0-only
"""The image's own SSH server with its login hook in a small root folder and a network namespace, and what it asks.

The server runs with the command line that the appliance gives it; bypassd's side (service, accounts, logins) runs in an
event loop on a thread, on the files of that root. The users' shell tells who it is.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shlex
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import boardspec
from imagebuild import appliance_layer, rootfs
from imagebuild.cache import Cache, default_root
from imagebuild.progress import Progress
from simulator import netns

from appliance.aaa.exchange import Exchange
from appliance.aaa.service import Service
from appliance.access import accounts, ssh
from appliance.access.logins import Logins
from appliance.access.remote_users import RemoteUsers
from appliance.access.sessions import runs_as
from appliance.config.schema.model import Config, Management
from appliance.management.people import People
from appliance.system.namespace import Namespace
from appliance.telemetry.events import Events
from tests.support.aaa_servers import Make

ADDRESS = "127.0.0.1"
SHELL = '#!/bin/busybox sh\necho "$(id -un) $(id -u) $(id -G) $LD_PRELOAD $*"\n[ "$2" != stay ] || exec sleep 60\n'
LIBRARIES = ("libtomcrypt", "libtommath", "libgmp", "libz", "libcrypt", "libc", "libm", "ld-linux-x86-64")
_numbers = itertools.count()


class Reply(NamedTuple):
    """What a client printed, and its exit status."""

    status: int
    out: str
    err: str


class Unblocked:
    """The management port, which notes who is blocked."""

    def __init__(self) -> None:
        self.blocked: list[str] = []

    async def shut_out(self, name: str) -> None:
        self.blocked.append(name)

    async def let_in(self, name: str) -> None:
        self.blocked.remove(name)


class Site:
    """See the module. A context."""

    def __init__(self) -> None:
        self.name = f"twaaa{os.getpid()}-{next(_numbers)}"
        self.root = Path(tempfile.mkdtemp(prefix="twaaa-", dir="/tmp"))  # short: sockets have 108 bytes for their path
        self.root.chmod(0o755)
        self.server: subprocess.Popen[bytes] | None = None
        self.port, self.events, self.config = Unblocked(), Events(), Config()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> Site:
        try:
            netns.create(self.name)
            netns.run("ip", "-n", self.name, "link", "set", "lo", "up")
            self._furnish()
        except BaseException:
            self._clear()
            raise
        self._thread.start()
        self.call(self._compose)
        return self

    def __exit__(self, *_: object) -> None:
        self.end_server()
        self.call(lambda: [task.cancel() for task in (self._follower, self._reporter)])
        self.call(self.service.stop)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._clear()

    def _clear(self) -> None:
        netns.delete(self.name)
        shutil.rmtree(self.root)

    def _furnish(self) -> None:
        arch, cache, say = boardspec.load().arch, Cache(default_root()), Progress(print)
        tree = rootfs.debian_tree(cache, arch, say) / "tree"
        hook = appliance_layer.login_hook(cache, arch, boardspec.REPO, say) / "login-hook.so"
        programs, run = ("bin", "usr/bin", "usr/sbin", "usr/lib/bypass"), ("run/log", "run/bypass/access")
        for folder in ("etc", "dev", "tmp", *programs, *run):
            (self.root / folder).mkdir(parents=True)
        shutil.copy(tree / "usr/bin/busybox", self.root / "bin/busybox")
        for applet in ("env", "id", "sleep", "sh"):
            (self.root / "bin" / applet).symlink_to("busybox")
        for program in ("usr/sbin/dropbear", "usr/bin/dropbearkey"):
            shutil.copy(tree / program, self.root / program)
        for folder in ("lib", "lib64"):
            (self.root / folder).symlink_to("usr/lib")
        for name in LIBRARIES:
            for path in (tree / arch.libraries).glob(f"{name}.so*"):
                if path.name.count(".") < 3 or not path.is_symlink():
                    shutil.copy(path, self.root / "usr/lib" / path.name)
        shutil.copy(hook, self.root / ssh.HOOK.lstrip("/"))
        (self.root / "usr/bin/bypass").write_text(SHELL)
        (self.root / "usr/bin/bypass").chmod(0o755)
        (self.root / "etc/shells").write_text("/usr/bin/bypass\n")
        (self.root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
        (self.root / "etc/shadow").write_text("root:*:1::::::\n")
        os.mknod(self.root / "dev/null", 0o666 | 0o020000, os.makedev(1, 3))
        os.mknod(self.root / "dev/urandom", 0o666 | 0o020000, os.makedev(1, 9))
        self.chroot("dropbearkey", "-t", "ed25519", "-f", "/etc/host_ed25519")

    def chroot(self, *words: str) -> None:
        """Run a program in the root folder to its end."""
        subprocess.run(["chroot", self.root, *words], check=True, capture_output=True)

    async def _compose(self) -> None:
        self.remote = RemoteUsers(Path("/run/bypass/home"), runs_as)
        self.remote.furnish = self._home  # type: ignore[method-assign]
        self.people = People(self.remote, lambda: self.config.user, self._written)
        space = Namespace(self.name)
        door = self.root / "run/bypass/access/door"
        self.service = Service(Exchange(space, lambda: "wire1"), self.people, self.events, door)
        self.log = self.root / "run/log/ssh.log"
        self.logins = Logins(self.log, self.root / "run/log/serial.log", self.port, self.events)
        self.logins.decisions = self.service
        self._follower = asyncio.ensure_future(self._follow())
        self._reporter = asyncio.ensure_future(self.service.accounting.run())

    def _home(self, name: str, number: int) -> None:
        home = self.root / "run/bypass/home" / name
        home.mkdir(parents=True, exist_ok=True)
        os.chown(home, number, 900)

    async def _written(self) -> None:
        uids = accounts.numbers(self.config.user, {})
        made = accounts.texts(accounts.read(self.root), self.config.user, uids, dict(self.remote.users))
        accounts.write(self.root, made, self.config.user, uids)

    async def _follow(self) -> None:
        while True:
            await self.logins.follow(time.monotonic_ns())
            await asyncio.sleep(0.05)

    def call(self, function: Callable[[], Any]) -> None:
        """Call a function, and await what it returns, in the loop."""

        async def go() -> None:
            found = function()
            if asyncio.iscoroutine(found):
                await found

        asyncio.run_coroutine_threadsafe(go(), self._loop).result(60)

    def apply(self, config: Config) -> None:
        """Become this configuration: accounts, service, and a new SSH server."""
        self.config = config
        self.call(self._written)
        self.call(lambda: self.service.apply(config))
        self.end_server()
        keys = [ssh.HostKey(Path("/etc/host_ed25519"), "ed25519", "")]
        words = ssh.command(Management(ssh_port=22), config.user, keys, Path("/run/ssh.pid"), aaa=config.aaa)
        with self.log.open("ab") as log:
            line = netns.inside(self.name, "chroot", str(self.root), *words)
            self.server = subprocess.Popen(line, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                netns.enter(self.name, lambda: socket.create_connection((ADDRESS, 22), 1)).close()
                return
            except OSError:
                time.sleep(0.05)
        raise AssertionError(f"SSH does not listen: {self.log.read_text()}")

    def end_server(self) -> None:
        """End the SSH server and its sessions."""
        if self.server is not None:
            self.server.terminate()
            self.server.wait()
            self.server = None

    def make(self) -> Make:
        """Makes sockets of servers in the namespace."""

        def made(kind: socket.SocketKind) -> socket.socket:
            def bound() -> socket.socket:
                link = socket.socket(socket.AF_INET, kind)
                link.bind((ADDRESS, 0))
                return link

            return netns.enter(self.name, bound)

        return made

    def words(self, user: str) -> list[str]:
        """OpenSSH's client."""
        found = ["ssh", "-F", "/dev/null", "-p", "22"]
        for setting in ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "PubkeyAuthentication=no",
                        "NumberOfPasswordPrompts=1", "LogLevel=ERROR", "ConnectTimeout=10"):  # fmt: skip
            found += ["-o", setting]
        return [*found, f"{user}@{ADDRESS}"]

    def open(self, user: str, password: str, *command: str) -> subprocess.Popen[str]:
        """A client that types this password."""
        helper = self.root / "tmp" / f"askpass{next(_numbers)}"
        helper.write_text(f"#!/bin/sh\nprintf '%s\\n' {shlex.quote(password)}\n")
        helper.chmod(0o700)
        line = ["env", f"SSH_ASKPASS={helper}", "SSH_ASKPASS_REQUIRE=force", *self.words(user), *command]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            netns.inside(self.name, *line), stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True
        )

    def guess(self, user: str, password: str, times: int) -> None:
        """As many clients that are refused, four at a time: the server takes five from an address."""
        left = times
        while left:
            batch = [self.open(user, password) for _ in range(min(left, 4))]
            for child in batch:
                child.communicate(timeout=60)
                assert child.returncode == 255
            left -= len(batch)

    def log_in(self, user: str, password: str, *command: str) -> Reply:
        """What a client gets that logs in with this password."""
        child = self.open(user, password, *command)
        out, err = child.communicate(timeout=60)
        return Reply(child.returncode, out.strip(), err)

    def said(self) -> list[str]:
        """The texts of all events."""
        return [f"{event.subject}: {event.text}" for event in self.events.newest()]
