# SPDX-License-Identifier: GPL-2.0-only
"""The initramfs with a disk that cannot be used at first: the link stays in bypass, and it tries again by itself."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from simulator import Board, payload

from tests.support import board_harness

pytestmark = pytest.mark.slow  # the initramfs waits five minutes, in fact

RETRY_S = 300.0
BOOT_S = 90.0


def test_a_disk_that_answers_late_is_tried_again_after_five_minutes(artefacts: Path, tmp_path: Path) -> None:
    """No squashfs on the appliance's disk: the console says so. It is there at the next start, which needs nobody."""
    late = tmp_path / "appliance.squashfs"
    with late.open("wb") as empty:
        empty.truncate((artefacts / "appliance.squashfs").stat().st_size)
    load = payload.image(artefacts, tmp_path)
    drives = tuple(replace(drive, path=late) if drive.serial == "appliance" else drive for drive in load.drives)
    with Board(tmp_path, replace(load, drives=drives), accelerator=board_harness.accelerator(artefacts)) as board:
        board.power_on()
        board.console.expect('cannot start: the disk "appliance".* is no readable squashfs; the link stays in bypass')
        mark = board.events.mark()
        began = board.fault("the appliance's disk is not readable")
        shutil.copyfile(artefacts / "appliance.squashfs", late)
        reset = board.wait_event(event="reset", since=mark, timeout=RETRY_S + BOOT_S)
        waited = (reset["mono_ns"] - began["mono_ns"]) / 1e9
        print(f"restarted after {waited:.1f} s")
        assert RETRY_S - 5 <= waited <= RETRY_S + 15
        assert "restarting to try again" in board.console.text
        assert not board.events.since(0, event="relay", state="inline")
        board.wait_event(event="relay", state="inline", since=reset["n"], timeout=BOOT_S)
