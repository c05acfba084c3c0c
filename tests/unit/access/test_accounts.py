# SPDX-License-Identifier: GPL-2.0-only
"""Users as accounts: permanent ids, system accounts kept, no account without a password entry; matching hashes."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from appliance.access import accounts
from appliance.access.accounts import Texts
from appliance.access.groups import FIRST_UID, GROUPS, LAST_UID
from appliance.config.check.verify_access import is_crypt
from appliance.config.schema.model import User
from appliance.errors import RefusedError
from appliance.system import password

BASE = Texts(
    "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534::/:/usr/sbin/nologin\n",
    "root:*:20781:0:99999:7:::\nnobody:*:20781:0:99999:7:::\n",
    "root:x:0:\nkvm:x:994:\n",
)
ADMIN = User(name="admin", role="admin", password="$y$j9T$abcdefgh$abcdefgh")
VIEWER = User(name="noc", keys=("ssh-ed25519 AAAA noc",))


def test_users_stand_beside_the_systems_own() -> None:
    made = accounts.texts(BASE, [ADMIN, VIEWER], {"admin": 2000, "noc": 2001})
    assert made.passwd.startswith(BASE.passwd)
    assert "admin:x:2000:900:admin:/var/lib/bypass/home/admin:/usr/bin/bypass\n" in made.passwd
    assert f"admin:{ADMIN.password}:1::::::\n" in made.shadow
    assert "noc:*:1::::::\n" in made.shadow, "without a password the account takes none"
    assert "bypass:x:900:admin,noc\n" in made.group
    assert "bypass-admin:x:903:admin\n" in made.group
    assert "bypass-viewer:x:901:noc\n" in made.group
    assert "kvm:x:994:\n" in made.group


def test_removed_users_are_gone_and_again_is_the_same() -> None:
    once = accounts.texts(BASE, [ADMIN, VIEWER], {"admin": 2000, "noc": 2001})
    assert accounts.texts(once, [ADMIN, VIEWER], {"admin": 2000, "noc": 2001}) == once
    after = accounts.texts(once, [VIEWER], {"admin": 2000, "noc": 2001})
    assert "admin:" not in after.passwd
    assert ADMIN.password not in after.shadow
    assert "bypass-admin:x:903:\n" in after.group
    none = accounts.texts(after, [], {})
    assert (none.passwd, none.shadow) == (BASE.passwd, BASE.shadow)


def test_a_number_is_never_somebody_elses() -> None:
    first = accounts.numbers([ADMIN, VIEWER], {})
    assert first == {"admin": FIRST_UID, "noc": FIRST_UID + 1}
    later = accounts.numbers([VIEWER, User(name="new")], first)
    assert later == {**first, "new": FIRST_UID + 2}
    assert accounts.numbers([ADMIN], {"admin": 0}) == {"admin": FIRST_UID}, "a damaged memory gives nobody root"


def test_no_number_left_is_refused() -> None:
    everybody = {f"u{uid}": uid for uid in range(FIRST_UID, LAST_UID + 1)}
    with pytest.raises(RefusedError, match="no user id is left"):
        accounts.numbers([ADMIN], everybody)


def test_whose_sessions_end() -> None:
    assert accounts.shut([ADMIN, VIEWER], [ADMIN, VIEWER]) == set()
    assert accounts.shut([ADMIN, VIEWER], [User(name="admin", role="viewer", password="x"), VIEWER]) == {"admin"}
    assert accounts.shut([ADMIN, VIEWER], [ADMIN]) == {"noc"}
    assert accounts.shut([ADMIN], [User(name="admin", role="admin")]) == {"admin"}
    assert accounts.shut([ADMIN], [User(name="admin", role="admin", password="$6$other")]) == set()


def test_files_on_disk(tmp_path: Path) -> None:
    etc = tmp_path / "etc"
    etc.mkdir()
    for name, text in zip(("passwd", "shadow", "group"), (BASE.passwd, BASE.shadow, BASE.group), strict=True):
        (etc / name).write_text(text)
    uids = accounts.numbers([ADMIN, VIEWER], {})
    accounts.write(tmp_path, accounts.texts(accounts.read(tmp_path), [ADMIN, VIEWER], uids), [ADMIN, VIEWER], uids)
    assert stat.S_IMODE((etc / "shadow").stat().st_mode) == 0o600
    assert stat.S_IMODE((etc / "passwd").stat().st_mode) == 0o644
    keys = tmp_path / "var/lib/bypass/home/noc/.ssh/authorized_keys"
    assert keys.read_text() == "ssh-ed25519 AAAA noc\n"
    assert (keys.parent.stat().st_mode & 0o022) == 0
    accounts.write(tmp_path, accounts.texts(accounts.read(tmp_path), [ADMIN], uids), [ADMIN], uids)
    assert not keys.exists(), "who was removed has no keys when the name comes back"
    assert set(GROUPS) <= {line.split(":")[0] for line in (etc / "group").read_text().splitlines()}
    assert not list(etc.glob(".*.new"))


def test_hash_fits_its_password_only() -> None:
    made = password.hashed("correct horse", "admin")
    assert is_crypt(made)
    assert password.fits("correct horse", made)
    assert not password.fits("correct horsf", made)
    assert password.hashed("correct horse", "admin") != made, "each has a salt of its own"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("short", "at least 8"), ("a" * 101, "at most 100"), ("ab\ncdefgh", "control"),
        ("aaaaaaaaaa", "easy to guess: it has fewer than 4 different"),
        ("Admin123", "easy to guess: it contains the user name"),
    ],
)  # fmt: skip
def test_unfit_passwords(text: str, why: str) -> None:
    with pytest.raises(RefusedError, match=why):
        password.hashed(text, "admin")
