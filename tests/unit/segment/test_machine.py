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


def test_a_wait_says_how_long_it_is_and_after_what() -> None:
    machine = Machine()
    machine.begin(0, GOOD, "bypass", intact=False)
    assert machine.detail == "inline in 2.0 s"
    machine = inline()
    machine.facts(SECOND, BROKEN)
    machine.facts(2 * SECOND, GOOD)
    assert machine.detail == "inline in 4.0 s, after datapath_fault"


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


@pytest.mark.parametrize("state", [State.STARTING, State.BYPASS, State.ENGAGING, State.DISCONNECT])
def test_a_fault_leads_to_bypass_and_not_to_a_wait(state: State) -> None:
    """A wait ends by itself, and would go inline on the fault."""
    machine = put(state)
    machine.begin(SECOND, BROKEN, "bypass", intact=False)
    assert (machine.state, machine.deadline()) == (State.BYPASS, None)


def test_a_start_that_finds_an_order_to_disconnect_follows_it() -> None:
    machine = Machine()
    machine.begin(0, CUT, "disconnect", intact=False)
    assert (machine.state, machine.cause) == (State.DISCONNECT, Cause.OPERATOR)


def test_before_it_begins_it_says_that_it_starts() -> None:
    machine = Machine()
    assert (machine.state, machine.cause, machine.detail) == (State.STARTING, Cause.STARTING, "")
    assert (machine.relay, machine.since, machine.deadline(), machine.tripped) == ("", 0, None, None)


def test_each_event_gives_its_own_moves_only() -> None:
    """The ledger has every move once."""
    machine = Machine()
    answers = [
        machine.begin(0, GOOD, "bypass", intact=False),
        machine.tick(2 * SECOND),
        machine.keeper(2 * SECOND, "inline", "healthy"),
        machine.keeper(3 * SECOND, "inline", "healthy"),
        machine.trip(4 * SECOND, Cause.LINK_DOWN, ""),
        machine.trip(4 * SECOND, Cause.LINK_DOWN, ""),
        machine.facts(4 * SECOND, GOOD),
        machine.facts(4 * SECOND, GOOD),
        machine.tick(machine.deadline() or 0),
        machine.begin(9 * SECOND, GOOD, "bypass", intact=False),
    ]
    assert [[move.new.value for move in moves] for moves in answers] == [
        ["rearming"], ["engaging"], ["inline"], [], ["bypass"], [], ["rearming"], [], ["engaging"], [],
    ]  # fmt: skip


def test_the_relays_position_is_what_the_keeper_said_last() -> None:
    machine = Machine()
    machine.begin(0, GOOD, "bypass", intact=False)
    assert machine.relay == "bypass"
    machine.keeper(SECOND, "moving", "")
    assert machine.relay == "moving"


def test_an_attempt_ends_when_the_keeper_has_had_its_time() -> None:
    machine = Machine()
    machine.begin(0, GOOD, "bypass", intact=False)
    machine.tick(2 * SECOND)
    assert machine.deadline() == 5 * SECOND
    machine.tick(5 * SECOND - 1)
    assert machine.state is State.ENGAGING
    machine.tick(5 * SECOND)
    assert (machine.state, machine.delay, machine.tripped) == (State.BYPASS, 4 * SECOND, None)
    machine.facts(6 * SECOND, GOOD)
    assert machine.deadline() == 9 * SECOND, "the delay counts from the failed attempt"


def test_a_change_of_the_reason_in_bypass_is_told_and_the_same_one_is_not() -> None:
    machine = inline()
    machine.facts(SECOND, BROKEN)
    assert machine.facts(2 * SECOND, BROKEN) == []
    (move,) = machine.facts(3 * SECOND, Facts(faults={Cause.PORT_MISSING: "lan0"}))
    assert (move.old, move.new, move.cause) == (State.BYPASS, State.BYPASS, Cause.PORT_MISSING)
    assert (machine.cause, machine.since) == (Cause.PORT_MISSING, SECOND)


def test_a_remark_of_the_same_cause_brings_its_detail_up_to_date() -> None:
    machine = inline()
    machine.remark(Cause.PARTLY_SENT, "wan0 sent 50 of 100 frames")
    assert machine.remark(Cause.PARTLY_SENT, "wan0 sent 40 of 100 frames") == []
    assert machine.detail == "wan0 sent 40 of 100 frames"
    machine.remark(Cause.HEALTHY, "")
    assert (machine.cause, machine.detail) == (Cause.HEALTHY, "")
    machine.remark(Cause.HEALTHY, "nothing to say")
    assert machine.detail == ""


def test_a_sign_is_obeyed_again_after_its_time_and_not_before() -> None:
    machine = inline()
    for _ in range(10):
        machine.trip(machine.since + SECOND, Cause.LINKS_DOWN, "")
        machine = again(machine)
    machine.trip(machine.since + SECOND, Cause.LINKS_DOWN, "")
    first = machine.since
    machine.facts(first, GOOD)
    machine.hasten(first)
    assert machine.deadline() == first + 2 * SECOND
    again(machine)
    machine.trip(first + 3 * SECOND, Cause.LINKS_DOWN, "")
    machine.facts(first + 3 * SECOND, GOOD)
    machine.hasten(first + 900 * SECOND - 1)
    assert machine.deadline() == first + 3603 * SECOND
    machine.hasten(first + 900 * SECOND)
    assert machine.deadline() == first + 902 * SECOND


def test_a_sign_that_gains_nothing_does_not_use_up_the_next_one() -> None:
    machine = inline()
    machine.trip(SECOND, Cause.LINKS_DOWN, "")
    machine.facts(SECOND, GOOD)
    machine.hasten(3 * SECOND)
    assert machine.deadline() == 5 * SECOND, "as without it"
    again(machine)
    machine.trip(6 * SECOND, Cause.LINKS_DOWN, "")
    machine.facts(6 * SECOND, GOOD)
    machine.hasten(6 * SECOND)
    assert machine.deadline() == 8 * SECOND


# -- what the next bypassd knows of it, and other times


def tripped_thrice() -> Machine:
    """Waiting after the third lost link in a row, with 16 s of delay."""
    machine = inline()
    for number in range(3):
        machine.trip(machine.since + SECOND, Cause.LINK_DOWN, "lan lost its link")
        machine.facts(machine.since, GOOD)
        if number < 2:
            again(machine)
    assert (machine.state, machine.delay) == (State.REARMING, 16 * SECOND)
    return machine


def test_the_next_bypassd_goes_on_with_the_wait() -> None:
    old = tripped_thrice()
    known = old.remember()
    assert known == {"delay": 16 * SECOND, "since": old.since, "cause": "link_down", "detail": "lan lost its link"}
    new = Machine()
    new.recall(known)
    new.begin(old.since + SECOND, GOOD, "bypass", intact=False)
    assert (new.state, new.cause, new.deadline()) == (State.REARMING, Cause.LINK_DOWN, old.deadline())
    assert (new.delay, new.tripped) == (16 * SECOND, Cause.LINK_DOWN)


def test_there_is_nothing_to_remember_while_there_is_no_back_off() -> None:
    assert inline().remember() == {}


def test_under_a_fault_the_wait_counts_from_the_last_move() -> None:
    machine = inline()
    machine.facts(SECOND, BROKEN)
    assert machine.remember() == {"delay": 4 * SECOND, "since": SECOND, "cause": "rearming", "detail": ""}


@pytest.mark.parametrize(
    ("delay", "expected"), [(1, 2 * SECOND), (16 * SECOND, 16 * SECOND), (10**6 * SECOND, 3600 * SECOND)]
)
def test_a_remembered_delay_is_kept_within_its_limits(delay: int, expected: int) -> None:
    machine = Machine()
    machine.recall({"delay": delay, "since": 0, "cause": "rearming", "detail": ""})
    assert (machine.delay, machine.tripped) == (expected, None)


@pytest.mark.parametrize("what", [{}, {"delay": "16", "since": 0, "cause": "link_down", "detail": ""}, {"delay": 5}])
def test_what_is_malformed_is_not_remembered(what: dict[str, object]) -> None:
    machine = Machine()
    machine.recall(what)
    assert (machine.delay, machine.tripped) == (2 * SECOND, None)


def test_other_times_change_a_delay_that_flapping_has_not_lengthened() -> None:
    machine = inline()
    machine.retime(Times(rearm_delay=5 * SECOND))
    assert machine.delay == 5 * SECOND
    machine.retime(Times(rearm_delay=1 * SECOND))
    assert machine.delay == 1 * SECOND


def test_other_times_leave_a_lengthened_delay_within_the_new_limits() -> None:
    machine = tripped_thrice()
    machine.retime(Times(rearm_delay=3 * SECOND))
    assert machine.delay == 16 * SECOND
    machine.retime(Times(rearm_delay=3 * SECOND, rearm_max=10 * SECOND))
    assert machine.delay == 10 * SECOND
    machine.retime(Times(rearm_delay=30 * SECOND))
    assert machine.delay == 30 * SECOND
    again(machine)
    machine.facts(machine.since + SECOND, BROKEN)
    assert machine.delay == 60 * SECOND, "the new times count from now on"


def test_adopted_it_has_been_fit_since_then() -> None:
    machine = Machine()
    machine.begin(5 * SECOND, GOOD, "inline", intact=True)
    machine.facts(6 * SECOND, OPERATOR)
    machine.facts(6 * SECOND, GOOD)
    assert machine.deadline() == 7 * SECOND


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
