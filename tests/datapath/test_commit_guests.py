# SPDX-License-Identifier: GPL-2.0-only
"""Commits that add, change and remove guests on a running appliance: real QEMU, real taps, continuous traffic."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.live import CONFIG, Live, bring_demo_guest, during
from tests.support.wire import Wire

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

GUEST = "guest {name} kernel /guest-demo/bzImage initrd /guest-demo/initrd.gz memory 64M accel tcg"


@pytest.fixture(scope="module")
def live(bpf_object: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    root = tmp_path_factory.mktemp("live")
    bring_demo_guest(root)
    with Wire() as wire, Live(wire, root, bpf_object, CONFIG) as made:
        made.call("config.edit")
        yield made
        made.call("config.load", text=CONFIG, mode="replace")
        made.commit()
        made.until(lambda: made.call("guests.show") == [], "no guest left")
        made.check_loop()


def state(live: Live, name: str) -> str:
    return next((str(row["state"]) for row in live.call("guests.show") if row["name"] == name), "")


def test_a_guest_comes_changes_and_goes_under_traffic(live: Live) -> None:
    """No frame is lost; changes that need a restart of the guest say so and wait for it."""
    live.set(GUEST.format(name="ips1"), "guest ips1 cmdline console=ttyS0 quiet")
    live.set("guest ips1 probes 1 kind inband interval 100ms misses 5", "rule all path ips1")
    answer: list[dict[str, object]] = []
    assert during(live, lambda: answer.append(live.commit())) == []
    assert any("it is started" in change["effect"] for change in answer[0]["changes"])  # type: ignore[attr-defined]
    assert during(live, lambda: live.until(lambda: state(live, "ips1") == "available", "available")) == []
    before = live.call("counters.show")["hops"]["ips1"]["to_frames"]
    assert live.wire.stream(256) == []
    assert live.call("counters.show")["hops"]["ips1"]["to_frames"] >= before + 256, "its rule leads through it"
    pid = live.call("guests.show")[0]["pid"]

    live.set("guest ips1 probes 1 misses 8", "guest ips1 memory 80M", "guest ips1 accept ip or not ip")
    assert during(live, lambda: answer.append(live.commit())) == []
    effects = {change["where"]: change["effect"] for change in answer[1]["changes"]}  # type: ignore[attr-defined]
    assert effects["guest ips1: memory"] == "when guest ips1 is restarted"
    assert "hitless" in effects["guest ips1: accept"]
    live.until(lambda: state(live, "ips1") == "available", "available with other checks")
    assert live.call("guests.show")[0]["pid"] == pid, "its process goes on"

    live.call("config.delete", words=["rule", "all"])
    live.call("config.delete", words=["guest", "ips1"])
    assert during(live, lambda: live.commit(confirmed_s=600)) == []
    assert state(live, "ips1") in ("available", "overloaded"), "kept, so that a revert has it at once"
    assert during(live, lambda: live.call("config.revert")) == []
    assert live.call("guests.show")[0]["pid"] == pid
    live.call("config.rollback", number=0)
    live.call("config.delete", words=["rule", "all"])
    live.call("config.delete", words=["guest", "ips1"])
    assert during(live, live.commit) == []
    assert during(live, lambda: live.until(lambda: not state(live, "ips1"), "gone")) == []
    assert not Path(f"/proc/{pid}").exists()
    taps = live.wire.inside(lambda: [name for _, name in socket.if_nameindex()])
    assert [name for name in taps if name.startswith("tw") and "." in name] == []


def test_a_commit_while_bypassd_is_still_coming_up(live: Live) -> None:
    """The console is available before the part "guests": what is committed then takes effect in any case."""
    for number in range(2):
        live.kill_bypassd()
        live.until(lambda: bool(live.call("config.edit", takeover=True)), "a console again")
        live.set(f"guest late{number} kernel /guest-demo/bzImage initrd /guest-demo/initrd.gz autostart false")
        live.set(f"rule late path late{number}")
        live.commit()
        live.until(lambda n=number: state(live, f"late{n}") == "defined", "the guest is known")  # type: ignore[misc]
        assert live.wire.stream(32) == []
    live.set("rule late on_unavailable block")
    meaning = [row["what"] for row in live.call("config.check")["lint"] if row["where"] == "rule late: on_unavailable"]
    assert meaning == ['blocks: "late1" is not started with the appliance (autostart = false)']
    live.set("guest late1 autostart true")
    meaning = [row["what"] for row in live.call("config.check")["lint"] if row["where"] == "rule late: on_unavailable"]
    assert meaning == ['blocks from the commit on: no hop in path "late1" is available: late1 is defined']
    live.call("config.rollback", number=0)
