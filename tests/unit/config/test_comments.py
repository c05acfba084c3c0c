# SPDX-License-Identifier: GPL-2.0-only
"""Comments belong to the table below them; free-standing ones stay."""

from __future__ import annotations

import tomllib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.config.edit import comments
from appliance.config.edit.document import Document
from appliance.config.edit.key_path import Assign

HEAD = """\
# of the file

[[segment]]
name = "main"
lan = "lan0"
wan = "wan0"

"""
VOICE = """\
# --- voice: ticket 4711, do not remove before 2026-03
[[rule]]
name = "voice"   # SIP
match = "udp port 5060"
path = []
# path = ["ips1"]

"""
WEB = """\
# --- web: inspected by law
# and by contract
[[rule]]
name = "web"
match = "tcp port 80"
path = []

"""
REST = """\
# --- rest
[[rule]]
name = "rest"
path = []
"""
LOOSE = "# what follows is old\n\n"


def changed(text: str, *changes: Callable[[Document], object]) -> str:
    document = Document(text)
    for change in changes:
        change(document)
    assert tomllib.loads(document.text) == document.data
    assert not document.comments_lost
    return document.text


def gone(*path: str) -> Callable[[Document], object]:
    return lambda document: document.delete(path)


def moved(name: str, index: int) -> Callable[[Document], object]:
    return lambda document: document.move(("rule", name), index)


def test_a_table_goes_with_its_comments() -> None:
    assert changed(HEAD + VOICE + WEB + REST, gone("rule", "web")) == HEAD + VOICE + REST
    assert changed(HEAD + VOICE + WEB + REST, gone("rule", "voice")) == HEAD + WEB + REST
    assert changed(HEAD + VOICE + WEB + REST, gone("rule", "rest")).rstrip() == (HEAD + VOICE + WEB).rstrip()
    assert changed(HEAD + WEB + REST, gone("segment", "main")) == "# of the file\n\n" + WEB + REST


def test_a_table_moves_with_its_comments() -> None:
    assert changed(HEAD + VOICE + WEB + REST, moved("web", 0)) == HEAD + WEB + VOICE + REST
    assert changed(HEAD + VOICE + WEB + REST, moved("rest", 0)).rstrip() == (HEAD + REST + "\n" + VOICE + WEB).rstrip()


def test_what_stands_by_itself_stays() -> None:
    """Whichever adjacent table is deleted or moved."""
    text = HEAD + VOICE + LOOSE + WEB + REST
    assert changed(text, gone("rule", "web")) == HEAD + VOICE + LOOSE + REST
    assert changed(text, gone("rule", "voice")) == HEAD + LOOSE + WEB + REST
    assert LOOSE in changed(text, moved("voice", 2)).replace(VOICE, "") + "\n"
    at_end = HEAD + WEB + REST + "\n# the end\n"
    assert changed(at_end, gone("rule", "rest"), gone("rule", "web")).endswith("\n# the end\n")


def test_a_nested_table_belongs_to_its_own() -> None:
    guest = '[[guest]]\nname = "g"\nimage = "a"\n# every 100 ms\n[guest.heartbeat]\nmisses = 3\n\n'
    assert changed(HEAD + guest + WEB + REST, gone("guest", "g")) == HEAD + WEB + REST
    assert changed(HEAD + guest + WEB + REST, gone("rule", "web")) == HEAD + guest + REST


def test_rules_between_other_tables() -> None:
    """tomlkit merges them; each keeps its comment."""
    system = '# by the door\n[system]\nhostname = "wire1"\n\n'
    left = changed(HEAD + VOICE + system + WEB + REST, gone("rule", "web"))
    assert "law" not in left
    assert "# --- rest\n[[rule]]\nname = " + '"rest"' in left
    assert "# by the door\n[system]" in left


def test_a_new_table_takes_no_comment() -> None:
    text = changed(HEAD + VOICE + REST, lambda document: document.assign(Assign(("rule", "new", "match"), "arp")))
    assert text == HEAD + VOICE + REST + '\n[[rule]]\nname = "new"\nmatch = "arp"\n'


@pytest.mark.parametrize(
    "text",
    [
        '[syslog]\nca = """\n# no comment\n[[rule]]\n"""\n# one\n[[rule]]\nname = "a"\n',
        "[syslog]\nca = '''\n# no comment\n[system]\n'''\n# one\n[[rule]]\nname = \"a\"\n",
        '# it\'s """ here\n[system]\nhostname = "x"\n# one\n[[rule]]\nname = "a"\n',
        '# one\n[[rule]] # two\nname = "a"\npath = [\n  # three\n  "x",\n]\n',
        'rule = [ { name = "a" } ] # one\n# two\n[system]\n',
        'system.hostname = "x" # one\n# two\n[[rule]]\nname = "a"\n',
        '# one\r\n[[rule]]\r\nname = "a"\r\n',
        "# one\n[ system ]\n",
        '# one\n["system"]\nhostname = "x"\n',
    ],
)
def test_a_text_is_as_it_was(text: str) -> None:
    """In any form: reading moves or loses nothing."""
    assert comments.parse(text).as_string() == text


LINES = ("# c\n", "\n", '[[rule]]\nname = "{}"\n', "path = []\n", "[system]\n", '[[guest]]\nname = "{}"\n', '# """\n')


@given(st.lists(st.sampled_from(LINES), max_size=14), st.data())
def test_no_comment_is_lost_with_another_table(parts: list[str], data: st.DataObject) -> None:
    """A rule is deleted: gone are at most the comments above its header, between its keys, and directly below them."""
    text = "".join(part.format(f"n{number}") for number, part in enumerate(parts))
    try:
        document = Document(text)
    except Exception:  # a key or a table twice
        return
    names = [rule["name"] for rule in document.data.get("rule", [])]
    if not names or not document.data:
        return
    name = data.draw(st.sampled_from(names))
    document.delete(("rule", name))
    assert not document.comments_lost
    lines = text.split("\n")
    at = lines.index(f'name = "{name}"')
    begin, end = at - 1, at + 1
    while begin and lines[begin - 1].startswith("#"):
        begin -= 1
    header = next((n for n in range(end, len(lines)) if lines[n].startswith("[")), len(lines))
    end = max((n + 1 for n in range(end, header) if lines[n].startswith("path")), default=end)
    while end < len(lines) and lines[end].startswith("#"):
        end += 1
    own = sum(line.startswith("#") for line in lines[begin:end])
    left = sum(line.startswith("#") for line in document.text.split("\n"))
    assert sum(line.startswith("#") for line in lines) - own <= left
