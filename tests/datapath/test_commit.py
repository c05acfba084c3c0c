# SPDX-License-Identifier: GPL-2.0-only
"""Commits on a whole running appliance: keeper, bypassd, datapath; frames cross it continuously.

One appliance serves all tests of this module; each leaves the configuration that it found, and the segment inline.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.config.schema.metadata import Effect
from console.client import RemoteError
from tests.support.live import CONFIG, Live, during
from tests.support.wire import Wire

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@pytest.fixture(scope="module")
def live(bpf_object: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with Wire() as wire, Live(wire, tmp_path_factory.mktemp("live"), bpf_object) as made:
        yield made
        made.check_loop()


@pytest.fixture(autouse=True)
def restored(live: Live) -> Iterator[None]:
    """Begin and end with the first configuration, nobody editing, nothing pending."""
    live.call("config.edit", takeover=True)
    yield
    live.call("config.edit", takeover=True)
    if live.call("config.status")["confirm"]:
        live.call("config.revert")
    live.call("config.load", text=CONFIG, mode="replace")
    live.commit()
    live.call("config.end", discard=True)
    live.until(live.inline, "inline again")


def test_an_mtu_is_committed(live: Live) -> None:
    """The ports have it when the segment is inline again; what is shown says which frames pass and what was lost."""
    (before,) = live.call("segments.show")
    assert (before["mtu"], before["longest_bytes"]) == (3480, 3498)
    live.set("segment main mtu 1600")
    assert [change["effect"] for change in live.commit()["changes"]] == [str(Effect.PORTS)]
    live.until(live.inline, "inline with the new MTU")
    (after,) = live.call("segments.show")
    assert (after["mtu"], after["longest_bytes"], after["unsent"]) == (1600, 1618, {})
    assert live.wire.stream(32) == []
    port = live.call("counters.show")["ports"]["main/lan"]
    assert (port["lost"], port["unsent"], port["refused"]) == ({}, {}, {})
    assert live.call("status.show")["datapath"]["counts_losses"] is True


def test_a_commit_counts_at_once_and_loses_no_frame(live: Live) -> None:
    """Rules, names, times and the watchdog change under traffic; the answer says when each takes effect."""
    live.set("rule first match udp port 53", "system hostname other")
    live.set("segment main rearm_delay 1s", "watchdog timeout 4s")
    answers = []
    assert during(live, lambda: answers.append(live.commit(comment="a reason"))) == []
    (answer,) = answers
    assert {change["where"] for change in answer["changes"]} == {
        "system: hostname", "segment main: rearm_delay", "watchdog: timeout", "rule first",
    }  # fmt: skip
    assert live.startup.read_text().startswith("# the administrator's own words\n")
    assert "# no waiting here" in live.startup.read_text()
    assert [row["name"] for row in live.call("rules.show")["rules"]] == ["web", "first"]
    status = live.call("status.show")
    assert status["hostname"] == "other"
    live.until(lambda: live.call("status.show")["watchdog"]["timeout_ms"] == 4000, "the watchdog's new timeout")
    assert live.call("segments.show")[0]["rearm_delay_ms"] == 1000
    assert live.call("config.history")[0]["comment"] == "a reason"
    assert status["state"] == "inline"


def test_twenty_commits_under_traffic(live: Live) -> None:
    def work() -> None:
        for number in range(20):
            live.set(f"rule web match tcp port {number + 1}")
            live.commit()

    assert during(live, work) == []


def test_errors_are_all_told_and_change_nothing(live: Live) -> None:
    before = live.startup.read_text()
    with pytest.raises(RemoteError, match='did you mean "proto"'):
        live.set("rule web match tcp prot 80")
    live.call("config.load", text='[[rule]]\nname = "web"\nmatch = "tcp prot 80"\n', mode="merge")
    live.set("rule web path nobody")
    check = live.call("config.check")
    assert not check["good"]
    assert {error["where"] for error in check["errors"]} == {"rule web: path", "rule web: match"}
    with pytest.raises(RemoteError, match="no guest, remote or group"):
        live.commit()
    assert live.startup.read_text() == before
    assert live.call("rules.show")["rules"][0]["match"] == "tcp port 80"
    assert live.inline()


def test_what_does_not_prove_itself_is_taken_back(live: Live) -> None:
    """A device on which the kernel refuses XDP: only applying shows it. The old configuration is restored."""
    before = live.startup.read_text()
    live.set("segment main wan dumb attach xdp", "system hostname never")
    with pytest.raises(
        RemoteError, match=r"segment main: datapath_fault.*dumb.*; the previous configuration stays in force"
    ):
        live.commit()
    live.until(live.inline, "inline by the old configuration")
    assert live.startup.read_text() == before
    assert live.call("config.history")[0]["number"] == live.call("config.status")["number"]
    assert live.call("status.show")["hostname"] == "live"
    assert live.wire.stream(64) == []


def test_a_port_that_the_board_does_not_have_is_refused_before_anything_changes(live: Live) -> None:
    live.set("segment main wan wna0")
    assert live.call("config.check")["errors"][0]["where"] == "segment main: wan"

    def work() -> None:
        with pytest.raises(RemoteError, match='no port "wna0"; did you mean "wan0"'):
            live.commit()

    assert during(live, work) == []


def test_segments_come_and_go(live: Live) -> None:
    live.set("segment second lan tapl wan tapw rearm_delay 0s")
    assert during(live, live.commit) == []
    live.until(lambda: live.inline(2), "both inline")
    live.call("config.delete", words=["segment", "second"])
    assert during(live, live.commit) == []
    assert [row["name"] for row in live.call("segments.show")] == ["main"]
    assert (live.root / "keeper/relay").read_text().split()[-1] == "bypass"


def test_commit_confirmed_comes_back_by_itself(live: Live) -> None:
    """Unconfirmed, it is rolled back without a restart or a lost frame; startup never changed."""
    before = live.startup.read_text()
    live.set("system hostname passing")
    answer = live.commit(confirmed_s=1)
    assert answer["confirm"]["seconds_left"] <= 1
    assert live.startup.read_text() == before
    lost = during(live, lambda: live.until(lambda: not live.call("config.status")["confirm"], "rolled back"))
    assert lost == []
    assert live.call("status.show")["hostname"] == "live"


def test_commit_confirmed_outlives_one_restart_of_bypassd_and_is_blamed_for_the_second(live: Live) -> None:
    live.set("system hostname passing")
    live.commit(confirmed_s=600)

    def restart(want: str) -> None:
        uptime = live.call("status.show")["supervisor"]["restarts"]
        live.kill_bypassd()
        live.until(lambda: live.call("status.show")["supervisor"]["restarts"] > uptime, "another bypassd")
        assert live.call("status.show")["hostname"] == want

    assert during(live, lambda: restart("passing")) == []
    assert live.call("config.status")["confirm"]["seconds_left"] > 300
    restart("live")
    assert live.call("config.status")["confirm"] is None


def test_confirmed_is_kept(live: Live) -> None:
    live.set("system hostname kept")
    live.commit(confirmed_s=600, comment="tried first")
    assert "confirmed" in live.call("config.confirm")["message"]
    assert 'hostname = "kept"' in live.startup.read_text()
    newest = live.call("config.history")[0]
    assert (newest["how"], newest["comment"]) == ("confirmed", "tried first")


def test_rollback(live: Live) -> None:
    live.set("system hostname one")
    live.commit()
    live.set("system hostname two")
    live.commit()
    live.call("config.rollback", number=2)
    assert "-hostname" in live.call("config.compare")["text"]
    live.commit(comment="back")
    assert live.call("status.show")["hostname"] == "live"


def test_a_session_that_dies_leaves_its_work_and_frees_the_candidate(live: Live) -> None:
    """Two administrators: the second sees who edits; the first is told of a takeover; its death frees the candidate."""
    live.call("config.end", discard=True)
    code = """
import json, sys
from console.client import Client, RemoteError
client = Client(sys.argv[1])
for line in sys.stdin:
    method, params = json.loads(line)
    try:
        print(json.dumps([True, client.call(method, params)]), flush=True)
    except RemoteError as error:
        print(json.dumps([False, f"{error} | {error.hint}"]), flush=True)
"""
    other = subprocess.Popen(
        [sys.executable, "-c", code, live.client.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def ask(method: str, **params: object) -> tuple[bool, str]:
        assert other.stdin
        assert other.stdout
        other.stdin.write(json.dumps([method, params]) + "\n")
        other.stdin.flush()
        good, text = json.loads(other.stdout.readline())
        return good, str(text)

    try:
        assert ask("config.edit")[0]
        assert ask("config.set", words=["system", "hostname", "theirs"])[0]
        with pytest.raises(RemoteError, match=rf"being edited by root.*process {other.pid}"):
            live.call("config.edit")
        live.call("config.edit", takeover=True)
        good, text = ask("config.set", words=["system", "hostname", "again"])
        assert not good
        assert "root took over the candidate" in text
        assert "takeover" in text
        live.call("config.end")
        assert ask("config.edit")[0]
    finally:
        other.kill()
        other.wait()
    live.until(lambda: live.call("config.status")["held_by"] is None, "the hold's end")
    answer = live.call("config.edit")
    assert answer["left_by"] == "root"
    assert 'hostname = "theirs"' in live.call("config.show")["text"]


def test_the_candidate_outlives_bypassd(live: Live) -> None:
    live.set("system hostname unfinished")
    file = live.root / "run/bypass/candidate.json"
    live.until(lambda: file.exists() and "unfinished" in file.read_text(), "the candidate's file")
    restarts = live.call("status.show")["supervisor"]["restarts"]
    live.kill_bypassd()
    live.until(lambda: live.call("status.show")["supervisor"]["restarts"] > restarts, "another bypassd")
    answer = live.call("config.edit")
    assert (answer["left_by"], answer["changes"]) == ("root", 1)


def test_a_full_disk_refuses_before_anything_changes(live: Live) -> None:
    history = live.root / "var/lib/bypass/config"
    there = ["nsenter", "-t", str(live.bypassd), "-m"]  # `ip netns exec` gave it mounts of its own
    subprocess.run([*there, "mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(history)], check=True)
    try:
        subprocess.run([*there, "dd", "if=/dev/zero", f"of={history}/full", "bs=4k"], check=False, capture_output=True)
        live.set("system hostname never")
        with pytest.raises(RemoteError, match="No space left on device"):
            live.commit()
        assert live.call("status.show")["hostname"] == "live"
        assert live.inline()
    finally:
        subprocess.run([*there, "umount", str(history)], check=True)


def test_a_broken_startup_is_mended_by_a_commit(live: Live) -> None:
    """bypassd starts with an invalid file: in bypass. The commit of a valid one brings up everything."""
    live.startup.write_text("nonsense\n")
    restarts = live.call("status.show")["supervisor"]["restarts"]
    live.kill_bypassd()
    live.until(lambda: live.call("status.show")["supervisor"]["restarts"] > restarts, "another bypassd")
    live.until(lambda: live.call("status.show")["state"] == "bypass", "bypass")
    assert live.call("config.status")["startup"] == "same"
    live.call("config.edit", takeover=True)
    live.call("config.load", text=CONFIG.replace('"live"', '"mended"'), mode="replace")
    live.commit()
    live.until(live.inline, "inline")
    assert live.call("status.show")["supervisor"]["restarts"] == restarts + 1
    assert live.wire.stream(64) == []
