# SPDX-License-Identifier: GPL-2.0-only
"""Turns lines of dropbear's log into events, and follows the file. Pure except for `Tail`.

A line looks like `[1234] Nov 24 18:40:01 Bad password attempt for 'admin' from 192.0.2.7:50122`. Names are arbitrary
input, so a name ends at the last quote before ` from `, and its control characters are replaced.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

LIMIT = 1 << 18  # bytes; the file is truncated when it exceeds this


@dataclass(frozen=True)
class SshEvent:
    """One event. `user` "" = there is no such user."""

    kind: Literal["failed", "login", "logout"]
    user: str
    address: str
    how: str = ""  # password or key; or why the session ended
    pid: int = 0


_LINE = re.compile(r"^\[(\d+)\] \w{3} +\d+ [\d:]{8} (.*)$")
_FROM = r"from <?(?P<address>[0-9a-fA-F.:]+(?:%\w+)?):\d+>?"
_EVENTS: tuple[tuple[re.Pattern[str], Literal["failed", "login", "logout"], str], ...] = (
    (re.compile(rf"^Bad password attempt for '(?P<user>.*)' {_FROM}$"), "failed", "password"),
    (re.compile(rf"^Too-long password attempt for '(?P<user>.*)' {_FROM}$"), "failed", "password is too long"),
    (re.compile(rf"^Login attempt for (?P<user>)nonexistent user {_FROM}$"), "failed", "no such user"),
    (re.compile(rf"^Login attempt with wrong user (?P<user>.*) {_FROM}$"), "failed", "another user name"),
    (re.compile(rf"^Password auth succeeded for '(?P<user>.*)' {_FROM}$"), "login", "password"),
    (re.compile(rf"^Pubkey auth succeeded for '(?P<user>.*)' with .* {_FROM}$"), "login", "key"),
    (re.compile(rf"^Exit \((?P<user>.*)\) {_FROM}: (?P<how>.*)$"), "logout", ""),
)


def clean(text: str) -> str:
    """An untrusted name or reason, made printable and short."""
    return "".join(c if c.isprintable() else "?" for c in text)[:64]


def parse(line: str) -> SshEvent | None:
    """The event of one line; None for other lines."""
    found = _LINE.match(line.rstrip("\n"))
    if not found:
        return None
    pid, text = int(found[1]), found[2]
    for pattern, kind, how in _EVENTS:
        hit = pattern.match(text)
        if hit is None:
            continue
        groups = hit.groupdict()
        return SshEvent(kind, clean(groups["user"]), groups["address"], clean(groups.get("how") or how), pid)
    return None


class Tail:
    """Follows a log file that other processes append to, from its beginning. Lives as long as the part."""

    def __init__(self, path: Path) -> None:
        self._path, self._place, self._rest = path, 0, b""

    def lines(self) -> Iterator[str]:
        """Whole lines written since the last call. A file that is too long is truncated once it is read."""
        try:
            size = self._path.stat().st_size
            if size < self._place:
                self._place, self._rest = 0, b""
            if size == self._place:
                return
            with self._path.open("rb") as file:
                file.seek(self._place)
                data = file.read(2 * LIMIT)
            self._place += len(data)
            if self._place > LIMIT:
                os.truncate(self._path, 0)  # the server appends, so it continues at the beginning
                self._place = 0
        except OSError:
            return
        *whole, self._rest = (self._rest + data).split(b"\n")
        for line in whole:
            yield line.decode("utf-8", "replace")
