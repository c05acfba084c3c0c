# SPDX-License-Identifier: GPL-2.0-only
"""Host keys of a backup: all of them are put in place, or none. dropbearkey is a script that knows one format."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from appliance.access import ssh
from appliance.errors import RefusedError

GOOD, OTHER = b"good 1", b"good 2"
DROPBEARKEY = """\
#!/bin/sh
grep -q '^good' "$3" || exit 1
echo "Fingerprint: SHA256:abc"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "dropbearkey").write_text(DROPBEARKEY)
    (tmp_path / "dropbearkey").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    made = tmp_path / "ssh"
    made.mkdir()
    (made / "host_ed25519").write_bytes(GOOD)
    return made


def test_keys_go_out_and_come_back(folder: Path) -> None:
    assert ssh.read_keys(folder) == {"host_ed25519": GOOD}
    both = {"host_ed25519": OTHER, "host_ecdsa": GOOD}
    assert asyncio.run(ssh.replace_keys(folder, both)) == 2
    assert asyncio.run(ssh.replace_keys(folder, both)) == 0, "the same again replaces nothing"
    assert ssh.read_keys(folder) == {"host_ed25519": OTHER, "host_ecdsa": GOOD}
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    asyncio.run(ssh.replace_keys(folder.parent / "new", {"host_ecdsa": GOOD}))
    assert ssh.read_keys(folder.parent / "new") == {"host_ecdsa": GOOD}


@pytest.mark.parametrize(
    "found",
    [
        {"host_ed25519": OTHER, "host_ecdsa": b"bad"},
        {"host_ed25519": OTHER, "host_dsa": GOOD},
        {"host_ed25519": OTHER, "../authorized_keys": GOOD},
        {"host_ed25519": GOOD + bytes(ssh.MAX_KEY)},
    ],
)
def test_one_that_is_none_leaves_all_as_they_are(folder: Path, found: dict[str, bytes]) -> None:
    with pytest.raises(RefusedError):
        asyncio.run(ssh.replace_keys(folder, found))
    assert [path.name for path in folder.iterdir()] == ["host_ed25519"]
    assert ssh.read_keys(folder) == {"host_ed25519": GOOD}
