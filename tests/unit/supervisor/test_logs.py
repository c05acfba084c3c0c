# SPDX-License-Identifier: GPL-2.0-only
"""Logs stay short while their writers hold them open."""

from __future__ import annotations

import os
from pathlib import Path

from appliance.supervisor import logs


def test_a_long_log_is_set_aside_under_its_writer(tmp_path: Path) -> None:
    with (tmp_path / "bypass.log").open("ab", buffering=0) as writer:
        (tmp_path / "other.log").write_text("short\n")
        line = b"x" * 99 + b"\n"
        for _ in range(5):
            writer.write(line * (2 * logs.LIMIT // 100))
            logs.shorten(tmp_path)
            writer.write(b"after\n")
        kept = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert kept == {"bypass.log": 6, "bypass.log.1": logs.LIMIT, "other.log": 6}


def test_a_log_that_cannot_be_read_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "gone.log").symlink_to(tmp_path / "none")
    (tmp_path / "bypass.log").write_bytes(bytes(logs.LIMIT + 1))
    logs.shorten(tmp_path)
    assert os.stat(tmp_path / "bypass.log").st_size == 0
