# SPDX-License-Identifier: GPL-2.0-only
"""What missing links mean over time: propagated, reported, or a reason for bypass."""

from __future__ import annotations

from typing import Any

import pytest

from appliance.causes import Cause
from appliance.segment.carrier import APPEAR_NS, BOTH_NS, LOSS_NS, SETTLE_NS, Carrier, Meaning, Ports, Side

SECOND = 1_000_000_000
LIMIT = 20 * SECOND
LAN: frozenset[Side] = frozenset({"lan"})
WAN: frozenset[Side] = frozenset({"wan"})
NONE: frozenset[Side] = frozenset()
T0 = 100 * SECOND


def look(carrier: Carrier, now: int, lan: bool, wan: bool, down: frozenset[Side] = NONE, **more: Any) -> Meaning:
    given = {"inline": True, "policy": "propagate", "limit": LIMIT, "attempt": False, **more}
    return carrier.look(now, Ports(lan, wan, down, "lan0", "wan0"), **given)


def settled(**more: Any) -> Carrier:
    """Inline since T0 - 100 s, both links up."""
    carrier = Carrier()
    carrier.moved(0)
    assert look(carrier, T0 - 1, True, True, **more) == Meaning()
    return carrier


@pytest.mark.parametrize(("lan", "wan", "held"), [(False, True, WAN), (True, False, LAN)])
def test_a_lost_link_is_passed_on_named_and_in_the_end_a_reason_for_bypass(
    lan: bool, wan: bool, held: frozenset[Side]
) -> None:
    carrier = settled()
    port = "lan0" if wan else "wan0"
    assert look(carrier, T0, lan, wan) == Meaning(), "a blink is no loss"
    assert look(carrier, T0 + LOSS_NS, lan, wan) == Meaning(held, Cause.LINK_DOWN, f"{port} has no link")
    # the other port has no link because we hold it down
    assert look(carrier, T0 + LIMIT - 1, False, False, held).down == held
    over = look(carrier, T0 + LIMIT, False, False, held)
    assert (over.bypass, over.cause, over.down) == (True, Cause.LINK_DOWN, NONE)


def test_a_link_that_returns_is_passed_on_and_the_other_one_has_time_to_follow() -> None:
    """A port that we take up again negotiates for seconds: that is no loss, which would be passed on in turn."""
    carrier = settled()
    assert look(carrier, T0, False, True) == Meaning()
    assert look(carrier, T0 + LOSS_NS, False, True).down == WAN
    back = T0 + 5 * SECOND
    assert look(carrier, back, True, False, WAN) == Meaning()
    carrier.moved(back, "wan")
    for after in range(0, APPEAR_NS, SECOND // 2):
        meaning = look(carrier, back + after, True, False)
        assert meaning.down == NONE
        assert not meaning.bypass
    assert look(carrier, back + APPEAR_NS, True, False).down == LAN, "it does not come: now it is lost"


def test_both_links_lost_lead_to_bypass_whatever_the_policy() -> None:
    for policy in ("propagate", "ignore", "bypass"):
        carrier = settled(policy=policy, limit=0)
        assert not look(carrier, T0, False, False, policy=policy, limit=0).bypass
        first = look(carrier, T0 + LOSS_NS, False, False, policy=policy, limit=0)
        assert (first.cause, first.down, first.bypass) == (Cause.LINKS_DOWN, NONE, policy == "bypass")
        over = look(carrier, T0 + BOTH_NS, False, False, policy=policy, limit=0)
        assert over == Meaning(NONE, Cause.LINKS_DOWN, "lan0 and wan0 have no link", bypass=True)


def test_a_second_loss_a_moment_later_is_a_loss_of_both() -> None:
    """Links lost by one cause are reported one after the other; holding a port down would hide the second loss."""
    carrier = settled()
    assert look(carrier, T0, False, True) == Meaning()
    assert look(carrier, T0 + LOSS_NS - 1, False, False) == Meaning()
    assert look(carrier, T0 + LOSS_NS, False, False).down == NONE
    assert look(carrier, T0 + 2 * LOSS_NS, False, False).cause is Cause.LINKS_DOWN
    assert look(carrier, T0 + BOTH_NS + LOSS_NS, False, False).bypass


def test_ignored_is_named_and_never_ends_in_bypass_without_a_limit() -> None:
    carrier = settled(policy="ignore", limit=0)
    look(carrier, T0, False, True, policy="ignore", limit=0)
    for after in (LOSS_NS, LIMIT, 24 * 3600 * SECOND):
        meaning = look(carrier, T0 + after, False, True, policy="ignore", limit=0)
        assert meaning == Meaning(NONE, Cause.LINK_DOWN, "lan0 has no link")
    carrier = settled(policy="ignore")
    look(carrier, T0, False, True, policy="ignore")
    assert look(carrier, T0 + LIMIT, False, True, policy="ignore").bypass


def test_bypass_at_once() -> None:
    carrier = settled(policy="bypass")
    look(carrier, T0, True, False, policy="bypass")
    assert look(carrier, T0 + LOSS_NS, True, False, policy="bypass").bypass


@pytest.mark.parametrize("policy", ["propagate", "bypass", "ignore"])
def test_a_link_has_time_to_come_up_after_the_relay_moved(policy: str) -> None:
    """And a port reports its earlier state just then."""
    carrier = Carrier()
    carrier.moved(T0)
    assert look(carrier, T0 + 1, True, True, policy=policy) == Meaning()
    for after in (SECOND, SETTLE_NS, APPEAR_NS - 1):
        meaning = look(carrier, T0 + after, False, False, policy=policy)
        assert (meaning.bypass, meaning.down) == (False, NONE)
        assert (meaning.cause is Cause.HEALTHY) == (after < SETTLE_NS), "but it is named as soon as it means anything"
    assert look(carrier, T0 + APPEAR_NS + BOTH_NS, False, False, policy=policy).bypass


def test_an_attempt_is_bounded_whatever_the_limit() -> None:
    """The relay is inline only to look for the link: if it is not there it goes back, and not after an hour."""
    carrier = Carrier()
    carrier.moved(T0)
    hour = 3600 * SECOND
    assert not look(carrier, T0 + SECOND, False, True, limit=hour, attempt=True).bypass
    assert look(carrier, T0 + APPEAR_NS, False, True, limit=hour, attempt=True).bypass
    carrier = Carrier()
    carrier.moved(T0)
    look(carrier, T0 + SETTLE_NS, True, True, limit=hour, attempt=True)
    look(carrier, T0 + 8 * SECOND, False, True, limit=hour, attempt=True)
    again = look(carrier, T0 + APPEAR_NS, False, True, limit=hour, attempt=True)
    assert not again.bypass, "it was there: the attempt has succeeded, and this is another loss"


def test_an_attempt_names_what_it_looks_for_from_its_beginning() -> None:
    """While the relay is driven and no frame crosses, there is always a cause."""
    for attempt, cause in ((True, Cause.LINKS_DOWN), (False, Cause.HEALTHY)):
        carrier = Carrier()
        carrier.moved(T0)
        first = look(carrier, T0, False, False, attempt=attempt)
        assert (first.cause, first.bypass, first.down) == (cause, False, NONE)


def test_an_attempt_does_not_promise_a_way_that_is_not_there() -> None:
    """The other neighbour sees a link only when the lost one is back."""
    carrier = settled()
    look(carrier, T0, False, True)
    assert look(carrier, T0 + LIMIT, False, True).bypass
    for start, back in ((2 * T0, False), (3 * T0, True)):
        carrier.moved(start)
        for after in (1, SECOND, SETTLE_NS):
            assert look(carrier, start + after, False, False, WAN, attempt=True).down == WAN
        found = look(carrier, start + SETTLE_NS + SECOND, back, False, WAN, attempt=True)
        assert found.down == (NONE if back else WAN)
        over = look(carrier, start + APPEAR_NS, back, False, NONE if back else WAN, attempt=True)
        assert over.bypass == (not back)
        assert over.down == NONE
    carrier = settled()
    look(carrier, T0, False, False)
    assert look(carrier, T0 + BOTH_NS, False, False).bypass
    carrier.moved(2 * T0)
    assert look(carrier, 2 * T0 + SECOND, False, False, attempt=True).down == NONE, (
        "with both lost it is not known which"
    )


def test_the_limit_counts_from_the_relays_move() -> None:
    """In bypass an open port has no link for days; that is no loss."""
    carrier = Carrier()
    carrier.moved(0)
    look(carrier, SECOND, False, False, inline=False)
    carrier.moved(T0)
    assert not look(carrier, T0 + 1, False, True).bypass
    assert not look(carrier, T0 + APPEAR_NS, False, True).bypass
    assert not look(carrier, T0 + LIMIT, False, True).bypass
    assert look(carrier, T0 + LIMIT + 1, False, True).bypass


def test_in_bypass_a_link_says_nothing_but_that_it_returned() -> None:
    """Right after the relay moved not even that: a board may join its own two ports with each other."""
    carrier = settled()
    carrier.moved(T0)
    assert look(carrier, T0 + 1, False, False, inline=False) == Meaning()
    assert look(carrier, T0 + SETTLE_NS - 1, True, True, inline=False) == Meaning()
    look(carrier, T0 + SETTLE_NS, False, True, inline=False)
    assert look(carrier, T0 + LIMIT, False, True, WAN, inline=False) == Meaning(), "nothing is held down"
    assert look(carrier, T0 + LIMIT + 1, True, True, inline=False).returned
    assert not look(carrier, T0 + LIMIT + 2, True, True, inline=False).returned


def test_time_alone_changes_the_meaning_only_at_a_deadline() -> None:
    carrier = settled()
    before = look(carrier, T0, False, False)
    times: list[int] = []
    while (due := carrier.deadline) is not None and len(times) < 20:
        times.append(due - T0)
        assert look(carrier, due - 1, False, False) == before
        before = look(carrier, due, False, False)
    assert times == [LOSS_NS, BOTH_NS, LIMIT]
