# SPDX-License-Identifier: GPL-2.0-only
"""steer.h and layout.py say the same: every constant, every enum, every slot."""

from __future__ import annotations

import re
from enum import IntEnum
from pathlib import Path

import pytest

from appliance.config.schema import limits
from appliance.frames import headers
from appliance.steering.kernel import layout

HEADER = Path(__file__).resolve().parents[3] / "appliance/bpf/steer.h"
ENUMS: dict[str, type[IntEnum]] = {
    "side": layout.Side,
    "role": layout.Role,
    "item_kind": layout.Item,
    "continuation_kind": layout.Continuation,
    "outcome": layout.Outcome,
    "loss": layout.Loss,
    "reason": layout.Reason,
    "verdict": layout.Verdict,
    "copy_way": layout.CopyWay,
    "group_hash": layout.GroupHash,
    "reset": layout.Reset,
    "encap_kind": layout.EncapKind,
    "encapsulated": layout.Encapsulated,
}
PREFIX = {
    "encap_kind": "ENCAP_",
    "copy_way": "COPY_",
    "item_kind": "ITEM_",
    "continuation_kind": "CONT_",
    "group_hash": "HASH_",
    "encapsulated": "ENCAP_",
}


def _text() -> str:
    return re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.S)


def _number(text: str) -> int:
    return int(text.rstrip("UL"), 0)


def test_numbers() -> None:
    """Each #define with a plain number has its equal in Python."""
    found = dict(re.findall(r"^#define (\w+) (0x[0-9a-fA-F]+|\d+(?:ULL)?)\s*$", _text(), flags=re.M))
    assert len(found) > 25
    for name, value in found.items():
        assert getattr(layout, name) == _number(value), name


def test_enums() -> None:
    """Each enum has the same members with the same values; flags are plain numbers in Python."""
    for name, body in re.findall(r"enum (\w+) \{(.*?)\};", _text(), flags=re.S):
        value = 0
        members: dict[str, int] = {}
        for entry in filter(None, (part.strip() for part in body.split(","))):
            key, _, given = (piece.strip() for piece in entry.partition("="))
            value = _number(given) if given else value
            members[key] = value
            value += 1
        if name == "buffers":
            continue  # the datapath's own
        if name not in ENUMS:
            assert members == {key: getattr(layout, key) for key in members}, name
            continue
        prefix = PREFIX.get(name, f"{name.upper()}_")
        members = {
            key.removeprefix(prefix): number
            for key, number in members.items()
            if key not in ("OUTCOMES", "REASONS", "LOSSES", "ENCAPSULATED")
        }
        assert members == {member.name: member.value for member in ENUMS[name]}, name


def test_slots_do_not_overlap() -> None:
    """Every place of the device slots and of the program array is used once, and fits."""
    slots = [layout.slot(h, s, d) for h in range(layout.MAX_HOPS) for s in range(layout.MAX_SEGMENTS) for d in (0, 1)]
    assert sorted(slots) == list(range(layout.MAX_SLOTS))
    programs = [layout.PROGRAM_DISPATCH, layout.PROGRAM_WALK]
    for generation in (0, 1):
        programs += [layout.program_accept(generation), *layout.accept_parts(generation)]
        for segment in range(layout.MAX_SEGMENTS):
            programs += [layout.program_policy(generation, segment), *layout.policy_parts(generation, segment)]
    assert len(set(programs)) == len(programs)
    assert max(programs) < layout.PROGRAM_SLOTS


@pytest.mark.parametrize("name", ["MAX_VLANS", "MAX_EXTENSIONS", "MAX_OFFSET"])
def test_reading_of_frames(name: str) -> None:
    """headers.py reads as far as parsing.h."""
    found = re.search(rf"^#define {name} (\d+)", (HEADER.parent / "parsing.h").read_text(), flags=re.M)
    assert found is not None
    assert getattr(headers, name) == int(found[1])


def test_limits_of_the_configuration() -> None:
    """`bypass check` refuses what the datapath could not hold."""
    for name in ("MAX_SEGMENTS", "MAX_GROUPS", "MAX_RULES", "MAX_PATH", "MAX_MEMBERS"):
        assert getattr(limits, name) <= getattr(layout, name), name
