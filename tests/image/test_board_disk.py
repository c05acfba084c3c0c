# SPDX-License-Identifier: GPL-2.0-only
"""The board boots from its disk: firmware, boot loader, slot. What is damaged on the disk, the link does not notice.

One board, one disk, one boot after the other; between two boots the disk is changed as a fault would change it. Kernel,
initramfs and root file system are those of all other tests.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boardspec
import pytest
from simulator import Board, payload

from tests.support import board_appliance, board_harness, booted_disk, figures

BOOT_S = 240.0


@pytest.fixture(scope="module")
def image(artefacts: Path) -> Path:
    """The disk image: that of IMAGE (`make test-image`), or one of the QEMU image."""
    if given := os.environ.get("IMAGE"):
        return Path(given)
    from imagebuild import artefacts as build

    return build.build_disk(progress=print).disk


@pytest.fixture(scope="module")
def from_disk(image: Path, artefacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    """A board with a new disk, off."""
    directory = tmp_path_factory.mktemp("disk-board")
    load = payload.disk(image, directory)
    with Board(directory, load, accelerator=board_harness.accelerator(artefacts)) as made:
        yield made


@pytest.fixture
def off(from_disk: Board) -> Iterator[Board]:
    """The board without power, so that its disk can be changed."""
    if from_disk.qemu_pid is not None:
        from_disk.sh("sync")
        from_disk.power_cut()
        from_disk.wait_event(event="power", state="off", since=0)
    yield from_disk
    from_disk.events.check()


def disk_of(board: Board) -> Path:
    return board.directory / payload.DISK


def boot(board: Board) -> float:
    """Power on and wait for the link to be inline; seconds from power to inline."""
    began = time.monotonic()
    mark = board.events.mark()
    board.power_on()
    board.wait_event(event="relay", state="inline", since=mark, timeout=BOOT_S)
    return time.monotonic() - began


def slot(board: Board) -> str:
    return board.sh(r"sed -n 's/.*bypass\.slot=\([ab]\).*/\1/p' /proc/cmdline").output.strip()


def said(board: Board) -> str:
    """What the kernel log has of the boot."""
    return board.sh("dmesg | grep throughwire-").output


def slots(board: Board) -> list[dict[str, Any]]:
    """What `show system` says of them, as soon as bypassd answers."""
    answers: list[dict[str, Any]] = []

    def answered() -> bool:
        answers[:] = [answer] if (answer := board_appliance.show(board, "system")) is not None else []
        return bool(answers)

    board_appliance.wait_until(board, answered, "bypassd answers")
    return list(answers[0]["slots"])


def wait_good(board: Board) -> None:
    """Until the slot is marked as good."""
    board_appliance.wait_until(board, lambda: "is good" in said(board), "the slot is marked good")


def test_first_boot_by_bios(off: Board, tmp_path: Path) -> None:
    """Slot a, inline; the data partition has grown to the disk, file system and all, and the slot is marked good."""
    before = booted_disk.boot_state(disk_of(off), tmp_path)
    took = boot(off)
    assert slot(off) == "a"
    assert board_appliance.show(off, "status")["state"] == "inline"
    blocks = int(off.sh("df -k /var/lib/bypass | tail -n 1 | sed 's/  */ /g' | cut -d' ' -f2").output)
    assert blocks > 500 * 1024, "of 1 GiB, more than half is the data partition"
    assert off.sh("head -n 1 /run/bypass/data-partition").output.strip() == "kept"
    assert "grows to the end" in said(off)
    wait_good(off)
    assert [(row["name"], row["booted"], row["state"], row["next"]) for row in slots(off)] == [
        ("a", True, "good", True),
        ("b", False, "good", False),
    ]
    off.sh("cp /etc/machine-id /var/lib/bypass/note; sync")
    figures.write(
        "disk", [{"event": "BIOS: power to inline", "took_s": round(took, 1)}], accelerator=off.accelerator.name
    )
    off.power_cut()
    after = booted_disk.boot_state(disk_of(off), tmp_path)
    assert (before, after) == ({"ORDER": "A B", "A_OK": "1", "A_TRY": "0", "B_OK": "1", "B_TRY": "0"},) * 2


def test_second_boot_keeps_what_the_first_wrote(off: Board) -> None:
    """The data partition is the same, and does not grow again; a boot loader's file full of garbage is no obstacle."""
    booted_disk.set_boot_state(disk_of(off), booted_disk.NOISE[:1024])
    boot(off)
    assert slot(off) == "a"
    identity = off.sh("cat /var/lib/bypass/note").output
    assert len(identity) == 32, "made at the first boot"
    assert off.sh("cat /etc/machine-id").output == identity
    assert "grows" not in said(off)
    wait_good(off)


def test_the_boot_loaders_file_is_whole_again(off: Board, tmp_path: Path) -> None:
    """The last boot has made it new, in its place."""
    assert booted_disk.boot_state(disk_of(off), tmp_path)["A_TRY"] == "0"


@pytest.mark.slow
def test_a_full_data_partition(off: Board) -> None:
    """No block is left, not even for root: inline, as the same box, slot good; with room again it writes again."""
    boot(off)
    off.sh("dd if=/dev/zero of=/var/lib/bypass/filled bs=1M 2>/dev/null; sync", timeout=BOOT_S)
    off.power_cut()
    boot(off)
    assert off.sh("echo x >/var/lib/bypass/more", check=False).status != 0, "there is no room"
    assert off.sh("head -n 1 /run/bypass/data-partition").output.strip() == "kept"
    assert off.sh("cat /etc/machine-id").output == off.sh("cat /var/lib/bypass/note").output
    assert board_appliance.show(off, "status")["state"] == "inline"
    wait_good(off)
    off.sh("rm -f /var/lib/bypass/filled /var/lib/bypass/more; echo x >/var/lib/bypass/more")


def test_a_damaged_kernel_is_found_before_it_runs(off: Board, image: Path, tmp_path: Path) -> None:
    """One byte of slot a's kernel: the boot loader says so on the serial line and boots slot b, which says it too."""
    kernel = booted_disk.content(image, "kernel-a", "/kernel", tmp_path)
    booted_disk.damage_file(disk_of(off), "kernel-a", kernel[:4096])
    mark = off.console.mark()
    boot(off)
    assert "slot A is damaged" in off.console.text[mark:]
    assert slot(off) == "b"
    assert off.sh("cat /etc/machine-id").output == off.sh("cat /var/lib/bypass/note").output
    assert "slot a is damaged" in said(off)
    wait_good(off)
    assert [(row["booted"], row["state"]) for row in slots(off)] == [
        (False, "damaged: its checksums do not match"),
        (True, "good"),
    ]


@pytest.mark.slow
def test_a_damaged_root_file_system_gives_its_slot_up(off: Board, image: Path, tmp_path: Path) -> None:
    """Slot a's kernel is whole again and its root is not: the initramfs says so, and the next start is slot b."""
    booted_disk.write(disk_of(off), "kernel-a", booted_disk.read(image, "kernel-a"))
    booted_disk.write(disk_of(off), "root-a", bytes(1 << 20))
    mark = off.console.mark()
    boot(off)
    text = off.console.text[mark:]
    assert "is no readable squashfs" in text
    assert "restarting into the other slot" in text
    assert "slot A did not start the last times" in text
    assert slot(off) == "b"
    assert "slot a did not start the last times" in said(off)
    off.power_cut()
    assert booted_disk.boot_state(disk_of(off), tmp_path)["A_TRY"] == "3"


@pytest.mark.slow
def test_a_damaged_data_partition_stays_as_it_is(off: Board) -> None:
    """It is neither formatted nor in the way: inline, by the default configuration, and it is said."""
    for group in (0, 1, 3, 5):  # e2fsck repairs it from any copy of the superblock
        booted_disk.write(disk_of(off), "data", booted_disk.NOISE * 64, group * (128 << 20))
    boot(off)
    assert off.sh("head -n 1 /run/bypass/data-partition").output.strip() == "unusable"
    off.power_cut()
    assert booted_disk.read(disk_of(off), "data")[: len(booted_disk.NOISE)] == booted_disk.NOISE


@pytest.mark.slow
def test_without_a_data_partition(off: Board) -> None:
    """Taken out of the table: inline all the same, and it is said that nothing is kept."""
    booted_disk.remove_partition(disk_of(off), "data")
    boot(off)
    assert off.sh("head -n 1 /run/bypass/data-partition").output.strip() == "absent"


@pytest.mark.slow
def test_the_boot_menu_is_no_way_in(off: Board) -> None:
    """Esc shows it; editing an entry, which could start a root shell, asks for a user that is none. The entry for a
    forgotten password needs none."""
    mark = off.console.mark()
    off.power_on()
    off.console.expect(r"\x1b\[J", since=mark)
    off.console.send("\x1b")
    off.console.expect("forgotten password", since=mark)
    off.console.send("e")
    off.console.expect("Enter username")
    off.console.send("root\r")
    off.console.expect("Enter password")
    off.console.send("root\r")
    off.console.expect("slot B", timeout=90)
    off.console.send("\x1b[B\r")
    assert "bypass.recovery" in off.sh("cat /proc/cmdline", timeout=BOOT_S).output


@pytest.mark.slow
def test_uefi(image: Path, artefacts: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The same image, booted by UEFI from the file that UEFI looks for."""
    directory = tmp_path_factory.mktemp("uefi-board")
    if not booted_disk.content(image, "kernel-a", "kernel", directory).startswith(b"MZ"):
        pytest.skip(
            "SKIPPED: the kernel has no CONFIG_EFI_STUB: it boots by UEFI, but without ACPI and on one processor"
        )
    load = payload.disk(image, directory, firmware="uefi")
    with Board(directory, load, accelerator=board_harness.accelerator(artefacts)) as board:
        boot(board)
        assert slot(board) == "a"
        wait_good(board)


def test_the_layout_is_what_the_boot_loader_counts() -> None:
    """grub.cfg counts partitions; the layout may change only with it."""
    text = (boardspec.REPO / "board/disk/grub.cfg").read_text()
    for name, words in (("boot", "$disk,gpt{})/grubenv"), ("kernel-a", "$disk,gpt{})"), ("kernel-b", "$disk,gpt{})")):
        assert words.format(booted_disk.LAYOUT[name].number) in text
