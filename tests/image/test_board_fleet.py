# SPDX-License-Identifier: GPL-2.0-only
"""Emulated boards that `ansible-playbook` configures with the collection of console/fleet.

Two, where the computer has four processors; else one, because an emulated board wants two.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from simulator import Board

from tests.support import board_appliance, fleet_controller
from tests.support.board_admin import commit, new_board
from tests.support.fleet_controller import FLEET, Controller

pytestmark = [pytest.mark.slow, fleet_controller.needed]  # two boots

NAMES = ("wire1", "wire2")[: 2 if (os.cpu_count() or 1) >= 4 else 1]


class Fleet(NamedTuple):
    """A controller that reaches each board through the management host of that board."""

    controller: Controller
    boards: dict[str, Board]


@pytest.fixture(scope="module")
def fleet(artefacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="twfl-", dir="/tmp")))
        key = folder / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        boards: dict[str, Board] = {}
        hosts: dict[str, dict[str, Any]] = {}
        for number, name in enumerate(NAMES, 2):
            board = stack.enter_context(new_board(artefacts, tmp_path_factory.mktemp(name)))
            board_appliance.wait_healthy(board)
            commit(
                board,
                ("set", "system", "hostname", name),
                ("set", "management", "address", f"10.88.0.{number}/24"),
                ("set", "user", "admin", "role", "admin"),
                ("set", "user", "admin", "keys", key.with_suffix(".pub").read_text().strip()),
            )
            program = folder / f"ssh-{name}"
            program.write_text(f'#!/bin/sh\nexec ip netns exec {board.mgmt.namespace} ssh "$@"\n')
            program.chmod(0o755)
            boards[name], hosts[name] = (
                board,
                {"ansible_host": f"10.88.0.{number}", "ansible_ssh_executable": str(program)},
            )
        controller = Controller(folder)
        controller.hosts(key, {"first": {NAMES[0]: hosts.pop(NAMES[0])}, "others": hosts})
        yield Fleet(controller, boards)


def rules(board: Board) -> list[str]:
    return [row["name"] for row in board_appliance.show(board, "rules")["rules"]]


def test_a_change_of_the_boards(fleet: Fleet) -> None:
    """What the README says in five minutes: a look, the change, and no change the second time."""
    example = FLEET / "examples/change.yml"
    would = fleet.controller.play(example, "--check", "--diff")
    assert {host: (row.changed, row.failed) for host, row in would.recap.items()} == dict.fromkeys(NAMES, (1, 0)), (
        would.text
    )
    assert would.text.count("@@ rule web") == len(NAMES)
    assert all("web" not in rules(board) for board in fleet.boards.values())
    done = fleet.controller.play(example, "-v")
    print(done.text)
    assert {host: (row.changed, row.failed) for host, row in done.recap.items()} == dict.fromkeys(NAMES, (1, 0)), (
        done.text
    )
    for board in fleet.boards.values():
        assert rules(board)[0] == "web"
        assert board_appliance.show(board, "candidate")["confirm"] is None
    again = fleet.controller.play(example)
    assert {host: (row.changed, row.failed) for host, row in again.recap.items()} == dict.fromkeys(NAMES, (0, 0)), (
        again.text
    )


def test_a_filter_that_locks_the_controller_out_is_rolled_back(fleet: Fleet) -> None:
    """The first board refuses the controller's network, rolls back, and no other one is asked."""
    lines = ["set management allow 192.0.2.0/24"]
    task = {"name": "Lock out", "throughwire.fleet.config": {"lines": lines, "confirm_s": 60}}
    play = {"hosts": "first:others", "gather_facts": False, "serial": 1, "max_fail_percentage": 0, "tasks": [task]}
    playbook = fleet.controller.folder / "lockout.json"
    playbook.write_text(json.dumps([play]))
    done = fleet.controller.play(playbook)
    print(done.text)
    assert list(done.recap) == [NAMES[0]], done.text
    assert (done.recap[NAMES[0]].changed, done.recap[NAMES[0]].failed) == (0, 1), done.text
    assert "no new connection after the commit" in " ".join(done.text.split())
    assert "; it was rolled back" in " ".join(done.text.split())
    assert not board_appliance.show(fleet.boards[NAMES[0]], "configuration").get("management", {}).get("allow")
    assert board_appliance.show(fleet.boards[NAMES[0]], "candidate")["rolled_back"]
