# SPDX-License-Identifier: GPL-2.0-only
"""`show configuration as set` and back: every value that the schema allows is what it was.

The lines go the way that a person's go: through the words of the console to the document.
"""

from __future__ import annotations

import re
import typing
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.config.edit import key_path, set_lines
from appliance.config.edit.document import Document
from appliance.config.schema import secrets, shape
from appliance.config.schema.shape import Leaf, Node, Table, Tables
from appliance.units import Duration, Size
from console.line.configure_commands import ROWS
from console.line.parse import parse, tokenize

# what a TOML text may hold: all but surrogates; and, as everywhere in a configuration, no NUL
LETTERS = st.characters(codec="utf-8", exclude_characters="\0")
ODD = [
    "",
    " ",
    "a  b",
    "[",
    "[a]",
    "[]",
    "--x",
    "-x",
    "?",
    "#",
    "|",
    "$'",
    "\\",
    "\\n",
    '"',
    "'",
    "a\nb",
    "\r",
    "\u2028",
    "of",
]
TEXT = st.text(LETTERS, max_size=12) | st.sampled_from(ODD)


def values(leaf: Leaf) -> st.SearchStrategy[Any]:
    """What may stand for a key, by its type."""
    if leaf.kind is Duration:
        return st.integers(0, 10**6).map(lambda number: f"{number}ms")
    if leaf.kind is Size:
        return st.integers(0, 10**6).map(lambda number: f"{number}K")
    if leaf.choices:
        return st.booleans() if leaf.kind is bool else st.sampled_from(leaf.choices)
    meta = next((m for m in getattr(leaf.kind, "__metadata__", ()) if isinstance(m, msgspec.Meta)), msgspec.Meta())
    base = typing.get_args(leaf.kind)[0] if hasattr(leaf.kind, "__metadata__") else leaf.kind
    if base is int:
        return st.integers(meta.ge, meta.le)  # type: ignore[arg-type]
    return st.from_regex(re.compile(meta.pattern.strip("^$"), re.ASCII), fullmatch=True) if meta.pattern else TEXT


def tables(node: Node) -> st.SearchStrategy[Any]:
    """What may stand for a node of the schema."""
    if isinstance(node, Leaf):
        return st.lists(values(node), max_size=3) if node.many else values(node)
    if isinstance(node, Tables):
        unique = (lambda item: item[node.key]) if node.key else id
        return st.lists(tables(node.item), max_size=2, unique_by=unique)
    keys = {key: tables(child) for key, child in node.keys.items()}
    always = set(node.required) | ({"name", "hop"} & set(keys))
    return st.fixed_dictionaries(
        {key: keys[key] for key in always}, optional={key: each for key, each in keys.items() if key not in always}
    )


def read_back(lines: list[str]) -> dict[str, Any]:
    """The lines as typed, in the order in which they stand, into an empty configuration."""
    document = Document("")
    for line in lines:
        tokens, open_quote = tokenize(line)
        assert not open_quote, line
        assert not tokens[-1].text.endswith("?") or tokens[-1].quoted, "it asks for help"
        parsed = parse(tokens, ROWS)
        assert (parsed.command.words[0], parsed.options, parsed.pipes) == ("set", {}, ()), line
        for change in key_path.assignments(parsed.rest, document.data):
            document.assign(change)
    return document.data


def said(node: Node, data: Any) -> Any:
    """The data without what says nothing: lists of tables that are empty."""
    if isinstance(node, Leaf):
        return data
    if isinstance(node, Tables):
        return [said(node.item, item) for item in data]
    found = {key: said(node.keys[key], value) for key, value in data.items()}
    return {key: each for key, each in found.items() if each != [] or isinstance(node.keys[key], Leaf)}


@settings(max_examples=80, deadline=None)
@given(tables(Table("", shape.ROOT.cls)))
def test_set_lines_read_back(data: dict[str, Any]) -> None:
    lines = set_lines.set_lines(data)
    assert all("\n" not in line and line.isprintable() for line in lines)
    assert "\n".join(lines).splitlines() == lines
    assert filled(read_back(lines)) == filled(said(shape.ROOT, data))


def filled(data: dict[str, Any]) -> dict[str, Any]:
    """Without tables that hold nothing."""
    return {key: value for key, value in data.items() if value}


@given(TEXT)
def test_a_quoted_word_is_one_word(word: str) -> None:
    (token,), open_quote = tokenize(set_lines.quote(word))
    assert (token.text, open_quote) == (word, False)
    assert token.quoted or not re.search(r"^(--|#)|[|?]$", word)


def test_a_hidden_secret_is_no_line() -> None:
    """Read back, it leaves the password as it is, and does not become "<hidden>"."""
    lines = set_lines.set_lines({"user": [{"name": "mia", "role": "admin", "password": secrets.HIDDEN}]})
    assert lines[0] == "set user mia role admin"
    assert lines[1].startswith("# user mia password is not shown")


@pytest.mark.parametrize(
    ("typed", "word"),
    [
        (r"$'a\nb\t\\\''", "a\nb\t\\'"),
        (r"$'\u2028\U0001f600'", "\u2028\U0001f600"),
        (r"$'\d\ip'", r"\d\ip"),
        (r'"\tcp \netbeui"', r"\tcp \netbeui"),
        ("$x'y'", "$xy"),
        ("a$'b'", "ab"),
        (r"$'\Uffffffff'", "\ufffd"),
    ],
)
def test_letters_that_a_line_cannot_hold(typed: str, word: str) -> None:
    """Only in $'...': in other quotes a backslash is that of a filter or a regular expression."""
    (token,), open_quote = tokenize(typed)
    assert (token.text, open_quote) == (word, False)
    assert tokenize("$'a")[1]
