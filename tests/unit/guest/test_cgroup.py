# SPDX-License-Identifier: GPL-2.0-only
"""Control groups of guests: requests to the kernel, and that a kernel without them only causes a warning.

A folder replaces the kernel's file system; the board's tests use the real one.
"""

from __future__ import annotations

from pathlib import Path

from appliance.config.schema import model
from appliance.guest.qemu.cgroup import PARENT, Cgroups, settings
from appliance.units import Size

GUEST = model.Guest(name="ips1", image="a", memory=Size(512 << 20), cpus=2)


def test_settings() -> None:
    limits = model.Limits(cpu=150, weight=10, overhead=Size(64 << 20))
    found = settings(model.Guest(name="a", image="a", memory=Size(512 << 20), limits=limits))
    assert found["cpu.max"] == "30000 20000"
    assert found["cpu.weight"] == "10"
    assert found["memory.max"] == str((512 + 64) << 20)
    assert settings(GUEST)["cpu.max"] == "max 20000"
    assert not any(file.startswith("hugetlb") for file in found)
    huge = settings(GUEST, huge=512 << 20)
    assert huge["memory.max"] == str(int(GUEST.limits.overhead)), "huge pages are not charged as memory"
    assert huge["hugetlb.2MB.max"] == str(512 << 20)
    assert settings(GUEST, huge=1 << 30, page=1 << 30)["hugetlb.1GB.max"] == str(1 << 30)


def test_groups_are_made_with_their_controllers(tmp_path: Path) -> None:
    parent = tmp_path / PARENT
    (parent / "ips1").mkdir(parents=True)
    for file in ("cpu.max", "memory.max", "pids.max"):
        (parent / "ips1" / file).touch()
    (parent / "cpu.weight").touch()
    group, lacking = Cgroups(tmp_path).make("ips1", settings(GUEST))
    assert (group, lacking) == (parent / "ips1", "")
    assert (parent / "cpu.weight").read_text() == "50"
    assert (tmp_path / "cgroup.subtree_control").exists()
    assert (parent / "ips1/memory.max").read_text() == settings(GUEST)["memory.max"]


def test_a_machine_without_them_is_said(tmp_path: Path) -> None:
    group, lacking = Cgroups(tmp_path / "none").make("ips1", settings(GUEST))
    assert group is None
    assert lacking.startswith("no limits: control groups")


def test_controllers_that_are_not_there_are_named(tmp_path: Path) -> None:
    (tmp_path / "cgroup.subtree_control").mkdir()  # cannot be written to
    group, lacking = Cgroups(tmp_path).make("ips1", settings(GUEST))
    assert group is not None
    assert lacking == "no limits on cpu, memory, pids: the kernel does not offer them here"
