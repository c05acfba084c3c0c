# SPDX-License-Identifier: GPL-2.0-only
"""Events and their way to a syslog server: severity, the RFC 5424 format, both transports over real sockets."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from appliance.config.schema import model
from appliance.guest.guest import change_of
from appliance.hop.lifecycle import HopState
from appliance.system.namespace import Namespace
from appliance.telemetry import syslog
from appliance.telemetry.events import Event, Events
from appliance.telemetry.subject import Change, Kind, Notice, Severity, Subject
from appliance.telemetry.syslog import Sender, Server, Syslog, message
from appliance.telemetry.transitions import Transitions
from tests.support.tls_pair import KEY, SERVER, STRANGER
from tests.support.waiting import until

WHEN = datetime(2026, 11, 24, 18, 40, 1, 234567, UTC)
# RFC 5424, section 6: header, one structured element, byte order mark, text
FORMAT = re.compile(
    rb"<(\d{1,3})>1 (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{1,6}Z) "
    rb"([!-~]{1,255}) ([!-~]{1,48}) ([!-~]{1,128}) ([!-~]{1,32}) "
    rb'\[([^ =\]"]{1,32})( [a-z]+="(?:[^"\\\]]|\\["\\\]])*")*\] \xef\xbb\xbf(.*)',
    re.DOTALL,
)


class Here(Namespace):
    """Sockets of this namespace: a server of the test answers on the loopback."""

    def inside(self, function: Callable[[], Any]) -> Any:
        return function()


SEGMENT, ADMIN = Subject(Kind.SEGMENT, "main"), Subject(Kind.USER, "admin")


def event(text: str = "inline -> bypass", subject: Subject = SEGMENT, cause: str = "datapath_fault") -> Event:
    return Event(WHEN, Severity.CRITICAL, subject, text, cause)


@pytest.mark.parametrize(
    ("change", "cause", "expected"),
    [
        (Change.SEGMENT_BYPASSED, "relay_fault", Severity.CRITICAL),
        (Change.SEGMENT_BYPASSED, "port_missing", Severity.ERROR),
        (Change.SEGMENT_BYPASSED, "operator", Severity.WARNING),
        (Change.SEGMENT_INLINE, "healthy", Severity.NOTICE),
        (Change.SEGMENT_OTHER, "rearming", Severity.INFO),
        (change_of(HopState.FAILED), "crash_loop", Severity.ERROR),
        (change_of(HopState.SUSPECT), "heartbeat_lost", Severity.WARNING),
        (change_of(HopState.AVAILABLE), "healthy", Severity.NOTICE),
        (change_of(HopState.STARTING), "starting", Severity.INFO),
        (Change.SYSTEM_CRASHED, "panic", Severity.CRITICAL),
        (Change.SYSTEM_LOST_POWER, "power", Severity.ERROR),
        (Change.SYSTEM_STARTED, "orderly", Severity.NOTICE),
        (Change.PORT_DOWN, "link_down", Severity.WARNING),
    ],
)
def test_severity(change: Change, cause: str, expected: Severity) -> None:
    assert change.severity(cause) is expected


def test_every_change_and_notice_has_its_row() -> None:
    """A member that the tables do not have would end bypassd at its first use."""
    assert [change for change in Change if not isinstance(change.kind, Kind)] == []
    assert [notice for notice in Notice if not isinstance(notice.severity, Severity)] == []
    assert all(change.severity("") for change in Change)
    assert all(notice.cause or notice is Notice.EVENTS_LOST for notice in Notice)


def test_transitions_become_events_and_are_counted() -> None:
    events = Events()
    heard: list[Event] = []
    events.listen(heard.append)
    ledger = Transitions()
    ledger.listen(events.transition)
    ledger.record(Change.SEGMENT_BYPASSED, "main", "inline", "bypass", "operator", detail="why")
    events.record(Notice.LOGOUT, ADMIN, "logged out")
    assert [e.text for e in heard] == ["inline -> bypass: why", "logged out"]
    assert events.moves[Kind.SEGMENT, "main", "bypass"] == 1
    assert events.counts == {Severity.WARNING: 1, Severity.INFO: 1}
    assert [e.subject for e in events.newest(severity=Severity.WARNING)] == [SEGMENT]
    assert [e.answer().source for e in events.newest(1)] == ["user admin"]
    ledger.record(Change.CONFIGURATION_CHANGED, "", "", "confirmed", "configured", detail="2")
    assert heard[-1].text == "confirmed: 2", "no arrow from nowhere"


def test_format() -> None:
    found = FORMAT.fullmatch(message(event(), "wire1", 42))
    assert found
    assert found[1] == b"130", "local0, critical"
    assert found[2] == b"2026-11-24T18:40:01.234567Z"
    assert (found[3], found[4], found[5], found[6]) == (b"wire1", b"bypassd", b"42", b"segment")
    assert found[9] == b"segment main: inline -> bypass"


@pytest.mark.parametrize("text", ['a "quote" ] and \\', "\n<0>1 forged", "ünï", "x" * 10000, "\udcff"])
def test_whatever_the_text_is_the_format_holds(text: str) -> None:
    found = FORMAT.fullmatch(message(event(text, Subject(Kind.USER, text), text), "", 1))
    assert found
    assert b"\n" not in found[0]
    found[9].decode("utf-8")


def test_servers() -> None:
    assert Server.parse("udp://192.0.2.1") == Server("udp", "192.0.2.1", 514)
    server = Server.parse("tcp://[2001:db8::1]:6514", "PEM", "log.test")
    assert server == Server("tcp", "2001:db8::1", 6514)
    assert server.family is socket.AF_INET6
    assert Server.parse("tls://192.0.2.1", "PEM") == Server("tls", "192.0.2.1", 6514, "PEM", "192.0.2.1")
    assert Server.parse("tls://192.0.2.1", "PEM", "log.test").name == "log.test"


def run(body: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(20):
            await body()

    asyncio.run(limited())


def test_datagrams_arrive() -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.bind(("127.0.0.1", 0))
            server.setblocking(False)
            events = Events()
            log = Syslog(events, Here(), lambda: "wire1", 1)
            async with asyncio.TaskGroup() as tasks:
                log.apply(
                    tasks, model.Syslog(servers=(f"udp://127.0.0.1:{server.getsockname()[1]}",), severity="warning")
                )
                events.record(Notice.LOGOUT, ADMIN, "not severe enough")
                events.record(Notice.MANAGEMENT_FAILED, Subject(Kind.MANAGEMENT), "port missing")
                data = await loop.sock_recv(server, 4096)
                log.stop()
        found = FORMAT.fullmatch(data)
        assert found
        assert found[9] == b"management: port missing"

    run(body)


def test_what_happened_before_the_management_port_was_up_is_sent_too_and_once() -> None:
    """The crash of the machine is known before anything is started."""

    async def body() -> None:
        texts: list[str] = []
        first, second = [await asyncio.start_server(reading(texts), "127.0.0.1", 0) for _ in range(2)]
        urls = [f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}" for server in (first, second)]
        events = Events()
        events.record(Notice.LOGOUT, ADMIN, "not severe enough")
        events.record(Notice.MANAGEMENT_FAILED, Subject(Kind.SYSTEM), "kernel panic")
        log = Syslog(events, Here(), lambda: "wire1", 1)
        async with asyncio.TaskGroup() as tasks:
            log.apply(tasks, model.Syslog(servers=(urls[0],), severity="warning"))
            events.record(Notice.MANAGEMENT_FAILED, Subject(Kind.SYSTEM), "later")
            await until(lambda: len(texts) == 2)
            log.apply(tasks, model.Syslog(servers=tuple(urls), severity="warning"))
            events.record(Notice.MANAGEMENT_FAILED, Subject(Kind.SYSTEM), "to both")
            await until(lambda: len(texts) == 4)
            log.stop()
        first.close()
        second.close()
        assert texts == ["system: kernel panic", "system: later", "system: to both", "system: to both"]

    run(body)


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def reading(texts: list[str]) -> Serve:
    """A server that adds the text of each message to `texts`."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                length = int(await reader.readuntil(b" "))
                found = FORMAT.fullmatch(await reader.readexactly(length))
                assert found
                texts.append(found[9].decode())
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    return serve


def test_stream_reconnects_and_says_what_was_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Octet counting; the server goes away; events wait, the oldest are thrown away and that is said; order is kept."""
    monkeypatch.setattr(syslog, "QUEUE", 3)
    monkeypatch.setattr(syslog, "FIRST_RETRY", 0.02)
    monkeypatch.setattr(syslog, "LAST_RETRY", 0.02)
    texts: list[str] = []
    serve = reading(texts)

    async def body() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        sender = Sender(Server("tcp", "127.0.0.1", port), Here(), lambda: "wire1", 1)
        task = asyncio.create_task(sender.run())
        sender.put(event("one"))
        await until(lambda: len(texts) == 1)
        server.close()
        server.close_clients() if hasattr(server, "close_clients") else None
        task.cancel()  # the connection; a new task finds nobody there
        await asyncio.gather(task, return_exceptions=True)
        task = asyncio.create_task(sender.run())
        await until(lambda: bool(sender.trouble))
        for number in range(6):
            sender.put(event(f"n{number}"))
        await until(lambda: sender.waiting >= 3)
        again = await asyncio.start_server(serve, "127.0.0.1", port)
        await until(lambda: texts[-1].endswith("n5"))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        again.close()
        said = [text for text in texts if "were not sent" in text]
        assert said
        assert said[0].startswith(f"syslog: {sender.lost} events were not sent")
        kept = [text[-2:] for text in texts[1:] if "were not sent" not in text]
        assert kept == sorted(kept)
        assert len(kept) + sender.lost == 6

    run(body)


@pytest.mark.parametrize(
    ("ca", "name", "trouble"),
    [
        (SERVER, "", ""),
        (STRANGER + SERVER, "log.test", ""),
        (STRANGER, "", "CERTIFICATE_VERIFY_FAILED"),
        (SERVER, "other.test", "Hostname mismatch"),
    ],
)
def test_tls_tells_nobody_but_the_right_server(tmp_path: Path, ca: str, name: str, trouble: str) -> None:
    """RFC 5425: the server's certificate must be signed by the CA of the configuration, and be the server's own."""
    texts: list[str] = []
    (tmp_path / "pair.pem").write_text(KEY + SERVER)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pair.pem")

    async def body() -> None:
        server = await asyncio.start_server(reading(texts), "127.0.0.1", 0, ssl=context)
        url = f"tls://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        sender = Sender(Server.parse(url, ca, name), Here(), lambda: "wire1", 1)
        task = asyncio.create_task(sender.run())
        sender.put(event("one"))
        sender.put(event("two"))
        await until(lambda: len(texts) == 2 if not trouble else bool(sender.trouble))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        server.close()
        assert trouble in sender.trouble
        assert (len(texts), sender.sent, sender.waiting) == ((0, 0, 2) if trouble else (2, 2, 0))

    run(body)


def test_another_ca_keeps_what_waits(tmp_path: Path) -> None:
    """The wrong CA is put right: what waited meanwhile arrives, in order, at once and not after the retry's minute."""
    texts: list[str] = []
    (tmp_path / "pair.pem").write_text(KEY + SERVER)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pair.pem")

    async def body() -> None:
        server = await asyncio.start_server(reading(texts), "127.0.0.1", 0, ssl=context)
        url = f"tls://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        events = Events()
        log = Syslog(events, Here(), lambda: "wire1", 1)
        async with asyncio.TaskGroup() as tasks:
            log.apply(tasks, model.Syslog(servers=(url,), ca=STRANGER))
            for text in ("one", "two"):
                events.record(Notice.LOGOUT, ADMIN, text)
            await until(lambda: bool(log.show()[0].detail))
            assert log.show()[0].waiting == 2
            log.apply(tasks, model.Syslog(servers=(url,), ca=SERVER))
            await until(lambda: len(texts) == 2)
            await until(lambda: log.show()[0].waiting == 0)
            log.stop()
        server.close()
        assert texts == ["user admin: one", "user admin: two"]

    run(body)
