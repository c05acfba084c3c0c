# SPDX-License-Identifier: GPL-2.0-only
"""The boot slots as `show system` tells them, from the kernel command line and the boot loader's variables."""

from __future__ import annotations

import subprocess
from pathlib import Path

import boardspec
import pytest

from appliance.system import boot_slots

GRUB = (boardspec.REPO / "board/disk/grub.cfg").read_text()
GOOD = "# GRUB Environment Block\nORDER=A B\nA_OK=1\nA_TRY=0\nB_OK=1\nB_TRY=0\n" + "#" * 900


@pytest.mark.parametrize(
    ("command_line", "variables", "expected"),
    [
        ("quiet bypass.slot=a", GOOD, "a* good >, b good"),
        ("bypass.slot=b", GOOD, "a good >, b* good"),
        ("bypass.slot=b", GOOD.replace("A B", "B A"), "a good, b* good >"),
        ("bypass.slot=b bypass.damaged=a", GOOD, "a damaged: its checksums do not match, b* good >"),
        (
            "bypass.slot=b bypass.failed=a",
            GOOD.replace("A_TRY=0", "A_TRY=3"),
            "a given up after 3 starts that failed, b* good >",
        ),
        ("bypass.slot=b", GOOD.replace("A_TRY=0", "A_TRY=1"), "a tried 1 of 3 times without success, b* good >"),
        ("bypass.slot=b", GOOD.replace("A_OK=1", "A_OK=0"), "a bad, b* good >"),
        ("bypass.slot=a", None, "a* started, not yet good, b not known yet"),
        ("bypass.slot=a", "noise \x00 without any variable", "a* good >, b good"),
        ("quiet", GOOD, ""),
        ("bypass.slot=../x", GOOD, ""),
    ],
)
def test_what_is_said_of_the_slots(command_line: str, variables: str | None, expected: str) -> None:
    """* is the one that runs, > the one that the next boot begins with."""
    rows = boot_slots.slots(command_line, variables)
    said = [f"{row.name}{'*' * row.booted} {row.state}{' >' * row.next}" for row in rows]
    assert ", ".join(said) == expected


def test_it_reads_what_the_boot_leaves(tmp_path: Path) -> None:
    """The variables in the form in which slot-state writes them."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "run/bypass").mkdir(parents=True)
    (tmp_path / "proc/cmdline").write_text("quiet bypass.slot=b\n")
    script = boardspec.REPO / "rootfs/usr/libexec/bypass/slot-state"
    subprocess.run(["sh", script, "give-up", "a", tmp_path / boot_slots.COPY], check=True)
    assert [slot.state for slot in boot_slots.read(tmp_path)] == ["given up after 3 starts that failed", "good"]
    with pytest.raises(FileNotFoundError):
        boot_slots.read(tmp_path / "nowhere")


def test_the_boot_loader_means_the_same() -> None:
    """Its number of tries, and the words that it leaves on the kernel command line."""
    assert f'"$try" != "{boot_slots.TRIES}"' in GRUB
    for word in ("bypass.slot=$slot", "bypass.damaged=$slot", "bypass.failed=a"):
        assert word in GRUB
    assert f"/{boot_slots.COPY}\n" in (boardspec.REPO / "rootfs/usr/libexec/bypass/boot-ok").read_text()
