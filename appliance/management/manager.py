# SPDX-License-Identifier: GPL-2.0-only
"""The part "access": who may log in, and by which port. Accounts, management port, SSH, metrics endpoint, syslog.

It converges: `apply` sets the target, and the same steps lead there from any state, at start as well as at a commit.
What it starts outlives bypassd and is found again. None of it is a reason for bypass; what fails is shown by `show
management`, reported as an event, and retried. If the configuration is invalid, the users and the port applied last
stay in force, because someone must be able to log in and correct it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Protocol

from appliance.aaa.exchange import Exchange
from appliance.aaa.service import Service
from appliance.access import accounts, remote_users, serial_login, ssh
from appliance.access.logins import Logins
from appliance.access.remote_users import RemoteUsers
from appliance.access.sessions import runs_as
from appliance.access.state import Memory
from appliance.api.schema import access
from appliance.config.schema import model
from appliance.config.schema.model import Config
from appliance.errors import BypassError, ConfigError, RefusedError, UnreachableError
from appliance.hardware.board import Board
from appliance.management.discovery import Discovery
from appliance.management.people import People
from appliance.management.port import ManagementPort
from appliance.management.timekeeping import Timekeeping
from appliance.part import PATIENCE_NS, Alive
from appliance.paths import Paths
from appliance.snmp.agent import Agent
from appliance.snmp.facts import Facts
from appliance.system.namespace import Namespace
from appliance.system.service import Program
from appliance.system.threads import to_the_end
from appliance.telemetry.events import Events
from appliance.telemetry.metrics_server import Endpoint
from appliance.telemetry.subject import Kind, Notice, Subject
from appliance.telemetry.syslog import Syslog

log = logging.getLogger(__name__)

CHECK_IN_S = 0.25
RETRY_S = 5.0  # after a failure
LOOK_S = 10.0  # how often the port is checked if all is well


class GuestPorts(Protocol):
    """What the management port needs to know about the guests bridged to it."""

    changed: Callable[[], None]
    """Called when `ports` has changed; set by the part "access"."""

    @property
    def space(self) -> Namespace:
        """The network namespace of the management port."""
        ...

    @property
    def ports(self) -> Mapping[str, str]:
        """Tap -> MAC address of its guest."""
        ...


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
        lan: GuestPorts,
        endpoint: Endpoint,
        syslog: Syslog,
        opened: Callable[[], None],
        facts: Callable[[bool], Facts],
    ) -> None:
        """`opened` is called when group ids may have changed (the control socket has a group). `facts`: what SNMP
        tells."""
        self._paths, self._events, self._accounts_changed = paths, events, opened
        self.space, self.endpoint, self.syslog = lan.space, endpoint, syslog
        self.memory = Memory(paths.state / "access.json")
        self._wanted = config
        self.folder = paths.run / "access"
        self.log_file = paths.root / "run/log/ssh.log"
        self.sshd = Program("ssh", self.folder, self.log_file)
        ports = [port for port in (board.port if board else ()) if port.role == "management"]
        dhcp = Program("dhcp", self.folder, paths.root / "run/log/dhcp.log")
        self.port = ManagementPort(ports, lan.space, dhcp, self.folder / "dhcp.lease", lan.ports)
        client = Program("ntp", self.folder, paths.root / "run/log/ntp.log")
        self.time = Timekeeping(paths, self.port, client, events)
        lldpd = Program("lldp", self.folder, paths.root / "run/log/lldp.log")
        self.lldp = Discovery(paths, self.port, lldpd)
        snmpd = Program("snmp", self.folder, paths.root / "run/log/snmp.log")
        self.snmp = Agent(paths, lan, snmpd, events, facts)
        self.logins = Logins(self.log_file, paths.root / "run/log/serial.log", self.port, events)
        homes = paths.root / accounts.REMOTE_HOMES.lstrip("/")
        self.remote = RemoteUsers(homes, runs_as)
        people = People(self.remote, lambda: (self._wanted or self.memory.config()).user, self._remote_changed)
        self.aaa = Service(Exchange(lan.space, socket.gethostname), people, events, self.folder / "door")
        self.logins.decisions = self.aaa
        self.keys: list[ssh.HostKey] = []
        self.trouble = ""
        self._shown: Path | None = None  # the banner before a login
        self._lock, self._again = asyncio.Lock(), asyncio.Event()
        self._files = asyncio.Lock()  # /etc/passwd and the like
        lan.changed = self._again.set
        self._tasks: asyncio.TaskGroup | None = None

    # -- the part

    async def start(self) -> None:
        """Create the folders, and read the SSH server's existing log, so that sessions are known."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.log_file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UnreachableError(f"access: {error.filename}: {error.strerror}") from error
        await asyncio.to_thread(self.memory.load)
        self.remote.users = remote_users.known(accounts.read(self._paths.root).passwd)
        self.logins.catch_up()

    async def run(self, alive: Alive) -> None:
        """Converge, check again from time to time, and follow the SSH server's log."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                tasks.create_task(self._look(), name="access")
                tasks.create_task(self.aaa.accounting.run(), name="aaa reports")
                tasks.create_task(self.snmp.run(), name="snmp")
                while True:
                    alive()
                    await self.logins.follow(time.monotonic_ns())
                    await asyncio.sleep(CHECK_IN_S)
        finally:
            self._tasks = None

    async def stop(self) -> None:
        """Stop what runs inside bypassd; everything outside continues."""
        self.sshd.leave()
        self.port.dhcp.leave()
        self.time.program.leave()
        self.lldp.program.leave()
        self.snmp.program.leave()
        self.endpoint.stop()
        self.syslog.stop()
        self.aaa.stop()

    async def prepare(self, new: Config) -> None:
        """Refuse what this board does not support. ConfigError."""
        await asyncio.to_thread(self.time.check, new)
        asked = new.management.port
        if asked and asked not in self.port.names:
            there = ", ".join(self.port.names) or "none"
            raise ConfigError("management: port", f'this board has no management port "{asked}"; it has: {there}')
        bridged = [guest for guest in new.guest if guest.management == "bridged"]
        if bridged and not self.port.names:
            raise ConfigError(
                f"guest {bridged[0].name}: management", "this board has no management port to bridge it to"
            )
        for guest in bridged:
            if guest.management_mac and guest.management_mac.lower() == self.port.seen.mac:
                what = f'"{guest.management_mac}" is the management port\'s own address: give the guest another one'
                raise ConfigError(f"guest {guest.name}: management_mac", what)

    async def apply(self, new: Config) -> None:
        """Apply `new`. BypassError if something fails that worked before; it is then retried."""
        before = self.trouble
        self._wanted = new
        try:
            await self._converge()
        except BypassError as error:
            if str(error) != before:  # a port that was missing before does not prevent an unrelated change
                raise

    # -- converging

    async def _look(self) -> None:
        while True:
            self._again.clear()
            try:
                await self._converge()
                wait = LOOK_S
            except BypassError:
                wait = RETRY_S
            try:
                await asyncio.wait_for(self._again.wait(), wait)  # no event reports that a port or a disk has recovered
            except TimeoutError:
                pass

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
            self._events.record(Notice.MANAGEMENT_FAILED, Subject(Kind.MANAGEMENT), trouble)
        elif self.trouble and not trouble:
            self._events.record(Notice.MANAGEMENT_WORKS, Subject(Kind.MANAGEMENT), "works again")
        self.trouble = trouble

    async def _steps(self, config: Config) -> None:
        await self._accounts(config)
        management = config.management
        await self.port.converge(config)
        if self._wanted is not None:  # without a valid configuration they stay as they were
            await self.time.converge(config)
            await self.lldp.converge(config)
        metrics = [config.metrics.port] if config.metrics.enabled else []
        snmp = [config.snmp.port] if config.snmp.enabled else []
        await self.port.allow(management, [management.ssh_port, *metrics], snmp)  # before anything listens
        banner = await self._banner(config.system.login_banner) if self._wanted is not None else self._shown
        self.aaa.apply(config)
        why = ssh.why_off(management, config.user, config.aaa)
        if why:
            await self.sshd.want(None)
        else:
            await self._host_keys()
            words = ssh.command(management, config.user, self.keys, self.folder / "ssh.pid", banner, aaa=config.aaa)
            await self.sshd.want(self.space.command(words))
        reachable = bool(management.address or management.address6)
        await self.endpoint.apply(config.metrics.port if config.metrics.enabled and reachable else 0)
        if self._tasks is not None:
            self.syslog.apply(self._tasks, config.syslog if reachable else model.Syslog())
        if self._wanted is not None:
            await self.snmp.converge(config)  # last: whatever it lacks, SSH does not wait for it

    async def _banner(self, text: str) -> Path | None:
        try:
            self._shown = await to_the_end(partial(ssh.keep_banner, text, self.folder))
        except OSError as error:
            raise RefusedError(f"login banner: {error.filename}: {error.strerror}") from error
        return self._shown

    async def _accounts(self, config: Config) -> None:
        before = self.memory.users()
        uids = accounts.numbers(config.user, self.memory.uids)
        gone = dict(self.remote.users) if len(config.aaa.order) < 2 else {}
        gone |= {user.name: uid for user in config.user if (uid := self.remote.users.get(user.name))}
        try:
            async with self._files:
                for name in gone:
                    self.remote.forget(name)
                if await to_the_end(partial(self._write_accounts, config, uids)):
                    self._accounts_changed()
        except OSError as error:
            raise RefusedError(f"users: {error.filename}: {error.strerror}") from error
        for name, uid in gone.items():
            if self.logins.sessions.end(name, uid):
                text = "sessions ended: no server decides about this user any more"
                self._events.record(Notice.SESSIONS_ENDED, Subject(Kind.USER, name), text)
        for name in accounts.shut(before, config.user):
            if name in uids and self.logins.sessions.end(name, uids[name]):
                text = "sessions ended: the account changed"
                self._events.record(Notice.SESSIONS_ENDED, Subject(Kind.USER, name), text)

    async def _remote_changed(self) -> None:
        """A server let somebody in whom /etc/passwd does not name yet. OSError."""
        config = self._wanted or self.memory.config()
        async with self._files:
            await to_the_end(partial(self._write_accounts, config, accounts.numbers(config.user, self.memory.uids)))

    def _write_accounts(self, config: Config, uids: dict[str, int]) -> bool:
        """Update stored state and accounts; returns whether accounts changed. In a thread: each file is synced."""
        root = self._paths.root
        old = accounts.read(root)
        new = accounts.texts(old, config.user, uids, dict(self.remote.users))
        changed = new != old or config.user != self.memory.users()
        if changed or self.memory.differs(config):
            self.memory.keep(uids, config)  # ids first: a user never exists without a stored id
        if changed:
            accounts.write(root, new, config.user, uids)
        return changed

    async def host_keys(self) -> dict[str, bytes]:
        """The files of the host keys, by name, for a backup. RefusedError."""
        return await asyncio.to_thread(ssh.read_keys, self._paths.state / "ssh")

    async def replace_host_keys(self, found: Mapping[str, bytes]) -> int:
        """Use the host keys of a backup from now on, for new sessions; returns how many are others than before.

        RefusedError: what holds stays. Without another key the server goes on: nobody is refused meanwhile.
        """
        async with self._lock:
            others = await ssh.replace_keys(self._paths.state / "ssh", found)
            if not others:
                return 0
            self.keys = []
            await self.sshd.want(None)  # it reads them at its start; open sessions are other processes
            self._events.record(Notice.HOST_KEY_RENEWED, Subject(Kind.SSH), "the host keys are those of a backup")
        self._again.set()
        return others

    async def _host_keys(self) -> None:
        if self.keys:
            return
        self.keys, renewed = await ssh.host_keys(self._paths.state / "ssh")
        for kind in renewed:
            text = f"the {kind} host key was damaged and has been replaced"
            self._events.record(Notice.HOST_KEY_RENEWED, Subject(Kind.SSH), text)

    # -- display

    def secrets(self) -> list[str]:
        """Secret texts that must never be shown."""
        return [*self.memory.secrets(), *self.snmp.secrets]

    async def show(self) -> access.Management:
        """`show management`."""
        line = await asyncio.to_thread(serial_login.read, self.memory.path)
        config = self._wanted or self.memory.config()
        management = config.management
        why = ssh.why_off(management, config.user, config.aaa)
        seen, port = self.port.seen, self.port.names or [management.port]
        return access.Management(
            state="failed" if self.trouble else "up" if seen.up and seen.addresses else "off",
            detail=self.trouble,
            port=management.port or port[0] or "none on this board",
            mac=seen.mac,
            link="up" if seen.link else "down",
            configured=management.address or "none",
            addresses=list(seen.addresses),
            gateways=list(seen.gateways),
            dhcp=self.port.lease() if management.address == "dhcp" else {},
            ssh=access.Ssh(
                state="listening" if self.sshd.running else "off" if why else "failed",
                detail=why or self.sshd.detail,
                port=management.ssh_port,
                host_keys=[access.HostKey(key.kind, key.fingerprint) for key in self.keys],
                failed_logins=self.logins.failures,
                shut_out=[access.ShutOut(who, left) for who, left in self.logins.shut_out().items()],
            ),
            users=[
                access.User(user.name, user.role, "set" if user.password else "none", len(user.keys))
                for user in config.user
            ],
            serial_line=line.why_open or "asks for a login",
            metrics=access.Metrics("listening" if self.endpoint.port else "off", self.endpoint.port),
            snmp=self.snmp.state(),
            syslog=self.syslog.show(),
        )
