# SPDX-License-Identifier: GPL-2.0-only
"""Policies: what is refused and with which message, permanent numbers, and how frames continue after a hop."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from appliance.config.schema.model import Config, Group, Guest, Member, Rule, Segment
from appliance.errors import ConfigError
from appliance.steering.kernel import layout
from appliance.steering.kernel.layout import Continuation
from appliance.steering.names import Names
from appliance.steering.policy import GoesOn, compile_policy

SEGMENTS = (Segment(name="main", lan="l", wan="w"), Segment(name="other", lan="l2", wan="w2"))
GUESTS = tuple(Guest(name=name) for name in ("a", "b", "c"))
AB = Group(name="ab", balance=(Member(hop="a"), Member(hop="b")))


def many(number: int) -> tuple[Guest, ...]:
    return tuple(Guest(name=f"g{n}") for n in range(number))


NINE = tuple(guest.name for guest in many(9))


def config(*rules: Rule, group: tuple[Group, ...] = (AB,), guest: tuple[Guest, ...] = GUESTS) -> Config:
    return Config(segment=SEGMENTS, guest=guest, group=group, rule=rules)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (config(Rule(name="r", path=("x",))), 'rule r: path: there is no guest, remote or group "x"'),
        (config(Rule(name="r", path=("a", "a"))), 'rule r: path: a loop: "a" is reached'),
        (config(Rule(name="r", path=("ab", "b"))), 'rule r: path: a loop: "b" is reached by "ab" and again by "b"'),
        (config(group=(Group(name="g", standby=("a",), spare=("b",)),)), "group g: spare: needs `balance`"),
        (config(group=(Group(name="g", standby=("a",), minimum=2),)), "group g: minimum: 2, and it has 1"),
        (
            config(group=(Group(name="g", balance=(Member(hop="a"),), spare=("a",)),)),
            'group g: balance: "a" is in it 2 times',
        ),
        (config(Rule(name="r", segment="nowhere")), 'rule r: segment: there is no segment "nowhere"'),
        (config(Rule(name="r"), Rule(name="r")), "rule r: there are 2 of this name"),
        (config(group=(Group(name="g"),)), "group g: needs either `balance` or `standby`"),
        (config(group=(Group(name="g", standby=("x",)),)), 'group g: standby: there is no guest or remote "x"'),
        (config(group=(Group(name="g", standby=("a", "a")),)), 'group g: standby: "a" is in it 2 times'),
        (config(guest=(*GUESTS, Guest(name="ab"))), "guest, remote or group ab: there are 2 of this name"),
        (config(guest=many(128), group=()), "hop: 128 are configured, the most is 127"),
        (config(guest=many(9), group=(Group(name="g", standby=NINE),)), "group g: standby: 9 members, the most is 8"),
        (config(Rule(name="r", path=NINE), guest=many(9), group=()), "rule r: path: 9 hops, the most is 8"),
    ],
)
def test_refused(bad: Config, words: str) -> None:
    """Errors name the table, the key and what is wrong."""
    with pytest.raises(ConfigError) as error:
        compile_policy(bad, Names())
    assert words in str(error.value)


def goes_on(made: Config, hop: str, direction: int) -> GoesOn | None:
    policy = compile_policy(made, Names())
    return policy.continuations.get((policy.hops[hop].id, policy.segments["main"], direction))


def test_one_rule_goes_on_without_a_look_at_the_frame() -> None:
    """A hop in one rule only: the next item of its path, each direction its own; NAT does no harm."""
    made = config(Rule(name="r", match="tcp", path=("a", "c")))
    assert goes_on(made, "a", 0) == GoesOn(Continuation.STATIC, 0, 0)
    assert goes_on(made, "a", 1) == GoesOn(Continuation.END, 0, 0)
    assert goes_on(made, "c", 1) == GoesOn(Continuation.STATIC, 0, 1)
    assert goes_on(made, "b", 0) is None


def test_rules_that_agree_go_on_alike() -> None:
    """Two rules with the same way behind the hop need no second look, whatever is before it; differing ones do."""
    made = config(Rule(name="r", match="tcp", path=("a", "c")), Rule(name="s", match="udp", path=("ab", "c")))
    assert goes_on(made, "a", 0) == GoesOn(Continuation.STATIC, 0, 0)
    assert goes_on(made, "c", 1) == GoesOn(Continuation.CLASSIFY, 0, 1)
    assert goes_on(made, "c", 0) == GoesOn(Continuation.END, 0, 1)


def test_rules_behind_one_that_takes_everything_do_not_count() -> None:
    """They cannot be reached; the first rule is then constant."""
    made = config(Rule(name="r", path=("a", "c")), Rule(name="s", match="udp", path=("a",)))
    policy = compile_policy(made, Names())
    assert policy.constant(0) == 0
    assert goes_on(made, "a", 0) == GoesOn(Continuation.STATIC, 0, 0)


def test_groups_that_a_ports_own_program_leaves_to_the_others() -> None:
    """Those by a part of the flow's identity, and with a minimum; nothing else, and none of them is slower for it."""
    plain = Group(name="g", balance=AB.balance, spare=("c",), on_member_failure="keep")
    for one, long in (
        (AB, False),
        (plain, False),
        (msgspec.structs.replace(AB, hash="l4"), False),
        (msgspec.structs.replace(AB, hash="source"), True),
        (msgspec.structs.replace(AB, minimum=2), True),
    ):
        made = compile_policy(config(group=(one,)), Names()).groups[one.name]
        assert bool(made.flags & layout.GROUP_LONG) is long
    assert compile_policy(config(group=(plain,)), Names()).groups["g"].hold_down == 5 * 10**9
    assert compile_policy(config(), Names()).groups["ab"].hold_down == 0


def test_rules_of_segments() -> None:
    """A rule with a segment counts there only; a segment without rules asks nobody."""
    policy = compile_policy(config(Rule(name="r", match="tcp", segment="other")), Names())
    assert policy.chains == {0: (), 1: (0,)}
    assert policy.constant(1) == layout.NO_MATCH


def test_numbers_stay(tmp_path: Path) -> None:
    """Hop ids survive restarts, other orders and neighbours that go; a number goes to others when none is left."""
    path = tmp_path / "state" / "names.json"
    first = Names(path).ensure("hop", ["a", "b", "c"])
    assert first == {"a": 1, "b": 2, "c": 3}
    assert Names(path).ensure("hop", ["c", "d"]) == {"c": 3, "d": 4}
    full = Names(path).ensure("hop", ["c", *(f"g{n}" for n in range(126))])
    assert full["c"] == 3
    assert len(set(full.values())) == 127
    path.write_text("{ broken")
    assert Names(path).ensure("hop", ["z"]) == {"z": 1}
