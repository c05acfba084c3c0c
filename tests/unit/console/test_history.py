# SPDX-License-Identifier: GPL-2.0-only
"""The history is kept from session to session, readable only by its owner, and bounded."""

from __future__ import annotations

from pathlib import Path

import pytest
from prompt_toolkit.history import InMemoryHistory

from appliance.config.schema import secrets
from console.terminal import serial_output
from console.terminal.serial_output import MAX_HISTORY, history, history_file


def entries(path: Path) -> list[str]:
    """The newest first."""
    return list(history(path).load_history_strings())


def test_the_next_session_has_it(tmp_path: Path) -> None:
    file = tmp_path / "history"
    for line in ("show status", "show guests"):
        history(file).append_string(line)
    assert entries(file) == ["show guests", "show status"]
    assert file.stat().st_mode & 0o777 == 0o600


def test_secrets_stay_out_of_it(tmp_path: Path) -> None:
    file = tmp_path / "history"
    kept = history(file)
    secret = ("radius r1 secret hunter2 hunter3", "radius r1 s hunter2", "radius r1 {secret = hunter2}")
    others = (
        "s hunter2",
        "snmp user u auth_pass hunter2",
        "snmp user u p hunter2",
        "remote r tunnel preshared_key hunter2",
    )
    lines = ("show status", "show guest ips1", "set rule web match tcp port 80", "show sessions")
    for line in (*(f"set {each}" for each in (*secret, *others)), *lines):
        kept.append_string(line)
    assert entries(file) == [*reversed(lines)]
    assert "hunter2" not in file.read_text()


def test_every_secret_of_the_configuration_is_known() -> None:
    assert set(serial_output.SECRET_KEYS) == secrets.SECRET_KEYS


def test_it_does_not_grow_for_ever(tmp_path: Path) -> None:
    """The older half goes, and what stays is whole."""
    file = tmp_path / "history"
    line = "set rule r{} match " + "x" * 1000
    first = history(file)
    for number in range(300):
        first.append_string(line.format(number))
    assert file.stat().st_size > MAX_HISTORY
    kept = entries(file)
    assert file.stat().st_size <= MAX_HISTORY // 2
    assert kept == [line.format(number) for number in range(299, 299 - len(kept), -1)]
    assert len(kept) > 100


def test_without_a_disk_it_lasts_for_the_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A place that cannot be written, a link to somewhere else, and a disk that is full later."""
    assert isinstance(history(tmp_path / "none" / "history"), InMemoryHistory)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    assert isinstance(history(tmp_path / "link"), InMemoryHistory)
    full = history(Path("/dev/full"))
    full.append_string("show status")
    assert full.get_strings() == ["show status"]
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert history_file() == tmp_path / ".console_history"
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert history_file() == serial_output.ROOTS
