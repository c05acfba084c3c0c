# SPDX-License-Identifier: GPL-2.0-only
"""What users of other appliances type by habit: understood where it has one meaning here, else answered. Pure data.

Looked at only when a line is no command, so a habit never changes what a command does. Words may be abbreviated to two
letters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Habit(NamedTuple):
    """The words that are typed; the command that is run instead (words after them are kept), or what is answered.

    `whole`: they may not be abbreviated, because that would be another command.
    """

    words: str
    means: str = ""
    answer: str = ""
    whole: bool = False


_KEPT = "what was committed is kept, also over a restart"
_ROLE = "your role decides what you may do; `show management` lists the roles"
_MINUTES = "use `commit confirmed 600`, which is in seconds, or `commit confirmed 10min`"
_FILES = (
    "files come and go by commands: `ssh USER@BOX guest import - --name NAME < FILE`,"
    " `ssh USER@BOX support-bundle - > FILE`, `ssh USER@BOX backup - < PASSPHRASE > FILE`"
)
_DISCARD = "`discard`, then `exit`"
_END = "use `reboot` or `poweroff`"

SHELL: tuple[Habit, ...] = (
    Habit("configure", "configure"),  # `conf` alone may be `configuration` as well
    Habit("show running-config", "show configuration"),
    Habit("show startup-config", "show configuration of startup"),
    Habit("show users", "show sessions"),
    Habit("show history", "show commits"),
    Habit("show interfaces", "show ports"),
    Habit("show ntp", "show clock"),
    Habit("show date", "show clock"),
    Habit("show logging", "show log"),
    *(Habit(f"show {word}", "show system") for word in ("inventory", "environment", "hardware", "memory", "uptime")),
    Habit("show lldp neighbors", "show lldp"),
    Habit("show radius", "show aaa"),
    Habit("show tacacs", "show aaa"),
    Habit("show lldp neighbours", "show lldp"),
    Habit("show snmp user", "show snmp"),
    Habit("show snmp users", "show snmp"),
    Habit("show snmp-server", "show snmp"),
    Habit("show snmp engineid", "show snmp"),
    Habit("reload", "reboot"),
    Habit("show ip", "show management"),
    Habit("confirm", "configuration confirm"),
    Habit("revert", "configuration revert"),
    Habit("who", "show sessions", whole=True),
    Habit("nslookup", "dns"),
    Habit("ping -c", answer="use `ping HOST count 3`", whole=True),
    Habit("telnet", answer="use `tcp HOST 22` to try a connection to a port", whole=True),
    Habit("show tech-support", answer="use `support-bundle FILE`"),
    *(Habit(word, answer=_END, whole=True) for word in ("shutdown", "halt", "request system")),
    Habit("erase", answer="use `factory-reset`", whole=True),
    Habit("write", answer=_KEPT),
    Habit("copy running-config startup-config", answer=_KEPT),
    Habit("do", answer="it is needed in `configure` only; here the command stands alone", whole=True),
    Habit("run", answer="it is needed in `configure` only; here the command stands alone", whole=True),
    Habit("enable", answer=_ROLE),
    Habit("disable", answer=_ROLE),
    Habit("commit-confirm", answer=_MINUTES, whole=True),
    # what the clients of these send as a command
    *(Habit(word, answer=_FILES, whole=True) for word in ("scp", "rsync", "sftp-server")),
)

CONFIGURE: tuple[Habit, ...] = (
    Habit("no", "delete"),
    Habit("show running-config", "show of running"),
    Habit("show startup-config", "show of startup"),
    Habit("show | compare", answer="use `compare`"),
    Habit("write", answer="use `commit`"),
    Habit("abort", answer=f"use {_DISCARD}"),
    Habit("exit discard", answer=f"use {_DISCARD}"),
    Habit("quit discard", answer=f"use {_DISCARD}"),
    Habit("commit and-quit", answer="use `commit`, then `exit`"),
    Habit("commit-confirm", answer=_MINUTES, whole=True),
    Habit("configure", answer="you are in `configure`; `exit` leaves it"),
)

RUN = ("run", "ru", "do")
"""What begins a command of the shell inside `configure`."""


def find(typed: Sequence[str], habits: Sequence[Habit]) -> tuple[Habit, int] | None:
    """The habit that a line begins with, and how many of its words that are."""
    for habit in habits:
        words = habit.words.split()
        fits = str.__eq__ if habit.whole else _short
        if len(typed) >= len(words) and all(fits(a, b) for a, b in zip(typed, words, strict=False)):
            return habit, len(words)
    return None


def _short(typed: str, word: str) -> bool:
    return typed == word or (len(typed) > 1 and word.startswith(typed))
