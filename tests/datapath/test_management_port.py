# SPDX-License-Identifier: GPL-2.0-only
"""The management port with a real kernel: the result of the commands when one address replaces another.

A veth pair replaces the wire: the port in a namespace, a DHCP server (busybox) at its other end. The client and its
script are those of the appliance.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from appliance.config.schema.model import Config, Management
from appliance.errors import UnreachableError
from appliance.hardware import board
from appliance.management import bridge
from appliance.management import port as port_module
from appliance.management.port import ManagementPort
from appliance.system.namespace import Namespace
from appliance.system.service import Program
from tests.support.waiting import until

ROOT = Path(__file__).resolve().parents[2]
STATIC = Management(address="10.88.0.2/24")
ROUTED = Management(address="10.88.0.2/24", gateway="10.88.0.1")
DHCP = Management(address="dhcp")
PATIENCE_S = 20.0
_counter = itertools.count()


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


class Bench:
    """A management port and the network at its other end."""

    def __init__(self, folder: Path) -> None:
        key = f"tw{os.getpid()}m{next(_counter)}"
        self.space, self.far, self._folder = Namespace(f"{key}p"), f"{key}f", folder
        self._server: subprocess.Popen[bytes] | None = None
        for name in (self.space.name, self.far):
            ip("netns", "add", name)
        ip(
            "-n",
            self.space.name,
            "link",
            "add",
            bridge.hardware("mgmt0"),
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            self.far,
        )
        ip("-n", self.far, "address", "add", "10.88.0.1/24", "dev", "eth0")
        ip("-n", self.far, "link", "set", "eth0", "up")
        self.dhcp = Program("dhcp", folder, folder / "dhcp.log")
        ports = [board.Port(name="mgmt0", mac="02:ff:ff:ff:ff:01", role="management")]
        self.port = ManagementPort(ports, self.space, self.dhcp, folder / "dhcp.lease")

    async def become(self, management: Management) -> None:
        await self.port.converge(Config(management=management))

    @property
    def addresses(self) -> list[str]:
        rows = ip("-n", self.space.name, "-4", "-o", "address", "show", "dev", "mgmt0").splitlines()
        return [row.split()[3] for row in rows]

    @property
    def gateway(self) -> str:
        words = ip("-n", self.space.name, "route", "show", "default").split()
        return words[2] if words else ""

    def serve(self) -> None:
        """Start the DHCP server; no question whether an address is in use, which would take two seconds."""
        settings = self._folder / "udhcpd.conf"
        settings.write_text(
            f"start 10.88.0.50\nend 10.88.0.50\ninterface eth0\nlease_file {self._folder}/leases\n"
            f"pidfile {self._folder}/pid\noption subnet 255.255.255.0\noption router 10.88.0.1\noption lease 600\n"
        )
        (self._folder / "leases").touch()
        words = ["ip", "netns", "exec", self.far, "busybox", "udhcpd", "-f", "-a", "1", str(settings)]
        self._server = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def close(self) -> None:
        if self._server is not None:
            self._server.kill()
            self._server.wait()
        for name in (self.space.name, self.far):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    script = (ROOT / "rootfs/usr/libexec/bypass/dhcp").read_text()
    mine = tmp_path / "dhcp-script"
    mine.write_text(script.replace("/run/bypass/access", str(tmp_path)))
    mine.chmod(0o755)
    client = tuple(str(mine) if word == port_module.SCRIPT else word for word in port_module.DHCP)
    monkeypatch.setattr(port_module, "DHCP", client)
    made = Bench(tmp_path)
    try:
        yield made
    finally:
        made.close()


def run(bench: Bench, body: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                await body()
        finally:
            await bench.dhcp.want(None)

    asyncio.run(limited())


def test_another_address_of_the_same_network_stays(bench: Bench) -> None:
    """The kernel takes later addresses of the same network along with one that goes, unless told not to."""

    async def body() -> None:
        await bench.become(ROUTED)
        await bench.become(Management(address="10.88.0.3/24", gateway="10.88.0.1"))
        assert (bench.addresses, bench.gateway) == (["10.88.0.3/24"], "10.88.0.1")

    run(bench, body)


def test_from_dhcp_to_a_static_address_of_the_same_network(bench: Bench) -> None:
    """The usual way: an appliance that began with DHCP is given the address that the server chose, or its neighbour."""

    async def body() -> None:
        bench.serve()
        for wanted, gateway in ((STATIC, ""), (ROUTED, "10.88.0.1"), (Management(address="10.88.0.50/24"), "")):
            await bench.become(DHCP)
            await until(lambda: bench.addresses == ["10.88.0.50/24"] and bench.gateway == "10.88.0.1")
            await until(lambda: bench.port.lease()["state"] == "bound")  # written after the address and the route
            await bench.become(wanted)
            assert not bench.dhcp.running
            assert (bench.addresses, bench.gateway) == ([wanted.address], gateway)

    run(bench, body)


def test_what_does_not_come_out_as_it_was_wanted_is_said(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that exit with 0 but change nothing are no success: a commit that leaves no address is rolled back."""
    good = bench.port.ip

    async def deaf(*words: str) -> None:
        if "replace" not in words:
            await good(*words)

    monkeypatch.setattr(bench.port, "ip", deaf)

    async def body() -> None:
        with pytest.raises(
            UnreachableError, match=r"is not as configured; these commands had no effect: .* replace 10\.88\.0\.2/24"
        ):
            await bench.become(STATIC)

    run(bench, body)


def _served(far: str, near: str, port: int) -> tuple[subprocess.Popen[str], Callable[[], bool]]:
    """An echo server in `near`; a question whether a new connection to it from `far` is answered."""
    server = (
        "import socket,threading\n"
        f"listener = socket.create_server(('10.88.0.2', {port}))\n"
        "print('ready', flush=True)\n"
        "def echo(link):\n"
        "    while data := link.recv(99): link.sendall(data)\n"
        "while True: threading.Thread(target=echo, args=(listener.accept()[0],), daemon=True).start()\n"
    )
    running = subprocess.Popen(
        ["ip", "netns", "exec", near, sys.executable, "-c", server], stdout=subprocess.PIPE, text=True
    )
    assert running.stdout is not None
    assert running.stdout.readline() == "ready\n"
    attempt = f"import socket; socket.create_connection(('10.88.0.2', {port}), 0.7)"

    def answered() -> bool:
        words = ["ip", "netns", "exec", far, sys.executable, "-c", attempt]
        return subprocess.run(words, capture_output=True, check=False).returncode == 0

    return running, answered


def test_a_block_refuses_new_ssh_connections_and_leaves_open_ones(bench: Bench) -> None:
    """Two administrators on a jump host: one who mistypes six passwords must not freeze the session of the other."""
    client = (
        "import socket,sys\n"
        "link = socket.create_connection(('10.88.0.2', 22), 5)\n"
        "for line in sys.stdin:\n"
        "    link.sendall(line.encode()); print(link.recv(99).decode(), end='', flush=True)\n"
    )

    async def body() -> None:
        await bench.become(STATIC)
        server, answered = _served(bench.far, bench.space.name, 22)
        other, metrics = _served(bench.far, bench.space.name, 9464)
        session = subprocess.Popen(
            ["ip", "netns", "exec", bench.far, sys.executable, "-c", client],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        talk, answers = session.stdin, session.stdout
        assert talk is not None
        assert answers is not None

        async def works(word: str) -> bool:
            print(word, file=talk, flush=True)
            return await asyncio.to_thread(answers.readline) == f"{word}\n"

        try:
            assert await works("before")
            await bench.port.shut_out("10.88.0.1/32")
            assert not await asyncio.to_thread(answered)
            assert await works("meanwhile")
            assert await asyncio.to_thread(metrics)
            await bench.port.shut_out("192.0.2.0/24")
            await bench.port.let_in("10.88.0.1/32")
            assert await asyncio.to_thread(answered)
            await bench.port.shut_out("10.88.0.1/32")
            await bench.become(Management(address="10.88.0.2/24", ssh_port=9464))  # the block follows the server
            assert await asyncio.to_thread(answered)
            assert not await asyncio.to_thread(metrics)
            bench.port._guarded = None  # as the next bypassd begins, which knows of no block
            bench.port._blocked.clear()
            await bench.become(STATIC)
            assert await asyncio.to_thread(metrics)
        finally:
            for process in (session, server, other):
                process.kill()
                process.wait()

    run(bench, body)
