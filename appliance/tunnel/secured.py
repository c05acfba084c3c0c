# SPDX-License-Identifier: GPL-2.0-only
"""Makes, finds again and removes the WireGuard device of one remote and its namespace. Both outlive bypassd.

The keys are those of WireGuard's own tool; they are in files that only root reads, and in no command line.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from appliance.config.schema import encapsulations
from appliance.config.schema.model import Tunnel
from appliance.errors import UnreachableError
from appliance.system import files, netdev
from appliance.system.command import run
from appliance.system.namespace import Namespace
from appliance.system.threads import to_the_end
from appliance.tunnel import wireguard
from appliance.tunnel.wireguard import Session

LIMIT_S = 5.0


class Secured:
    """See the module. `outer`: the namespace of the management port; `own_key`: the file with the appliance's key."""

    def __init__(self, tunnel: Tunnel, hop: int, outer: Namespace, own_key: Path) -> None:
        assert tunnel.wireguard is not None
        self._tunnel, self._config, self._outer, self._own_key = tunnel, tunnel.wireguard, outer, own_key
        self._name = wireguard.device_name(hop)
        self.space = Namespace(self._name, outer.run)
        self.session: Session | None = None  # as it was found last
        self.gone = False  # another program removed the device

    @property
    def address(self) -> str:
        """Ours inside."""
        return self._config.address

    async def set_up(self, folder: Path, mtu: int) -> bool:
        """Make the device, which is True, or go on with the one that is there.

        `folder`: for a file in memory; `mtu`: of the way. UnreachableError: the kernel, the tool or the management port
        refuses.
        """
        if not self._outer.exists:
            raise UnreachableError("the management port is not set up yet")
        anew = (await self._link()).get("ifalias") != wireguard.mark(self._tunnel)
        if anew:
            await self.take_down()
            await self._make(folder, mtu)
        await self.look()
        return anew

    async def _make(self, folder: Path, mtu: int) -> None:
        name, config, far = self._name, self._config, wireguard.ends(self._tunnel)
        key = await self._private_key()
        await to_the_end(self.space.make)
        await self._run(self._outer.command(["ip", "link", "add", name, "type", "wireguard"]))
        there = str(self.space.run / self.space.name)
        await self._run(self._outer.command(["ip", "link", "set", name, "netns", there]))
        await to_the_end(partial(self.space.inside, partial(netdev.enable_ipv6, name)))
        file = folder / "wireguard.conf"
        try:
            files.replace(file, wireguard.settings(config, far, key), synced=False)
            await self._run(self.space.command(["wg", "setconf", name, str(file)]))
        except OSError as error:
            raise UnreachableError(f"{file}: {error.strerror}") from error
        finally:
            file.unlink(missing_ok=True)
        for words in wireguard.addressing(name, config, far, mtu - encapsulations.wireguard_overhead(self._tunnel)):
            await self._run(self.space.command(["ip", *words]))
        await self._run(self.space.command(["ip", "link", "set", name, "alias", wireguard.mark(self._tunnel)]))

    async def _private_key(self) -> str:
        """From the configured file, or the appliance's own, which is made here if there is none."""
        file = Path(self._config.private_key_file or self._own_key)
        try:
            if not self._config.private_key_file and not file.exists():
                await asyncio.to_thread(files.replace, file, await self._run(["wg", "genkey"]))
            key = file.read_text(encoding="ascii", errors="replace").strip()
        except OSError as error:
            raise UnreachableError(f"the private key of WireGuard: {file}: {error.strerror}") from error
        if not encapsulations.WIREGUARD_KEY.fullmatch(key):  # the tool would say it aloud
            raise UnreachableError(f"the private key of WireGuard: {file}: it holds no key")
        return key

    async def _run(self, words: Sequence[str]) -> str:
        status, text = await run(words, LIMIT_S)
        if status == 0:
            return text
        said = " ".join(text.split()).removeprefix("Error: ").removeprefix("RTNETLINK answers: ")
        if "Unknown device type" in said or "not supported" in said:
            said = "the kernel has none: it was built without CONFIG_WIREGUARD"
        elif "Address already in use" in said:
            said = f"UDP port {self._config.port} of the management port is in use by another program"
        raise UnreachableError(f"WireGuard to {self._config.peer}: {said}")

    async def _link(self) -> dict[str, object]:
        """What `ip` says of the device; empty: there is none."""
        if not self.space.exists:
            return {}
        _, text = await run(self.space.command(["ip", "-s", "-j", "link", "show", self._name]), LIMIT_S)
        try:
            rows = json.loads(text or "[]")
        except ValueError:
            return {}
        return rows[0] if isinstance(rows, list) and rows and isinstance(rows[0], dict) else {}

    async def look(self) -> str:
        """Why nothing gets through it; "" if nothing is known against it. Never raises."""
        try:
            link = await self._link()
            _, text = await run(self.space.command(["wg", "show", self._name, "dump"]), LIMIT_S)
        except UnreachableError as error:
            return str(error)
        self.gone = not link
        self.session = found = wireguard.parse(text, _refused(link))
        if self.gone:
            return "its WireGuard device was removed by another program"
        return found.trouble(self._config.peer, time.time()) if found is not None else " ".join(text.split())

    async def fit(self, mtu: int) -> None:
        """Give the device the MTU that this one of the way leaves it."""
        wanted = mtu - encapsulations.wireguard_overhead(self._tunnel)
        if (await self._link()).get("mtu") != wanted:
            await self._run(self.space.command(["ip", "link", "set", self._name, "mtu", str(wanted)]))

    async def take_down(self) -> None:
        """Remove the device with its namespace."""
        self.session, self.gone = None, False
        await remove(self.space)


def _refused(link: dict[str, object]) -> int:
    counted = link.get("stats64")
    received = counted.get("rx") if isinstance(counted, dict) else None
    return int(received.get("errors", 0)) if isinstance(received, dict) else 0


async def remove(space: Namespace) -> None:
    """Remove a namespace of this module, and the device in it. UnreachableError: the kernel refuses."""
    if not (space.run / space.name).exists():
        return
    if space.exists:
        # The namespace itself lives for as long as a tunnel has not been forgotten; its port must be free at once.
        await run(space.command(["ip", "link", "delete", space.name]), LIMIT_S)
    await to_the_end(space.remove)


def existing(outer: Namespace) -> list[Namespace]:
    """All namespaces that look like those of this module."""
    try:
        names = [path.name for path in outer.run.iterdir()]
    except OSError:
        return []
    return [Namespace(name, outer.run) for name in sorted(names) if wireguard.NAME.fullmatch(name)]
