# SPDX-License-Identifier: GPL-2.0-only
"""`show groups`: whether a group works, and which of its members do."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from appliance.config.schema.model import Group, Member
from appliance.steering import answers
from console.render import PLAIN
from console.views.traffic import groups

GROUP = Group(
    name="ips",
    balance=(Member(hop="a"), Member(hop="b")),
    spare=("c",),
    minimum=2,
    hash="l3",
    on_member_failure="reset",
)


class Leases:
    """Who is available, and who drains."""

    def __init__(self, available: str, draining: str = "") -> None:
        self._available, self._draining = available, draining

    def available(self, hop: str, now: int) -> bool:
        return hop in self._available

    def draining(self, hop: str) -> bool:
        return hop in self._draining


def shown(leases: Any) -> list[str]:
    row = msgspec.to_builtins(answers.group(GROUP, ["web", "rest"], leases, 0))
    return [line.strip() for line in groups([row], PLAIN).splitlines()]


@pytest.mark.parametrize(
    ("leases", "state", "there", "members"),
    [
        (Leases("abc"), "available", "3 of 3", "a, b, c (spare)"),
        (Leases("bc", "b"), "available", "2 of 3", "a (not available), b (draining), c (spare)"),
        (Leases("c"), "not available", "1 of 3", "a (not available), b (not available), c (spare)"),
        (Leases("ab"), "available", "2 of 3", "a, b, c (spare, not available)"),
    ],
)
def test_members_and_their_number(leases: Leases, state: str, there: str, members: str) -> None:
    head, row = shown(leases)
    assert head.split()[:2] == ["GROUP", "STATE"]
    for text in (state, there, members, "2-tuple", "reset", "web, rest"):
        assert text in row
    assert ("not available" in row.split("balance")[0]) == (state == "not available")


def test_without_a_datapath_nothing_is_claimed() -> None:
    head, row = shown(None)
    assert "STATE" not in head
    assert "available" not in row


def test_no_groups() -> None:
    assert groups([], PLAIN) == "no groups are configured"
