# SPDX-License-Identifier: GPL-2.0-only
"""Whatever comes in: the configuration loader, the words of `configure`, the command parser and the control socket.

Bounded runs of hypothesis. Only the named errors may occur, nothing may hang, and memory stays bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import tempfile
import tomllib
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.api.peer import role_of
from appliance.api.schema.methods import Answers
from appliance.api.server import ControlServer, Registry
from appliance.config.api import Api
from appliance.config.check import load
from appliance.config.commit.engine import Engine
from appliance.config.commit.store import Store
from appliance.config.edit import completion, key_path, set_lines
from appliance.config.edit.candidate import Candidate
from appliance.config.edit.document import Document
from appliance.config.schema import metadata
from appliance.errors import ConfigError
from console.line.parse import UsageError, complete, parse, tokenize

ROOT = Path(__file__).resolve().parents[3]
GOOD = (ROOT / "board/qemu-x86_64/rootfs/etc/bypass/config.toml").read_text()
BOUNDED = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
MEMORY = 64 << 20  # bytes that no single input may need

# -- pieces that make deep inputs likely

KEYS = sorted({key for row in metadata.FIELDS for key in row.split(".")})
WORD = st.one_of(
    st.sampled_from(
        [*KEYS, "web", "ips1", "main", "all", "1", "2", "0", "[]", "[", "]", '"', "10s", "1G", "true", "block"]
    ),
    st.text(max_size=12),
)
WORDS = st.lists(WORD, max_size=8)
VALUE = st.recursive(
    st.one_of(st.text(max_size=20), st.integers(), st.booleans(), st.floats(), st.sampled_from(["10ms", "1G", "ips1"])),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)),
    max_leaves=12,
)
TABLES = st.dictionaries(st.sampled_from([*KEYS, "nothing"]), VALUE, max_size=6)


def toml(data: object) -> str:
    """Data as TOML, in one line a key; what TOML cannot say is left to the loader to refuse."""
    if isinstance(data, dict):
        return "{" + ", ".join(f"{json.dumps(str(key))} = {toml(each)}" for key, each in data.items()) + "}"
    if isinstance(data, list):
        return "[" + ", ".join(toml(each) for each in data) + "]"
    return json.dumps(data) if isinstance(data, str | bool) else str(data)


@pytest.fixture
def bounded_memory() -> Iterator[None]:
    tracemalloc.start()
    yield
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < MEMORY, f"{peak >> 20} MiB"


# -- the loader


@BOUNDED
@given(st.text(max_size=400))
def test_loader_takes_any_text(text: str) -> None:
    for error in load.check(text):
        assert "\n" not in str(error)


@BOUNDED
@given(TABLES)
def test_loader_takes_any_tables(tables: dict[str, object]) -> None:
    text = "\n".join(f"{json.dumps(key)} = {toml(value)}" for key, value in tables.items())
    config, errors = load.parse(text, filters=False)
    assert (config is None) == bool(errors)


@BOUNDED
@given(st.integers(0, len(GOOD)), st.integers(0, 30), st.text(max_size=10))
def test_loader_takes_a_damaged_file(at: int, cut: int, put: str) -> None:
    load.parse(GOOD[:at] + put + GOOD[at + cut :])


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "a" * 900_000,
        "x = " + "{a=" * 5000,
        "x = " + "[" * 100_000,
        "[[rule]]\n" * 10_000,
        "a.b" * 5_000,
    ],
)
@pytest.mark.usefixtures("bounded_memory")
def test_loader_takes_what_is_deep_or_long(text: str) -> None:
    assert load.parse(text, filters=False)[1]


# -- editing


@BOUNDED
@given(st.lists(WORDS, max_size=6))
def test_editing_by_any_words(lines: list[list[str]]) -> None:
    """Refused by name or carried out; the text is always TOML that says the same as the data."""
    doc = Document(GOOD)
    for line in lines:
        try:
            for change in key_path.assignments(line, doc.data):
                doc.assign(change)
        except ConfigError:
            continue
    assert tomllib.loads(doc.text) == doc.data


@BOUNDED
@given(TABLES, WORDS)
def test_editing_what_has_any_shape(tables: dict[str, object], line: list[str]) -> None:
    text = "\n".join(f"{json.dumps(key)} = {toml(value)}" for key, value in tables.items())
    try:
        doc = Document(text)
        for change in key_path.assignments(line, doc.data):
            doc.assign(change)
        place = key_path.walk(line, doc.data)
        if place.path and key_path.look(doc.data, place.path) is not None:
            doc.delete(place.path)
    except ConfigError:
        return
    assert tomllib.loads(doc.text) == doc.data or "nan" in text


@BOUNDED
@given(TABLES)
def test_merging_any_tables(tables: dict[str, object]) -> None:
    doc = Document(GOOD)
    try:
        doc.merge(tables)
    except ConfigError:
        return
    set_lines.set_lines(doc.data)


@BOUNDED
@given(WORDS, st.sampled_from(["set", "delete", "show", "edit", "move"]), st.one_of(st.none(), TABLES))
def test_completion_never_fails(line: list[str], action: str, tables: dict[str, object] | None) -> None:
    completion.complete(line, action, tomllib.loads(GOOD) if tables is None else tables)


# -- the command parser


@BOUNDED
@given(st.one_of(st.text(max_size=80), WORDS.map(" ".join)))
def test_command_parser(line: str) -> None:
    tokens, _ = tokenize(line)
    with contextlib.suppress(UsageError):
        parse(tokens)
    complete(line)


# -- the control socket

METHOD = st.sampled_from(
    [f"config.{name}" for name in (
        "edit", "end", "set", "delete", "move", "load", "show", "compare", "check", "rollback", "history", "status",
        "complete", "fields",
    )]
)  # fmt: skip
PARAMS = st.one_of(
    st.builds(lambda line: {"words": line}, WORDS),
    st.builds(lambda line, verb: {"words": line, "action": verb}, WORDS, st.sampled_from(["set", "show", "move"])),
    st.builds(
        lambda line, place: {"words": line, "where": place, "other": "all"}, WORDS, st.sampled_from(["first", "after"])
    ),
    st.builds(
        lambda text, mode: {"text": text, "mode": mode}, st.text(max_size=60), st.sampled_from(["replace", "merge"])
    ),
    st.builds(lambda number: {"number": number}, st.integers(-5, 60)),
    st.dictionaries(
        st.sampled_from(["words", "text", "of", "format", "takeover", "secrets", "old"]), VALUE, max_size=3
    ),
)
REQUEST = st.builds(lambda m, p: {"jsonrpc": "2.0", "id": 1, "method": m, "params": p}, METHOD, PARAMS)
LINE = st.one_of(
    REQUEST.map(lambda request: json.dumps(request).encode()),
    st.lists(REQUEST, min_size=1, max_size=4).map(lambda requests: json.dumps(requests).encode()),
    st.binary(max_size=60).filter(lambda data: b"\n" not in data),
)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(LINE, min_size=1, max_size=12))
def test_control_socket_answers_anything(lines: list[bytes]) -> None:
    """Every line has its answer, no answer is an internal error, and the next client is served."""

    async def scenario(root: Path) -> None:
        startup = root / "config.toml"
        startup.write_text(GOOD)
        store = Store(startup, root / "history")
        store.recover("boot", 0)
        engine = Engine(store, running=load.loads(GOOD, filters=False), text=GOOD, boot="boot")
        registry = Registry()
        api = Api(engine, Candidate(lambda: engine.text))
        api.register(registry)
        server = ControlServer(root / "control.sock", registry)
        await server.start()
        try:
            reader, writer = await asyncio.open_unix_connection(str(root / "control.sock"), limit=1 << 24)
            for line in lines:
                writer.write(line + b"\n")
                async with asyncio.timeout(20):
                    answer = json.loads(await reader.readline())
                for each in answer if isinstance(answer, list) else [answer]:
                    assert each.get("error", {}).get("code") != -32603, (line, each)
            writer.close()
            reader, writer = await asyncio.open_unix_connection(str(root / "control.sock"))
            writer.write(b'{"jsonrpc": "2.0", "id": 7, "method": "config.status"}\n')
            async with asyncio.timeout(20):
                assert json.loads(await reader.readline())["id"] == 7
            writer.close()
        finally:
            await server.stop()
            await api.stop()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(scenario(Path(folder)))


@pytest.mark.usefixtures("bounded_memory")
def test_rude_clients_block_nobody(tmp_path: Path) -> None:
    """Half a request, an endless line, unread answers, an aborted connection: other clients are still answered."""

    async def scenario() -> None:
        registry = Registry()

        async def large(_: dict[str, object]) -> object:
            return "x" * 1_000_000

        async def echo(params: dict[str, object]) -> object:
            return params

        registry.add(Answers("large", object), large)
        registry.add(Answers("echo", object), echo)
        server = ControlServer(tmp_path / "c.sock", registry)
        await server.start()
        rude: list[socket.socket] = []
        try:
            for data in (
                b'{"jsonrpc"',
                b"x" * (1 << 20),
                b'{"jsonrpc":"2.0","id":1,"method":"large"}\n' * 50,
                b"",
                b"[" * 500,
            ):
                link = socket.socket(socket.AF_UNIX)
                link.setblocking(False)
                link.connect(str(tmp_path / "c.sock"))
                rude.append(link)
                try:
                    link.send(data)
                except BlockingIOError:
                    pass
            rude.pop(0).close()
            reader, writer = await asyncio.open_unix_connection(str(tmp_path / "c.sock"))
            for _ in range(20):
                writer.write(b'{"jsonrpc": "2.0", "id": 1, "method": "echo"}\n')
                async with asyncio.timeout(10):
                    assert json.loads(await reader.readline())["result"] == {}
            writer.close()
        finally:
            for link in rude:
                link.close()
            await server.stop()

    asyncio.run(scenario())


# -- roles and places


def test_roles_come_from_groups() -> None:
    numbers = {"bypass-admin": 903, "bypass-operator": 902}
    for uid, groups, role in (
        (0, (), "admin"),
        (1000, (900,), "viewer"),
        (1000, (900, 902), "operator"),
        (1000, (902, 903), "admin"),
        (1000, (), "viewer"),
    ):
        assert role_of(uid, groups, numbers.get) == role, groups
    assert role_of(1000, (903,), lambda name: None) == "viewer"
