# SPDX-License-Identifier: GPL-2.0-only
"""The management port: moved into its namespace, with its addresses or its DHCP client, which outlives bypassd.

bridge.py and network.py decide what to do; this module reads the port's state and runs the commands. Errors are
UnreachableError (a command failed) and HardwareError (the port is missing), one clear line each.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from appliance.config.schema.model import Config, Management
from appliance.errors import HardwareError, UnreachableError
from appliance.hardware import board
from appliance.hardware.links import devices, match
from appliance.management import allowed, bridge, login_block, network
from appliance.system.command import run
from appliance.system.namespace import Namespace
from appliance.system.service import Program

SCRIPT = "/usr/libexec/bypass/dhcp"
DHCP = ("busybox", "udhcpc", "-f", "-s", SCRIPT, "-t", "5", "-T", "3", "-A", "10", "-O", "ntpsrv")


class ManagementPort:
    """See the module. `ports` are the board's management ports; `lease` is the file that the DHCP script writes.

    `guests` are those on its LAN: tap -> MAC address; changed from elsewhere.
    """

    def __init__(
        self,
        ports: Sequence[board.Port],
        space: Namespace,
        dhcp: Program,
        lease: Path,
        guests: Mapping[str, str] | None = None,
    ) -> None:
        self._ports, self.space, self.dhcp, self._lease = ports, space, dhcp, lease
        self._guests = guests if guests is not None else {}
        self.seen = network.Seen()
        self._swept = ""  # the port for which `_sweep` was done
        self._allowed: tuple[object, ...] | None = ()  # as installed in tc; (): unknown
        self._blocked: dict[str, int] = {}  # network -> number of its filter
        self._blocking = asyncio.Lock()
        self._guarded: tuple[str, int] | None = None  # the port and the SSH port that the filters are for

    @property
    def names(self) -> list[str]:
        """The board's management ports."""
        return [port.name for port in self._ports]

    def name(self, management: Management) -> str:
        """The name of the port in use. HardwareError: the board has none."""
        if management.port:
            return management.port
        if not self._ports:
            raise HardwareError("this board has no management port: board.toml has none")
        return self._ports[0].name

    async def converge(self, config: Config) -> None:
        """Configure the port."""
        management = config.management
        if not (management.address or management.address6 or self.space.exists):
            return
        port = self.name(management)
        self.space.make()
        if self._swept != port:
            await self._sweep(port)
        links = await self._links()
        if bridge.hardware(port) not in links:
            await self._move(port)
            links = await self._links()
        wanted = bool(management.address or management.address6)
        for words in bridge.commands(port, wanted, self._guests, links, self.space.name, mtu=management.mtu):
            await self._run(words)
        await self._guard(port, management.ssh_port)
        self._settings(port, bool(management.address6))
        if management.address != "dhcp":
            await self.dhcp.want(None)  # first: it would set its own address again
        for words in network.commands(management, port, await self._see(port), self.space.name):
            await self.ip(*words)
        if management.address == "dhcp":
            client = [*DHCP, "-i", port, "-x", f"hostname:{config.system.hostname}"]
            await self.dhcp.want(self.space.command(client))
        self.seen = await self._see(port)
        if left := network.commands(management, port, self.seen, self.space.name):
            missing = "; ".join(" ".join(words) for words in left)
            raise UnreachableError(
                f"management port {port} is not as configured; these commands had no effect: ip {missing}"
            )

    async def allow(self, management: Management, ports: Sequence[int], udp: Sequence[int] = ()) -> None:
        """Let only the configured networks reach these ports, of TCP and UDP. UnreachableError: tc refuses."""
        if not self.seen.there:
            return
        wanted = (self.name(management), management.allow, tuple(ports), tuple(udp)) if management.allow else None
        if wanted == self._allowed:
            return
        port = self.name(management)
        if wanted is None:
            await run(allowed.removal(port, self.space.name))  # fails where there was nothing
        for words in allowed.commands(management.allow, ports, port, self.space.name, udp) if wanted else ():
            await self._run(words)
        self._allowed = wanted

    async def shut_out(self, name: str) -> None:
        """Answer no new SSH connection from this network; open sessions go on."""
        async with self._blocking:
            taken = set(self._blocked.values())
            number = self._blocked.setdefault(name, next(n for n in itertools.count(1) if n not in taken))
            if self._guarded is not None:
                await self._run(login_block.block(name, number, *self._guarded, self.space.name))

    async def let_in(self, name: str) -> None:
        """Answer it again."""
        async with self._blocking:
            number = self._blocked.pop(name, 0)
            if number and self._guarded is not None:
                await self._run(login_block.unblock(number, self._guarded[0], self.space.name))

    async def _guard(self, port: str, ssh_port: int) -> None:
        """Have the blocks on this port, for this SSH port, and none that an earlier bypassd left."""
        async with self._blocking:
            if self._guarded == (port, ssh_port):
                return
            self._guarded = None
            ready, clean = login_block.begin(port, self.space.name)
            await self._run(ready)
            await run(clean)
            for name, number in self._blocked.items():
                await self._run(login_block.block(name, number, port, ssh_port, self.space.name))
            self._guarded = (port, ssh_port)

    def lease(self) -> dict[str, str]:
        """The DHCP client's lease."""
        try:
            return network.parse_lease(self._lease.read_text(encoding="utf-8"))
        except OSError:
            return {"state": "no answer from a DHCP server yet"}

    async def ip(self, *words: str) -> None:
        """Run iproute2's `ip`; UnreachableError has its message."""
        await self._run(["ip", *words])

    async def _run(self, words: Sequence[str]) -> None:
        status, text = await run(words)
        if status != 0:
            raise UnreachableError(f"management port: {' '.join(words)}: {' '.join(text.split())}")

    async def _sweep(self, port: str) -> None:
        """Once: set down another port that was in use."""
        await self.ip("-n", self.space.name, "link", "set", "lo", "up")
        for other in (name for name in self.names if name != port):
            for words in network.commands(Management(), other, await self._see(other), self.space.name):
                await self.ip(*words)
            if bridge.hardware(other) in await self._links():
                await self.ip("-n", self.space.name, "link", "set", bridge.hardware(other), "down")
        self._swept = port

    async def _see(self, port: str) -> network.Seen:
        inside = ["ip", "-n", self.space.name]
        status, links = await run([*inside, "-j", "address", "show", "dev", port])
        if status != 0:
            return network.Seen()
        _, routes = await run([*inside, "-j", "route", "show", "default"])
        _, routes6 = await run([*inside, "-6", "-j", "route", "show", "default"])
        found = network.parse(links, routes, routes6)
        return replace(found, link=bridge.carrier(await self._links(), port))

    async def _links(self) -> bridge.Links:
        """All links in the namespace."""
        _, text = await run(["ip", "-n", self.space.name, "-j", "-d", "link", "show"])
        return bridge.parse(text)

    async def _move(self, name: str) -> None:
        """Find the hardware port described in board.toml, and move it into the namespace."""
        wanted = [port for port in self._ports if port.name == name]
        found, missing = match(wanted, await asyncio.to_thread(devices))
        if name not in found:
            raise HardwareError(missing.get(name, f"{name} is not a management port of this board"))
        device = found[name].ifname
        await self.ip("link", "set", "dev", device, "down")
        await self.ip("link", "set", "dev", device, "netns", self.space.name, "name", bridge.hardware(name))

    def _settings(self, port: str, ipv6: bool) -> None:
        """Set the port's sysctls: IPv6 only if configured, and no autoconfigured address."""
        wanted = {
            f"ipv4/conf/{port}/promote_secondaries": "1",  # or removing an address removes the others of its network
            f"ipv6/conf/{port}/accept_ra": "0",
            f"ipv6/conf/{port}/disable_ipv6": "0" if ipv6 else "1",
        }

        def write() -> None:
            for name, value in wanted.items():
                path = Path("/proc/sys/net", name)
                if path.exists() and path.read_text(encoding="ascii").strip() != value:
                    path.write_text(value, encoding="ascii")

        try:
            self.space.inside(write)
        except OSError as error:
            raise UnreachableError(f"management port {port}: {error.filename}: {error.strerror}") from error
