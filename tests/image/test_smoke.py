# SPDX-License-Identifier: GPL-2.0-only
"""The same questions to an image, whoever built it and however it boots: `make test-image IMAGE=DISK-OR-FOLDER`.

A disk image is booted by firmware and boot loader, a folder's kernel by the emulator. Without IMAGE there is nothing to
ask: the other files of this folder test the QEMU image.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from simulator import Board, payload
from simulator.stream import Stream

from tests.support import board_appliance, board_harness, figures
from tests.support.board_appliance import wait_until

pytestmark = pytest.mark.skipif(
    not os.environ.get("IMAGE"), reason="SKIPPED: IMAGE is not set (make test-image IMAGE=...)"
)


@pytest.fixture(scope="module")
def image() -> Path:
    return Path(os.environ["IMAGE"])


@pytest.fixture(scope="module")
def smoke(image: Path, artefacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    """A board that was booted from the image, inline."""
    directory = tmp_path_factory.mktemp("smoke")
    load = payload.image(image, directory, debug=True) if image.is_dir() else payload.disk(image, directory)
    with Board(directory, load, accelerator=board_harness.accelerator(artefacts)) as board:
        began = time.monotonic()
        board.power_on()
        board.wait_relay("inline", timeout=240)
        rows: list[figures.Row] = [{"event": "power to inline", "image": image.name,
                                    "took_s": round(time.monotonic() - began, 1)}]  # fmt: skip
        figures.write("smoke", rows, accelerator=board.accelerator.name)
        yield board


def test_inline_with_every_part_running(smoke: Board) -> None:
    wait_until(smoke, lambda: board_appliance.part_runs(smoke, "guests"), "the guests part")
    status = board_appliance.show(smoke, "status")
    assert status["state"] == "inline"
    assert [part["name"] for part in status["parts"] if part["state"] != "running"] == []


def test_frames_cross_in_both_directions(smoke: Board, tmp_path: Path) -> None:
    for source, target in ((smoke.lan, smoke.wan), (smoke.wan, smoke.lan)):
        stream = Stream(source, target, tmp_path / source.namespace, rate=100)
        try:
            stream.wait_arrival(0, smoke.pace.wait(30))
        finally:
            stream.stop()


def test_the_guest_of_the_default_configuration_serves(smoke: Board) -> None:
    """Where it has one: KVM, QEMU, its sandbox and firmware, the tap and the datapath work together."""
    for guest in board_appliance.show(smoke, "guests"):
        board_appliance.wait_serving(smoke, guest["name"])


def test_everything_that_the_code_runs_is_there(smoke: Board) -> None:
    """Programs and applets that the sources start are found on the running image."""
    assert board_appliance.missing_programs(smoke) == []


def test_https_can_be_verified(smoke: Board) -> None:
    """Python finds the certificates of the authorities."""
    assert board_appliance.knows_authorities(smoke)


def test_the_link_carries_after_the_power_is_cut(smoke: Board) -> None:
    """Last of all: the relay falls, and the two hosts see each other over the wire."""
    smoke.power_cut()
    smoke.wait_bypass()
    assert smoke.lan.ping(smoke.wan.ipv4)
