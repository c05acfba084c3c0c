# SPDX-License-Identifier: GPL-2.0-only
"""Whether something can be reached from the management port: one name, one echo, one hop, one connection a question.

Whoever asks repeats the question, so nothing runs on in bypassd when he stops, and Ctrl-C is his. busybox's programs
ask in the namespace of the management port. Texts of programs go in, typed answers come out.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import re
import socket
import time

from appliance.api.rpc import Param, Params, Registry
from appliance.api.schema import machine, methods
from appliance.config.check.verify_access import is_name
from appliance.errors import RefusedError, UnreachableError
from appliance.system.command import run
from appliance.system.namespace import Namespace

WAIT_S = 2
NAMES_S = 15.0  # for all name servers, of which each is asked twice
CONNECT_S = 5.0
MOST = 4  # questions at the same time
_REPLY = re.compile(r"bytes from [^\n]*?: (?:icmp_)?seq=\d+ ttl=(\d+) time=([\d.]+) ms")
_HOP = re.compile(r"^ *\d+ +(?:(\S+) +([\d.]+) ms( ![A-Z0-9]+)?|\*)", re.M)


def name_in(text: str) -> str:
    """A host name or address that may stand on a command line. RefusedError."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        pass
    if not is_name(text):
        raise RefusedError(f'"{text[:60]}" is not an address or a name')
    return text


def addresses(said: str) -> list[str]:
    """From nslookup: the addresses of the name, not that of the server, which comes first. Pure."""
    _, _, answer = said.partition("\n\n")
    found = re.findall(r"^Address(?: \d+)?:\s+(\S+)", answer, re.M)
    return list(dict.fromkeys(found))


def reply(said: str) -> tuple[float, int] | None:
    """From ping: milliseconds and TTL of the reply; None: there was none. Pure."""
    found = _REPLY.search(said)
    return (float(found[2]), int(found[1])) if found else None


def trouble(said: str) -> str:
    """The last line of a program that failed, without its name. Pure."""
    lines = [line.strip() for line in said.splitlines() if line.strip() and not line.startswith(("PING", "---"))]
    last = lines[-1].removeprefix(";; ") if lines else ""
    return last.rpartition(": ")[2]


class Reach:
    """The handlers."""

    def __init__(self, space: Namespace) -> None:
        self._space = space
        self._places = asyncio.Semaphore(MOST)

    def register(self, registry: Registry) -> None:
        """Offer the methods."""
        address = {"address": Param("string", "an address")}
        size = {"size": Param("integer", "bytes of payload, 8 to 8972; left out: 56", required=False)}
        server = {
            "server": Param("string", "address of the name server; left out: those of the appliance", required=False)
        }
        host, hop = {"host": Param("string", "a name or an address")}, {"hop": Param("integer", "1 to 64")}
        port = {"port": Param("integer", "a TCP port")}
        where = "from the management port"
        add = registry.add
        add(methods.REACH_NAME, self.name, "operator", f"addresses of a name, asked {where}", {**host, **server})
        add(methods.REACH_PING, self.ping, "operator", f"one echo request {where}", {**address, **size})
        add(methods.REACH_HOP, self.hop, "operator", f"the router at this distance {where}", {**address, **hop})
        add(methods.REACH_TCP, self.tcp, "operator", f"one TCP connection {where}", {**address, **port})

    async def name(self, params: Params) -> machine.Resolved:
        """reach.name"""
        host = name_in(str(params["host"]))
        if not is_name(host):
            return machine.Resolved(host, [host], 0.0)
        words = ["busybox", "nslookup", host]
        if "server" in params:
            words.append(_address(params["server"]))
        began = time.monotonic()
        status, said = await self._run(words, NAMES_S)
        found = addresses(said)
        if not found:
            raise UnreachableError(f"{host}: {_unresolved(said, params) if status else 'it has no address'}")
        return machine.Resolved(host, found, round((time.monotonic() - began) * 1e3, 3))

    async def ping(self, params: Params) -> machine.Echo:
        """reach.ping"""
        address, size = _address(params["address"]), int(params.get("size", 56))
        if not 8 <= size <= 8972:
            raise RefusedError("size: 8 to 8972 bytes")
        words = ["busybox", "ping", "-c", "1", "-W", str(WAIT_S), "-s", str(size), address]
        _, said = await self._run(words, WAIT_S + 3.0)
        found = reply(said)
        if found is not None:
            return machine.Echo(address, found[0], found[1], "")
        lost = "packets transmitted" in said
        return machine.Echo(address, None, None, "no reply" if lost else trouble(said) or "no reply")

    async def hop(self, params: Params) -> machine.Hop:
        """reach.hop"""
        address, number = _address(params["address"]), int(params["hop"])
        if not 1 <= number <= 64:
            raise RefusedError("hop: 1 to 64")
        trace = ["busybox", "traceroute6"] if ":" in address else ["busybox", "traceroute"]
        words = [*trace, "-n", "-q", "1", "-w", str(WAIT_S), "-f", str(number), "-m", str(number), address]
        _, said = await self._run(words, WAIT_S + 5.0)
        found = _HOP.search(said)
        if found is None:
            raise UnreachableError(f"{address}: {trouble(said) or 'no answer of traceroute'}")
        there, ms, mark = found[1] or "", float(found[2]) if found[2] else None, (found[3] or "").strip()
        return machine.Hop(number, there, ms, mark, there == address or bool(mark))

    async def tcp(self, params: Params) -> machine.Connected:
        """reach.tcp"""
        address, port = _address(params["address"]), int(params["port"])
        if not 1 <= port <= 65535:
            raise RefusedError("port: 1 to 65535")
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        async with self._places:
            sock = await asyncio.to_thread(self._space.client, family, socket.SOCK_STREAM)
            began = time.monotonic()
            with sock:
                try:
                    async with asyncio.timeout(CONNECT_S):
                        await asyncio.get_running_loop().sock_connect(sock, (address, port))
                except TimeoutError:
                    raise UnreachableError(f"{address} port {port}: no answer within {CONNECT_S:g} s") from None
                except OSError as error:  # asyncio has a text of its own
                    why = os.strerror(error.errno).lower() if error.errno else str(error)
                    raise UnreachableError(f"{address} port {port}: {why}") from error
        return machine.Connected(address, port, round((time.monotonic() - began) * 1e3, 3))

    async def _run(self, words: list[str], most: float) -> tuple[int, str]:
        if not self._space.exists:
            raise UnreachableError("the management port is not set up: give it an address")
        async with self._places:
            return await run(self._space.command(words), most)


def _unresolved(said: str, params: Params) -> str:
    """Why nslookup has no address for a name."""
    if "no servers could be reached" in said:
        if "server" in params:
            return f"{params['server']} does not answer as a name server"
        return "no name server answers; `set management dns ADDRESS` in `configure` names one"
    return "there is no such name" if "NXDOMAIN" in said else trouble(said)


def _address(text: object) -> str:
    try:
        return str(ipaddress.ip_address(str(text)))
    except ValueError as error:
        raise RefusedError(f'"{str(text)[:60]}" is not an address') from error
