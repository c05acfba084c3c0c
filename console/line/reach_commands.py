# SPDX-License-Identifier: GPL-2.0-only
"""The commands that try what can be reached from the management port. Pure data; commands.py joins all topics."""

from __future__ import annotations

from console.line.command import Arg, Command, Option

JSON = Option("--json", "print data as JSON")
HOST = Arg("HOST", "a name or an address")


def _number(name: str, least: int, most: int, default: str = "") -> Arg:
    return Arg(name, f"{least} to {most}{default}", number=True, within=(least, most))


def _row(words: tuple[str | Arg, ...], text: str, *options: Option) -> Command:
    local = f"reach:{words[0]}"
    return Command(words, text, local=local, role="operator", view="done", options=(*options, JSON))


REACH: tuple[Command, ...] = (
    _row(
        ("ping", HOST),
        "send echo requests from the management port",
        Option("count", "number of echo requests", _number("N", 1, 100_000, "; default: 5")),
        Option("size", "bytes of payload", _number("N", 8, 8972, "; default: 56")),
    ),
    _row(
        ("traceroute", HOST),
        "routers on the way to a host, from the management port",
        Option("hops", "maximum number of hops", _number("N", 1, 64, "; default: 30")),
    ),
    _row(
        ("dns", HOST),
        "look up the addresses of a name, from the management port",
        Option("server", "name server to ask; default: those of the appliance", Arg("ADDRESS", "an address")),
    ),
    _row(("tcp", HOST, _number("PORT", 1, 65535)), "try a TCP connection from the management port"),
)
