# SPDX-License-Identifier: GPL-2.0-only
"""The demo's own preparations."""

from __future__ import annotations

from pathlib import Path

import boardspec
from simulator.simulator import ERST

from tests import demo


def test_each_demo_is_of_a_new_appliance(tmp_path: Path) -> None:
    """The crashes of an earlier one, on its data disk and among its crash records, would lead to safe mode."""
    kept = tmp_path / "console.log"
    for name in (boardspec.load().data_disk.file, ERST, kept.name):
        (tmp_path / name).touch()
    demo.new_appliance(tmp_path)
    demo.new_appliance(tmp_path)
    assert list(tmp_path.iterdir()) == [kept]
