# SPDX-License-Identifier: GPL-2.0-only
"""The image finds on the board what board.toml says is there. What the appliance makes of it is tested elsewhere."""

from __future__ import annotations

import pytest
from simulator import Board

from tests.support import board_appliance


@pytest.mark.parametrize("slot", ["10", "11", "12"])
def test_ports_stand_where_board_toml_says(board: Board, slot: str) -> None:
    name = board.sh(f"ls /sys/bus/pci/devices/0000:00:{slot}.0/virtio*/net").output.strip()
    assert name.startswith("eth") or name in ("lan0", "wan0", "mgmt0")  # once bypassd runs they have the board's names


def test_lines_have_their_names(board: Board) -> None:
    names = board.sh(
        "python3 -c '\n"
        "import fcntl, os, struct\n"
        'chip = os.open("/dev/gpiochip0", os.O_RDWR)\n'
        "for line in range(2):\n"
        "    info = bytearray(256)\n"
        '    struct.pack_into("=I", info, 64, line)\n'
        "    fcntl.ioctl(chip, 0xC100B405, info)\n"
        "    print(info[:32].rstrip(bytes(1)).decode())\n"
        "'"
    )  # GPIO_V2_GET_LINEINFO_IOCTL, as linux/gpio.h has it
    assert names.output.split() == ["relay-inline", "led-status"]


def test_watchdog_and_crash_log_are_there(board: Board) -> None:
    assert "6300ESB" in board.sh("cat /sys/class/watchdog/watchdog*/identity").output
    assert "erst" in board.sh("cat /sys/module/pstore/parameters/backend").output


def test_processor_offers_nested_virtualisation(board: Board) -> None:
    assert board.sh("test -c /dev/kvm").status == 0


def test_data_disk_is_this_boards_own(board: Board) -> None:
    assert board.sh("blkid | grep -c bypass-data || ls -l /dev/disk/by-label", check=False).output.strip() != ""


def test_everything_that_the_code_runs_is_there(board: Board) -> None:
    """Programs and applets that the sources start are found on the running image."""
    assert board_appliance.missing_programs(board) == []


def test_https_can_be_verified(board: Board) -> None:
    """Python finds the certificates of the authorities."""
    assert board_appliance.knows_authorities(board)


def test_processes_are_found_by_their_words(board: Board) -> None:
    assert board.pids("bypass-keeper")
    assert board.pids("no such words anywhere") == []
