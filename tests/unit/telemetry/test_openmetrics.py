# SPDX-License-Identifier: GPL-2.0-only
"""Metrics: both formats are read back by the reference parsers; what is asked for is what is served."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus

from appliance.steering.kernel.counters import Counters, DeviceCount, HopCount, RuleCount
from appliance.steering.kernel.layout import DROPS, Loss, Outcome, Reason, Side
from appliance.supervisor.metrics import refused, traffic
from appliance.system.namespace import Namespace
from appliance.telemetry.histogram import LATENCY, Histogram
from appliance.telemetry.metrics_server import Endpoint
from appliance.telemetry.openmetrics import OPENMETRICS, PROMETHEUS, Family, render

NOTHING = DeviceCount(dict.fromkeys(Outcome, 0), dict.fromkeys(Outcome, 0))
LOST = {Loss.FULL: 4, Loss.DOWN: 2}
DEVICE = DeviceCount({o: 10 + o for o in Outcome}, {o: 1000 + o for o in Outcome}, LOST, {Loss.QUEUE: 3})
HOP = HopCount(7, 700, {r: 1 for r in Reason if r is not Reason.TAKEN}, 0, 3, {("main", Side.LAN): DEVICE})
COUNTERS = Counters(
    {("main", Side.LAN): DEVICE, ("main", Side.WAN): NOTHING},
    {"ips1": HOP},
    {"web": RuleCount(5, 500, 4, 1, 0, 2, 3)},
    NOTHING,
)


def families() -> list[Family]:
    histogram = Histogram(LATENCY)
    for value in (0.00005, 0.0003, 0.3, 7.0):
        histogram.add(value)
    latency = Family("guest_latency_seconds", "histogram", "Time through it", "seconds")
    latency.add(histogram, guest="ips1")
    about = Family("build", "info", 'A "quoted" help\nof two lines \\')
    about.add(1, version='1"\\\n')
    state = Family("guest_state", "gauge", "State")
    state.states("up", ("up", "down"), guest="ips1")
    return [about, state, latency, Family("empty", "gauge", "Left out"), *traffic(COUNTERS)]


def test_openmetrics_is_read_back_by_the_reference_parser() -> None:
    """The strict parser of OpenMetrics takes the whole text, and has every value."""
    read = {family.name: family for family in openmetrics(render(families()))}
    assert read["throughwire_build"].samples[0].labels == {"version": '1"\\\n'}
    assert read["throughwire_guest_latency_seconds"].type == "histogram"
    assert read["throughwire_guest_latency_seconds"].unit == "seconds"
    buckets = {s.labels["le"]: s.value for s in read["throughwire_guest_latency_seconds"].samples if "le" in s.labels}
    assert (buckets["0.0001"], buckets["0.0005"], buckets["1.0"], buckets["+Inf"]) == (1, 2, 3, 4)
    lan = [s for s in read["throughwire_port_frames"].samples if s.labels["side"] == "lan"]
    assert lan[0].value == DEVICE.total
    assert "throughwire_empty" not in read


def test_prometheus_text_is_read_back_too() -> None:
    read = {family.name: family for family in prometheus(render(families(), openmetrics=False))}
    assert read["throughwire_rule_frames"].type == "counter"
    assert read["throughwire_rule_frames"].samples[0].name == "throughwire_rule_frames_total"
    assert read["throughwire_build_info"].type == "gauge"
    assert {s.labels["state"]: s.value for s in read["throughwire_guest_state"].samples} == {"up": 1, "down": 0}


def test_every_frame_of_a_port_has_an_outcome() -> None:
    """The outcomes add up to the frames, also when they are read as metrics."""
    read = {family.name: family for family in openmetrics(render(traffic(COUNTERS)))}
    outcomes = [s.value for s in read["throughwire_port_outcome_frames"].samples if s.labels["side"] == "lan"]
    assert sum(outcomes) == DEVICE.total


def test_every_lost_frame_has_a_cause() -> None:
    """What is dropped is what the datapath drops and what is lost by name; losses are told at both ends, and by hop."""
    families = [*traffic(COUNTERS), refused({("main", "lan"): {"too_long": 9, "missed": 0}})]
    read = {family.name.removeprefix("throughwire_"): family for family in openmetrics(render(families))}

    def by_cause(name: str, label: str, value: str) -> dict[str, float]:
        return {s.labels["cause"]: s.value for s in read[name].samples if s.labels[label] == value}

    assert by_cause("port_lost_frames", "side", "lan") == {"full": 4, "down": 2}
    assert by_cause("port_unsent_frames", "side", "lan")["queue"] == 3
    assert by_cause("hop_unsent_frames", "hop", "ips1")["queue"] == 3
    assert by_cause("port_refused_frames", "side", "lan") == {"too_long": 9, "missed": 0}
    dropped = next(s.value for s in read["port_dropped_frames"].samples if s.labels["side"] == "lan")
    assert dropped == sum(DEVICE.frames[outcome] for outcome in DROPS) + sum(LOST.values())


def endpoint(collect: Iterable[Family] = ()) -> Endpoint:
    return Endpoint(lambda: collect, Namespace())


def test_content_is_negotiated() -> None:
    made = endpoint(families())
    old = made.answer(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    assert f"Content-Type: {PROMETHEUS}".encode() in old
    assert b"# EOF" not in old
    accept = b"Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5"
    new = made.answer(b"GET /metrics HTTP/1.1\r\n" + accept + b"\r\n\r\n")
    assert f"Content-Type: {OPENMETRICS}".encode() in new
    assert new.endswith(b"# EOF\n")
    assert made.answer(b"HEAD /metrics HTTP/1.1\r\n\r\n").endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "404"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", "405"),
        (b"GET /metrics\r\n\r\n", "400"),
        (b"\x00\xff\r\n\r\n", "400"),
        (b"\r\n\r\n", "400"),
        (b"GET /metrics?x=1 HTTP/1.0\r\n\r\n", "200"),
    ],
)
def test_requests(head: bytes, status: str) -> None:
    assert endpoint().answer(head).split()[1].decode() == status


def test_a_broken_page_is_an_error_of_its_own() -> None:
    def broken() -> Iterable[Family]:
        raise KeyError("gone")

    assert b" 500 " in Endpoint(broken, Namespace()).answer(b"GET /metrics HTTP/1.1\r\n\r\n")


def test_a_page_is_made_once_a_second_at_most() -> None:
    made = []

    def collect() -> Iterable[Family]:
        made.append(1)
        return families()

    server = Endpoint(collect, Namespace())
    for _ in range(50):
        server.answer(b"GET /metrics HTTP/1.1\r\n\r\n")
    assert len(made) <= 2
    assert server.reads == 50


def test_off_stays_off(tmp_path: Path) -> None:
    """Nothing listens, and no namespace is needed, while it is off."""
    server = Endpoint(families, Namespace(run=tmp_path))
    asyncio.run(server.apply(0))
    assert server.port == 0
