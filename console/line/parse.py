# SPDX-License-Identifier: GPL-2.0-only
"""Match typed words to a row of the command table; what may follow, for `?` and Tab. Pure.

Words may be abbreviated as long as they are unambiguous; a whole word always wins over longer ones that begin with it.
Where only a word and its plural match ("guest NAME", "guests"), the following word decides which is meant. Choices of
an argument and options that are words may be abbreviated too, where nothing else can be meant.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import NamedTuple

from console.line import habits
from console.line.command import UNITS, WHOLE, Arg, Command, Option
from console.line.commands import COMMANDS, GROUPS, PIPES
from console.line.configure_commands import ROWS

Table = Sequence[Command]

MOST_LISTED = 12
"""Words that an error lists; of more it says how to see them."""

_TIME = re.compile(rf"(\d{{1,9}})({'|'.join(UNITS)})?", re.ASCII)


def seconds(text: str, unit: str = "") -> int:
    """The value of an argument that is a time, `unit` being the word after it, if any. UsageError: two units."""
    found = _TIME.fullmatch(text)
    assert found is not None, "checked by the parser"
    if found[2] and unit:
        raise UsageError(f'"{text} {unit}" has two units')
    return int(found[1]) * UNITS[unit or found[2] or "s"]


class UsageError(Exception):
    """The line is not a command; the text says why, and what is possible."""


class Token(NamedTuple):
    """One typed word; a `quoted` one is never an option, a pipe or `?`."""

    text: str
    start: int = 0
    quoted: bool = False


class Parsed(NamedTuple):
    """A command with its values and pipes. `rest`: the words of the argument that takes all remaining words."""

    command: Command
    args: dict[str, str]
    options: dict[str, list[str]]
    pipes: tuple[Parsed, ...] = ()
    rest: tuple[str, ...] = ()


class Next(NamedTuple):
    """Something that may be typed next: a `word` or option, or `arg` = any value of that kind.

    `before`: the words that an argument which takes all remaining words has so far.
    """

    text: str
    help: str
    arg: Arg | None = None
    before: tuple[str, ...] = ()


_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", "'": "'"}
_NUMBERED = re.compile(r"u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})", re.ASCII)


def _escaped(line: str, index: int) -> tuple[str, int]:
    """The character of the escape sequence at `index` inside $'...', and where the next one begins."""
    if found := _NUMBERED.match(line, index + 1):
        number = int(found[1] or found[2], 16)
        return (chr(number) if number <= sys.maxunicode else "\ufffd"), found.end()
    letter = line[index + 1 : index + 2]
    return _ESCAPES.get(letter, f"\\{letter}"), index + 2


def tokenize(line: str) -> tuple[list[Token], bool]:
    """The words of a line, and whether a quote is still open at its end.

    Quotes and backslash work as in a shell. In $'...' a backslash writes what a line cannot hold: \\n, \\t, \\u2028.
    """
    tokens: list[Token] = []
    text, start, quoted, quote, index = "", -1, False, "", 0
    while index < len(line):
        char = line[index]
        if quote == "$'" and char == "\\":
            char, index = _escaped(line, index)
            text += char
            continue
        if quote:
            if char == quote[-1]:
                quote = ""
            elif char == "\\" and quote == '"' and line[index + 1 : index + 2] in ('"', "\\"):
                index += 1
                text += line[index]
            else:
                text += char
        elif char.isspace() or char == "|":
            if start >= 0:
                tokens.append(Token(text, start, quoted))
                text, start, quoted = "", -1, False
            if char == "|":
                tokens.append(Token("|", index))
        else:
            start = index if start < 0 else start
            if line.startswith("$'", index):
                quote, quoted, index = "$'", True, index + 1
            elif char in "\"'":
                quote, quoted = char, True
            elif char == "\\" and index + 1 < len(line):
                index += 1
                text, quoted = text + line[index], True
            else:
                text += char
        index += 1
    if start >= 0:
        tokens.append(Token(text, start, quoted))
    return tokens, bool(quote)


_ONLY_INSIDE = {row.words[0] for row in ROWS} - {row.words[0] for row in COMMANDS}


def parse(tokens: Sequence[Token], table: Table = COMMANDS) -> Parsed:
    """The command that `tokens` name; UsageError otherwise, with the right command for what is typed by habit."""
    known = {id(COMMANDS): habits.SHELL, id(ROWS): habits.CONFIGURE}.get(id(table), ())
    typed = [token.text for token in tokens]
    if typed and typed[0].endswith("/sftp-server"):  # a path, as the SSH server has it
        typed[0] = "sftp-server"
    found = habits.find(typed, known)
    try:
        if table is COMMANDS and found is None:
            _refuse_inside(tokens)
        return _parse(tokens, table)
    except UsageError:
        if found is None:
            if table is ROWS:
                _refuse_outside(tokens)
            raise
    habit, count = found
    if not habit.means:
        raise UsageError(f'"{habit.words}" is not a command here: {habit.answer}')
    return _parse([*map(Token, habit.means.split()), *tokens[count:]], table)


def _refuse_inside(tokens: Sequence[Token]) -> None:
    """UsageError for a command of `configure` that is typed outside it, where it may be short for something else."""
    first = tokens[0].text if tokens else ""
    if first in _ONLY_INSIDE:
        line = " ".join(token.text for token in tokens)
        raise UsageError(
            f'"{first}" is a command of `configure`: type `configure` first, or `configure {line}` for it alone'
        )


def _refuse_outside(tokens: Sequence[Token]) -> None:
    """UsageError for a command of the shell that is typed inside `configure`."""
    if not tokens or any(str(row.words[0]).startswith(tokens[0].text) for row in ROWS):
        return
    try:
        _parse(tokens, COMMANDS)
    except UsageError:
        return
    line = " ".join(token.text for token in tokens)
    raise UsageError(f'"{line}" is a command of the shell: `run {line}`')


def _parse(tokens: Sequence[Token], table: Table) -> Parsed:
    first, *rest = _split_pipes(tokens)
    command = _Walk(table).feed(first)
    try:
        if [] in rest:
            raise UsageError("expected a command after |")
        pipes = tuple(_Walk(PIPES).feed(part).finish() for part in rest)
    except UsageError as error:  # a filter such as tcp-syn|tcp-ack, most likely
        raise UsageError(f"{error}; put a value that contains | in quotes") from None
    return command.finish()._replace(pipes=pipes)


def expect(tokens: Sequence[Token], table: Table = COMMANDS) -> list[Next]:
    """What may follow `tokens`, which are complete words. UsageError if they match no command."""
    *_, last = parts = _split_pipes(tokens)
    return _Walk(table if len(parts) == 1 else PIPES).feed(last).expected()


def complete(line: str, table: Table = COMMANDS) -> tuple[int, str, list[Next]]:
    """For Tab and `?` at the end of `line`: where the last word begins, its text so far, and what it may become."""
    tokens, _ = tokenize(line)
    partial = Token("", len(line))
    if tokens and not (line[-1].isspace() or tokens[-1] == Token("|", len(line) - 1)):
        partial = tokens.pop()
    try:
        following = expect(tokens, table)
    except UsageError:
        return partial.start, partial.text, []
    if not partial.text.startswith("-"):
        following = [item for item in following if not item.text.startswith("-")] or following
    return partial.start, partial.text, [item for item in following if item.arg or item.text.startswith(partial.text)]


def _split_pipes(tokens: Sequence[Token]) -> list[list[Token]]:
    parts: list[list[Token]] = [[]]
    for token in tokens:
        if token.text == "|" and not token.quoted:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


class _Walk:
    """The rows that still match, while the words are read one by one."""

    def __init__(self, table: Table) -> None:
        self._rows: list[Command] = list(table)
        self._at = 0  # index into `words` of the rows
        self._values: list[tuple[int, str]] = []  # place in `words`, value
        self._options: dict[str, list[str]] = {}
        self._open: Option | None = None  # an option that still needs its value
        self._only_words = False  # after `--`
        self._typed: list[str] = []
        self._rest = False  # the argument at `_at` takes all remaining words, and has one

    def feed(self, tokens: Sequence[Token]) -> _Walk:
        for token in tokens:
            self._feed(token)
            self._typed.append(token.text)
        return self

    def _feed(self, token: Token) -> None:
        if self._open is not None:
            self._value(self._open, self._in_full(token.text))
            self._open = None
        elif token.text == "--" and not token.quoted and not self._only_words:
            self._only_words = True
        elif token.quoted or self._only_words:
            self._word(token.text)
        else:
            text = self._in_full(token.text)
            if self._is_option(text):
                self._option(text)
            else:
                self._word(text)

    def _in_full(self, text: str) -> str:
        """The word, choice or option that `text` is short for; itself if it is none, or where a value may stand."""
        if not text or text.startswith("-") or self._rest:
            return text
        items = self.expected()
        if any(item.arg or item.text == text for item in items):
            return text
        fitting = [item.text for item in items if item.text.startswith(text) and item.text not in WHOLE]
        if len(fitting) > 1 and not _one_and_many(fitting):
            raise UsageError(f'ambiguous command "{" ".join([*self._typed, text])}": {", ".join(fitting)}')
        return fitting[0] if len(fitting) == 1 else text

    def _is_option(self, text: str) -> bool:
        return text.startswith("--") or (text in self._flags() and bool(self._whole()))

    def _option(self, text: str) -> None:
        flag, equals, value = text.partition("=") if text.startswith("--") else (text, "", "")
        known = self._flags()
        if flag not in known:
            there = f"; options: {', '.join(known)}" if known else ""
            raise UsageError(f"unknown option {flag}{self._after()}{there}")
        self._rows = [row for row in self._rows if any(option.flag == flag for option in row.options)]
        option = known[flag]
        if flag in self._options and not option.repeat:
            raise UsageError(f"{flag} may be given only once")
        if option.value is None:
            if equals:
                raise UsageError(f"{flag} takes no value")
            self._options[flag] = []
        elif equals:
            self._value(option, value)
        else:
            self._open = option

    def _value(self, option: Option, text: str) -> None:
        assert option.value is not None
        self._options.setdefault(option.flag, []).append(_checked(option.value, text, option.flag))

    def _flags(self) -> dict[str, Option]:
        return {option.flag: option for row in self._rows for option in row.options}

    def _word(self, text: str) -> None:
        rows = [row for row in self._rows if len(row.words) > self._at]
        literals = dict.fromkeys(word for row in rows if isinstance(word := row.words[self._at], str))
        named = any(isinstance(word := row.words[self._at], Arg) and word.source == "guests" for row in rows)
        # Where a name may stand as well, a keyword must be complete: a guest "im" is not `import`.
        short = [] if named else [word for word in literals if text and word.startswith(text) and word not in WHOLE]
        fitting = [text] if text in literals else short
        if len(fitting) > 1 and not _one_and_many(fitting):
            raise UsageError(f'ambiguous command "{" ".join([*self._typed, text])}": {", ".join(fitting)}')
        if fitting:
            self._rows = [row for row in rows if row.words[self._at] in fitting]
            self._at += 1
            return
        free = [row for row in rows if isinstance(row.words[self._at], Arg)]
        if free:
            arg = free[0].words[self._at]
            assert isinstance(arg, Arg)
            self._rows = free
            if _may_skip(arg) and text not in arg.choices:
                self._at += 1
                self._word(text)
                return
            self._values.append((self._at, _checked(arg, text, arg.name)))
            self._rest = arg.rest
            if not arg.rest:
                self._at += 1
            return
        if literals:
            meant = _meant(text, list(literals))
            kind = "argument" if self._typed else "command"
            raise UsageError(f'unknown {kind} "{text}"{self._after()}; {meant}{self._listed(list(literals))}')
        raise UsageError(f'unexpected argument "{text}"{self._after()}{self._instead()}')

    def _instead(self) -> str:
        """What could stand there: the choices of an argument that may be left out, for the error."""
        skipped = [row.words[self._at - 1] for row in self._rows if len(row.words) == self._at]
        choices = dict.fromkeys(choice for arg in skipped if isinstance(arg, Arg) for choice in arg.choices)
        given = {value for _, value in self._values}
        return f"; expected: {', '.join(choices)}" if choices and not given.intersection(choices) else ""

    def _listed(self, words: Sequence[str]) -> str:
        """What may stand here, for an error: the words, or how to see them."""
        if len(words) <= MOST_LISTED:
            return f"expected: {', '.join(words)}"
        return f"type `{' '.join([*self._typed, '?'])}` for the list"

    def _after(self) -> str:
        return f' after "{" ".join(self._typed)}"' if self._typed else ""

    def _whole(self) -> list[Command]:
        """The rows that need no more words."""
        first = self._at + self._rest  # an argument that takes the rest has begun, and needs no more
        return [row for row in self._rows if all(isinstance(w, Arg) and w.optional for w in row.words[first:])]

    def finish(self) -> Parsed:
        """The row; UsageError if words are missing."""
        if self._open is not None:
            raise UsageError(f"{self._open.flag} needs a value: {self._open.value.help if self._open.value else ''}")
        whole = self._whole()
        if len(whole) > 1:  # rows that their options tell apart
            flags = [next((o.flag for o in row.options if o.required), "") for row in whole]
            raise UsageError(f"incomplete command{self._after()}; expected: {' or '.join(flags)}")
        if len(whole) != 1:
            following = [item.text for item in self.expected() if not item.text.startswith("-")]
            raise UsageError(
                f"incomplete command{self._after()}; {self._listed(following)}" if self._typed else "no command"
            )
        row = whole[0]
        for option in row.options:
            if option.required and option.flag not in self._options:
                raise UsageError(f"missing option {option.flag}: {option.help}")
        args: dict[str, str] = {}
        for place, value in self._values:
            word = row.words[place]
            assert isinstance(word, Arg)
            args[word.name] = f"{args[word.name]} {value}" if word.name in args else value
        return Parsed(row, args, self._options, rest=self._taken())

    def _taken(self) -> tuple[str, ...]:
        """The words of the current argument, if it takes all remaining words."""
        return tuple(value for place, value in self._values if place == self._at) if self._rest else ()

    def expected(self) -> list[Next]:
        """What may follow now."""
        if self._open is not None:
            return _proposals(self._open.value)
        out: dict[str, Next] = {}
        for row in self._rows:
            for place in range(self._at, len(row.words)):
                word = row.words[place]
                if isinstance(word, str):
                    out.setdefault(word, Next(word, self._meaning(row, place)))
                else:
                    for proposal in _proposals(word):
                        out.setdefault(proposal.text, proposal._replace(before=self._given()))
                    if _may_skip(word):
                        continue
                break
        if self._at:
            whole = self._whole()
            for flag, option in self._flags().items():
                fits = flag.startswith("--") or any(option in row.options for row in whole)
                if fits and (flag not in self._options or option.repeat):
                    out.setdefault(flag, Next(flag, option.help))
        return list(out.values())

    def _given(self) -> tuple[str, ...]:
        """The values so far: they decide what may follow in the configuration."""
        return tuple(value for _, value in self._values)

    def _meaning(self, row: Command, place: int) -> str:
        """Help for a word that leads to `row`: the row's own, or that of the group of rows that begin with it."""
        alike = [other for other in self._rows if other.words[: place + 1] == row.words[: place + 1]]
        words = " ".join(word for word in row.words[: place + 1] if isinstance(word, str))
        group = "" if row in ROWS else GROUPS.get(words, "")
        return group if group and (len(alike) > 1 or place + 1 < len(row.words)) else row.help


def _meant(text: str, known: Sequence[str]) -> str:
    """`did you mean "x"? `, if one word is similar."""
    import difflib

    close = difflib.get_close_matches(text, known, 1, 0.7)
    return f'did you mean "{close[0]}"? ' if close else ""


def _one_and_many(words: Sequence[str]) -> bool:
    """A word and its plural."""
    return len(words) == 2 and max(words, key=len) == min(words, key=len) + "s"


def _may_skip(arg: Arg) -> bool:
    """Whether it is skipped when the typed word is not one of its choices."""
    return arg.optional and bool(arg.choices)


def _proposals(arg: Arg | None) -> list[Next]:
    if arg is None:
        return []
    if arg.choices:
        meanings = arg.meanings or (arg.help,) * len(arg.choices)
        return [Next(choice, meaning) for choice, meaning in zip(arg.choices, meanings, strict=True)]
    return [Next(arg.name, arg.help, arg)]


def _checked(arg: Arg, text: str, called: str) -> str:
    """`text` as a value of `arg`. UsageError: it is none, for what is `called` so."""
    if arg.choices and text not in arg.choices:
        raise UsageError(f'{called} must be {", ".join(arg.choices[:-1])} or {arg.choices[-1]}, not "{text}"')
    if arg.number and not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise UsageError(f'{called} must be a number, not "{text}"')
    if arg.within and not arg.within[0] <= int(text) <= arg.within[1]:
        raise UsageError(f"{called} must be {arg.within[0]} to {arg.within[1]}, not {text}")
    if arg.time and not _TIME.fullmatch(text):
        raise UsageError(f'{called} must be a number of seconds, or a time such as 90s, 10min or 1h, not "{text}"')
    return text
