# SPDX-License-Identifier: GPL-2.0-only
"""The published schema against a running appliance: what is sent on the wire conforms to it, method by method.

mypy checks that handlers return the published types; this tests the encoding, and that every method is called.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from console.client import RemoteError
from tests.support.disk_image import raw_disk
from tests.support.json_schema import problems
from tests.support.live import CONFIG, Live, bring_demo_guest
from tests.support.wire import Wire

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

GUEST = """
[[guest]]
name = "ips1"
kernel = "/guest-demo/bzImage"
initrd = "/guest-demo/initrd.gz"
cmdline = "console=ttyS0 quiet"
memory = "64M"
accel = "tcg"
recorder = { frames = 32 }
heartbeat = { interval = "200ms", misses = 50 }
probes = [ { kind = "inband", interval = "100ms", misses = 5 } ]
[[guest]]
name = "spare"
image = "spare.qcow2"
autostart = false
[[rule]]
name = "all"
path = ["ips1"]
[[user]]
name = "anna"
role = "viewer"
"""
FRAME = "ff" * 12 + "0800" + "00" * 46
ASKED: list[tuple[str, dict[str, object]]] = [
    ("version.show", {}),
    ("status.show", {}),
    ("segments.show", {}),
    ("groups.show", {}),
    ("mirrors.show", {}),
    ("relays.show", {}),
    ("rules.show", {}),
    ("counters.show", {}),
    ("counters.clear", {}),
    ("counters.show", {"since": "clear"}),
    ("rules.show", {"since": "clear"}),
    ("shunts.show", {}),
    ("shunts.clear", {"guest": "ips1", "end": "10.0.0.1:80"}),
    ("incidents.clear", {}),
    ("incidents.show", {"all": True}),
    ("transitions.show", {}),
    ("events.show", {}),
    ("events.subscribe", {}),
    ("crash-log.show", {}),
    ("boots.show", {}),
    ("drills.show", {}),
    ("drill.plan", {"kind": "relay"}),
    ("crash-count.clear", {}),
    ("management.show", {}),
    ("sessions.show", {}),
    ("host-keys.read", {}),
    ("host-keys.replace", {"keys": []}),
    ("guests.show", {}),
    ("remotes.show", {}),
    ("serves.show", {}),
    ("guest.show", {"name": "ips1"}),
    ("guest.show", {"name": "spare"}),
    ("guest.log", {"name": "ips1"}),
    ("guest.console", {"name": "ips1"}),
    ("guest.command", {"name": "ips1", "word": "resume"}),
    ("images.show", {}),
    ("image.import", {"file": "/FOLDER/image", "name": "new.img"}),
    ("frames.explain", {"frames": [FRAME, "00"], "in": "lan"}),
    ("capture.start", {"kind": "segment", "name": "main"}),
    ("support.bundle", {}),
    ("config.status", {}),
    ("config.edit", {}),
    ("config.set", {"words": ["rule", "web", "match", "udp"]}),
    ("config.status", {}),
    ("config.move", {"words": ["rule", "web"], "where": "last"}),
    ("config.delete", {"words": ["rule", "web"]}),
    ("config.compare", {}),
    ("config.check", {}),
    ("config.check", {"text": "[[rule]]\nname = 'x'\nmatch = 'tcp prot 80'\nnokey = 1"}),
    ("config.commit", {"confirmed_s": 600, "comment": "a reason"}),
    ("config.status", {}),
    ("config.confirm", {}),
    ("config.load", {"text": "[[rule]]\nname = 'x'\npath = ['nobody']", "mode": "merge"}),
    ("config.rollback", {"number": 1}),
    ("config.commit", {"confirmed_s": 600}),
    ("config.revert", {}),
    ("config.history", {}),
    ("config.show", {}),
    ("config.show", {"format": "json"}),
    ("config.complete", {"words": ["rule"], "action": "set"}),
    ("config.fields", {}),
    ("config.end", {}),
    ("clock.show", {}),
    ("aaa.show", {}),
    ("lldp.show", {}),
    ("snmp.show", {}),
    ("ports.show", {}),
    ("licences.show", {}),
    ("licence.show", {"name": "msgspec"}),
    ("system.show", {}),
    ("log.show", {"source": "kernel", "lines": 3}),
    ("log.show", {"source": "guest", "guest": "ips1"}),
    ("port.show", {"name": "lan0"}),
    ("power.plan", {"action": "reboot"}),
    ("power.order", {"action": "poweroff", "in_s": 3600}),
    ("power.show", {}),
    ("power.cancel", {}),
    ("power.show", {}),
    ("segment.set", {"name": "main", "mode": "inline", "time": 5}),
    ("segment.set", {"name": "main", "mode": "auto"}),
    ("guest.drain", {"name": "ips1"}),
    ("guest.start", {"name": "ips1"}),
    ("guest.pause", {"name": "ips1"}),
    ("guest.resume", {"name": "ips1"}),
    ("guest.restart", {"name": "ips1"}),
]
REFUSED: list[tuple[str, dict[str, object]]] = [
    ("guest.show", {"name": "nobody"}),
    ("shunts.show", {"guest": "nobody"}),
    ("shunts.clear", {"end": "no address"}),
    ("guest.start", {"name": "nobody"}),
    ("guest.drain", {"name": "spare"}),
    ("guest.command", {"name": "spare", "word": "x"}),
    ("segment.set", {"name": "nobody", "mode": "auto"}),
    ("segment.set", {"name": "main", "mode": "bypass", "time": 5}),
    ("segment.set", {"name": "main", "mode": "inline", "time": 0}),
    ("locate.set", {}),
    ("capture.start", {"kind": "port", "name": "nobody"}),
    ("capture.start", {"kind": "port", "name": "lan0", "filter": "tcp prot 80"}),
    ("capture.counts", {"capture": 7}),
    ("incident.show", {"number": 999}),
    ("incident.export", {"number": 999}),
    ("quarantine.release", {"name": "nothing"}),
    ("drill.run", {"kind": "relay", "segment": "none"}),
    ("drill.abort", {}),
    ("drill.answer", {"passed": True}),
    ("image.job", {"job": 999}),
    ("image.cancel", {"job": 999}),
    ("image.undo", {"name": "nothing"}),
    ("image.remove", {"name": "nothing"}),
    ("aaa.test", {"user": "ann", "password": "secret"}),
    ("management.unblock", {"address": "192.0.2.1"}),
    ("host-keys.replace", {"keys": ["host_dsa eA=="]}),
    ("host-keys.replace", {"keys": ["host_ed25519 ?"]}),
    ("frames.explain", {"frames": ["xx"], "in": "lan"}),
    ("power.order", {"action": "reboot", "at": "soon"}),
    ("power.order", {"action": "poweroff", "reset": "all"}),
    ("power.cancel", {}),
    ("clock.set", {"when": "soon"}),
    ("reach.name", {"host": "-x"}),
    ("licence.show", {"name": "../../etc/shadow"}),
    ("session.end", {"id": 1}),
    ("log.show", {"source": "guest", "guest": "nobody"}),
    ("log.show", {"source": "kernel", "lines": 0}),
    ("reach.ping", {"address": "name"}),
    ("reach.hop", {"address": "192.0.2.1", "hop": 99}),
    ("reach.tcp", {"address": "192.0.2.1", "port": 1}),
    ("port.show", {"name": "nobody"}),
    ("config.set", {"words": ["rule"]}),
    ("config.commit", {}),
    ("config.confirm", {}),
    ("config.revert", {}),
    ("config.rollback", {"number": 40}),
    ("config.show", {"of": "99"}),
    ("config.compare", {"old": "nothing"}),
]
ELSEWHERE = {"api.schema", "capture.counts", "guest.stop", "image.receive", "image.job", "image.cancel", "image.remove",
             "image.undo", "incidents.show", "incident.show", "incident.export", "quarantine.show",
             "quarantine.release", "aaa.test", "management.unblock", "user.password", "clock.set", "session.end",
             "reach.name", "reach.ping", "reach.hop", "reach.tcp",
             "serve.show", "remote.show", "remote.start", "remote.stop", "remote.drain", "remote.bypass",
             "drill.run", "drill.abort", "drill.answer", "board.test", "locate.set"}  # fmt: skip


@pytest.fixture(scope="module")
def live(bpf_object: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    root = tmp_path_factory.mktemp("live")
    bring_demo_guest(root)
    (root / "image").write_bytes(raw_disk(b"\0", 4096))
    with Wire() as wire, Live(wire, root, bpf_object, CONFIG + GUEST) as made:
        made.until(lambda: made.call("guest.show", name="ips1")["state"] == "available", "available")
        made.until(lambda: made.call("management.show")["state"] != "", "all parts")
        yield made
        made.check_loop()


@pytest.fixture(scope="module")
def schema(live: Live) -> dict[str, Any]:
    found: dict[str, Any] = live.call("api.schema")
    return found


def of(schema: dict[str, Any], method: str) -> dict[str, Any]:
    return next(one for one in schema["methods"] if one["name"] == method)


def test_every_answer_is_as_published(live: Live, schema: dict[str, Any]) -> None:
    """Method by method, and the events of a subscription meanwhile."""
    follow = live.client.follow([])
    try:
        wrong: list[str] = []
        for method, params in ASKED:
            given = json.loads(json.dumps(params).replace("/FOLDER", str(live.root)))
            if method == "guest.show":
                assert live.wire.stream(32) == []
            result = live.call(method, **given)
            wrong += [
                f"{method} {params}: {problem}" for problem in problems(result, of(schema, method)["result"], schema)
            ]
        live.until(lambda: live.call("guest.show", name="ips1")["state"] == "available", "restarted")
        live.call("guest.stop", name="ips1")
        live.until(lambda: live.call("guest.show", name="ips1")["state"] == "stopped", "stopped")
        events = follow.read()
    finally:
        follow.close()
    kinds = {one["topic"]: one["data"] for one in schema["events"]}
    assert {topic for topic, _ in events} == set(kinds), "all topics were heard of"
    wrong += [f"event {topic}: {problem}" for topic, data in events for problem in problems(data, kinds[topic], schema)]
    assert wrong == []


def test_incidents_are_as_published(live: Live, schema: dict[str, Any]) -> None:
    """A guest that died, with its frames, and how soon it was bypassed."""
    live.call("guest.start", name="ips1")
    live.until(lambda: live.call("guest.show", name="ips1")["state"] == "available", "available")
    assert live.wire.stream(64) == []
    os.kill(live.call("guest.show", name="ips1")["pid"], 9)
    live.until(lambda: bool(live.call("incidents.show")), "an incident")
    number = live.call("incidents.show")[-1]["number"]
    asked: list[tuple[str, dict[str, object]]] = [
        ("incidents.show", {}),
        ("incident.show", {"number": number}),
        ("incident.export", {"number": number}),
        ("quarantine.show", {}),
        ("guest.show", {"name": "ips1"}),
    ]
    wrong = []
    for method, params in asked:
        result = live.call(method, **params)
        wrong += [f"{method}: {problem}" for problem in problems(result, of(schema, method)["result"], schema)]
    assert wrong == []


def test_a_finished_import_is_as_published(live: Live, schema: dict[str, Any]) -> None:
    """Its answer describes the image besides the progress."""
    job = live.call("image.import", file=str(live.root / "image"), name="second.img")["job"]
    live.until(lambda: live.call("image.job", job=job)["stage"] == "done", "imported")
    answer = live.call("image.job", job=job)
    assert answer["imported"] > 0
    assert problems(answer, of(schema, "image.job")["result"], schema) == []


@pytest.mark.parametrize(("method", "params"), REFUSED, ids=[f"{m} {p}" for m, p in REFUSED])
def test_every_refusal_is_as_published(
    live: Live, schema: dict[str, Any], method: str, params: dict[str, object]
) -> None:
    """Of a kind that the method names, with a code that the schema lists."""
    with pytest.raises(RemoteError) as caught:
        live.call(method, **params)
    assert caught.value.kind in of(schema, method)["errors"], str(caught.value)
    assert {"code": caught.value.code, "kind": caught.value.kind} in schema["errors"]


def test_every_method_is_published_and_asked(schema: dict[str, Any]) -> None:
    """A new method has a type for its answer, and a line in the list above."""
    names = {one["name"] for one in schema["methods"]}
    assert [one["name"] for one in schema["methods"] if not one["result"]] == []
    assert names - {method for method, _ in ASKED} - ELSEWHERE == set()
