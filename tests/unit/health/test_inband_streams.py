# SPDX-License-Identifier: GPL-2.0-only
"""Heartbeats of the administrator's own shape, negative ones, and latency as a verdict."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.causes import Cause
from appliance.config.schema import model
from appliance.errors import GuestError
from appliance.frames import pcapng_writer
from appliance.health.detector import Bad, Good
from appliance.health.inband import Direction, Lane, neighbour_address
from appliance.health.inband_streams import Stream, TapPair, streams, template
from appliance.health.latency_limit import LatencyLimit, percentile
from appliance.health.verdict import Available, History, Unavailable, Verdict
from appliance.units import Duration

MS = 1_000_000
FRAME = bytes(range(12)) + b"\x08\x00" + bytes(range(100))
TAGGED = FRAME[:12] + bytes.fromhex("88a80007") + bytes.fromhex("8100002a") + FRAME[12:]
PAIR = TapPair("tap-l", "tap-w")


def probe(**more: object) -> model.Probe:
    values: dict[str, object] = {"kind": "inband", "interval": Duration(20 * MS), "misses": 2, **more}
    return model.Probe(**values)  # type: ignore[arg-type]


class Tap:
    """Takes what is sent into the guest."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.queues: list[int | None] = []
        self.refused = 0

    def send(self, frame: bytes, queue: int | None = None) -> None:
        self.sent.append(frame)
        self.queues.append(queue)


def one(given: model.Probe, tmp_path: Path) -> tuple[Stream, Tap]:
    stream = streams((given,), 3, (PAIR,), 0xABCDEF0123, tmp_path)[0]
    tap = Tap()
    stream.entry = tap  # type: ignore[assignment]
    return stream, tap


# -- templates


def test_a_template_is_numbered_by_its_addresses_only() -> None:
    """Everything behind the addresses stays; each frame has another number, and proves itself once."""
    lane = Lane(3, Direction.LAN_TO_WAN, 1 << 32 | 99, FRAME)
    first, second = lane.send(10), lane.send(20)
    assert first[12:] == second[12:] == FRAME[12:]
    assert first[:6] != second[:6]
    assert first[6:12] == second[6:12] == bytes.fromhex("021000000001")
    assert not first[0] & 1  # no multicast: a bridge floods it, and no station takes it
    proof = lane.receive(35, second)
    assert proof is not None
    assert (proof.sent, proof.latency) == (20, 15)
    assert lane.receive(36, second) is None  # said twice
    assert lane.foreign == 1


@pytest.mark.parametrize("spoiled", [b"", b"\x02\x00\x00" + bytes(50), FRAME], ids=["empty", "forged", "another"])
def test_what_a_guest_makes_up_proves_nothing(spoiled: bytes) -> None:
    lane = Lane(3, Direction.LAN_TO_WAN, 99, FRAME)
    lane.send(10)
    assert lane.receive(20, spoiled) is None


def test_a_template_of_another_run_proves_nothing() -> None:
    old, new = Lane(3, Direction.LAN_TO_WAN, 99, FRAME), Lane(3, Direction.LAN_TO_WAN, 100, FRAME)
    frame = old.send(10)
    new.send(10)
    assert new.receive(20, frame) is None


def test_lanes_of_a_guest_do_not_take_each_others_frames() -> None:
    standard, first = Lane(3, Direction.LAN_TO_WAN, 99), Lane(3, Direction.LAN_TO_WAN, 99, FRAME)
    second, back = Lane(3, Direction.LAN_TO_WAN, 99, FRAME, 1), Lane(3, Direction.WAN_TO_LAN, 99, FRAME)
    lanes = (standard, first, second, back)
    for lane in lanes:
        assert [other.claims(lane.send(5)) for other in lanes] == [other is lane for other in lanes]


def test_the_socket_listens_behind_the_tags() -> None:
    assert Lane(3, Direction.LAN_TO_WAN, 1, TAGGED).ethertype == 0x0800
    assert Lane(3, Direction.LAN_TO_WAN, 1).ethertype == 0x88B5


def test_template_from_hex_and_from_a_capture(tmp_path: Path) -> None:
    short = FRAME[:40]
    with (tmp_path / "beat.pcapng").open("wb") as file:
        writer = pcapng_writer.Writer(file, "test")
        writer.packet(writer.interface("x"), 1, short)
    assert template(probe(frame=FRAME.hex(":")), tmp_path) == FRAME
    assert template(probe(frame="beat.pcapng"), tmp_path) == short.ljust(60, b"\0")
    assert template(probe(), tmp_path) == b""


def test_a_capture_that_cannot_be_used_says_why(tmp_path: Path) -> None:
    (tmp_path / "text.pcap").write_text("no capture at all, only words in a file")
    (tmp_path / "empty.pcap").write_bytes(bytes.fromhex("d4c3b2a1020004000000000000000000ffff000001000000"))
    for name, words in (("gone.pcap", "cannot be read"), ("text.pcap", "not a pcap"), ("empty.pcap", "no frame")):
        with pytest.raises(GuestError, match=words):
            template(probe(frame=name), tmp_path)


# -- which streams


def test_the_same_frames_are_sent_once(tmp_path: Path) -> None:
    """Of two probes with the same frames the most demanding is both; other frames and sides have their own streams."""
    asked = (
        probe(),
        probe(interval=Duration(100 * MS)),
        probe(frame=FRAME.hex(), enter="lan"),
        probe(kind="negative", frame=FRAME.hex(), enter="wan"),
    )
    found = streams(asked, 3, (PAIR,), 1, tmp_path)
    assert [stream.check for stream in found] == [
        "in-band lan to wan",
        "in-band wan to lan",
        "in-band frame 2 lan to wan",
        "negative frame 3 wan to lan",
    ]
    assert found[0].limits.interval == 20 * MS
    assert (found[3].enters, found[3].leaves) == ("tap-w", "tap-l")


# -- negative heartbeats


def test_a_blocked_frame_is_good_and_one_that_comes_through_is_bad(tmp_path: Path) -> None:
    stream, tap = one(probe(kind="negative", frame=FRAME.hex(), enter="lan"), tmp_path)
    assert list(stream.send(0)) == []
    assert list(stream.send(20 * MS)) == [(stream.check, Good(0))]
    [(check, event)] = list(stream.take(21 * MS, tap.sent[1]))
    assert check == stream.check
    assert isinstance(event, Bad)
    assert "must be blocked" in event.why
    assert list(stream.send(40 * MS)) == []  # the one that came through is not counted as blocked as well


def test_an_application_that_stops_inspecting_is_out_after_its_misses(tmp_path: Path) -> None:
    stream, tap = one(probe(kind="negative", frame=FRAME.hex(), enter="lan"), tmp_path)
    verdict = Verdict(stream.detectors(), History())
    now, said = 0, []
    for _ in range(5):  # it blocks
        for check, event in stream.send(now):
            said += verdict.step(now, check, event)
        now += 20 * MS
    assert isinstance(said[-1], Available)
    for _ in range(3):  # it lets everything through
        for check, event in [*stream.send(now), *stream.take(now, tap.sent[-1])]:
            said += verdict.step(now, check, event)
        now += 20 * MS
    assert isinstance(said[-1], Unavailable)
    assert said[-1].cause is Cause.NOT_BLOCKING


# -- slow is failed

SLOW = {"limit": Duration(10 * MS), "percentile": 90, "time": Duration(200 * MS)}


def test_latency_over_its_limit_for_the_time_fails(tmp_path: Path) -> None:
    stream, tap = one(probe(enter="lan", slow=model.Slow(**SLOW)), tmp_path)  # type: ignore[arg-type]
    verdict = Verdict(stream.detectors(), History())

    def run(now: int, rounds: int, latency: int) -> list[object]:
        said: list[object] = []
        for step in range(rounds):
            at = now + step * 20 * MS
            list(stream.send(at))
            for check, event in stream.take(at + latency, tap.sent[-1]):
                said += verdict.step(at + latency, check, event)
        return said

    assert any(isinstance(decision, Available) for decision in run(0, 10, MS))
    fell = [d for d in run(200 * MS, 20, 15 * MS) if isinstance(d, Unavailable)]
    assert [d.cause for d in fell] == [Cause.TOO_SLOW]
    assert "90% of the frames take up to 15.0 ms" in fell[0].why
    assert verdict.reason(600 * MS)  # the frames themselves still come back
    assert any(isinstance(decision, Available) for decision in run(600 * MS, 30, MS))


@pytest.mark.parametrize("interval", [20 * MS, 100 * MS])
@pytest.mark.parametrize(
    ("late", "falls_ms"),
    [
        pytest.param(lambda at: False, None, id="quick"),
        pytest.param(lambda at: at == 3000 * MS, None, id="one late frame"),
        pytest.param(lambda at: at >= 3000 * MS and at % (2000 * MS) == 0, None, id="one late frame every two seconds"),
        pytest.param(lambda at: 3000 * MS <= at <= 3200 * MS, None, id="one stall of 200 ms"),
        pytest.param(lambda at: at >= 3000 * MS, 400, id="slow"),
        pytest.param(lambda at: at >= 3000 * MS and at % (300 * MS) == 0, 1000, id="late again and again"),
    ],
)
def test_defaults_take_out_a_slow_guest_and_not_one_with_a_late_frame(
    tmp_path: Path, interval: int, late: Callable[[int], bool], falls_ms: int | None
) -> None:
    """With the defaults of `slow`: found within its time, and once found, out for as long as it stays slow."""
    slow = model.Slow(limit=Duration(10 * MS))
    stream, tap = one(probe(enter="lan", interval=Duration(interval), slow=slow), tmp_path)
    verdict, fell, back = Verdict(stream.detectors(), History()), [], 0
    for at in range(0, 10_000 * MS, interval):
        list(stream.send(at))
        now = at + (15 * MS if late(at) else MS)
        for check, event in stream.take(now, tap.sent[-1]):
            for decision in verdict.step(now, check, event):
                fell += [now] * isinstance(decision, Unavailable)
                back += bool(fell) and isinstance(decision, Available)
    if falls_ms is None:
        assert (fell, verdict.available) == ([], True)
    else:
        assert len(fell) == 1
        assert fell[0] - 3000 * MS <= falls_ms * MS + 15 * MS
        assert back == 0


@pytest.mark.parametrize("span", [20 * MS, 30 * MS, 40 * MS, 59 * MS, 60 * MS, 200 * MS, 10_000 * MS])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.99, 1.0])
def test_whatever_the_span_one_late_frame_is_no_verdict_and_a_slow_guest_is_found(span: int, share: float) -> None:
    """Also where the span is a few intervals, and every second frame a hair late."""

    def answers(late: Callable[[int], bool]) -> list[Good | Bad | None]:
        slow = LatencyLimit(10 * MS, share, span)
        return [slow.add(20 * MS * n + n % 2, 0, 50 * MS if late(n) else MS) for n in range(1200)]

    assert not any(isinstance(answer, Bad) for answer in answers(lambda n: n == 600))
    found = [isinstance(answer, Bad) for answer in answers(lambda n: n >= 600)]
    assert not any(found[:600])
    assert all(found[600 + span // (20 * MS) + 1 :])


def test_more_frames_than_are_kept_are_judged_by_the_newest() -> None:
    slow = LatencyLimit(10 * MS, 0.5, 6000 * MS)
    answers = [slow.add(MS * n, 0, 50 * MS) for n in range(5000)]
    assert answers[4000] is None
    assert isinstance(answers[4999], Bad)


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        (range(1, 101), 0.99, 99),
        (range(1, 101), 0.07, 7),
        (range(1, 101), 1.0, 100),
        ([2, 1], 0.5, 1),
        ([3, 1, 2], 0.5, 2),
        ([5], 0.01, 5),
        ([], 0.5, None),
    ],
)
def test_percentile_is_the_nearest_rank(values: list[int], share: float, expected: int | None) -> None:
    assert percentile(values, share) == expected


def test_a_slow_start_says_nothing_until_the_time_is_filled() -> None:
    slow = LatencyLimit(10 * MS, 0.9, 200 * MS)
    assert [type(slow.add(20 * MS * n, 0, 50 * MS)) for n in range(12)] == [type(None)] * 8 + [Bad] * 4
    slow.forget()
    assert slow.add(10**10, 0, 50 * MS) is None


# -- several queues


@pytest.mark.parametrize("given", [{}, {"frame": FRAME.hex()}, {"routed": model.Routed("198.18.0.1", "198.18.0.2")}])
def test_each_queue_has_heartbeats_of_its_own(given: dict[str, object], tmp_path: Path) -> None:
    """They are sent by it, and what comes out proves this queue and no other, whatever they look like."""
    pair = TapPair("tap-l", "tap-w", addresses=("02:00:00:00:00:01", "02:00:00:00:00:02"))
    ours = streams((probe(enter="lan", **given),), 3, (pair,), 0xABCDEF0123456789, tmp_path, queues=3)
    assert [stream.check.rpartition(", ")[2] for stream in ours] == ["queue 0", "queue 1", "queue 2"]
    taps = []
    for stream in ours:
        taps.append(Tap())
        stream.entry = taps[-1]  # type: ignore[assignment]
        for now in range(20):
            list(stream.send(now * 20 * MS))
    assert [tap.queues for tap in taps] == [[queue] * 20 for queue in range(3)]
    for stream, tap in zip(ours, taps, strict=True):
        for frame in tap.sent:
            out = neighbour_address(3, Direction.LAN_TO_WAN) + frame[6:] if stream.lane.route else frame
            assert [other.lane.claims(out) for other in ours] == [other is stream for other in ours]


def test_one_queue_is_not_named(tmp_path: Path) -> None:
    stream, tap = one(probe(), tmp_path)
    list(stream.send(0))
    assert (stream.check, tap.queues) == ("in-band lan to wan", [None])
