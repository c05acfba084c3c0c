# SPDX-License-Identifier: GPL-2.0-only
"""A message that tells the user what to type names an existing command, in words that the parser accepts."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from console.line.commands import COMMANDS
from console.line.configure_commands import ROWS
from console.line.parse import UsageError, parse, tokenize

ROOT = Path(__file__).parents[3]
FIRST = {str(row.words[0]) for row in (*COMMANDS, *ROWS)}
QUOTED = re.compile(r"`([^`\n]+)`")
# Keys and words of the configuration that are spelled like a command.
NO_COMMANDS = {"segment", "guest", "set", "show", "check", "path", "user", "management", "image", "up"}


def texts(file: Path) -> Iterator[str]:
    """Every string of a module that is no docstring; what an f-string fills in is "guest"."""
    tree = ast.parse(file.read_text())
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "guest" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and not {id(node)} & (docs | inner):
            yield node.value


def understood(line: str) -> bool:
    """By the shell, or by configure (which takes any words for its `show`), or as the beginning of a command."""
    words = line.partition(" < ")[0].removeprefix("bypass ").replace("[", "").replace("]", "")
    tables = (COMMANDS,) if words.startswith("show ") else (COMMANDS, ROWS)
    if any(row.words[: len(words.split())] == tuple(words.split()) for table in tables for row in table):
        return True
    for table in tables:
        try:
            parse(tokenize(words)[0], table)
        except UsageError:
            continue
        return True
    return False


def test_what_messages_say_to_type() -> None:
    wrong, seen = [], 0
    for folder in ("appliance", "console"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            for text in texts(file):
                for line in QUOTED.findall(text):
                    first, *rest = line.removeprefix("bypass ").split()
                    if first not in FIRST or (not rest and first in NO_COMMANDS):
                        continue
                    seen += 1
                    if not understood(line):
                        wrong.append(f"{file.relative_to(ROOT)}: `{line}`")
    assert wrong == [], "\n".join(wrong)
    assert seen > 30
