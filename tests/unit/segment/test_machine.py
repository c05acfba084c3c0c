# SPDX-License-Identifier: GPL-2.0-only
"""The segment's table, exhaustively (every state with every stimulus and every event), and its times."""

from __future__ import annotations

import itertools

import pytest

from appliance.causes import Cause
from appliance.segment.machine import (
    SECOND,
    TABLE,
    WANT,
    Machine,
    State,
    Stimulus,
    Times,
)
from appliance.segment.policy import Facts, mode
from appliance.transition import IllegalMoveError

GOOD = Facts()
BROKEN = Facts(faults={Cause.DATAPATH_FAULT: "refused"})
OPERATOR = Facts(asked="bypass", asked_cause=Cause.OPERATOR)
CUT = Facts(asked="disconnect", asked_cause=Cause.OPERATOR)


def inline(now: int = 0, times: Times | None = None) -> Machine:
    """A machine that went inline normally; it is inline since `now`."""
    machine = Machine(times)
    machine.begin(now - 3 * SECOND, GOOD, "bypass", intact=False)
    machine.tick(now - SECOND)
    machine.keeper(now, "inline", "healthy")
    assert machine.state is State.INLINE
    return machine


def again(machine: Machine) -> Machine:
    """Inline again, after the fault and its delay."""
    machine.facts(machine.since, GOOD)
    due = machine.deadline()
    assert due is not None
    machine.tick(due)
    machine.keeper(due, "inline", "healthy")
    assert machine.state is State.INLINE
    return machine


def put(state: State) -> Machine:
    """A machine in any state."""
    machine = inline()
    machine.state = state
    return machine


@pytest.mark.parametrize(("state", "stimulus"), list(itertools.product(State, Stimulus)))
def test_every_state_with_every_stimulus(state: State, stimulus: Stimulus) -> None:
    """The table has the move and it is taken, or it is refused and the state stays."""
    machine = put(state)
    machine._moves = []
    if (state, stimulus) in TABLE:
        machine._move(SECOND, stimulus, Cause.HEALTHY, "")
        assert machine.state is TABLE[state, stimulus]
    else:
        with pytest.raises(IllegalMoveError, match=f"{state} has no move on {stimulus}"):
            machine._move(SECOND, stimulus, Cause.HEALTHY, "")
        assert machine.state is state


def test_the_relay_is_asked_inline_only_where_it_was_earned() -> None:
    assert {state for state, want in WANT.items() if want == "inline"} == {State.ENGAGING, State.INLINE}
    ways_in = {old for (old, _), new in TABLE.items() if new is State.INLINE}
    assert ways_in == {State.STARTING, State.ENGAGING}
    assert all(state in {s for s, _ in TABLE} for state in State), "no state is a dead end"


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("facts", [GOOD, BROKEN, OPERATOR, CUT], ids=["good", "broken", "operator", "cut"])
@pytest.mark.parametrize("event", ["facts", "trip", "inline", "bypass", "tick"])
def test_no_event_is_illegal_in_any_state(state: State, facts: Facts, event: str) -> None:
    """For any event in any state: no exception, and with a fault the machine never requests inline."""
    machine = put(state)
    now = 100 * SECOND
    match event:
        case "facts":
            machine.facts(now, facts)
        case "trip":
            machine.trip(now, Cause.LINK_DOWN, "lan")
        case "inline" | "bypass":
            machine.keeper(now, event, "")
        case "tick":
            machine.tick(now)
    machine.facts(now, facts)
    if facts is not GOOD and state is not State.STARTING:
        assert machine.want in ("bypass", "disconnect")


def test_start_to_inline() -> None:
    machine = Machine()
    assert machine.want == "hold"
    machine.facts(0, GOOD)
    assert machine.state is State.STARTING, "facts before the keeper's word do not move it"
    machine.begin(0, GOOD, "bypass", intact=False)
    assert (machine.state, machine.want, machine.deadline()) == (State.REARMING, "bypass", 2 * SECOND)
    machine.tick(2 * SECOND - 1)
    assert machine.want == "bypass"
    machine.tick(2 * SECOND)
    assert (machine.state, machine.want) == (State.ENGAGING, "inline")
    machine.keeper(2 * SECOND, "inline", "healthy")
    assert (machine.state, machine.cause) == (State.INLINE, Cause.HEALTHY)


def test_the_first_time_after_an_ordinary_boot_waits_for_nothing() -> None:
    machine = Machine()
    machine.begin(0, GOOD, "bypass", intact=False, first=True)
    machine.tick(0)
    assert machine.state is State.ENGAGING
    machine = Machine()
    machine.begin(0, BROKEN, "bypass", intact=False, first=True)
    machine.facts(SECOND, GOOD)
    assert machine.deadline() == 3 * SECOND, "a fault at the start makes it again"


def test_adoption_moves_nothing() -> None:
    machine = Machine()
    moves = machine.begin(0, GOOD, "inline", intact=True)
    assert [(move.old, move.new) for move in moves] == [(State.STARTING, State.INLINE)]
    assert machine.want == "inline"


@pytest.mark.parametrize(("facts", "relay", "intact"), [(BROKEN, "inline", True), (GOOD, "inline", False)])
def test_no_adoption_with_a_fault_or_without_the_datapath(facts: Facts, relay: str, intact: bool) -> None:
    machine = Machine()
    machine.begin(0, facts, relay, intact)
    assert machine.want == "bypass"


def test_a_fault_while_rearming_starts_the_delay_again() -> None:
    machine = Machine()
    machine.begin(0, GOOD, "bypass", intact=False)
    machine.facts(SECOND, BROKEN)
    assert (machine.state, machine.cause) == (State.BYPASS, Cause.DATAPATH_FAULT)
    machine.facts(2 * SECOND, GOOD)
    assert machine.deadline() == 4 * SECOND


def test_a_keeper_that_does_not_confirm_is_a_fault() -> None:
    machine = Machine()
    machine.begin(0, GOOD, "bypass", intact=False)
    machine.tick(2 * SECOND)
    machine.tick(5 * SECOND)
    assert (machine.state, machine.cause) == (State.BYPASS, Cause.RELAY_FAULT)


def test_a_relay_that_falls_is_noticed() -> None:
    machine = inline()
    machine.keeper(SECOND, "bypass", "relay_fault")
    assert (machine.state, machine.cause) == (State.BYPASS, Cause.RELAY_FAULT)


def test_flapping_doubles_the_delay_up_to_a_limit_and_quiet_gives_it_back() -> None:
    machine = inline(0, Times(rearm_delay=2 * SECOND))
    now, delays = 0, []
    for _ in range(12):
        now += SECOND
        machine.facts(now, BROKEN)
        now += SECOND
        machine.facts(now, GOOD)
        delays.append(machine.delay // SECOND)
        due = machine.deadline()
        assert due is not None
        now = due
        machine.tick(now)
        machine.keeper(now, "inline", "")
        assert machine.state is State.INLINE
    assert delays == [4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 3600, 3600]
    machine.facts(now + 7200 * SECOND, BROKEN)
    assert machine.delay == 2 * SECOND


def test_a_wait_is_forgotten_step_by_step() -> None:
    """Or a link that holds for some minutes each time would have the relay move fifty times an hour."""
    machine = inline(0)
    for steady, delay in ((599, 4), (599, 8), (599, 16), (600, 8), (1199, 4), (599, 8), (1800, 2)):
        machine.facts(machine.since + steady * SECOND, BROKEN)
        assert machine.delay == delay * SECOND
        machine = again(machine)


def test_no_delay_doubles_too() -> None:
    machine = inline(0, Times(rearm_delay=0))
    delays = []
    for _ in range(4):
        machine.facts(machine.since + SECOND, BROKEN)
        delays.append(machine.delay // SECOND)
        machine = again(machine)
    assert delays == [1, 2, 4, 8]


def test_a_fault_before_the_keeper_confirmed_counts_as_flapping() -> None:
    """The relay may have moved already."""
    machine = Machine()
    machine.begin(0, GOOD, "bypass", intact=False)
    machine.tick(2 * SECOND)
    assert machine.state is State.ENGAGING
    machine.facts(2 * SECOND, BROKEN)
    assert machine.delay == 4 * SECOND


def test_an_operator_is_no_flapping_and_waits_for_nothing_again() -> None:
    machine = inline()
    machine.facts(10 * SECOND, OPERATOR)
    assert (machine.state, machine.cause, machine.delay) == (State.BYPASS, Cause.OPERATOR, 2 * SECOND)
    machine.facts(20 * SECOND, GOOD)
    machine.tick(20 * SECOND)
    assert machine.state is State.ENGAGING, "it was healthy all the time"


def test_a_fault_under_the_operators_bypass_still_has_to_clear_for_the_delay() -> None:
    machine = inline()
    both = Facts(asked="bypass", asked_cause=Cause.OPERATOR, faults={Cause.PORT_MISSING: "lan0"})
    machine.facts(10 * SECOND, both)
    machine.facts(11 * SECOND, GOOD)
    assert machine.deadline() == 13 * SECOND


def test_a_lost_link_trips_to_bypass_and_is_tried_again() -> None:
    machine = inline()
    machine.trip(SECOND, Cause.LINK_DOWN, "lan lost its link")
    assert (machine.state, machine.cause) == (State.BYPASS, Cause.LINK_DOWN)
    machine.facts(SECOND, GOOD)
    assert (machine.state, machine.cause, machine.deadline()) == (State.REARMING, Cause.LINK_DOWN, 5 * SECOND)
    assert machine.detail == "lan lost its link: next attempt after 4.0 s", "the reason is not forgotten while waiting"
    again(machine)
    assert (machine.tripped, machine.cause) == (Cause.LINK_DOWN, Cause.HEALTHY)
    machine.facts(10 * SECOND, BROKEN)
    machine.facts(11 * SECOND, GOOD)
    assert (machine.tripped, machine.cause) == (None, Cause.REARMING), "another reason has taken its place"


def test_a_sign_that_the_link_is_back_shortens_the_wait_but_rarely() -> None:
    machine = inline()
    waits = []
    for _ in range(8):
        now = machine.since + SECOND
        machine.trip(now, Cause.LINKS_DOWN, "")
        machine.facts(now, GOOD)
        machine.hasten(now)
        due = machine.deadline()
        assert due is not None
        waits.append((due - now) // SECOND)
        again(machine)
    assert waits == [2, 8, 16, 32, 64, 128, 256, 512]
    machine.trip(machine.since + SECOND, Cause.LINKS_DOWN, "")
    machine.facts(machine.since, GOOD)
    machine.hasten(machine.since)
    assert machine.deadline() == machine.since + 2 * SECOND, "a quarter of an hour later"


def test_who_says_try_now_waits_for_no_back_off() -> None:
    machine = inline()
    machine.trip(SECOND, Cause.LINK_DOWN, "")
    machine.facts(SECOND, GOOD)
    machine.forgive()
    machine.tick(SECOND)
    assert (machine.state, machine.delay) == (State.ENGAGING, 2 * SECOND)


def test_what_is_wrong_outside_is_named_and_the_relay_stays() -> None:
    machine = inline()
    moves = machine.remark(Cause.LINK_DOWN, "lan has no link")
    assert [(move.old, move.new, move.cause) for move in moves] == [(State.INLINE, State.INLINE, Cause.LINK_DOWN)]
    assert machine.remark(Cause.LINK_DOWN, "lan has no link") == []
    assert machine.want == "inline"
    assert machine.facts(SECOND, GOOD) == []
    assert [move.cause for move in machine.remark(Cause.HEALTHY, "")] == [Cause.HEALTHY]
    assert machine.since == 0, "nothing moved"
    machine.facts(SECOND, BROKEN)
    assert machine.remark(Cause.LINK_DOWN, "") == [], "in bypass there is a cause already"


def test_disconnect_and_back() -> None:
    machine = inline()
    machine.facts(SECOND, CUT)
    assert machine.want == "disconnect"
    machine.facts(2 * SECOND, GOOD)
    assert machine.want == "bypass", "the way back leads over bypass"


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (GOOD, ("inline", Cause.HEALTHY)),
        (OPERATOR, ("bypass", Cause.OPERATOR)),
        (Facts(asked="bypass", faults={Cause.RELAY_FAULT: ""}), ("bypass", Cause.CONFIGURED)),
        (Facts(faults={Cause.DATAPATH_FAULT: "", Cause.PORT_MISSING: ""}), ("bypass", Cause.PORT_MISSING)),
        (Facts(faults={Cause.NO_KVM: ""}), ("bypass", Cause.NO_KVM)),
        (CUT, ("disconnect", Cause.OPERATOR)),
    ],
)
def test_policy(facts: Facts, expected: tuple[str, Cause]) -> None:
    assert mode(facts)[:2] == expected
