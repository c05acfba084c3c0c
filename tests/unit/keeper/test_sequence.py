# SPDX-License-Identifier: GPL-2.0-only
"""Check-ins that prove nothing do not count: out of order, without their steps, too soon."""

from __future__ import annotations

import json
import socket

import pytest

from appliance.keeper.client import KeeperLink
from appliance.keeper.limits import MS, SECOND
from appliance.keeper.messages import INLINE, Action, Ask, CheckIn, Exited, Kill, Late, Log
from appliance.keeper.protocol import PACKET_BYTES, parse_packet
from appliance.keeper.sequence import EARLIEST, MOST_WRONG, SPACING, STEPS, Proof, Sequence
from tests.support.keeper_bench import RELAY, Bench, of

FIRST = Proof(1, 100 * MS, STEPS)


@pytest.mark.parametrize(
    ("proof", "said"),
    [
        (Proof(2, 102 * MS, STEPS), ""),
        (Proof(1, 200 * MS, STEPS), "it is number 1, after 1"),
        (Proof(3, 200 * MS, STEPS), "it is number 3, after 1"),
        (Proof(2, 200 * MS, STEPS[:-1]), "its steps were parts, frames, segments, not"),
        (Proof(2, 200 * MS, STEPS[::-1]), "its steps were lease, segments, frames, parts, not"),
        (Proof(2, 200 * MS, ()), "its steps were none"),
        (Proof(2, 100 * MS + EARLIEST - 1, STEPS), "too early"),
        (Proof(2, 99 * MS, STEPS), "too early"),
        (Proof(2, 2000 * MS, STEPS), "in the future"),
        (None, "carries no sequence any more"),
    ],
)
def test_what_a_check_in_proves(proof: Proof | None, said: str) -> None:
    sequence = Sequence()
    assert sequence.judge(SECOND, FIRST) == ""
    found = sequence.judge(SECOND, proof)
    assert said in found
    assert bool(found) == bool(said)
    assert sequence.wrong == (1 if said else 0)


def test_after_a_wrong_one_the_next_right_one_counts() -> None:
    sequence = Sequence()
    for proof, wrong in (FIRST, 0), (Proof(5, 200 * MS, STEPS), 1), (Proof(6, 300 * MS, STEPS), 0):
        sequence.judge(SECOND, proof)
        assert sequence.wrong == wrong


def test_a_bypassd_that_has_never_sent_a_sequence_is_judged_by_its_silence_alone() -> None:
    sequence = Sequence()
    assert [sequence.judge(SECOND, None) for _ in range(3)] == ["", "", ""]


def test_bypassd_waits_for_longer_than_the_keeper_demands() -> None:
    assert SPACING > EARLIEST


def serve(bench: Bench, number: int, steps: tuple[str, ...] = STEPS) -> list[Action]:
    bench.now += 100 * MS
    return bench.feed(CheckIn({RELAY: Ask(INLINE, "healthy")}, proof=Proof(number, bench.now, steps)))


def test_a_bypassd_that_only_checks_in_is_killed_by_name() -> None:
    """It is alive, and asks for inline ten times a second, but does not do its work."""
    bench = Bench()
    serve(bench, 1)
    assert bench.line == INLINE
    done: list[Action] = []
    for number in range(2, 2 + MOST_WRONG):
        done += serve(bench, number, ("parts", "lease"))
    assert of(done, Kill) == [Kill(orderly=False)]
    assert sum(isinstance(each, Log) and "does not count" in each.text for each in done) == 1, "logged once"
    bench.feed(Exited("killed by signal 9"))
    assert "has checked in wrongly 3 times: its steps were parts, lease" in bench.core.bypassd.last_exit
    assert bench.line == INLINE, "the relay is held meanwhile"


def test_what_a_wrong_check_in_asks_for_is_not_done() -> None:
    bench = Bench()
    serve(bench, 1, ())
    assert bench.line != INLINE


def test_the_next_bypassd_begins_at_one_again() -> None:
    bench = Bench()
    for number in (1, 2, 3):
        serve(bench, number)
    bench.start_again()
    assert not of(serve(bench, 1), Kill)
    assert bench.core.bypassd.serving


def test_the_late_part_is_named_when_it_is_killed() -> None:
    bench = Bench()
    serve(bench, 1)
    bench.feed(Late("part steering has been silent for 1200 ms"))
    done = bench.run(bench.now + 1200 * MS)
    assert of(done, Kill) == [Kill(orderly=False)]
    bench.feed(Exited("killed by signal 9"))
    assert bench.core.bypassd.last_exit.startswith("killed by signal 9 by the keeper: it has not checked in for")
    assert bench.core.bypassd.last_exit.endswith("part steering has been silent for 1200 ms")


def test_a_part_that_is_back_in_time_is_not_blamed_later() -> None:
    bench = Bench()
    serve(bench, 1)
    bench.feed(Late("part steering has been silent for 1200 ms"))
    serve(bench, 2)
    bench.run(bench.now + 1200 * MS)
    bench.feed(Exited("killed by signal 9"))
    assert "steering" not in bench.core.bypassd.last_exit


def test_the_link_numbers_what_it_has_sent() -> None:
    """A packet that the keeper does not take has no number, so that no number is missing."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.setblocking(False)
        link = KeeperLink(ours)
        while True:
            before = link._number
            link.check_in({"a": ("inline", "x")}, None, None, at=5, steps=STEPS)
            if link._number == before:
                break  # full
        found = []
        for _ in range(before):
            told = parse_packet(theirs.recv(PACKET_BYTES))
            assert isinstance(told, CheckIn)
            assert told.proof is not None
            found.append(told.proof)
        assert [proof.number for proof in found] == list(range(1, before + 1))
        assert set(found) == {Proof(n, 5, STEPS) for n in range(1, before + 1)}
        link.late("part links has been silent for 1100 ms")
        assert parse_packet(theirs.recv(PACKET_BYTES)) == Late("part links has been silent for 1100 ms")


@pytest.mark.parametrize("sequence", [3, {}, {"number": "x", "at_ns": 1, "steps": []}, {"number": 1, "at_ns": 1}])
def test_a_sequence_that_cannot_be_read_proves_nothing(sequence: object) -> None:
    told = parse_packet(json.dumps({"type": "checkin", "relays": {}, "sequence": sequence}).encode())
    assert isinstance(told, CheckIn)
    assert Sequence().judge(SECOND, told.proof) != ""
