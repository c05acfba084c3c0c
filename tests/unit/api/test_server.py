# SPDX-License-Identifier: GPL-2.0-only
"""The control socket: answers to well-behaved clients, and that misbehaving or slow ones harm only themselves."""

import asyncio
import json
import os
import pwd
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.api import connection, rpc
from appliance.api import server as control
from appliance.api.peer import peer_groups
from appliance.api.rpc import Caller, answer
from appliance.api.schema import methods
from appliance.api.schema.methods import Answers, ConfigEvent
from appliance.api.server import ControlServer, Param, Registry, caller
from appliance.errors import BypassError, NotFoundError, RefusedError, UnreachableError
from appliance.segment.machine import State
from appliance.system.loop_watch import LIMIT_S, LoopWatch
from appliance.transition import IllegalMoveError
from appliance.units import Duration
from tests.support.json_schema import problems

ADMIN = Caller(0, 1, "admin")
VIEWER = Caller(1000, 1, "viewer")


def registry() -> Registry:
    """Fake methods of every kind."""
    made = Registry()

    async def echo(params: dict[str, Any]) -> object:
        return params

    async def who(_: dict[str, Any]) -> object:
        return caller()._asdict()

    async def missing(_: dict[str, Any]) -> object:
        raise NotFoundError('no guest "x"')

    async def away(_: dict[str, Any]) -> object:
        raise UnreachableError("the part access does not answer")

    async def refused(_: dict[str, Any]) -> object:
        raise RefusedError("not while draining")

    async def bug(_: dict[str, Any]) -> object:
        raise ZeroDivisionError("secret")

    async def odd(_: dict[str, Any]) -> object:
        return {"time": Duration.parse("2s"), "path": Path("/x")}

    async def large(_: dict[str, Any]) -> object:
        return "x" * 3_000_000

    made.add(Answers("echo", object), echo, params={"name": Param(), "count": Param("integer", required=False)})
    made.add(Answers("mode", object), echo, role="operator", params={"mode": Param(choices=("auto", "bypass"))})
    for name, handler in (
        ("who", who),
        ("missing", missing),
        ("away", away),
        ("refused", refused),
        ("bug", bug),
        ("odd", odd),
    ):
        made.add(Answers(name, object), handler)
    made.add(Answers("large", object), large)
    control.add_version(made)
    return made


def ask(method: str, params: object = None, who: Caller = ADMIN, request_id: object = 1) -> dict[str, Any]:
    request = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": {} if params is None else params}
    response = asyncio.run(answer(registry(), request, who))
    assert response is not None
    sent: dict[str, Any] = json.loads(rpc.encode(response))
    return sent


REFUSALS = [
    # (method, params, who, code, part of the message)
    ("nothing", {}, ADMIN, rpc.NO_METHOD, 'no method "nothing"'),
    ("guests.show", {}, ADMIN, rpc.NO_METHOD, "guests.show: the part that offers it is not up"),
    ("echo", {}, ADMIN, rpc.INVALID_PARAMS, "parameter name is missing"),
    ("echo", {"name": 1}, ADMIN, rpc.INVALID_PARAMS, "name must be of type string"),
    ("echo", {"name": "a", "count": True}, ADMIN, rpc.INVALID_PARAMS, "count must be of type integer"),
    ("echo", {"name": "a", "x": 1}, ADMIN, rpc.INVALID_PARAMS, 'unknown parameter "x"; echo takes: name, count'),
    ("echo", ["a"], ADMIN, rpc.INVALID_PARAMS, "by name"),
    ("mode", {"mode": "inline"}, ADMIN, rpc.INVALID_PARAMS, "one of auto, bypass"),
    ("mode", {"mode": "auto"}, VIEWER, rpc.FORBIDDEN, "requires role operator; yours is viewer"),
    ("missing", {}, ADMIN, -32015, 'no guest "x"'),
    ("refused", {}, ADMIN, -32016, "not while draining"),
    ("bug", {}, ADMIN, rpc.INTERNAL, "internal error in bug"),
]


@pytest.mark.parametrize(("method", "params", "who", "code", "message"), REFUSALS, ids=[str(r[4]) for r in REFUSALS])
def test_refusals(method: str, params: object, who: Caller, code: int, message: str) -> None:
    """Every refusal has its code and one clear line; a bug reveals no internals."""
    error = ask(method, params, who)["error"]
    assert error["code"] == code
    assert message in error["message"]
    assert "secret" not in json.dumps(error)


def test_errors_carry_kind_and_hint() -> None:
    """A BypassError arrives with its class and what to do; each class has a code of its own."""
    assert ask("missing")["error"]["data"]["kind"] == "NotFoundError"
    assert "hint" not in ask("missing")["error"]["data"], "it says itself what there is"
    assert "show status" in ask("away")["error"]["data"]["hint"]
    assert "hint" not in ask("refused")["error"]["data"]
    ours = {kind for kind in BypassError.__subclasses__() if kind.__module__ == "appliance.errors"}
    assert ours <= set(rpc.ERRORS)
    assert len({code for code, _ in rpc.ERRORS.values()}) == len(rpc.ERRORS)


def test_results() -> None:
    """Results have their request's id; times and paths are text; a notification is not answered."""
    assert ask("echo", {"name": "a"}, request_id="k") == {"jsonrpc": "2.0", "id": "k", "result": {"name": "a"}}
    assert ask("odd")["result"] == {"time": "2s", "path": "/x"}
    assert "version" in ask("version.show")["result"]
    note = {"jsonrpc": "2.0", "method": "echo", "params": {"name": "a"}}
    assert asyncio.run(answer(registry(), note, ADMIN)) is None


def test_schema_lists_what_is_there() -> None:
    """The published schema contains every method with its parameters and role."""
    schema = ask("api.schema")["result"]
    assert [method["name"] for method in schema["methods"]] == registry().names()
    mode = next(method for method in schema["methods"] if method["name"] == "mode")
    assert mode["role"] == "operator"
    assert mode["params"]["properties"]["mode"]["enum"] == ["auto", "bypass"]
    assert mode["params"]["required"] == ["mode"]
    version = next(method for method in schema["methods"] if method["name"] == "version.show")
    assert problems(ask("version.show")["result"], version["result"], schema) == []
    assert problems({"version": 1}, version["result"], schema) != []
    assert {"config", "event", "transition"} == {event["topic"] for event in schema["events"]}
    codes = {row["code"] for row in schema["errors"]}
    assert {rpc.BUSY, rpc.INVALID_PARAMS, -32015} <= codes


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**60), 2**60)
        | st.text(max_size=9)
        | st.sampled_from(["2.0", "echo"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["jsonrpc", "id", "method", "params", "name", "x"]), inner, max_size=5)
        ),
        max_leaves=12,
    )
)
def test_any_json_is_answered(request_: object) -> None:
    """For any JSON as a request, the answer is a response or nothing, never an exception."""
    response = asyncio.run(answer(registry(), request_, VIEWER))
    assert response is None or "error" in response or "result" in response


Scenario = Callable[[ControlServer, Path], Awaitable[None]]


def serve(tmp_path: Path, scenario: Scenario) -> None:
    """Run `scenario` against a served registry, as the supervisor would serve it."""

    async def main() -> None:
        path = tmp_path / "run" / "control.sock"
        server = ControlServer(path, registry())
        await server.start()
        beats = asyncio.Event()
        running = asyncio.create_task(server.run(beats.set))
        try:
            async with asyncio.timeout(30):
                await beats.wait()  # it checks in
                await scenario(server, path)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await server.stop()
        assert not path.exists()
        assert server.clients == 0

    asyncio.run(main())


class Peer:
    """A client that sends and receives bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, path: Path) -> "Peer":
        return cls(*await asyncio.open_unix_connection(str(path), limit=1 << 24))

    async def raw(self, data: bytes) -> Any:
        self.writer.write(data)
        await self.writer.drain()
        return await self.line()

    async def line(self) -> Any:
        return json.loads(await self.reader.readline())

    async def call(self, method: str, **params: object) -> Any:
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        return await self.raw(json.dumps(request).encode() + b"\n")


async def came(_: dict[str, Any]) -> object:
    return "here"


def test_a_request_waits_for_a_part_that_is_starting(tmp_path: Path) -> None:
    """The link is inline and the socket served before the last part has registered its methods."""

    async def scenario(server: ControlServer, path: Path) -> None:
        methods_of = server._registry
        coming = True
        methods_of.coming = lambda: coming
        peer, other = await Peer.connect(path), await Peer.connect(path)
        late = asyncio.ensure_future(peer.call("system.show"))
        assert (await other.call("echo", name="x"))["result"] == {"name": "x"}, "others do not wait"
        batch: list[dict[str, Any]] = [
            {"jsonrpc": "2.0", "id": 1, "method": method, "params": {}} for method in ("system.show", "who")
        ]
        refused, done = await other.raw(json.dumps(batch).encode() + b"\n")
        assert refused["error"]["data"] == {"kind": "Starting", "hint": "try again"}, "waits would add up"
        assert "result" in done
        assert not late.done()
        methods_of.add(Answers("system.show", object), came)
        assert (await late)["result"] == "here"
        schema = asyncio.ensure_future(other.call("api.schema"))
        late = asyncio.ensure_future(peer.call("guests.show"))
        await asyncio.sleep(0.2)
        assert not schema.done(), "it lists all methods"
        coming = False
        assert "is not up" in (await late)["error"]["message"], "no part is to come any more"
        assert "system.show" in [method["name"] for method in (await schema)["result"]["methods"]]
        assert (await peer.call("nothing"))["error"]["code"] == rpc.NO_METHOD

    serve(tmp_path, scenario)


def test_a_request_does_not_wait_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "LATE_S", 0.1)

    async def scenario(server: ControlServer, path: Path) -> None:
        server._registry.coming = lambda: True
        peer = await Peer.connect(path)
        error = (await peer.call("guests.show"))["error"]
        assert (error["code"], error["data"]["kind"]) == (rpc.NO_METHOD, "Starting")
        assert "guests.show: the part that offers it is starting" in error["message"]
        began = time.monotonic()
        assert (await peer.call("nothing"))["error"]["code"] == rpc.NO_METHOD
        assert time.monotonic() - began < 0.1, "there will never be one"

    serve(tmp_path, scenario)


def test_served(tmp_path: Path) -> None:
    """Requests are answered in order on one connection, and the caller is known from the kernel."""

    async def scenario(server: ControlServer, path: Path) -> None:
        peer = await Peer.connect(path)
        assert (await peer.call("echo", name="x"))["result"] == {"name": "x"}
        assert (await peer.call("who"))["result"] == {
            "uid": os.getuid(),
            "pid": os.getpid(),
            "role": "admin",
            "user": pwd.getpwuid(os.getuid()).pw_name,
        }
        assert len((await peer.call("large"))["result"]) == 3_000_000
        assert stat.S_IMODE(path.stat().st_mode) in (0o600, 0o660)
        assert server.clients == 1

    serve(tmp_path, scenario)


def test_an_illegal_move_of_a_state_machine_ends_the_part_and_so_bypassd(tmp_path: Path) -> None:
    """Any other bug costs only its caller the answer; after this one bypassd must end."""
    made = registry()

    async def illegal(_: dict[str, Any]) -> object:
        raise IllegalMoveError("a segment", State.INLINE, State.INLINE)

    made.add(Answers("illegal", object), illegal)

    async def body() -> None:
        server = ControlServer(tmp_path / "control.sock", made)
        await server.start()
        running = asyncio.create_task(server.run(lambda: None))
        peer = await Peer.connect(tmp_path / "control.sock")
        peer.writer.write(b'{"jsonrpc": "2.0", "id": 1, "method": "illegal"}\n')
        with pytest.raises(IllegalMoveError, match="a segment in state inline"):
            await running
        peer.writer.close()
        await server.stop()

    asyncio.run(body())


def test_batch(tmp_path: Path) -> None:
    """A batch is answered as a list; an empty or endless one is refused."""

    async def scenario(_: ControlServer, path: Path) -> None:
        peer = await Peer.connect(path)
        one = b'{"jsonrpc":"2.0","id":1,"method":"who"}'
        note = b'{"jsonrpc":"2.0","method":"who"}'
        assert len(await peer.raw(b"[" + one + b"," + note + b"," + one + b"]\n")) == 2
        assert (await peer.raw(b"[]\n"))["error"]["code"] == rpc.INVALID_REQUEST
        assert (await peer.raw(b"[" + b",".join([one] * 101) + b"]\n"))["error"]["code"] == rpc.INVALID_REQUEST

    serve(tmp_path, scenario)


def test_a_batch_of_long_answers_leaves_the_loop_to_others(tmp_path: Path) -> None:
    """A hundred answers that take ten milliseconds each: other clients run between two of them."""

    async def slow(_: dict[str, Any]) -> object:
        began = time.thread_time()
        while time.thread_time() - began < 0.01:
            pass
        return {}

    async def scenario(server: ControlServer, path: Path) -> None:
        server._registry.add(Answers("slow", object), slow)
        peer = await Peer.connect(path)
        one = b'{"jsonrpc":"2.0","id":1,"method":"slow"}'
        with LoopWatch(limit=0.005, clock=time.thread_time, account=lambda: None) as watch:
            assert len(await peer.raw(b"[" + b",".join([one] * 100) + b"]\n")) == 100
        assert watch.longest is not None
        assert watch.longest.cpu <= LIMIT_S

    serve(tmp_path, scenario)


def test_the_answers_to_a_batch_are_bounded(tmp_path: Path) -> None:
    async def scenario(_: ControlServer, path: Path) -> None:
        peer = await Peer.connect(path)
        one = b'{"jsonrpc":"2.0","id":1,"method":"large"}'
        answers = await peer.raw(b"[" + b",".join([one] * 5) + b"]\n")
        assert ["result" in each for each in answers] == [True, True, True, False, False]
        assert answers[-1]["error"]["code"] == rpc.BUSY
        assert answers[-1]["id"] == 1

    serve(tmp_path, scenario)


def test_who_asks_for_much_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes of answers have a budget that all connections of a user share; an administrator's have their own."""
    monkeypatch.setattr(connection, "BURST_BYTES", 5_000_000)
    monkeypatch.setattr(connection, "RATE_BYTES", 1)

    async def scenario(server: ControlServer, _: Path) -> None:
        budget = server._budget(VIEWER)
        assert budget.octets.take(time.monotonic(), 5_000_000) == 0
        assert server._budget(VIEWER).octets.take(time.monotonic(), 100) > 90
        assert server._budget(VIEWER._replace(uid=1001)).octets.take(time.monotonic(), 100) == 0
        assert server._budget(ADMIN).octets.take(time.monotonic(), 100) == 0
        peer = await Peer.connect(server._path)
        assert "result" in await peer.call("large")
        assert "result" in await peer.call("large")
        waits = asyncio.create_task(peer.call("who"))
        other = await Peer.connect(server._path)
        assert "result" in await other.call("who")
        assert not waits.done()
        waits.cancel()

    serve(tmp_path, scenario)


@pytest.mark.parametrize("junk", [b"\n", b"{\n", b"\xff\xfe\n", b"[" * 100_000 + b"\n", b'{"a":"\\ud800"}\n', b"nan\n"])
def test_malformed_requests(tmp_path: Path, junk: bytes) -> None:
    """Invalid JSON is answered with a parse error, and the connection continues."""

    async def scenario(_: ControlServer, path: Path) -> None:
        peer = await Peer.connect(path)
        assert (await peer.raw(junk))["error"]["code"] == rpc.PARSE_ERROR
        assert "result" in await peer.call("who")

    serve(tmp_path, scenario)


def test_oversized_request(tmp_path: Path) -> None:
    """A request above the limit ends its connection; others are served meanwhile."""

    async def scenario(_: ControlServer, path: Path) -> None:
        rude, polite = await Peer.connect(path), await Peer.connect(path)

        async def endless() -> None:
            answered = await rude.raw(b"x" * (3 * connection.MAX_REQUEST))
            assert answered["error"]["code"] == rpc.INVALID_REQUEST
            await rude.line()

        with pytest.raises((ConnectionError, json.JSONDecodeError)):  # it ends, with or without the answer arriving
            await endless()
        assert "result" in await polite.call("who")

    serve(tmp_path, scenario)


def test_too_many_clients(tmp_path: Path) -> None:
    """One client too many is refused with the reason; a freed connection can be used again."""

    async def scenario(server: ControlServer, path: Path) -> None:
        peers = [await Peer.connect(path) for _ in range(control.MAX_CLIENTS)]
        for peer in peers:
            assert "result" in await peer.call("who")
        late = await Peer.connect(path)
        assert (await late.line())["error"]["code"] == rpc.BUSY
        assert await late.reader.read() == b""
        peers[0].writer.close()
        while server.clients >= control.MAX_CLIENTS:
            await asyncio.sleep(0)
        assert "result" in await (await Peer.connect(path)).call("who")

    serve(tmp_path, scenario)


def test_places_and_requests_of_one_user_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's connections are limited, reconnecting resets no budget; an administrator can still connect."""
    who = [Caller(1000, 1, "viewer", "mia")]
    monkeypatch.setattr(control, "peer", lambda link: who[0])

    async def scenario(server: ControlServer, path: Path) -> None:
        peers = [await Peer.connect(path) for _ in range(control.MAX_PER_USER)]
        for peer in peers:
            assert "result" in await peer.call("who")
        refused = (await (await Peer.connect(path)).line())["error"]
        assert (refused["code"], "of mia" in refused["message"]) == (rpc.BUSY, True)
        buckets = {id(server._budget(who[0])), id(server._budget(who[0]))}
        assert len(buckets) == 1, "all his connections draw from one"
        others = [Caller(2000 + number, 1, "viewer", f"u{number}") for number in range(control.MAX_CLIENTS)]
        for other in others:
            who[0] = other
            peers.append(await Peer.connect(path))
            answer = await peers[-1].call("who")
            if "error" in answer:
                break
        assert len(peers) - 1 == control.MAX_CLIENTS - control.ADMIN_CLIENTS
        who[0] = ADMIN
        assert "result" in await (await Peer.connect(path)).call("who")

    serve(tmp_path, scenario)


def test_events_reach_subscribers(tmp_path: Path) -> None:
    """Subscribers get events, others get none, unknown topics are refused."""

    async def scenario(server: ControlServer, path: Path) -> None:
        follower, other = await Peer.connect(path), await Peer.connect(path)
        assert "no topic" in (await follower.call("events.subscribe", topics=["nothing"]))["error"]["message"]
        assert (await follower.call("events.subscribe"))["result"] == {"topics": ["transition", "event", "config"]}
        await other.call("who")
        server.publish(methods.CONFIG, ConfigEvent("held", "anna", "edits"))
        event = await follower.line()
        assert event["method"] == "event"
        assert event["params"] == {"topic": "config", "data": {"event": "held", "user": "anna", "text": "edits"}}
        assert "result" in await other.call("who")  # the next line is its own answer

    serve(tmp_path, scenario)


def test_slow_subscriber_is_disconnected(tmp_path: Path) -> None:
    """A subscriber that does not read blocks nobody, and is disconnected once too much is unread."""

    async def scenario(server: ControlServer, path: Path) -> None:
        slow = socket.socket(socket.AF_UNIX)
        slow.connect(str(path))
        slow.sendall(b'{"jsonrpc":"2.0","id":1,"method":"events.subscribe"}\n')
        polite = await Peer.connect(path)
        await polite.call("events.subscribe")
        received = 0

        async def read() -> None:
            nonlocal received
            while True:
                await polite.line()
                received += 1

        reading = asyncio.create_task(read())
        sent = 0
        while server.clients > 1:
            server.publish(methods.CONFIG, ConfigEvent("held", "anna", "x" * 1000))
            sent += 1
            assert sent < 10_000, "the slow client was kept"
            await asyncio.sleep(0)
        while received < sent:
            await asyncio.sleep(0)
        reading.cancel()
        slow.close()

    serve(tmp_path, scenario)


def test_client_that_does_not_read_its_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers nobody reads end the connection after a bounded time; others are served at once."""
    monkeypatch.setattr(connection, "SEND_TIMEOUT", 0.2)

    async def scenario(server: ControlServer, path: Path) -> None:
        slow = socket.socket(socket.AF_UNIX)
        slow.connect(str(path))
        slow.sendall(b'{"jsonrpc":"2.0","id":1,"method":"large"}\n' * 5)
        polite = await Peer.connect(path)
        assert "result" in await polite.call("who")
        while server.clients > 1:
            assert "result" in await polite.call("who")
        slow.close()

    serve(tmp_path, scenario)


def test_silent_client_is_disconnected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that sends nothing, or half a line, is disconnected."""
    monkeypatch.setattr(connection, "IDLE", 0.1)

    async def scenario(_: ControlServer, path: Path) -> None:
        peer = await Peer.connect(path)
        peer.writer.write(b'{"jsonrpc"')
        assert await peer.reader.read() == b""

    serve(tmp_path, scenario)


def test_replaces_a_socket_left_behind(tmp_path: Path) -> None:
    """A killed bypassd leaves its socket file; the next one listens in its place."""
    (tmp_path / "run").mkdir()
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(tmp_path / "run" / "control.sock"))
    left.close()

    async def scenario(_: ControlServer, path: Path) -> None:
        assert "result" in await (await Peer.connect(path)).call("who")

    serve(tmp_path, scenario)


def test_cannot_listen_is_one_line(tmp_path: Path) -> None:
    """A socket that cannot be made is an expected failure with path and reason."""
    (tmp_path / "file").write_text("")
    server = ControlServer(tmp_path / "file" / "control.sock", registry())
    with pytest.raises(UnreachableError, match=r"control socket .*control\.sock: Not a directory|File exists"):
        asyncio.run(server.start())


def test_the_kernel_tells_the_groups_of_the_peer() -> None:
    """Roles depend on groups: a child with groups of its own connects, and the kernel reports them."""
    code = (
        "import os, socket, sys; os.geteuid() == 0 and os.setgroups([900, 902]); "
        "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); print(*os.getgroups(), flush=True); "
        "sys.stdin.read()"
    )
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{folder}/s")
        server.listen()
        words = [sys.executable, "-c", code, f"{folder}/s"]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
            link, _ = server.accept()
            with link:
                assert child.stdout is not None
                assert set(peer_groups(link)) == set(map(int, child.stdout.readline().split()))
            child.communicate()
