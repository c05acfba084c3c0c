# SPDX-License-Identifier: GPL-2.0-only
"""SNMPv3 with the real snmpd, and net-snmp's own programs as manager and receiver."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from simulator import netns

from appliance.config.schema import model, snmp_keys
from appliance.config.schema.model import Config
from appliance.paths import Paths
from appliance.snmp.agent import Agent
from appliance.snmp.facts import Facts, Item, Port, Relay, Result
from appliance.snmp.settings import MODULES
from appliance.system.namespace import Namespace
from appliance.system.service import Program
from appliance.telemetry.events import Events
from appliance.telemetry.subject import Change, Kind
from appliance.telemetry.transitions import Transitions
from tests.support.snmp_manager import AUTH, ENVIRONMENT, PRIV, Manager, Receiver

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("snmpd") is None, reason="snmpd is not installed"),
]

ADDRESS, MANAGER = "10.88.0.2", "10.88.0.1"
NAME, SERIAL = ".1.3.6.1.2.1.1.5.0", ".1.3.6.1.2.1.31.1.1.1.1"
WRONG = ".1.3.6.1.6.3.15.1.1.5.0"  # usmStatsWrongDigests
STARTS = ".1.3.6.1.6.3.10.2.1.2.0"  # snmpEngineBoots
LINE = ".1.3.6.1.4.1.8072.1.3.2.3.1.1"
_counter = itertools.count()
FACTS = Facts(
    board="qemu-x86_64",
    version="1.2.3",
    ports=(
        Port(1, "lan0", "lo", "data", "main/lan", up=True, link=True),
        Port(2, "wan0", "", "data", "main/wan", up=False, link=False),
        Port(3, "mgmt0", "eth0", "management", "management", up=True, link=True),
    ),
    relays=(Relay(1, "relay-main", ("lan0", "wan0"), "main", "inline"),),
    items=(Item("segment main", "inline: healthy", Result.OK),),
)


class Net:
    """The management port and a manager at the other end of its cable."""

    def __init__(self, folder: Path) -> None:
        key = f"tw{os.getpid()}s{next(_counter)}"
        self.space, self.manager, self.folder = Namespace(f"{key}a"), Manager(f"{key}m", ADDRESS), folder
        for name in (self.space.name, self.manager.namespace):
            netns.create(name)
        self.ip(
            self.space.name,
            "link",
            "add",
            "eth0",
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            self.manager.namespace,
        )
        for name, address in ((self.space.name, ADDRESS), (self.manager.namespace, MANAGER)):
            self.ip(name, "address", "add", f"{address}/24", "dev", "eth0")
            self.ip(name, "link", "set", "eth0", "up")
            self.ip(name, "link", "set", "lo", "up")

    def ip(self, name: str, *words: str) -> None:
        netns.run("ip", "-n", name, *words)

    def close(self) -> None:
        for name in (self.space.name, self.manager.namespace):
            netns.delete(name)


@pytest.fixture
def net() -> Iterator[Net]:
    with tempfile.TemporaryDirectory(prefix="tw-snmp-") as folder:
        Path(folder).chmod(0o755)  # snmpd writes to its folder without root's rights
        made = Net(Path(folder))
        yield made
        made.close()


class Site:
    """An agent with a ledger, on facts that a test changes."""

    def __init__(self, net: Net) -> None:
        self.facts = FACTS
        self.events, self.ledger = Events(), Transitions()
        (net.folder / "run/log").mkdir(parents=True, exist_ok=True)
        program = Program("snmp", net.folder, net.folder / "run/log/snmp.log")
        self.agent = Agent(Paths(net.folder), net, program, self.events, lambda items: self.facts)
        self.ledger.listen(self.agent.entry)


@asynccontextmanager
async def running(net: Net, wanted: Config) -> AsyncIterator[Site]:
    """An agent that has its session with snmpd."""
    site = Site(net)
    task = asyncio.create_task(site.agent.run())
    try:
        await site.agent.converge(wanted)
        await listening(site)
        yield site
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await site.agent.program.want(None)


async def listening(site: Site) -> None:
    ends = time.monotonic() + 20
    while (shown := await site.agent.show()).state != "listening":
        assert time.monotonic() < ends, shown.detail
        await asyncio.sleep(0.05)


def config(*receivers: model.SnmpReceiver, **more: str) -> Config:
    keys = (snmp_keys.key(AUTH, "sha-256"), snmp_keys.key(PRIV, "sha-256"))
    users = tuple(
        model.SnmpUser(name=name, access=access, auth_passphrase=keys[0], priv_passphrase=keys[1])  # type: ignore[arg-type]
        for name, access in {"monitor": "read", "signs": "notify", **more}.items()
    )
    return Config(
        system=model.System(hostname="wire1"),
        management=model.Management(address=f"{ADDRESS}/24"),
        snmp=model.Snmp(enabled=True, location="rack 7", user=users, receiver=receivers),
    )


async def asked(net: Net, program: str, *words: str, **more: str) -> tuple[int, str]:
    return await asyncio.to_thread(net.manager.ask, program, *words, **more)


def run(net: Net, wanted: Config, body: Callable[[Site], object]) -> None:
    async def main() -> None:
        async with running(net, wanted) as site:
            await body(site)  # type: ignore[misc]

    asyncio.run(main())


def test_a_manager_reads_ports_of_both_namespaces_relay_and_segment(net: Net) -> None:
    """The walk is whole, in order, and nothing in it is outside the view."""

    async def body(site: Site) -> None:
        status, text = await asked(net, "snmpbulkwalk", ".1")
        assert status == 0, text
        names = [
            tuple(map(int, line.split(" = ")[0].strip(".").split("."))) for line in text.splitlines() if "=" in line
        ]
        assert names == sorted(names)
        assert f'{NAME} = STRING: "wire1"' in text
        assert '.1.3.6.1.2.1.1.6.0 = STRING: "rack 7"' in text
        for index, port in enumerate(("lan0", "wan0", "mgmt0"), 1):
            assert f'{SERIAL}.{index} = STRING: "{port}"' in text
        assert re.search(r"\.31\.1\.1\.1\.6\.1 = Counter64: \d+", text), "octets of a port of the data path"
        assert re.search(r"\.31\.1\.1\.1\.6\.3 = Counter64: [1-9]\d*", text), "of the management port, elsewhere"
        assert ".1.3.6.1.2.1.2.2.1.8.2 = INTEGER: 6" in text, "a port that is missing"
        assert ".1.3.6.1.2.1.131.1.1.1.3.101 = INTEGER: 3" in text, "the relay is enabled: inline"
        assert '"inline: healthy"' in text
        offered = {name[:7] for name in names if name[:6] == (1, 3, 6, 1, 6, 3)}
        assert offered == {(1, 3, 6, 1, 6, 3, number) for number in (10, 11, 15)}
        assert (1, 3, 6, 1, 6, 3, 15, 1, 2) not in {name[:9] for name in names}, "no table of users"
        site.facts = replace(FACTS, relays=(replace(FACTS.relays[0], position="bypass", locked=True),))
        await asyncio.sleep(2.1)  # what was asked for is fresh for so long
        _, text = await asked(net, "snmpget", ".1.3.6.1.2.1.131.1.1.1.3.101", ".1.3.6.1.2.1.131.1.1.1.2.101")
        assert [line.rpartition(" ")[2] for line in text.splitlines()] == ["2", "2"], "disabled, locked"

    run(net, config(), body)


def test_only_a_user_of_version_3_with_the_right_passphrase_reads_and_nobody_writes(net: Net) -> None:
    async def body(site: Site) -> None:
        status, text = await asked(net, "snmpget", NAME, auth="wrong horse")
        assert (status, "Authentication failure" in text) == (1, True)
        status, text = await asked(net, "snmpget", NAME, user="nobody")
        assert (status, "Unknown user name" in text) == (1, True)
        for version in ("1", "2c"):
            status, text = await asyncio.to_thread(net.manager.ask_by_community, version, NAME)
            assert (status, "Timeout" in text) == (1, True)
        status, text = await asked(net, "snmpget", NAME, user="signs")
        assert "wire1" not in text
        for name in (NAME, f"{LINE}.12.115.101.103.109.101.110.116.32.109.97.105.110"):
            status, text = await asked(net, "snmpset", name, "s", "x")
            assert status != 0, text
        status, text = await asked(net, "snmpget", WRONG)
        assert text.strip().endswith("Counter32: 1"), text
        ends = time.monotonic() + 10
        while not (shown := await site.agent.show()).users[0].refused and time.monotonic() < ends:
            await asyncio.sleep(0.1)
        assert shown.users[0].refused == 1
        assert [event.text for event in site.events.newest() if event.subject.kind is Kind.SNMP] == [
            "SNMP: 1 with a wrong passphrase refused, for user monitor"
        ]
        status, text = await asked(net, "snmpget", NAME)
        assert "wire1" in text, "the right one goes on"

    run(net, config(), body)


async def says(receiver: Receiver, *wanted: str) -> str:
    """A line with all of this."""
    return await asyncio.to_thread(receiver.says, *wanted)


def moved(ledger: Transitions, old: str, new: str, cause: str) -> None:
    change = Change.SEGMENT_INLINE if new == "inline" else Change.SEGMENT_BYPASSED
    ledger.record(change, "main", old, new, cause, detail="bypass was requested")


def test_receivers_get_traps_and_informs_of_relay_link_and_guest(net: Net) -> None:
    """Signed and encrypted; what happens while snmpd is away is told when it is back."""
    receivers = (
        model.SnmpReceiver(name="nms", address=MANAGER, user="signs"),
        model.SnmpReceiver(name="nms2", address=MANAGER, user="signs", port=1162, kind="inform"),
    )
    bypass = (".1.3.6.1.2.1.131.0.2", "bypass: operator: bypass was requested")

    async def main() -> None:
        first = Site(net)
        await first.agent.converge(config())
        engine = (await first.agent.show()).engine
        await first.agent.program.want(None)
        trapd = Receiver(net.manager.namespace, net.folder / "trapd", "signs", engine=engine)
        informed = Receiver(net.manager.namespace, net.folder / "informed", "signs", engine="", port=1162)
        try:
            for one in (trapd, informed):
                await says(one, "NET-SNMP version")
            async with running(net, config(*receivers)) as site:
                await says(trapd, ".1.3.6.1.6.3.1.1.5.1")
                moved(site.ledger, "inline", "bypass", "operator")
                for one in (trapd, informed):
                    line = await says(one, *bypass)
                    assert ".1.3.6.1.2.1.131.1.1.1.2.101 = INTEGER: 2" in line, "entStateAdmin: locked"
                    assert ".1.3.6.1.2.1.131.1.1.1.5.101 = " in line, "entStateAlarm"
                lan0 = replace(FACTS.ports[0], link=False)
                await asyncio.sleep(0.6)  # the links are looked at twice a second
                site.facts = replace(FACTS, ports=(lan0, *FACTS.ports[1:]))
                await says(trapd, ".1.3.6.1.6.3.1.1.5.3", ".1.3.6.1.2.1.2.2.1.8.1 = INTEGER: 2", '"lan0"')
                site.facts = FACTS
                await says(trapd, ".1.3.6.1.6.3.1.1.5.4", '"lan0"')
                site.ledger.record(Change.GUEST_FAILED, "ips1", "available", "failed", "qemu_ended")
                await says(trapd, ".1.3.6.1.2.1.88.2.0.1", '"guest ips1"', "failed: qemu_ended")
                os.kill(site.agent.program.pid, signal.SIGKILL)
                ends = time.monotonic() + 10
                while (await site.agent.show()).state == "listening" and time.monotonic() < ends:
                    await asyncio.sleep(0.01)
                assert (await site.agent.show()).state == "failed"
                moved(site.ledger, "bypass", "inline", "healthy")
                await listening(site)
                await says(trapd, ".1.3.6.1.2.1.131.0.1", "inline: healthy")
                shown = await site.agent.show()
                assert shown.sent["entStateOperDisabled"] == shown.sent["entStateOperEnabled"] == 1
                assert shown.last is not None
                assert shown.last.name == "entStateOperEnabled"
                assert shown.lost == 0
        finally:
            trapd.close()
            informed.close()

    asyncio.run(main())


def test_the_engine_keeps_its_name_and_its_starts_never_go_back(net: Net) -> None:
    """Through a crash of snmpd, another configuration, a reboot, and the loss of the files of the boot."""

    async def starts(site: Site) -> int:
        _, text = await asked(net, "snmpget", STARTS)
        return int(text.rpartition(" ")[2])

    async def main() -> None:
        seen: list[int] = []
        async with running(net, config()) as site:
            engine = (await site.agent.show()).engine
            seen.append(await starts(site))
            os.kill(site.agent.program.pid, signal.SIGKILL)
            await asyncio.sleep(0.2)
            await listening(site)
            seen.append(await starts(site))
            await site.agent.converge(config(another="read"))
            await listening(site)
            seen.append(await starts(site))
            status, _ = await asked(net, "snmpget", NAME, user="another")
            assert status == 0
            await site.agent.converge(config())
            await listening(site)
            seen.append(await starts(site))
            status, text = await asked(net, "snmpget", NAME, user="another")
            assert "Unknown user name" in text, "a user that is removed is gone"
        shutil.rmtree(net.folder / "run/bypass")  # a reboot
        async with running(net, config()) as site:
            seen.append(await starts(site))
            assert (await site.agent.show()).engine == engine
        assert seen == sorted(set(seen)), seen

    asyncio.run(main())


def test_snmpd_runs_without_rights_and_no_secret_is_in_its_arguments_or_log(net: Net) -> None:
    async def body(site: Site) -> None:
        await asked(net, "snmpget", NAME, auth="wrong horse")
        pid = site.agent.program.pid
        about = Path(f"/proc/{pid}/status").read_text()
        uids = re.search(r"^Uid:\s+(.*)$", about, re.MULTILINE)
        assert uids is not None
        assert "0" not in uids[1].split()
        assert re.search(r"^CapEff:\s+0+$", about, re.MULTILINE)
        keys = [
            snmp_keys.localized(each, "sha-256", bytes.fromhex((await site.agent.show()).engine))
            for each in (AUTH, PRIV)
        ]
        shown = Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
        shown += (net.folder / "run/log/snmp.log").read_bytes()
        for secret in (AUTH, PRIV, *(key.hex()[:32] for key in keys), *site.agent.secrets):
            assert secret.encode() not in shown
        for path in (net.folder / "run/bypass/snmp").rglob("*"):
            if path.is_file():
                assert path.stat().st_mode & 0o077 == 0, path

    run(net, config(), body)


def test_a_snmpd_that_hangs_costs_nothing_but_itself(net: Net) -> None:
    """bypassd's loop goes on, the failure is named, notifications wait within their bound; then all is well again."""

    async def body(site: Site) -> None:
        os.kill(site.agent.program.pid, signal.SIGSTOP)
        longest, last = 0.0, time.monotonic()
        for number in range(300):
            moved(site.ledger, "inline" if number % 2 else "bypass", "bypass" if number % 2 else "inline", "operator")
            await asyncio.sleep(0.01)
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
        assert longest < 0.5
        os.kill(site.agent.program.pid, signal.SIGCONT)
        await listening(site)
        status, text = await asked(net, "snmpget", NAME)
        assert status == 0, text

    run(net, config(model.SnmpReceiver(name="nms", address=MANAGER, user="signs")), body)


def test_a_later_bypassd_goes_on_with_the_snmpd_that_runs(net: Net) -> None:
    async def main() -> None:
        first = Site(net)
        await first.agent.converge(config())
        pid = first.agent.program.pid
        first.agent.program.leave()
        async with running(net, config()) as later:
            assert later.agent.program.pid == pid
            _, text = await asked(net, "snmpget", f"{SERIAL}.1")
            assert '"lan0"' in text, "it has a session again"

    asyncio.run(main())


def test_a_port_that_is_taken_is_named(net: Net) -> None:
    async def main() -> None:
        taken = await asyncio.create_subprocess_exec(
            *("ip", "netns", "exec", net.space.name, "python3", "-c"),
            "import socket,time; s=socket.socket(2,2); s.bind(('',161)); print(1, flush=True); time.sleep(60)",
            stdout=subprocess.PIPE,
        )
        assert taken.stdout is not None
        await taken.stdout.readline()
        site = Site(net)
        task = asyncio.create_task(site.agent.run())
        try:
            await site.agent.converge(config())
            ends = time.monotonic() + 15
            while "Error opening" not in (shown := await site.agent.show()).detail and time.monotonic() < ends:
                await asyncio.sleep(0.05)
            assert (shown.state, "Error opening specified endpoint" in shown.detail) == ("failed", True), shown
        finally:
            taken.kill()
            await taken.wait()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await site.agent.program.want(None)

    asyncio.run(main())


def test_the_modules_that_are_started_exist(tmp_path: Path) -> None:
    """snmpd ignores a name that it does not know: then the objects would be missing without a word."""
    environment = {**ENVIRONMENT, "SNMP_PERSISTENT_DIR": str(tmp_path), "SNMPCONFPATH": str(tmp_path)}
    line = ["timeout", "2", "snmpd", "-f", "-Lo", "-C", "-Dmib_init", f"unix:{tmp_path}/none"]
    said = subprocess.run(line, check=False, capture_output=True, text=True, env=environment)
    known = re.findall(r"initializing: (\w+)", said.stdout + said.stderr)
    assert set(MODULES) <= set(known)
