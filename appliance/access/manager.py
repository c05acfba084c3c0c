# SPDX-License-Identifier: GPL-2.0-only
"""The part "access": who may come in and by which port. Accounts, management port, SSH, metrics endpoint, syslog.

It converges: `apply` says what is wanted, and the same steps lead there from whatever is, at start as at a commit. What
it starts outlives bypassd and is found again. None of it is a reason to bypass; what does not work is shown by
`show management`, said in an event, and tried again. With a configuration that is not valid the users and the port of
the last one that was applied hold, for somebody has to be able to log in and mend it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

from appliance.access import accounts, network, ssh
from appliance.access.limiter import Action, Block, Limiter, network_of
from appliance.access.memory import Memory
from appliance.access.namespace import Namespace
from appliance.access.program import Program
from appliance.access.sessions import Sessions
from appliance.access.sshlog import SshEvent, Tail, parse
from appliance.causes import Cause
from appliance.config.model import Config, Management
from appliance.errors import BypassError, ConfigError, HardwareError, RefusedError, UnreachableError
from appliance.events import Events, Severity
from appliance.hardware.board import Board
from appliance.hardware.links import devices, match
from appliance.parts import PATIENCE_NS, Alive
from appliance.paths import Paths
from appliance.scrape import Endpoint
from appliance.syslog import Syslog

log = logging.getLogger(__name__)

CHECK_IN_S = 0.25
RETRY_S = 5.0  # after something did not work
LOOK_S = 5.0  # how often the port is looked at when all is well


class Access:
    """See the module. Owned by the supervisor, for the life of bypassd."""

    name = "access"
    patience = PATIENCE_NS

    def __init__(
        self,
        config: Config | None,
        board: Board | None,
        paths: Paths,
        events: Events,
        *,
        space: Namespace,
        endpoint: Endpoint,
        syslog: Syslog,
        opened: Callable[[], None],
    ) -> None:
        """`opened` is called when groups may be others than before (the control socket has one)."""
        self._paths, self._events, self._accounts_changed = paths, events, opened
        self._ports = [port for port in (board.port if board else ()) if port.role == "management"]
        self.space, self.endpoint, self.syslog = space, endpoint, syslog
        self.memory = Memory(paths.state / "access.json")
        self._wanted = config
        self.folder = paths.run / "access"
        self.log_file = paths.root / "run/log/ssh.log"
        self.sshd = Program("ssh", self.folder, self.log_file)
        self.dhcp = Program("dhcp", self.folder, paths.root / "run/log/dhcp.log")
        self.keys: list[ssh.HostKey] = []
        self.seen = network.Seen()
        self.trouble = ""
        self.limiter, self.failures = Limiter(), 0
        self.sessions = Sessions()
        self._tail = Tail(self.log_file)
        self._lock = asyncio.Lock()
        self._poke = asyncio.Event()
        self._tasks: asyncio.TaskGroup | None = None

    # -- the part

    async def start(self) -> None:
        """Folders; and what the log of the SSH server already says, so that sessions are known."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.log_file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UnreachableError(f"access: {error.filename}: {error.strerror}") from error
        self.memory.load()
        for line in self._tail.lines():
            if event := parse(line):
                self.sessions.note(event)

    async def run(self, alive: Alive) -> None:
        """Converge, look again now and then, and listen to the SSH server."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                tasks.create_task(self._look(), name="access")
                while True:
                    alive()
                    await self._listen(time.monotonic_ns())
                    await asyncio.sleep(CHECK_IN_S)
        finally:
            self._tasks = None

    async def stop(self) -> None:
        """What goes on without bypassd goes on; what is inside bypassd ends."""
        self.sshd.leave()
        self.dhcp.leave()
        self.endpoint.stop()
        self.syslog.stop()

    async def prepare(self, new: Config) -> None:
        """Refuse what this board cannot do. ConfigError."""
        names = [port.name for port in self._ports]
        asked = new.management.port
        if asked and asked not in names:
            there = ", ".join(names) or "none"
            raise ConfigError("management: port", f'this board has no management port "{asked}"; it has: {there}')

    async def apply(self, new: Config) -> None:
        """Be as `new` says. BypassError when something of it does not work; it is tried again then."""
        self._wanted = new
        await self._converge()

    # -- converging

    async def _look(self) -> None:
        while True:
            try:
                await self._converge()
                wait = LOOK_S
            except BypassError:
                wait = RETRY_S
            try:
                async with asyncio.timeout(wait):
                    await self._poke.wait()
            except TimeoutError:
                continue
            self._poke.clear()

    async def _converge(self) -> None:
        async with self._lock:
            try:
                await self._steps(self._wanted or self.memory.config())
            except BypassError as error:
                self._say(str(error))
                raise
            self._say("")

    def _say(self, trouble: str) -> None:
        if trouble and trouble != self.trouble:
            self._events.record(Severity.ERROR, "management", trouble, Cause.ACCESS_FAULT)
        elif self.trouble and not trouble:
            self._events.record(Severity.NOTICE, "management", "works again", Cause.HEALTHY)
        self.trouble = trouble

    async def _steps(self, config: Config) -> None:
        self._accounts(config)
        management = config.management
        if management.address or management.address6 or self.space.exists:
            await self._port(config, management)
        why = ssh.why_off(management, config.user)
        if why:
            await self.sshd.want(None)
        else:
            await self._host_keys()
            words = ssh.command(management, config.user, self.keys, self.folder / "ssh.pid")
            await self.sshd.want(self.space.command(words))
        reachable = bool(management.address or management.address6)
        await self.endpoint.apply(config.metrics.port if config.metrics.enabled and reachable else 0)
        if self._tasks is not None:
            self.syslog.apply(self._tasks, config.syslog.servers if reachable else (), config.syslog.severity)

    def _accounts(self, config: Config) -> None:
        before = self.memory.users()
        uids = accounts.numbers(config.user, self.memory.uids)
        root = self._paths.root
        try:
            old = accounts.read(root)
            new = accounts.texts(old, config.user, uids)
            if new != old or config.user != before:
                self.memory.keep(uids, config)  # numbers first: a user is never without one that is remembered
                accounts.write(root, new, config.user, uids)
                self._accounts_changed()
            elif config.management != self.memory.management():
                self.memory.keep(uids, config)
        except OSError as error:
            raise RefusedError(f"users: {error.filename}: {error.strerror}") from error
        for name in accounts.changed(before, config.user):
            if name in uids and self.sessions.end(name, uids[name]):
                self._events.record(Severity.NOTICE, f"user {name}", "sessions ended: the account changed", Cause.LOGIN)

    async def _port(self, config: Config, management: Management) -> None:
        port = self._port_name(management)
        if not self.space.exists:
            await self._ip(["netns", "add", self.space.name])
            await self._ip(["-n", self.space.name, "link", "set", "lo", "up"])
        self.seen = await self._see(port)
        if not self.seen.there:
            await self._move(port)
        self._ipv6(port, bool(management.address6))
        for words in network.commands(management, port, await self._see(port), self.space.name):
            await self._ip(words)
        script = ["udhcpc", "-f", "-i", port, "-s", "/usr/libexec/bypass/dhcp", "-t", "5", "-T", "3", "-A", "10"]
        host = ["-x", f"hostname:{config.system.hostname}"]
        wanted = self.space.command(["busybox", *script, *host]) if management.address == "dhcp" else None
        await self.dhcp.want(wanted)
        self.seen = await self._see(port)

    def _port_name(self, management: Management) -> str:
        if management.port:
            return management.port
        if not self._ports:
            raise HardwareError("this board has no management port: board.toml names none")
        return self._ports[0].name

    async def _move(self, name: str) -> None:
        """Find the port as board.toml describes it, and take it into the namespace."""
        found, missing = match([p for p in self._ports if p.name == name], await asyncio.to_thread(devices))
        if name not in found:
            raise HardwareError(missing.get(name, f"{name} is not a management port of this board"))
        device = found[name].ifname
        await self._ip(["link", "set", "dev", device, "down"])
        await self._ip(["link", "set", "dev", device, "netns", self.space.name, "name", name])

    def _ipv6(self, port: str, on: bool) -> None:
        """IPv6 only where it was asked for: no address that nobody knows of."""
        path = Path(f"/proc/sys/net/ipv6/conf/{port}/disable_ipv6")

        def write() -> None:
            value = "0" if on else "1"
            if path.exists() and path.read_text(encoding="ascii").strip() != value:
                path.write_text(value, encoding="ascii")

        try:
            self.space.inside(write)
        except OSError as error:
            raise UnreachableError(f"management port {port}: IPv6: {error.strerror}") from error

    async def _see(self, port: str) -> network.Seen:
        inside = ["ip", "-n", self.space.name]
        status, links = await ssh.run([*inside, "-j", "address", "show", "dev", port])
        if status != 0:
            return network.Seen()
        _, routes = await ssh.run([*inside, "-j", "route", "show", "default"])
        _, routes6 = await ssh.run([*inside, "-6", "-j", "route", "show", "default"])
        return network.parse(links, routes, routes6)

    async def _ip(self, words: network.Words) -> None:
        status, text = await ssh.run(["ip", *words])
        if status != 0:
            raise UnreachableError(f"management port: ip {' '.join(words)}: {' '.join(text.split())}")

    async def _host_keys(self) -> None:
        if self.keys:
            return
        self.keys, renewed = await ssh.host_keys(self._paths.state / "ssh")
        for kind in renewed:
            text = f"the {kind} host key was damaged and made anew"
            self._events.record(Severity.ERROR, "ssh", text, Cause.HOST_KEY_DAMAGED)

    # -- logins

    async def _listen(self, now: int) -> None:
        actions: list[Action] = self.limiter.tick(now)
        for line in self._tail.lines():
            event = parse(line)
            if event is not None:
                actions += self._login(now, event)
        for action in actions:
            await self._shut_out(action)

    def _login(self, now: int, event: SshEvent) -> list[Action]:
        self.sessions.note(event)
        who = f"user {event.user}" if event.user else "ssh"
        if event.kind == "failed":
            self.failures += 1
            text = f"login from {event.address} failed: {event.how}"
            self._events.record(Severity.WARNING, who, text, Cause.LOGIN_FAILED)
            return self.limiter.failed(now, event.address)
        if event.kind == "login":
            self.limiter.succeeded(event.address)
            self._events.record(Severity.NOTICE, who, f"logged in from {event.address} by {event.how}", Cause.LOGIN)
        else:
            self._events.record(Severity.INFO, who, f"logged out from {event.address}: {event.how}", Cause.LOGIN)
        return []

    async def _shut_out(self, action: Action) -> None:
        if isinstance(action, Block):
            words = network.block(action.network, self.space.name)
            text = f"{action.network} is shut out for {action.seconds} s after {action.failures} failed logins"
            self._events.record(Severity.WARNING, "ssh", text, Cause.LOGIN_BLOCKED)
        else:
            words = network.unblock(action.network, self.space.name)
        try:
            await self._ip(words)
        except BypassError as error:
            log.warning("%s", error)

    async def unblock(self, address: str) -> str:
        """Let an address in again before its time; what was let in. RefusedError when it is not shut out."""
        now = time.monotonic_ns()
        shut_out = self.limiter.blocked(now)
        asked = address if "/" in address else network_of(address)
        if asked not in shut_out:
            there = ", ".join(shut_out) or "nobody"
            raise RefusedError(f"{address} is not shut out; shut out: {there}")
        self.limiter.succeeded(address.split("/", 1)[0])
        await self._ip(network.unblock(asked, self.space.name))
        return asked

    # -- showing

    def show(self) -> dict[str, object]:
        """`show management`."""
        config = self._wanted or self.memory.config()
        management = config.management
        why = ssh.why_off(management, config.user)
        lease = {}
        if management.address == "dhcp":
            try:
                lease = network.parse_lease((self.folder / "dhcp.lease").read_text(encoding="utf-8"))
            except OSError:
                lease = {"state": "no answer from a DHCP server yet"}
        return {
            "state": "failed" if self.trouble else "up" if self.seen.up and self.seen.addresses else "off",
            "detail": self.trouble,
            "port": self._port_name(management) if self._ports or management.port else "none on this board",
            "mac": self.seen.mac,
            "link": "up" if self.seen.link else "down",
            "configured": management.address or "none",
            "addresses": list(self.seen.addresses),
            "gateways": list(self.seen.gateways),
            "dhcp": lease,
            "ssh": {
                "state": "listening" if self.sshd.running else "off" if why else "failed",
                "detail": why or self.sshd.detail,
                "port": management.ssh_port,
                "host_keys": [{"kind": key.kind, "fingerprint": key.fingerprint} for key in self.keys],
                "failed_logins": self.failures,
                "shut_out": [
                    {"network": who, "seconds_left": left}
                    for who, left in self.limiter.blocked(time.monotonic_ns()).items()
                ],
            },
            "users": [
                {
                    "name": user.name,
                    "role": user.role,
                    "password": "set" if user.password else "none",
                    "keys": len(user.keys),
                }
                for user in config.user
            ],
            "metrics": {"state": "listening" if self.endpoint.port else "off", "port": self.endpoint.port},
            "syslog": self.syslog.show(),
        }
