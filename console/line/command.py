# SPDX-License-Identifier: GPL-2.0-only
"""What a row of the command table is made of. Pure data types."""

from __future__ import annotations

from typing import NamedTuple


class Arg(NamedTuple):
    """A value in a command. `source` says where Tab takes proposals from: a key of names.SOURCES, or `choices`.

    `on_terminal` is what stands for it when a person left it out, so that a slow line is not flooded. `rest`: it takes
    all words that follow.
    """

    name: str
    help: str
    source: str = ""
    choices: tuple[str, ...] = ()
    optional: bool = False
    number: bool = False
    on_terminal: int | None = None
    rest: bool = False


class Option(NamedTuple):
    """`--flag`, with a value when `value` is there. Without dashes it is a word like any other (`count 10`), which may
    stand wherever all needed words are there."""

    flag: str
    help: str
    value: Arg | None = None
    repeat: bool = False
    required: bool = False


class Command(NamedTuple):
    """One row. A word is literal text or an Arg; optional Args stand at the end.

    `method` is called on the control socket with the Args by name and `fixed`; `local` is a function that runs in this
    process instead: of console/commands/offline.py, or "module:function" of another module there. `view` is the name
    of a view in views/.
    """

    words: tuple[str | Arg, ...]
    help: str
    method: str = ""
    local: str = ""
    fixed: tuple[tuple[str, str], ...] = ()
    role: str = "viewer"  # that the daemon asks for; shown in `help`
    view: str = "generic"
    options: tuple[Option, ...] = ()
    wait: float = 5.0  # seconds the daemon may take to answer

    @property
    def syntax(self) -> str:
        """As it is typed, with the names of its arguments; --json is left out."""
        shown = [
            word if isinstance(word, str) else f"[{word.name}]" if word.optional else word.name for word in self.words
        ]
        for option in self.options:
            if option.flag == "--json":
                continue  # every command that shows data has it
            flag = f"{option.flag} {option.value.name}" if option.value else option.flag
            shown.append(flag if option.required else f"[{flag}]" + ("..." if option.repeat else ""))
        return " ".join(shown)
