# SPDX-License-Identifier: GPL-2.0-only
"""Frames sent out of a port, compared with the frames that its driver counts as sent."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from appliance.causes import Cause
from appliance.segment.evidence import LAG, LASTING, SPAN, UNCOUNTED, Evidence, Found, Kept, PortSample

WINDOW = SPAN + LAG + 1


class Port:
    """A port whose counters go on from sample to sample."""

    def __init__(self, mode: str = "xdp") -> None:
        self.evidence = Evidence()
        self.given = {0: 5_000_000}
        self.sent, self.dropped, self.mode, self.ifindex = 77, 0, mode, 4

    def samples(self, count: int, given: int, sent: int, dropped: int = 0) -> Found:
        for _ in range(count):
            self.given[0] += given
            self.sent += sent
            self.dropped += dropped
            self.sample()
        return self.evidence.verdict()

    def sample(self) -> None:
        identity = (self.ifindex, self.mode)
        sample = PortSample("wan0", dict(self.given), self.sent, self.dropped, identity, self.mode == "tc")
        self.evidence.add({"wan": sample})

    @property
    def kept(self) -> str:
        return self.evidence.ports["wan"].kept


def test_what_goes_in_comes_out() -> None:
    port = Port()
    assert port.samples(100, 1000, 1000) == Found()
    assert (port.kept, port.evidence.ports["wan"].detail) == (Kept.SENT, "")


@pytest.mark.parametrize("mode", ["xdp", "tc"])
def test_a_port_that_stops_sending_is_a_reason_for_bypass(mode: str) -> None:
    port = Port(mode)
    port.samples(WINDOW, 1000, 1000)
    for _ in range(WINDOW - 2):
        assert port.samples(1, 1000, 0) == Found()
    found = port.samples(1, 1000, 0)
    assert found == Found(Cause.NOT_SENT, "wan0 sent 0 of 3000 frames in 3 s", bypass=True)


def test_what_is_dropped_is_told_too() -> None:
    port = Port()
    port.samples(WINDOW, 100, 100)
    assert port.samples(WINDOW, 100, 0, dropped=100).detail == "wan0 sent 0 of 300 frames in 3 s and dropped 600"


def test_a_driver_may_count_late() -> None:
    """Every other second, as igb does: all frames of two samples at once."""
    port = Port()
    for _ in range(50):
        assert port.samples(1, 1000, 0) == Found()
        assert port.samples(1, 1000, 2000) == Found()
    assert port.kept is Kept.SENT


def test_a_driver_may_count_a_frame_when_the_next_one_is_sent() -> None:
    """As virtio does: after a burst its counter stands still until there is more to send."""
    port = Port()
    port.samples(WINDOW, 1000, 1000)
    for _ in range(20):
        assert port.samples(1, 64, 64) == Found()
        assert port.samples(10, 0, 0) == Found()
    port.sent -= 64
    port.sample()
    for _ in range(20):
        assert port.samples(3, 64, 0) == Found()
        assert port.samples(10, 0, 0) == Found()
        assert port.samples(1, 0, 3 * 64) == Found()


def test_a_driver_that_does_not_count_what_xdp_sends_is_said_to_not_judged() -> None:
    port = Port()
    assert port.samples(WINDOW - 1, UNCOUNTED, 0) == Found()
    assert port.kept == "unknown"
    assert port.samples(1, UNCOUNTED, 0) == Found()
    assert port.kept == "uncounted"
    assert port.evidence.ports["wan"].detail == "the driver of wan0 does not count what XDP sends"
    port.samples(WINDOW, 1000, 1000)
    assert port.kept == "sent", "it does after all"


def test_by_tc_every_driver_counts() -> None:
    port = Port("tc")
    assert port.samples(WINDOW, 1000, 0).bypass


def test_another_port_or_mode_has_to_be_seen_to_count_anew() -> None:
    port = Port()
    port.samples(WINDOW, 1000, 1000)
    port.ifindex += 1
    assert port.samples(WINDOW, 1000, 0) == Found()


def test_an_overloaded_port_is_named_and_not_bypassed() -> None:
    """Otherwise anyone who sends more than line rate could switch the inspection off."""
    port = Port()
    port.samples(WINDOW, 1000, 1000)
    found = [port.samples(1, 1000, 100) for _ in range(WINDOW + LASTING)]
    assert not any(each.bypass for each in found)
    assert found[-1] == Found(Cause.PARTLY_SENT, "wan0 sent 600 of 3000 frames in 3 s")
    assert found[LASTING] == Found(), "not before it has lasted"
    assert port.samples(WINDOW, 1000, 1000) == Found(), "and it is over when it is over"


def test_only_a_shortfall_without_a_break_lasts() -> None:
    port = Port()
    port.samples(WINDOW, 1000, 1000)
    for _ in range(2 * LASTING):
        for sent in (*[100] * (LAG + 1), *[1000] * WINDOW):
            assert port.samples(1, 1000, sent) == Found()


def test_few_frames_prove_nothing() -> None:
    port = Port()
    port.samples(WINDOW, 1000, 1000)
    assert port.samples(50, 6, 0) == Found()


def test_silence_is_no_fault() -> None:
    port = Port()
    port.samples(WINDOW, 1000, 1000)
    assert port.samples(1000, 0, 0) == Found()


@pytest.mark.parametrize("to", [(0, 0), (3, 0)], ids=["reset", "wrapped"])
def test_a_counter_that_goes_back_begins_anew(to: Iterable[int]) -> None:
    port = Port()
    port.samples(WINDOW, 1000, 1000)
    port.sent, port.dropped = to
    assert port.samples(WINDOW - 1, 1000, 1000) == Found()
    assert port.kept is Kept.SENT
    assert port.samples(WINDOW, 1000, 0).bypass, "and it still counts"


def test_a_guest_that_comes_or_goes_brings_no_frames_with_it() -> None:
    """Its tap's counter goes on from what it was an hour ago."""
    port = Port()
    port.samples(WINDOW, 100, 100)
    port.given[64] = 1_000_000
    assert port.samples(WINDOW, 0, 0) == Found()
    del port.given[64]
    assert port.samples(WINDOW, 0, 0) == Found()
    port.given[64] = 2_000_000
    for _ in range(2 * WINDOW):
        port.given[64] += 100
        port.samples(1, 0, 0)
    assert port.evidence.verdict().bypass, "what it sends is expected to leave, as any other frame"


def test_what_was_before_the_relay_moved_is_forgotten() -> None:
    port = Port()
    port.samples(WINDOW, 1000, 1000)
    assert port.samples(WINDOW, 1000, 0).bypass
    port.evidence.forget()
    waiting = Found(Cause.NOT_SENT, "wan0 sent 0 of 3000 frames in 3 s, and too few frames since to tell")
    assert port.evidence.verdict() == waiting, "the attempt has a cause until the port is seen to send"
    assert port.samples(WINDOW - 1, 1000, 0) == waiting
    assert port.samples(1, 1000, 0).bypass
    port.evidence.forget()
    assert port.samples(WINDOW - 1, 1000, 1000).cause is Cause.NOT_SENT
    assert port.samples(1, 1000, 1000) == Found()
