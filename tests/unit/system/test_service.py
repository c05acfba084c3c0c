# SPDX-License-Identifier: GPL-2.0-only
"""What outlives bypassd (real processes), what is remembered, and the part itself on a root of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from appliance.access.sessions import Sessions
from appliance.access.sshlog import SshEvent
from appliance.access.state import Memory
from appliance.config.schema.model import Config, Guest, Management, User
from appliance.errors import ConfigError, UnreachableError
from appliance.guest.port.management_lan import Lan
from appliance.hardware.board import parse
from appliance.management.manager import Access
from appliance.management.network import Seen
from appliance.paths import Paths
from appliance.snmp.facts import Facts
from appliance.system import process, service
from appliance.system.namespace import Namespace
from appliance.system.process import start_time
from appliance.system.service import Program
from appliance.telemetry.events import Events
from appliance.telemetry.metrics_server import Endpoint
from appliance.telemetry.syslog import Syslog
from appliance.units import Duration
from tests.support.waiting import until

SLEEP = ["sleep", "1000"]
ADMIN = User(name="admin", role="admin", password="$y$j9T$abcdefgh$abcdefgh")
CONFIG = Config(management=Management(idle_timeout=Duration(90_000_000_000)), user=(ADMIN,))
BOARD = 'name = "test"\n[[port]]\nname = "mgmt0"\nmac = "02:ff:ff:ff:ff:01"\nrole = "management"\n'


def run(body: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(20):
            await body()

    asyncio.run(limited())


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Callable[[], Program]]:
    """Programs of one folder; what they left running is ended afterwards."""
    yield lambda: Program("it", tmp_path, tmp_path / "log")
    try:
        pid = json.loads((tmp_path / "it.json").read_text())["pid"]
        os.kill(pid, signal.SIGKILL)
    except (FileNotFoundError, ProcessLookupError):
        pass


def test_it_is_adopted_by_the_next_and_ended_when_unwanted(made: Callable[[], Program]) -> None:
    async def body() -> None:
        first = made()
        await first.want(SLEEP)
        pid = first.pid
        first.leave()
        assert start_time(pid) is not None, "it goes on without us"
        second = made()
        await second.want(SLEEP)
        assert second.pid == pid
        await second.want(["sleep", "1001"])
        assert second.pid not in (0, pid)
        assert start_time(pid) is None, "another command line is another process"
        last = second.pid
        await second.want(None)
        assert start_time(last) is None
        assert not second.running

    run(body)


def test_unwanted_since_the_last_time_is_ended(made: Callable[[], Program]) -> None:
    async def body() -> None:
        first = made()
        await first.want(SLEEP)
        pid = first.pid
        first.leave()
        await made().want(None)
        assert start_time(pid) is None

    run(body)


def test_a_number_that_passes_to_another_process_ends_nobody(
    made: Callable[[], Program], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recorded program ends, and its number passes on, just before the next bypassd takes hold of it."""
    stranger = subprocess.Popen(SLEEP)
    passed_on = False
    real_open, real_time = os.pidfd_open, process.start_time

    def pidfd_open(pid: int, flags: int = 0) -> int:
        nonlocal passed_on
        passed_on = True
        return real_open(pid, flags)

    monkeypatch.setattr(os, "pidfd_open", pidfd_open)
    for module in (process, service):
        monkeypatch.setattr(module, "start_time", lambda pid: real_time(pid) if passed_on else 7, raising=False)
    record = {"pid": stranger.pid, "started": 7, "words": SLEEP}
    (tmp_path / "it.json").write_text(json.dumps(record))

    async def body() -> None:
        one = made()
        await one.want(None)
        assert not one.running
        assert stranger.poll() is None

    try:
        run(body)
    finally:
        stranger.kill()
        stranger.wait()


def test_it_is_started_again_when_it_dies(made: Callable[[], Program], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "FIRST_DELAY", 0.01)

    async def body() -> None:
        one = made()
        await one.want(["sh", "-c", "echo last words >&2; exec sleep 1000"])
        pid = one.pid
        os.kill(pid, signal.SIGKILL)
        await until(lambda: one.running and one.pid != pid)
        await one.want(None)

    run(body)


def test_what_cannot_run_says_why(made: Callable[[], Program]) -> None:
    async def body() -> None:
        one = made()
        await one.want(["/no/such/program"])
        assert not one.running
        assert one.detail == "/no/such/program: No such file or directory"
        await one.want(None)

    run(body)


def test_memory(tmp_path: Path) -> None:
    """Users, numbers and the port's settings come back as they were; a damaged file is an empty one."""
    path = tmp_path / "access.json"
    Memory(path).keep({"admin": 2000}, CONFIG)
    assert path.stat().st_mode & 0o777 == 0o600
    again = Memory(path)
    again.load()
    assert (again.uids, again.users(), again.management()) == ({"admin": 2000}, CONFIG.user, CONFIG.management)
    assert again.secrets() == [ADMIN.password]
    for damage in ("", "{", "[]", '{"uids": {"admin": 0}, "config": {}}', '{"uids": {}, "config": {"user": 1}}'):
        path.write_text(damage)
        other = Memory(path)
        other.load()
        assert other.uids == {}


def test_sessions_of_processes_that_are_gone_are_forgotten() -> None:
    sessions = Sessions()
    sessions.note(SshEvent("login", "admin", "10.88.0.1", "key", os.getpid()))  # not an SSH server
    assert sessions.show() == []


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    (tmp_path / "etc/shadow").write_text("root:*:1::::::\n")
    (tmp_path / "etc/group").write_text("root:x:0:\n")
    return tmp_path


def part(root: Path, config: Config | None, events: Events | None = None) -> Access:
    lan = Lan(Namespace("no-such-name", root / "run/netns"), ())
    told = events or Events()
    log = Syslog(told, lan.space, lambda: "wire1", 1)
    endpoint = Endpoint(list, lan.space)
    return Access(
        config,
        parse(BOARD),
        Paths(root),
        told,
        lan=lan,
        endpoint=endpoint,
        syslog=log,
        opened=lambda: None,
        facts=lambda items: Facts(),
    )


def test_accounts_follow_the_configuration(root: Path) -> None:
    async def body() -> None:
        access = part(root, CONFIG)
        await access.start()
        await access.apply(CONFIG)
        assert "admin:x:2000:900" in (root / "etc/passwd").read_text()
        await access.apply(Config())
        assert "admin" not in (root / "etc/passwd").read_text()
        await access.apply(CONFIG)
        assert "admin:x:2000:900" in (root / "etc/passwd").read_text(), "the number is kept"

    run(body)


def test_without_a_valid_configuration_the_last_users_hold(root: Path) -> None:
    async def body() -> None:
        first = part(root, CONFIG)
        await first.start()
        await first.apply(CONFIG)
        (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")  # a reboot
        second = part(root, None)
        await second.start()
        task = asyncio.create_task(second.run(lambda: None))
        await until(lambda: "admin:x:2000" in (root / "etc/passwd").read_text())
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run(body)


def test_what_did_not_work_before_refuses_no_other_change(root: Path) -> None:
    """A commit that breaks the port is refused; one that changes something else while it is broken is not."""
    broken = Config(management=Management(address="192.0.2.1/24", port="mgmt0"), user=(ADMIN,))

    async def body() -> None:
        events = Events()
        access = part(root, CONFIG, events)
        await access.start()
        (access.space.run / access.space.name).mkdir(parents=True)  # a name without a namespace behind it
        with pytest.raises(UnreachableError, match="the network namespace no-such-name cannot be created"):
            await access.apply(broken)
        await access.apply(broken)
        assert [event.cause for event in events.newest()] == ["access_fault"]
        assert (await access.show()).state == "failed"

    run(body)


def test_another_boards_port_is_refused_before_anything_changes(root: Path) -> None:
    async def body() -> None:
        with pytest.raises(ConfigError, match='no management port "mgmt7"; it has: mgmt0'):
            await part(root, CONFIG).prepare(Config(management=Management(port="mgmt7")))

    run(body)


def test_a_guest_with_the_management_ports_own_address_is_refused(root: Path) -> None:
    async def body() -> None:
        access = part(root, CONFIG)
        access.port.seen = Seen(mac="02:00:00:00:07:01")
        guest = Guest(name="fw", management="bridged", management_mac="02:00:00:00:07:01")
        with pytest.raises(ConfigError, match=r"guest fw: management_mac: .*own address"):
            await access.prepare(Config(guest=(guest,)))
        await access.prepare(Config(guest=(Guest(name="fw", management="bridged"),)))

    run(body)
