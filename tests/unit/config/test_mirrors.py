# SPDX-License-Identifier: GPL-2.0-only
"""Mirrors in the configuration: what is refused, what is remarked, and what comes between two configurations."""

from __future__ import annotations

import pytest

from appliance.config.check.lint import lint
from appliance.config.check.verify import verify
from appliance.config.schema.model import Config, Group, Guest, Mirror, Rule, Segment
from appliance.config.schema.served import mirrored, segments_of, with_mirrors
from appliance.steering.handover import Step, between
from appliance.steering.kernel import layout
from appliance.steering.kernel.layout import Continuation, Item
from appliance.steering.names import Names
from appliance.steering.overlay import Overlay, Quarantined, apply
from appliance.steering.policy import compile_policy

MAIN, OTHER = Segment(name="main", lan="l", wan="w"), Segment(name="other", lan="m", wan="x")
GUESTS = (*(Guest(name=name, kernel="k") for name in "abmn"), Guest(name="t", kernel="k", tags=True))
GROUP = Group(name="g", standby=("a", "b"))


def config(*rules: Rule, segment: Segment = MAIN) -> Config:
    return Config(segment=(segment, OTHER), guest=GUESTS, group=(GROUP,), rule=rules)


def rule(name: str = "r", path: tuple[str, ...] = ("a",), *mirrors: Mirror, segment: str = "") -> Rule:
    return Rule(name=name, path=path, mirrors=mirrors, segment=segment)


REFUSED = [
    ((rule("r", ("a",), Mirror("x")),), 'rule r: mirrors 1: hop: no guest or remote is named "x"'),
    ((rule("r", ("a",), Mirror("g")),), 'rule r: mirrors 1: hop: "g" is a group; mirrors are guests and remotes only'),
    ((rule("r", ("a",), Mirror("m"), Mirror("m")),), 'rule r: mirrors 2: hop: "m" is listed twice'),
    ((rule("r", ("g",), Mirror("b")),), 'rule r: mirrors 1: hop: "b" is in the path, too'),
    ((rule("r", ("a",), Mirror("t")),), 'rule r: mirrors 1: hop: "t" has tags = true'),
    ((rule("r", ("a",), Mirror("m", "b")),), 'rule r: mirrors 1: beside: "b" is not in the path'),
    ((rule("r", (), *(Mirror(name) for name in "abmnt")),), "rule r: mirrors: 5 are more than MAX_MIRRORS = 4"),
    ((rule("r", ("a",), Mirror("m")), rule("s", ("m",))),
     'rule r: mirrors 1: hop: "m" is inline by rule s in the same segment'),
]  # fmt: skip


@pytest.mark.parametrize(("rules", "says"), REFUSED, ids=[says for _, says in REFUSED])
def test_what_is_refused(rules: tuple[Rule, ...], says: str) -> None:
    assert says in "\n".join(map(str, verify(config(*rules))))


def test_a_hop_may_be_inline_in_one_segment_and_a_mirror_in_another() -> None:
    good = config(rule("r", ("a",), Mirror("m"), segment="main"), rule("s", ("m",), segment="other"))
    assert verify(good) == []
    assert (with_mirrors(good), mirrored(good)) == ({"main": ["m"]}, {"m": ["main"]})
    assert segments_of(good, "m") == ["main", "other"]


def test_xdp_by_order_is_refused_where_frames_are_copied() -> None:
    by_xdp = Segment(name="main", lan="l", wan="w", attach="xdp")
    (error,) = verify(config(rule("r", ("a",), Mirror("m")), segment=by_xdp))
    assert 'segment main: attach: "xdp": XDP cannot copy frames to mirrors (m)' in str(error)
    assert verify(config(rule("r", ("a",), Mirror("m"), segment="other"), segment=by_xdp)) == []


def test_what_mirrors_cost_is_remarked() -> None:
    dry = Segment(name="main", lan="l", wan="w", dry_run=True)
    found = {
        (one.where, one.what)
        for one in lint(config(rule("r", ("a",), Mirror("m"), segment="main"), segment=dry))
        if "mirrors" in one.what
    }
    assert found == {
        ("segment main: attach", "its ports are attached by tc, which is slower than XDP, because of mirrors: m"),
        ("segment main: dry_run", "mirrors get no copies: m"),
    }


def test_a_mirror_is_not_unused() -> None:
    unused = {one.where for one in lint(config(rule("r", ("a",), Mirror("m")))) if "gets no traffic" in one.what}
    assert unused == {"guest n", "guest t", "group g"} | {"guest b"}


def test_the_tables() -> None:
    """Mirrors stand beside a position; a path without hops has a place for them, and nothing to block for."""
    policy = compile_policy(
        config(
            Rule(name="r", match="ip", path=("a", "b"), mirrors=(Mirror("m"), Mirror("n", "b"))),
            Rule(name="s", mirrors=(Mirror("m"),), on_unavailable="block", require="all"),
        ),
        Names(),
    )
    chain, alone = policy.rules
    ids = {name: hop.id for name, hop in policy.hops.items()}
    assert chain.mirrors == ((0, ids["m"]), (1, ids["n"]))
    assert (alone.path, alone.flags, alone.mirrors) == (((Item.NONE, 0),), 0, ((0, ids["m"]),))
    assert policy.continuations[ids["m"], 0, 1].kind is Continuation.MIRROR
    assert policy.continuations[ids["a"], 0, 0].kind is Continuation.STATIC
    assert policy.continuations[ids["b"], 0, 0].kind is Continuation.END


def test_paths_that_differ_by_a_mirror_behind_the_hop_are_told_apart() -> None:
    policy = compile_policy(
        config(
            Rule(name="r", match="ip", path=("a", "b"), mirrors=(Mirror("m", "b"),)),
            Rule(name="s", path=("a", "b")),
        ),
        Names(),
    )
    a = policy.hops["a"].id
    assert policy.continuations[a, 0, 0].kind is Continuation.CLASSIFY
    assert policy.continuations[a, 0, 1].kind is Continuation.END


def test_a_filter_of_a_mirror_is_run() -> None:
    picky = (GUESTS[0], Guest(name="m", kernel="k", accept="udp"))
    policy = compile_policy(
        Config(segment=(MAIN,), guest=picky, rule=(rule("r", ("a",), Mirror("m")), rule("s", (), Mirror("m")))), Names()
    )
    assert all(one.flags & layout.RULE_ACCEPT for one in policy.rules)


def test_a_quarantined_flow_is_not_copied_to_its_guest() -> None:
    """And a mirror whose neighbour is skipped gets the frames of the next one."""
    flow = Quarantined("q", ("m",), "a flow", "udp port 9", 0, 1)
    (around, own) = apply(config(rule("r", ("a",), Mirror("m"), Mirror("n"))), Overlay(quarantined=(flow,))).rule
    assert (around.path, around.mirrors) == (("a",), (Mirror("n"),))
    assert own.mirrors == (Mirror("m"), Mirror("n"))
    flow = Quarantined("q", ("a",), "a flow", "udp port 9", 0, 1)
    (around, _) = apply(config(rule("r", ("a", "b"), Mirror("m", "a"))), Overlay(quarantined=(flow,))).rule
    assert (around.path, around.mirrors) == (("b",), (Mirror("m"),))


BEFORE, AFTER = config(rule("r", ("a",), Mirror("m"))), config(rule("r", ("m",), Mirror("a")))
BOTH = frozenset((("m", "main"), ("m", "other")))


def test_a_hop_that_changes_its_role_settles_first() -> None:
    """What becomes inline is silent for a while without copies; what becomes a mirror gets nothing for a while."""
    assert between(BEFORE, AFTER) == [
        Step(config(rule("r", ("a",))), BOTH), Step(config(rule("r", ("m",))), frozenset()),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "steps"),
    [
        (BEFORE, BEFORE, 0),
        (config(rule("r", ("a",))), BEFORE, 0),
        (BEFORE, config(rule("r", ("a",))), 0),
        (BEFORE, config(rule("r", ("a", "m"))), 1),
        (config(rule("r", ("a", "m"))), BEFORE, 1),
        (config(rule("r", ("a", "g"))), config(rule("r", ("a",), Mirror("b"))), 1),
    ],
)
def test_only_then(old: Config, new: Config, steps: int) -> None:
    assert len(between(old, new)) == steps
