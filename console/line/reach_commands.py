# SPDX-License-Identifier: GPL-2.0-only
"""The commands that try what can be reached from the management port. Pure data; commands.py joins all topics."""

from __future__ import annotations

from console.line.command import Arg, Command, Option

JSON = Option("--json", "print data as JSON")
HOST = Arg("HOST", "a name or an address")


def _row(words: tuple[str | Arg, ...], text: str, *options: Option) -> Command:
    local = f"reach:{words[0]}"
    return Command(words, text, local=local, role="operator", view="done", options=(*options, JSON))


REACH: tuple[Command, ...] = (
    _row(
        ("ping", HOST),
        "send echo requests from the management port; default: 5",
        Option("count", "so many", Arg("N", "1 to 100000", number=True)),
        Option("size", "bytes of payload", Arg("N", "8 to 8972; default: 56", number=True)),
    ),
    _row(
        ("traceroute", HOST),
        "routers on the way from the management port",
        Option("hops", "at most so many", Arg("N", "1 to 64; default: 30", number=True)),
    ),
    _row(
        ("dns", HOST),
        "addresses of a name, asked from the management port",
        Option("server", "ask this name server", Arg("ADDRESS", "an address")),
    ),
    _row(("tcp", HOST, Arg("PORT", "1 to 65535", number=True)), "try a TCP connection from the management port"),
)
