# SPDX-License-Identifier: GPL-2.0-only
"""A mirror compared with the hop beside it: verdict by frame, and latency."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from appliance.steering.explain.canary import Comparison, Difference, Passed, Seen, Verdict, came_out
from tests.support.frames import KINDS, tcp, udp

US = 1000
FORWARDED, CHANGED, DROPPED = Verdict
Way = Callable[[bytes], bytes | None]
FRAMES = {"udp": udp(), "tcp": tcp(), "arp": KINDS["arp"]}


def passed(*ways: tuple[bytes, bytes | None], took: int = 100 * US, direction: int = 0) -> Passed:
    """Frames into a hop, one a millisecond, and what each came out as; None: it did not."""
    into = [Seen(at * 1000 * US, direction, frame) for at, (frame, _) in enumerate(ways)]
    out = [Seen(at * 1000 * US + took, direction, came) for at, (_, came) in enumerate(ways) if came is not None]
    return Passed(into, out)


def judged(hop: Passed, mirror: Passed) -> Comparison:
    found = Comparison()
    found.add(hop, mirror)
    return found


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
@pytest.mark.parametrize(
    ("by_hop", "by_mirror", "alike"),
    [
        (lambda frame: frame, lambda frame: frame, True),
        (lambda frame: None, lambda frame: None, True),
        (lambda frame: frame, lambda frame: None, False),
        (lambda frame: None, lambda frame: frame, False),
        (lambda frame: bytes(6) + frame[6:], lambda frame: bytes(6) + frame[6:], True),
        (lambda frame: bytes(6) + frame[6:], lambda frame: b"\2" * 6 + frame[6:], False),
        (lambda frame: frame, lambda frame: bytes(6) + frame[6:], False),
    ],
    ids=["forwarded", "dropped", "mirror drops", "hop drops", "changed", "changed otherwise", "mirror changes"],
)
def test_each_frame_is_judged(frame: bytes, by_hop: Way, by_mirror: Way, alike: bool) -> None:
    """Both got it; what became of it in each decides."""
    found = judged(passed((frame, by_hop(frame))), passed((frame, by_mirror(frame))))
    assert (found.judged, found.different) == (1, 0 if alike else 1)
    assert list(found.examples.values()) == [frame]


def test_a_round_lasts_until_all_frames_have_come_out() -> None:
    """Each as often as it went in, in its direction; what came out besides says nothing."""
    one, other = Seen(1000, 0, udp()), Seen(2000, 0, tcp())
    later = [seen._replace(when=9000) for seen in (one, other)]
    assert came_out(Passed([one, other], [*later, later[0]]))
    assert not came_out(Passed([one, other], later[:1]))
    assert not came_out(Passed([one, one], [later[0], later[1]]))
    assert not came_out(Passed([one], [later[0]._replace(direction=1)]))


def routed(frame: bytes) -> bytes:
    """As a router with NAT sends it on: other stations, time to live, source, checksum."""
    return b"\4" * 12 + frame[12:22] + b"\x1f" + frame[23:24] + b"\0\0" + bytes((198, 51, 100, 1)) + frame[30:]


def rewritten(frame: bytes) -> bytes:
    """Another payload between the same ends."""
    return frame[:-2] + b"\xff\xff"


@pytest.mark.parametrize("change", [routed, rewritten])
@pytest.mark.parametrize("make", [udp, tcp])
def test_a_changed_frame_is_known_by_what_stayed(make: Callable[[], bytes], change: Callable[[bytes], bytes]) -> None:
    frame = make() + b"some payload"
    found = judged(passed((frame, change(frame))), passed((frame, frame)))
    assert found.verdicts == {Difference(CHANGED, FORWARDED): 1}


def test_a_frame_is_no_answer_to_a_later_one_or_to_one_in_the_other_direction() -> None:
    into = Seen(1000, 0, udp())
    early = Passed([into], [Seen(500, 0, udp())])
    back = Passed([into], [Seen(2000, 1, udp())])
    for other in (early, back):
        found = judged(Passed([into], [Seen(2000, 0, udp())]), other)
        assert found.verdicts == {Difference(FORWARDED, DROPPED): 1}
        assert found.mirror.extra == 1


def test_equal_frames_count_each_for_itself() -> None:
    """Three of a kind, of which the mirror drops one."""
    hop = passed(*[(udp(), udp())] * 3)
    found = judged(hop, Passed(hop.into, hop.out[:2]))
    assert found.verdicts == {Difference(FORWARDED, FORWARDED): 2, Difference(FORWARDED, DROPPED): 1}


def test_a_frame_without_a_copy_is_not_judged() -> None:
    found = judged(passed((udp(), udp()), (tcp(), tcp())), passed((udp(), udp())))
    assert (found.judged, found.uncopied, found.different) == (1, 1, 0)


def test_without_a_hop_the_link_is_what_the_mirror_is_compared_with() -> None:
    """It passes every frame unchanged."""
    found = Comparison(link=True)
    found.add(Passed([], []), passed((udp(), udp()), (tcp(), None)))
    assert found.verdicts == {Difference(FORWARDED, FORWARDED): 1, Difference(FORWARDED, DROPPED): 1}


@pytest.mark.parametrize(
    ("hop", "mirror", "slower"),
    [
        (100, 100, []),
        (100, 140, []),
        (1, 40, []),
        (1, 60, ["median", "99th percentile"]),
        (100, 151, ["median", "99th percentile"]),
        (150, 100, []),
    ],
)
def test_the_latency_differs_if_it_is_much_longer(hop: int, mirror: int, slower: list[str]) -> None:
    """By half, and by 50 us."""
    ways = [(udp(), udp())] * 10
    assert judged(passed(*ways, took=hop * US), passed(*ways, took=mirror * US)).slower == slower


def test_a_slow_tail_is_told_apart_from_a_slow_median() -> None:
    ways = [(udp(), udp())] * 10
    hop = passed(*ways)
    mirror = Passed(hop.into, [*hop.out[:9], Seen(hop.out[9].when + 10_000 * US, 0, udp())])
    assert judged(hop, mirror).slower == ["99th percentile"]
