# SPDX-License-Identifier: GPL-2.0-only
"""Active probes of real targets in a namespace of their own: good answers, and the messages for others."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

import pytest
from simulator import netns

from appliance.config.schema import model
from appliance.errors import UnreachableError
from appliance.health import probe as probing
from appliance.health.detector import Bad, Good
from appliance.units import Duration

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

T = TypeVar("T")
HERE, THERE, NOBODY = "192.0.2.1", "192.0.2.2", "192.0.2.9"
SECOND = Duration.parse("1s")


class Wire:
    """A veth pair between two namespaces: `probe` in the thread's own, the target's end in another."""

    def __init__(self) -> None:
        self._jobs: list[tuple[Callable[[], Awaitable[object]], Future[object]]] = []
        self.name = f"twp{os.getpid()}"
        self._ready, self._end = threading.Event(), threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._live)
        self._thread.start()
        self._ready.wait(30)

    def _live(self) -> None:
        netns.leave()
        for words in (
            f"ip netns add {self.name}",
            f"ip link add probe type veth peer name target netns {self.name}",
            f"ip addr add {HERE}/24 dev probe",
            "ip link set probe up",
            "ip link set lo up",
            f"ip -n {self.name} addr add {THERE}/24 dev target",
            f"ip -n {self.name} addr add 2001:db8::2/64 dev target nodad",
            "ip addr add 2001:db8::1/64 dev probe nodad",
            f"ip -n {self.name} link set target up",
        ):
            subprocess.run(words.split(), check=True)
        asyncio.set_event_loop(self._loop)
        self._loop.call_soon(self._ready.set)
        self._loop.run_forever()
        netns.delete(self.name)

    def call(self, work: Callable[[], Awaitable[T]]) -> T:
        async def body() -> T:
            return await work()

        return asyncio.run_coroutine_threadsafe(body(), self._loop).result(60)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    made = Wire()
    try:
        yield made
    finally:
        made.close()


async def no_agent(_: str) -> str:
    raise UnreachableError("no agent channel: the guest is not running")


def ask(wire: Wire, probe: model.Probe, agent: probing.AskAgent = no_agent) -> Good | Bad:
    return wire.call(lambda: probing.once(probe, probing.question(probe, agent), time.monotonic_ns))


def probe(kind: str, target: object = "", **more: object) -> model.Probe:
    values: dict[str, object] = {"kind": kind, "target": target, "timeout": SECOND, **more}
    return model.Probe(**values)  # type: ignore[arg-type]


GOOD_TARGETS = [
    probe("ping", THERE),
    probe("ping", THERE, via="probe"),
    probe("ping", "2001:db8::2", timeout=Duration.parse("10s")),  # its neighbour discovery may begin a second late
    probe("arp", THERE, via="probe"),
]


@pytest.mark.parametrize("good", GOOD_TARGETS, ids=probing.label)
def test_a_target_that_answers(wire: Wire, good: model.Probe) -> None:
    answer = ask(wire, good)
    assert isinstance(answer, Good)
    assert answer.latency is not None
    assert answer.latency > 0


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (probe("ping", NOBODY, timeout=Duration.parse("50ms")), "no answer within 50.0 ms"),
        (probe("ping", "198.51.100.1"), "unreachable"),
        (probe("ping", THERE, via="gone"), "No such device"),
        (probe("arp", NOBODY, via="probe", timeout=Duration.parse("50ms")), "no answer"),
        (probe("arp", THERE, via="gone"), "No such device"),
        (probe("tcp", f"{THERE}:9"), "refused"),
        (probe("tcp", f"{NOBODY}:9", timeout=Duration.parse("50ms")), "no answer"),
        (probe("http", url=f"http://{THERE}:9/"), "refused"),
        (probe("command", "db"), "no agent channel"),
    ],
    ids=lambda value: value if isinstance(value, str) else probing.label(value),
)
def test_a_target_that_does_not(wire: Wire, bad: model.Probe, words: str) -> None:
    answer = ask(wire, bad)
    assert isinstance(answer, Bad)
    assert words in answer.why


@pytest.mark.parametrize(("status", "good"), [("ok", True), ("no rules", False)])
def test_the_agents_own_check(wire: Wire, status: str, good: bool) -> None:
    async def agent(word: str) -> str:
        assert word == "rules"
        return status

    answer = ask(wire, probe("command", "rules"), agent)
    assert isinstance(answer, Good) is good
    assert good or "no rules" in str(answer)


# -- HTTP, on the loopback device


@contextlib.asynccontextmanager
async def server(answer: bytes, context: ssl.SSLContext | None = None, *, hang: bool = False) -> AsyncIterator[int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
            if hang:
                await reader.read()
        writer.close()

    made = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield made.sockets[0].getsockname()[1]
    finally:
        made.close()


def http(wire: Wire, answer: bytes, more: dict[str, object] | None = None, *, hang: bool = False) -> Good | Bad:
    async def body() -> Good | Bad:
        async with server(answer, hang=hang) as port:
            asked = probe("http", url=f"http://127.0.0.1:{port}/health?full=1", **(more or {}))
            return await probing.once(asked, probing.question(asked, no_agent), time.monotonic_ns)

    return wire.call(body)


OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nall is well"


@pytest.mark.parametrize(
    ("answer", "more"),
    [
        (OK, {}),
        (OK, {"body": "is well"}),
        (OK, {"status": (200, 204)}),
        (b"HTTP/1.0 302 Found\r\nLocation: /x\r\n\r\n", {}),
        (b"HTTP/1.1 503 Busy\r\n\r\n", {"status": (503,)}),
    ],
)
def test_http_that_is_good(wire: Wire, answer: bytes, more: dict[str, object]) -> None:
    assert isinstance(http(wire, answer, more), Good)


@pytest.mark.parametrize(
    ("answer", "more", "words"),
    [
        (b"HTTP/1.1 503 Busy\r\n\r\n", {}, "status 503"),
        (OK, {"status": (204,)}, "status 200"),
        (OK, {"body": "is ill"}, '"is ill" is not in the first 11 bytes'),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 70_000 + b"late", {"body": "late"}, "first 65536 bytes"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000, {}, "longer than 16384 bytes"),
        (b"\x00\xff noise", {}, "not HTTP"),
        (b"", {}, "without a response"),
    ],
)
def test_http_that_is_not(wire: Wire, answer: bytes, more: dict[str, object], words: str) -> None:
    found = http(wire, answer, more)
    assert isinstance(found, Bad)
    assert words in found.why


def test_a_server_that_says_half_and_hangs_costs_its_time_only(wire: Wire) -> None:
    found = http(wire, OK[:20], {"timeout": Duration.parse("100ms")}, hang=True)
    assert isinstance(found, Bad)
    assert "no answer within 100.0 ms" in found.why


@pytest.mark.parametrize(("verify", "words"), [(False, ""), (True, "certificate is not valid: self")])
def test_https_with_a_certificate_of_its_own(wire: Wire, tmp_path: Path, verify: bool, words: str) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    async def body() -> Good | Bad:
        async with server(OK, context) as port:
            asked = probe("http", url=f"https://127.0.0.1:{port}/", body="well", verify=verify)
            return await probing.once(asked, probing.question(asked, no_agent), time.monotonic_ns)

    found = wire.call(body)
    assert isinstance(found, Bad) is bool(words)
    assert words in str(found)


def test_asked_again_and_again_and_never_two_at_once(wire: Wire) -> None:
    """A target that does not answer is asked one question at a time, and the loop goes on."""
    said: list[Good | Bad] = []
    waiting = most = 0

    async def never() -> None:
        nonlocal waiting, most
        waiting += 1
        most = max(most, waiting)
        try:
            await asyncio.Event().wait()
        finally:
            waiting -= 1

    async def body() -> None:
        asked = probe("ping", NOBODY, interval=Duration.parse("5ms"), timeout=Duration.parse("10ms"))
        task = asyncio.create_task(probing.ask_forever(asked, never, said.append, time.monotonic_ns))
        async with asyncio.timeout(20):
            while len(said) < 5:
                await asyncio.sleep(0.005)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    wire.call(body)
    assert (most, waiting) == (1, 0)
    assert all(isinstance(one, Bad) for one in said)
