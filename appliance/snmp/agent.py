# SPDX-License-Identifier: GPL-2.0-only
"""Runs snmpd on the management port as configured, answers for it, and hands over notifications.

snmpd outlives bypassd; meanwhile it answers for what it knows itself. Owned by the part "access". Nothing that frames
depend on is here: a snmpd that hangs, or floods us, costs its own session.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import logging
import pwd
import re
import shutil
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from appliance.api.schema import access, machine
from appliance.config.schema.model import Config, Snmp
from appliance.errors import RefusedError, UnreachableError
from appliance.paths import Paths
from appliance.quota import Quota
from appliance.snmp import engine, mib, notify, settings
from appliance.snmp.agentx import AgentXError
from appliance.snmp.facts import Facts, Machine, Moment
from appliance.snmp.notify import Notification
from appliance.snmp.session import Session
from appliance.snmp.tree import Tree
from appliance.system import files, netdev, netlink
from appliance.system import machine as kernel
from appliance.system.namespace import Namespace
from appliance.system.netlink import Interface
from appliance.system.service import Program
from appliance.system.threads import to_the_end
from appliance.telemetry.events import Events
from appliance.telemetry.subject import Kind, Notice, Severity, Subject
from appliance.telemetry.transitions import Entry

log = logging.getLogger(__name__)

ACCOUNTS: Final = ("Debian-snmp", "snmp")
"""Whom snmpd runs as, in either image."""
FRESH_NS: Final = 2_000_000_000
"""What is offered is looked up anew if it is older and somebody asks."""
LOOK_S: Final = 1.0
"""Longest wait for that; then the old is answered once more."""
TICK_S: Final = 0.5
READ_TICKS: Final = 4
FIRST_DELAY, LAST_DELAY = 0.5, 15.0  # seconds between two attempts to reach snmpd
LASTS_NS: Final = 10_000_000_000
"""A failure that lasts for so long is told; a restart takes less."""
QUEUE: Final = 64
"""Notifications that wait for snmpd; the oldest is lost first."""
RATE, BURST = 1.0, 10
"""Notifications of one subject a second, and at once."""
READ_BYTES: Final = 64 << 10
_OFF = "`set snmp enabled true`, with a user, turns it on"
_REFUSED = re.compile(rb"^Authentication failed for (.{1,64})$", re.MULTILINE)


class Network(Protocol):
    """The management port, as far as this needs it."""

    @property
    def space(self) -> Namespace:
        """Its network namespace."""
        ...


class Agent:
    """See the module. `facts` is called in the event loop, twice a second: it is quick, and has the items (what is told
    in words) only if it is asked for them."""

    def __init__(
        self, paths: Paths, network: Network, program: Program, events: Events, facts: Callable[[bool], Facts]
    ) -> None:
        self._root, self._space = paths.root, network.space
        self.program, self._events, self._facts = program, events, facts
        self._folder = paths.run / "snmp"
        self._record = paths.state / "snmp.json"
        self._engine: engine.Engine | None = None
        self._snmp = Snmp()
        self._session = Session(self.look)
        self._tree = Tree({}, ())
        self._looked = -FRESH_NS
        self._looking: asyncio.Task[None] | None = None
        self._since: dict[int, tuple[object, Moment]] = {}
        self._links: dict[str, bool] = {}
        self._queue: deque[Notification] = deque(maxlen=QUEUE)
        self._quota = Quota(RATE, BURST)
        self._log = paths.root / "run/log/snmp.log"
        self._read = -1  # bytes of the log that were read; -1: it may have the lines of an earlier bypassd
        self._trouble = ""  # why there is no session
        self._failing = 0  # since when it fails; 0: it works
        self.told = ""
        """The failure that was told as an event, because it lasts; empty: there is none."""
        self.sent: Counter[str] = Counter()
        self.lost = 0
        self.last: machine.SnmpSent | None = None
        self.refused: Counter[str] = Counter()

    @property
    def secrets(self) -> list[str]:
        """Secret texts that must never be shown."""
        return [text for user in self._snmp.user for text in (user.auth_passphrase, user.priv_passphrase) if text]

    # -- as configured

    async def converge(self, config: Config) -> None:
        """Be as configured. RefusedError: a file cannot be written, or there is no account for snmpd."""
        reachable = bool(config.management.address or config.management.address6)
        self._snmp = config.snmp
        if not (config.snmp.enabled and config.snmp.user and reachable):
            await self.program.want(None)
            self._queue.clear()
            return
        try:
            known = self._facts(False)
            about = f"Throughwire bypass appliance {known.version} on {known.board}"
            text = await to_the_end(partial(self._text, config, about))
            path = self._folder / f"conf-{hashlib.sha256(text.encode()).hexdigest()[:12]}" / "snmpd.conf"
            if not await asyncio.to_thread(path.exists):
                await self.program.want(None)  # first: it writes its count, and its users, when it ends
            words = await to_the_end(partial(self._prepare, path, text))
        except OSError as error:
            raise RefusedError(f"SNMP: {error.filename}: {error.strerror}") from error
        await self.program.want(self._space.command(words))

    @property
    def _kept(self) -> Path:
        """The folder that snmpd writes to: in memory, for this boot."""
        return self._folder / "kept"

    def _text(self, config: Config, about: str) -> str:
        """snmpd's configuration. In a thread: keys take milliseconds each, and the engine's record is read."""
        if self._engine is None:
            self._engine = engine.load(self._record)
        return settings.configuration(config, engine=self._engine.identity, about=about, socket=self._socket)

    def _prepare(self, path: Path, text: str) -> list[str]:
        """Write the configuration, which is read at snmpd's start: another one is another file, and by that another
        command line. Returns that. In a thread."""
        assert self._engine is not None
        self._folder.mkdir(parents=True, exist_ok=True)
        self._folder.chmod(0o711)
        account = self._account()
        boots = self._kept / "snmpd.conf"
        used = engine.counted(_text(boots)) or self._engine.boots  # 0: the first start of this boot
        engine.reserve(self._record, self._engine, used)
        if not path.exists():
            shutil.rmtree(self._kept, ignore_errors=True)  # it also has the users that are configured no more
            self._kept.mkdir(mode=0o700)
            files.replace(boots, f"engineBoots {used}\noldEngineID 0x{self._engine.identity.hex()}\n", synced=False)
            for owned in (self._kept, boots):
                shutil.chown(owned, account, account)
            path.parent.mkdir(mode=0o700, exist_ok=True)
            files.replace(path, text, synced=False)
        for old in self._folder.glob("conf-*"):
            if old != path.parent:
                shutil.rmtree(old, ignore_errors=True)
        return settings.command(path.parent, self._kept, account)

    @property
    def _socket(self) -> Path:
        return self._folder / "agentx"

    @staticmethod
    def _account() -> str:
        for name in ACCOUNTS:
            with suppress(KeyError):
                return pwd.getpwnam(name).pw_name
        raise RefusedError("SNMP: this image has no account that snmpd could run as")

    # -- while it runs

    async def run(self) -> None:
        """Hold a session with snmpd while it is wanted, watch the links, and read its log; until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._converse(), name="snmp session")
            for tick in itertools.count():
                await asyncio.sleep(TICK_S)
                self._watch_links()
                if tick % READ_TICKS == 0:
                    self._report()
                    await self._read_log()

    async def _converse(self) -> None:
        delay = FIRST_DELAY
        while True:
            if self.program.running:
                try:
                    await self._session.run(self._socket, self._opened)
                except (OSError, AgentXError) as error:
                    self._trouble = error.strerror or str(error) if isinstance(error, OSError) else str(error)
                    log.debug("snmp: %s", self._trouble)
                except Exception as error:  # a bug here must not end SSH with it
                    self._trouble = f"an error in the agent: {error}"
                    log.exception("snmp: the session fails")
                if self._session.began:
                    delay, self._session.began = FIRST_DELAY, 0
            await asyncio.sleep(delay)
            delay = min(2 * delay, LAST_DELAY) if self.program.running else FIRST_DELAY

    def _opened(self) -> None:
        self._trouble = ""
        while self._queue:
            self._send(self._queue.popleft())

    # -- what is offered

    async def look(self) -> Tree:
        """What is offered now, or a moment ago: a driver that does not answer holds up nobody."""
        if time.monotonic_ns() - self._looked > FRESH_NS:
            if self._looking is None or self._looking.done():
                self._looking = asyncio.create_task(self._renew(), name="snmp objects")
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._looking), LOOK_S)
        return self._tree

    async def _renew(self) -> None:
        facts = self._facts(True)
        began = self._session.began
        self._note(facts)
        since = {number: moment for number, (_, moment) in self._since.items()}
        self._tree = await asyncio.to_thread(self._build, facts, since, began)
        self._looked = time.monotonic_ns()

    def _build(self, facts: Facts, since: dict[int, Moment], began: int) -> Tree:
        """In a thread: it asks the kernel."""
        interfaces: dict[str, Interface] = {}
        for port in facts.ports:
            if port.device:
                with suppress(OSError, UnreachableError):
                    ask = partial(_interface, port.device)
                    away = port.role == "management" and self._space.exists
                    interfaces[port.name] = self._space.inside(ask) if away else ask()
        warm, fans = kernel.sensors(self._root)
        about = Machine(kernel.identity(self._root), warm, {name: float(rpm) for name, rpm in fans.items()})
        return mib.tree(facts, about, interfaces, since, lambda at: max(0, at - began) // 10_000_000 if began else 0)

    def _note(self, facts: Facts) -> None:
        """Remember when the states of relays and ports were seen to change."""
        now = Moment(time.monotonic_ns(), datetime.now(UTC))
        states: list[tuple[int, object]] = [(relay.physical, relay) for relay in facts.relays]
        states += [(port.physical, port) for port in facts.ports]
        for number, state in states:
            known = self._since.get(number)
            if known is None or known[0] != state:
                self._since[number] = (state, now)

    # -- notifications

    def entry(self, entry: Entry, severity: Severity) -> None:
        """A listener of the ledger: tells what is told."""
        if self._wanted and (found := notify.of_entry(entry, severity, self._facts(False))) is not None:
            self._tell(found)

    @property
    def _wanted(self) -> bool:
        return self.program.words is not None and bool(self._snmp.receiver)

    def _watch_links(self) -> None:
        if not self._wanted:
            self._links = {}
            return
        ports = self._facts(False).ports
        found = notify.of_links(self._links, ports)
        self._links = {port.name: port.link and not port.held for port in ports}
        for each in found:
            self._tell(each)

    def _tell(self, found: Notification) -> None:
        if not self._quota.allow(time.monotonic_ns(), found.subject):
            self.lost += 1
        elif self._session.open:
            self._send(found)
        else:
            self.lost += len(self._queue) == QUEUE
            self._queue.append(found)

    def _send(self, found: Notification) -> None:
        if not self._session.notify(found.rows):
            self.lost += 1
            return
        self.sent[found.name] += 1
        self.last = machine.SnmpSent(found.name, found.subject, datetime.now(UTC).isoformat(timespec="milliseconds"))

    # -- what went wrong

    @property
    def failure(self) -> str:
        """Why nobody can read, although it is wanted; empty: all is well."""
        if self.program.words is None or self._session.open:
            return ""
        return self.program.detail or self._trouble or "snmpd has not opened its session yet"

    def _report(self) -> None:
        """Tell of a failure that lasts, and of its end, once each."""
        failure, now = self.failure, time.monotonic_ns()
        if not failure:
            if self.told:
                self._events.record(Notice.SNMP_WORKS, Subject(Kind.SNMP), "SNMP works again")
            self.told, self._failing = "", 0
            return
        self._failing = self._failing or now
        if not self.told and now - self._failing > LASTS_NS:
            self.told = failure
            self._events.record(Notice.SNMP_FAILED, Subject(Kind.SNMP), failure)

    async def _read_log(self) -> None:
        """Count the messages whose passphrase is wrong, which only snmpd knows and says in its log."""
        found = await asyncio.to_thread(self._new_lines) if self.program.running else b""
        names = Counter(name.decode(errors="replace") for name in _REFUSED.findall(found))
        known = {user.name for user in self._snmp.user}
        for name, count in names.items():
            self.refused[name if name in known else "(unknown)"] += count
        if names and self._quota.allow(time.monotonic_ns(), "refused"):
            who = ", ".join(sorted(names)[:4])
            text = f"SNMP: {names.total()} with a wrong passphrase refused, for user {who}"
            self._events.record(Notice.SNMP_REFUSED, Subject(Kind.SNMP), text)

    def _new_lines(self) -> bytes:
        """What was added since; of a flood its end. In a thread."""
        try:
            with self._log.open("rb") as file:
                size = file.seek(0, 2)
                if self._read < 0 and self.program.adopted:
                    self._read = size
                if not 0 <= self._read <= size:
                    self._read = 0  # it was shortened
                file.seek(max(self._read, size - READ_BYTES))
                data = file.read(READ_BYTES)
        except OSError:
            return b""
        whole = data[: data.rfind(b"\n") + 1]
        self._read = max(self._read, size - READ_BYTES) + len(whole)
        return whole

    # -- the API

    def state(self) -> access.SnmpState:
        """For `show management`."""
        if self.program.words is None:
            return access.SnmpState("off", _OFF, self._snmp.port)
        failure = self.failure
        return access.SnmpState("failed" if failure else "listening", failure, self._snmp.port)

    async def show(self) -> machine.Snmp:
        """snmp.show"""
        snmp, now = self._snmp, self.state()
        wanted = now.state != "off"
        used = await asyncio.to_thread(lambda: engine.counted(_text(self._kept / "snmpd.conf"))) if wanted else 0
        return machine.Snmp(
            state=now.state,
            detail=now.detail,
            port=now.port,
            engine=self._engine.identity.hex() if self._engine else "",
            boots=used,
            users=[
                machine.SnmpUser(user.name, user.access, user.auth, user.priv, self.refused[user.name])
                for user in snmp.user
            ],
            receivers=[
                machine.SnmpReceiver(each.name, each.address, each.port, each.kind, each.user) for each in snmp.receiver
            ],
            requests=self._session.requests,
            sent=dict(self.sent),
            lost=self.lost,
            waiting=len(self._queue),
            last=self.last,
        )


def _interface(device: str) -> Interface:
    return netlink.interface(device)._replace(speed=netdev.speed(device))


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
