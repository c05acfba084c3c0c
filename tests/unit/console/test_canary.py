# SPDX-License-Identifier: GPL-2.0-only
"""Mirrors and canaries on the console: what promotion and the way back change, and how all of it is shown."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from appliance.config.check.load import loads
from appliance.config.edit import key_path
from appliance.config.edit.document import Document
from appliance.config.schema.model import Mirror, Rule
from appliance.errors import BypassError
from console.commands.canary import _sample
from console.commands.hop_roles import demoted, promoted
from console.commands.one_commit import Change
from console.render import PLAIN
from console.views.canary import compared
from console.views.traffic import mirrors, rules
from tests.support import plain_bpf
from tests.support.frames import tcp, typed, udp

HEAD = """
[[segment]]
name = "main"
lan = "lan0"
wan = "wan0"
""" + "".join(f'[[guest]]\nname = "{name}"\nkernel = "k"\n' for name in ("fw", "ips1", "ips2", "ids"))
GROUP = '[[group]]\nname = "ips"\nstandby = ["ips1"]\n'


def rule(path: str, more: str, name: str = "web") -> str:
    return f'[[rule]]\nname = "{name}"\nmatch = "tcp"\npath = [{path}]\nmirrors = [{more}]\n'


def changed(text: str, changes: Sequence[Change]) -> tuple[Rule, ...]:
    """The rules after `configure` has made these changes to the text, which must be a good configuration."""
    doc = Document(text)
    for verb, words in changes:
        if verb == "delete":
            doc.delete(key_path.walk(list(words), doc.data).path)
            continue
        for change in key_path.assignments(list(words), doc.data):
            doc.assign(change)
    return loads(doc.text).rule


ONE = HEAD + rule('"ips1"', '{ hop = "ips2" }')
CHAIN = HEAD + rule('"fw", "ips1"', '{ hop = "ids" }, { hop = "ips2", beside = "ips1" }')
ALONE = HEAD + rule("", '{ hop = "ips2" }')


@pytest.mark.parametrize(
    ("text", "name", "path", "mirrors"),
    [
        (ONE, "ips2", ("ips2",), (Mirror("ips1", "ips2"),)),
        (CHAIN, "ips2", ("fw", "ips2"), (Mirror("ids"), Mirror("ips1", "ips2"))),
        (CHAIN, "ids", ("ids", "ips1"), (Mirror("ips2", "ips1"), Mirror("fw", "ids"))),
        (ALONE, "ips2", ("ips2",), ()),
    ],
)
def test_promotion_and_the_way_back(text: str, name: str, path: tuple[str, ...], mirrors: tuple[Mirror, ...]) -> None:
    """The two change places, and everything else stays; demotion restores what was before."""
    before = Document(text)
    (after,) = changed(text, promoted(before.data, name))
    assert (after.path, after.mirrors) == (path, mirrors)
    doc = Document(text)
    for verb, words in promoted(before.data, name):
        if verb == "delete":
            doc.delete(key_path.walk(list(words), doc.data).path)
        else:
            for change in key_path.assignments(list(words), doc.data):
                doc.assign(change)
    (again,) = changed(doc.text, demoted(doc.data, name))
    (first,) = loads(text).rule
    assert again.path == first.path
    assert {one.hop: one.beside or next(iter(again.path), "") for one in again.mirrors} == {
        one.hop: one.beside or next(iter(first.path), "") for one in first.mirrors
    }


def test_demotion_without_a_mirror_leaves_the_rest_of_the_path() -> None:
    text = HEAD + rule('"fw", "ips1"', "")
    (after,) = changed(text, demoted(Document(text).data, "ips1"))
    assert (after.path, after.mirrors) == (("fw",), (Mirror("ips1", "fw"),))
    (after,) = changed(text, demoted(Document(text).data, "fw"))
    assert (after.path, after.mirrors) == (("ips1",), (Mirror("fw", "ips1"),))


def test_every_rule_of_the_mirror_changes() -> None:
    """Or the hop would be both in one segment."""
    text = ONE + rule('"fw"', '{ hop = "ips2" }', "dns")
    assert [(one.path, one.mirrors[0].hop) for one in changed(text, promoted(Document(text).data, "ips2"))] == [
        (("ips2",), "ips1"), (("ips2",), "fw"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "make", "name", "says"),
    [
        (ONE, promoted, "fw", '"fw" is no mirror'),
        (ONE, demoted, "ips2", '"ips2" is not inline'),
        (HEAD + GROUP + rule('"ips"', '{ hop = "ips2" }'), promoted, "ips2", "beside group ips"),
        (HEAD + rule('"ips1"', '{ hop = "ips2" }, { hop = "ids" }'), demoted, "ips1", "promote one of ips2, ids"),
    ],
)
def test_what_cannot_change_places(text: str, make: Any, name: str, says: str) -> None:
    with pytest.raises(BypassError, match=says):
        make(Document(text).data, name)


COMPARED = {
    "message": "differs: 3 frames of 10 treated otherwise", "as_before": False, "mirror": "ips2", "beside": ["ips1"],
    "seconds": 10.0, "compared_frames": 10, "different_frames": 3, "uncopied_frames": 2, "discarded_rounds": 1,
    "one_of": 8, "slower": [],
    "verdicts": [
        {"hop": "forwarded", "mirror": "forwarded", "alike": True, "frames": 7, "share": 0.7, "example": "a"},
        {"hop": "forwarded", "mirror": "dropped", "alike": False, "frames": 2, "share": 0.2, "example": "b"},
        {"hop": "changed", "mirror": "changed", "alike": False, "frames": 1, "share": 0.1, "example": "c"},
    ],
    "latency": [
        {"hop": "ips1", "p50_ms": 0.1, "p99_ms": 0.2, "made_frames": 0},
        {"hop": "ips2", "p50_ms": 0.1, "p99_ms": 0.3, "made_frames": 4},
    ],
}  # fmt: skip


def test_a_comparison_says_what_differs_and_how_much_it_knows() -> None:
    shown = compared(COMPARED, PLAIN)
    assert shown.startswith("differs: 3 frames of 10 treated otherwise\n")
    assert "changed otherwise" in shown
    for note in ("one of 8 TCP and UDP frames", "1 times too many frames", "of 2 frames the mirror got no copy"):
        assert note in shown
    same = compared({**COMPARED, "uncopied_frames": 0, "discarded_rounds": 0, "one_of": 1}, PLAIN)
    assert same.count("note: ") == 1


def test_mirrors_are_listed_with_their_copies() -> None:
    row = {
        "name": "ips2", "segments": ["main"], "rules": ["web"], "beside": ["ips1"], "available": False,
        "copied_frames": 12, "copied_bytes": 900, "lost": {"queue": 3, "full": 1}, "skipped": {}, "uncopied": 0,
        "returned_frames": 7,
    }  # fmt: skip
    line = mirrors([row], PLAIN).splitlines()[-1].split()
    assert line == ["ips2", "not", "available", "main", "ips1", "12", "900", "4", "7", "web"]
    assert mirrors([], PLAIN) == "no hop is a mirror (rule NAME mirrors)"


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        (["ips1"], "ips1 (copies: ips2)"),
        (["fw", "ips1"], "fw > ips1 (copies: ips2 beside ips1)"),
        ([], "straight (copies: ips2)"),
    ],
)
def test_a_rule_shows_its_mirrors(path: list[str], shown: str) -> None:
    beside = path[-1] if path else ""
    row = {"name": "web", "match": "tcp", "path": path, "mirrors": [{"hop": "ips2", "beside": beside}]}
    assert shown in rules([row], PLAIN)


@pytest.mark.parametrize(
    "frame", [tcp(sport=1), udp(sport=2), typed(0x0800, bytes.fromhex("45000028000040004032000001010101") + bytes(20))]
)
def test_a_sample_takes_each_frame_of_ip_by_one_of_its_parts(frame: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every frame belongs to one part of eight, for the hop and the mirror alike; what is not IP to every part."""
    shares = []
    for part in range(8):
        monkeypatch.setattr(random, "randrange", lambda _, part=part: part)
        shares.append(_sample(8))
    assert [plain_bpf.run(plain_bpf.plain(text), frame).takes for text in shares].count(True) == 1
    assert all(plain_bpf.run(plain_bpf.plain(text), typed(0x88B6, bytes(50))).takes for text in shares)
