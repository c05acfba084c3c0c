# SPDX-License-Identifier: GPL-2.0-only
"""What is kept of a running guest for the next bypassd, where /run does not take it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from appliance.config.schema import model
from appliance.errors import GuestError
from appliance.guest import process_start
from appliance.guest.console import Console
from appliance.guest.qemu import command, resources, spawn
from appliance.guest.qemu.process import Process
from appliance.guest.qemu.record import STATE_FILE, Record
from appliance.guest.run import Run
from appliance.guest.run_context import RunContext
from appliance.hop.fall_history import PersistentHistory
from appliance.paths import Paths


class Nobody:
    """Takes everything, and has no limits to give."""

    page = 0

    def make(self, *_: object) -> tuple[Path, str]:
        return Path(), ""


def a_run(paths: Paths) -> Run:
    nobody = cast(Any, Nobody())
    context = RunContext(paths, 1, (), 0, nobody, nobody, accel="tcg")
    folder = paths.guests / "ips1"
    guest = model.Guest(name="ips1", kernel="/k")
    return Run(guest, context, PersistentHistory(folder=folder), nobody, Console("ips1", folder))


def test_no_place_for_the_proof_costs_the_proof_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = a_run(Paths(tmp_path))
    (Paths(tmp_path).guests / "ips1" / f"{STATE_FILE}.new").mkdir(parents=True)
    run.record = Record(1, 1, "", "tcg", 0)
    run.note_proved(True)
    assert run.record.proved
    assert "ips1: the result of its checks will not survive a restart of bypassd: Is a directory" in caplog.text


def test_no_place_for_the_record_and_no_process_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would run beside the one that the next bypassd starts."""
    started: list[Process] = []

    def start(words: Sequence[str], *given: Any) -> Process:
        started.append(real(words, *given))
        return started[0]

    run, real = a_run(Paths(tmp_path)), Process.start
    (Paths(tmp_path).guests / "ips1" / f"{STATE_FILE}.new").mkdir(parents=True)
    machine = SimpleNamespace(hugepages=False, memory=1, hop=1, accel="tcg", queues=1)
    monkeypatch.setattr(process_start, "_ready", lambda *_: (machine, ()))
    monkeypatch.setattr(command, "plan", lambda _: command.Plan(range(0), None, range(0), None, None, None, ()))
    monkeypatch.setattr(command, "build", lambda _: ["touch", str(tmp_path / "ran")])
    monkeypatch.setattr(spawn, "SOCKETS", ())  # the names of the tests' folders are too long for them
    monkeypatch.setattr(Process, "start", start)
    with pytest.raises(GuestError, match="cannot be recorded there: Is a directory"):
        asyncio.run(run.begin())
    with pytest.raises(ProcessLookupError):
        os.kill(started[0].pid, 0)
    assert not (tmp_path / "ran").exists()


def test_no_place_for_its_folder_is_one_clear_line(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    paths.guests.parent.mkdir(parents=True)
    paths.guests.write_text("")
    with pytest.raises(GuestError, match="ips1: cannot be created: Not a directory"):
        asyncio.run(a_run(paths).begin())


def test_uefi_variables_of_guests_that_are_gone_are_bounded(tmp_path: Path) -> None:
    folder = Paths(tmp_path).state / "uefi"
    folder.mkdir(parents=True)
    for number in range(resources.KEPT_VARIABLES + 5):
        (folder / f"old{number}.fd").touch()
        os.utime(folder / f"old{number}.fd", (number, number))
    (folder / "ips1.fd").touch()
    os.utime(folder / "ips1.fd", (0, 0))
    resources.forget_variables(Paths(tmp_path), {"ips1"})
    assert (folder / "ips1.fd").exists()
    assert {path.stem for path in folder.iterdir()} - {"ips1"} == {
        f"old{number}" for number in range(5, resources.KEPT_VARIABLES + 5)
    }
    resources.forget_variables(Paths(tmp_path / "nowhere"), set())
