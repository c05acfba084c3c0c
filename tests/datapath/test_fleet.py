# SPDX-License-Identifier: GPL-2.0-only
"""The collection of console/fleet: Ansible itself, OpenSSH, the image's SSH server, the real shell.

Two appliances have the real configuration code and no hardware; the last test has a whole one.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from simulator import netns

from tests.support import fleet_controller
from tests.support.config_daemon import ConfigDaemon
from tests.support.fleet_controller import FLEET, Controller
from tests.support.live import Live
from tests.support.ssh_shell import ADDRESS, SshShell
from tests.support.waiting import wait_until
from tests.support.wire import Wire

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root"), fleet_controller.needed]

WEB = {"name": "Web", "throughwire.fleet.config": {"lines": ["set rule web match 'tcp port 8080'"], "confirm_s": 600}}


class Box(NamedTuple):
    """An appliance and its SSH."""

    daemon: ConfigDaemon
    ssh: SshShell

    def running(self) -> str:
        return self.daemon.engine.text


class Site(NamedTuple):
    """A namespace with a controller, whose key may log in. `folder` has a short path, for sockets."""

    folder: Path
    space: str
    key: Path
    controller: Controller


class Fleet(NamedTuple):
    """A controller and two appliances in one namespace."""

    controller: Controller
    wire1: Box
    wire2: Box


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    name = f"twfl{os.getpid()}"
    netns.create(name)
    try:
        netns.run("ip", "-n", name, "link", "set", "lo", "up")
        with tempfile.TemporaryDirectory(prefix="twfl-", dir="/tmp") as made:
            folder = Path(made)
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "key")], check=True)
            yield Site(folder, name, folder / "key", Controller(folder, tuple(netns.inside(name))))
    finally:
        netns.delete(name)


@pytest.fixture
def fleet(site: Site) -> Iterator[Fleet]:
    with ExitStack() as stack:
        boxes = []
        for number in (1, 2):
            home = Path(tempfile.mkdtemp(prefix=f"wire{number}-", dir=site.folder))
            (home / "state").mkdir()
            daemon = stack.enter_context(ConfigDaemon(home / "state"))
            assert isinstance(daemon, ConfigDaemon)
            ssh = stack.enter_context(SshShell(home, site.space, 2200 + number, daemon.path, site.key))
            boxes.append(Box(daemon, ssh))
        at = {f"wire{n}": {"ansible_host": ADDRESS, "ansible_port": 2200 + n} for n in (1, 2)}
        site.controller.hosts(site.key, {"first": {"wire1": at["wire1"]}, "others": {"wire2": at["wire2"]}})
        (site.folder / "known").unlink(missing_ok=True)
        yield Fleet(site.controller, *boxes)


def test_a_change_of_the_fleet(fleet: Fleet) -> None:
    """First what it would change, then the change, then none; the playbook is the one of the README.

    Nothing but the commands of the shell is run on an appliance, so no Python is looked for.
    """
    example = FLEET / "examples/change.yml"
    remove = [{"name": "No rule", "throughwire.fleet.config": {"lines": ["delete rule web"], "confirm_s": 600}}]
    assert fleet.controller.play(remove).code == 0
    without = fleet.wire1.running()
    assert 'name = "web"' not in without

    would = fleet.controller.play(example, "--check", "--diff")
    assert would.code == 0, would.text
    assert would.text.count("@@ rule web") >= 2, would.text
    assert {host: row.changed for host, row in would.recap.items()} == {"wire1": 1, "wire2": 1}, would.text
    assert fleet.wire1.running() == without

    done = fleet.controller.play(example)
    assert {host: (row.changed, row.failed) for host, row in done.recap.items()} == {"wire1": (1, 0), "wire2": (1, 0)}
    for box in (fleet.wire1, fleet.wire2):
        assert 'match = "tcp port 80"' in box.running()
        assert box.daemon.engine.pending is None, "confirmed"
        assert set(box.ssh.commands) == {"api", "configure --json"}
    again = fleet.controller.play(example)
    assert {host: row.changed for host, row in again.recap.items()} == {"wire1": 0, "wire2": 0}, again.text


def test_a_change_that_locks_out_is_rolled_back_and_stops_there(fleet: Fleet) -> None:
    """The open session sees the commit succeed; only a new one shows that the appliance is lost."""
    fleet.wire1.ssh.cut_at_commit()
    before, held, over = fleet.wire1.running(), threading.Event(), threading.Event()

    def come_back() -> None:
        engine = fleet.wire1.daemon.engine
        wait_until(lambda: engine.pending is not None or over.is_set(), "the commit", patience=600)
        if engine.pending is None:
            return
        held.set()
        wait_until(lambda: engine.pending is None, "the rollback", patience=600)
        fleet.wire1.ssh.cut_at_commit(False)
        fleet.wire1.ssh.stop()
        fleet.wire1.ssh.start()
        over.wait()  # a server ends with the thread that started it

    play = [{"hosts": "first:others", "gather_facts": False, "serial": 1, "max_fail_percentage": 0}]
    tasks = [{"throughwire.fleet.config": {"lines": ["set rule web match udp"], "confirm_s": 20}}]
    thread = threading.Thread(target=come_back)
    thread.start()
    try:
        playbook = fleet.controller.folder / "lockout.json"
        playbook.write_text(json.dumps([{**play[0], "tasks": tasks}]))
        done = fleet.controller.play(playbook)
    finally:
        over.set()
        thread.join()
    assert held.is_set(), done.text
    assert done.code == 2, done.text
    assert "no new connection after the commit (" in done.text
    assert "; it was rolled back" in " ".join(done.text.split()), done.text
    assert done.recap["wire1"].failed == 1
    assert done.recap["wire1"].changed == 0
    assert "wire2" not in done.recap, "the others keep what they have"
    assert fleet.wire1.running() == before


def test_an_appliance_that_is_away_is_unreachable(fleet: Fleet) -> None:
    """Ansible says so of that one, and changes the other."""
    fleet.wire1.ssh.stop()
    done = fleet.controller.play([WEB])
    assert done.recap["wire1"].unreachable == 1, done.text
    assert (done.recap["wire2"].changed, done.recap["wire2"].failed) == (1, 0), done.text
    assert "Connection refused" in done.text


def test_wrong_tasks_are_one_sentence(fleet: Fleet) -> None:
    """Of the module where it can know it, of the appliance else; nothing is changed."""
    wrong: list[tuple[dict[str, object], str]] = [
        ({"lines": ["commit"]}, '"commit" is no change: lines begin with set, delete or move'),
        ({"lines": ["set rule web path nobody"]}, "nobody"),
        ({"text": "", "lines": []}, "mutually exclusive"),
        ({}, "one of the following is required: lines, text, src"),
        ({"src": "nowhere.toml"}, "nowhere.toml: cannot be read"),
        ({"text": "[[rule", "merge": True}, "line 1"),
    ]
    tasks = [{"throughwire.fleet.config": given, "ignore_errors": True} for given, _ in wrong]
    before = fleet.wire1.running()
    done = fleet.controller.play(tasks, "--limit", "wire1")
    said = " ".join(done.text.replace('\\"', '"').split())
    for _, why in wrong:
        assert why in said, done.text
    assert "ignored=6" in done.text
    assert "Traceback" not in done.text
    assert fleet.wire1.running() == before


def test_the_documentation_names_the_arguments(site: Site) -> None:
    """Names, kinds and defaults that `ansible-doc` shows are those that the actions take."""
    modules = sorted(path.stem for path in (FLEET / "plugins/action").glob("*.py"))
    for module, shown in zip(modules, site.controller.documented(*modules), strict=True):
        tree = ast.parse((FLEET / f"plugins/action/{module}.py").read_text())
        specs = [each.value for each in ast.walk(tree) if isinstance(each, ast.AnnAssign)]
        taken = ast.literal_eval(specs[0]) if specs and specs[0] else {}
        wanted = {name: (row["type"], row.get("default"), row.get("required", False)) for name, row in taken.items()}
        options = (shown.get("options") or {}).items()
        assert {name: (row["type"], row.get("default"), row.get("required", False)) for name, row in options} == wanted


def test_a_whole_appliance(site: Site, bpf_object: Path, tmp_path: Path) -> None:
    """Facts without a gap, a change that the datapath takes, and a backup that GnuPG opens."""
    home = Path(tempfile.mkdtemp(prefix="live-", dir=site.folder))
    tasks: list[dict[str, Any]] = [
        {"throughwire.fleet.facts": {}},
        {
            "name": "Web",
            "throughwire.fleet.config": {
                "lines": ["set rule web match 'tcp port {{ 8000 + throughwire.segments | length }}'"],
                "confirm_s": 600,
            },
        },
        {"throughwire.fleet.facts": {}},
        {
            "ansible.builtin.assert": {
                "that": [
                    "throughwire.configuration.rule[0].match == 'tcp port 8001'",
                    "throughwire.status.hostname == 'live'",
                    "throughwire.commits.confirm is none",
                    "throughwire.relays | length > 0",
                ]
            }
        },
        {"throughwire.fleet.backup": {"dest": str(site.folder / "live.backup"), "passphrase": "correct horse battery"}},
    ]
    with Wire() as wire, Live(wire, tmp_path, bpf_object) as live:
        control = tmp_path / "run/bypass/control.sock"
        with SshShell(home, site.space, 2203, control, site.key):
            site.controller.hosts(site.key, {"first": {"live": {"ansible_host": ADDRESS, "ansible_port": 2203}}})
            done = site.controller.play(tasks, "-v")
        assert done.recap["live"] == (5, 2, 0, 0), done.text
        warnings = [line for line in done.text.splitlines() if "WARNING" in line]
        assert all("all traffic passes uninspected" in line for line in warnings), warnings
        assert "correct horse" not in done.text
        assert live.call("rules.show")["rules"][0]["match"] == "tcp port 8001"
    sealed = site.folder / "live.backup"
    assert sealed.stat().st_mode & 0o777 == 0o600
    opened = subprocess.run(
        ["gpg", "--homedir", str(home), "--batch", "--passphrase-fd", "0", "-d", str(sealed)],
        input=b"correct horse battery", capture_output=True, check=True,
    )  # fmt: skip
    listed = subprocess.run(["tar", "-tz"], input=opened.stdout, capture_output=True, check=True).stdout.decode()
    assert "config.toml" in listed
