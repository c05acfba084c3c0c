# SPDX-License-Identifier: GPL-2.0-only
"""What a server said about a login, and what follows from it. Pure data."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Accepted(NamedTuple):
    """The password is right. `values`: texts that may name a role; `level`: a privilege level; -1: none was sent."""

    values: tuple[str, ...] = ()
    level: int = -1


class Rejected(NamedTuple):
    """The server refuses the login."""

    why: str


class NoAnswer(NamedTuple):
    """The server decided nothing: it is dead, or what answers cannot be trusted."""

    why: str


Answer = Accepted | Rejected | NoAnswer


class Step(NamedTuple):
    """One server that was asked, for display."""

    server: str
    result: str
    seconds: float


class Verdict(NamedTuple):
    """The decision. `local`: the hash in the configuration decides. `judged`: somebody looked at the password."""

    decision: Literal["accept", "refuse", "local"]
    why: str  # for events, after "by" (accept) or alone (refuse)
    role: str = ""
    server: str = ""
    judged: bool = True
    steps: tuple[Step, ...] = ()
