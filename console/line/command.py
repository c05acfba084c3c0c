# SPDX-License-Identifier: GPL-2.0-only
"""The parts of a row of the command table. Pure data types."""

from __future__ import annotations

from typing import NamedTuple

# units of an Arg that is a `time`, in seconds
UNITS = {"s": 1, "sec": 1, "seconds": 1, "m": 60, "min": 60, "minutes": 60, "h": 3600, "hours": 3600}
# words that skip a question or take something from others: they are never abbreviated
WHOLE = frozenset({"now", "force", "takeover", "without-administrator"})


class Arg(NamedTuple):
    """A value in a command. `source` says where Tab finds proposals: a key of live_names.SOURCES.

    `on_terminal` is the default on a terminal, so that a slow line is not flooded. `rest`: it takes all remaining
    words. `time`: a number of seconds, or a number with a unit (line/parse.py: seconds). `within`: the least and the
    greatest number. `meanings`: of each choice, where `help` does not say it for all of them.
    """

    name: str
    help: str
    source: str = ""
    choices: tuple[str, ...] = ()
    optional: bool = False
    number: bool = False
    on_terminal: int | None = None
    rest: bool = False
    time: bool = False
    within: tuple[int, int] | None = None
    meanings: tuple[str, ...] = ()


class Option(NamedTuple):
    """`--flag`, with a value if `value` is set. Without dashes it is an ordinary word (`count 10`), allowed once all
    required words are present."""

    flag: str
    help: str
    value: Arg | None = None
    repeat: bool = False
    required: bool = False


class Command(NamedTuple):
    """One row. A word is literal text or an Arg; optional Args come last.

    `method` is called on the control socket with the Args by name and `fixed`; `local` is a function that runs in this
    process instead, as "module:function" of console/commands/ (without a module: offline.py). `view` is the name of a
    view in views/.
    """

    words: tuple[str | Arg, ...]
    help: str
    method: str = ""
    local: str = ""
    fixed: tuple[tuple[str, str | int], ...] = ()
    role: str = "viewer"  # the role that the daemon requires
    view: str = "generic"
    options: tuple[Option, ...] = ()
    wait: float = 5.0  # seconds the daemon may take to answer

    @property
    def syntax(self) -> str:
        """The command as typed, with the names of its arguments; --json is omitted."""
        shown = [
            word if isinstance(word, str) else f"[{word.name}]" if word.optional else word.name for word in self.words
        ]
        for option in self.options:
            if option.flag == "--json":
                continue  # every command that shows data has it
            flag = f"{option.flag} {option.value.name}" if option.value else option.flag
            shown.append(flag if option.required else f"[{flag}]" + ("..." if option.repeat else ""))
        return " ".join(shown)
