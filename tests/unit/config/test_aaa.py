# SPDX-License-Identifier: GPL-2.0-only
"""[aaa], [[radius]] and [[tacacs]]: what is refused, what is remarked, and that secrets are shown nowhere."""

from __future__ import annotations

import pytest

from appliance.access.state import Memory
from appliance.config.check.lint import lint
from appliance.config.check.load import check, loads
from appliance.config.schema.model import Config
from appliance.config.schema.secrets import hide, redact

ADDRESS = '[management]\naddress = "192.0.2.10/24"\n'
ORDER = '[aaa]\norder = ["radius", "local"]\n'
SERVER = '[[radius]]\nname = "r1"\naddress = "192.0.2.1"\nsecret = "a secret of many words"\n'
TACACS = '[[tacacs]]\nname = "t1"\naddress = "192.0.2.1"\nsecret = "a secret of many words"\n'
ADMIN = '[[user]]\nname = "admin"\nrole = "admin"\npassword = "$y$j9T$abcdefgh$abcdefgh"\n'
GOOD = ADDRESS + ORDER + ADMIN + SERVER


def test_a_good_one() -> None:
    assert check(GOOD, filters=False) == []
    assert check(ADDRESS + ORDER.replace("radius", "tacacs") + ADMIN + TACACS, filters=False) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (ADDRESS + '[aaa]\norder = ["radius"]\n' + SERVER, "local is missing"),
        (ADDRESS + "[aaa]\norder = []\n", "local is missing"),
        (ADDRESS + '[aaa]\norder = ["local", "local"]\n', "names a method twice"),
        (ADDRESS + ORDER, "radius has no server"),
        (ORDER + SERVER, "no address: set management address"),
        (GOOD.replace('"192.0.2.1"', '"radius.example.net"'), "names are not resolved here"),
        (GOOD.replace('"192.0.2.1"', '"0.0.0.0"'), "is not the address of a server"),
        (GOOD.replace("a secret of many words", ""), "radius r1: secret: must have 1 to 128 bytes"),
        (GOOD.replace("a secret of many words", "x" * 129), "must have 1 to 128 bytes"),
        (GOOD + SERVER, "already a server's name"),
        (GOOD.replace(ORDER, ORDER + "admin_level = 3\n"), "levels must not fall"),
        (GOOD.replace(ORDER, ORDER + 'admin = ["viewer"]\n'), '"viewer" is already a value of viewer'),
        (GOOD.replace(ORDER, ORDER + 'admin = [""]\n'), "an empty value fits nothing"),
        (GOOD.replace(ORDER, ORDER + 'timeout = "31s"\n'), "at most 30s"),
        (GOOD.replace(ORDER, ORDER + 'order2 = "x"\n'), "order2"),
        (GOOD + "tries = 6\n", "tries"),
    ],
)
def test_what_is_refused(text: str, said: str) -> None:
    found = [str(error) for error in check(text, filters=False)]
    assert any(said in error for error in found), found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD.replace("a secret of many words", "short"), "fewer than 16 bytes"),
        (GOOD.replace(ADMIN, ""), "no local administrator can log in"),
        (ADDRESS + ADMIN + SERVER, "the radius servers are never asked"),
        (GOOD.replace(ORDER, ORDER + 'accounting = "commands"\n'), "RADIUS has no accounting of commands"),
        (ADDRESS + ADMIN + '[aaa]\naccounting = "sessions"\n', "no server in `order`"),
        (ADDRESS + ORDER.replace("radius", "tacacs") + ADMIN + TACACS, "TACACS+ does not prove who answers"),
    ],
)
def test_what_is_remarked(text: str, said: str) -> None:
    assert any(said in finding.what for finding in lint(loads(text, filters=False)))
    assert not any(said in finding.what for finding in lint(loads(GOOD, filters=False)))


def test_secrets_are_shown_nowhere() -> None:
    assert "many words" not in redact(GOOD)
    assert "many words" not in str(hide({"radius": [{"name": "r1", "secret": "a secret of many words"}]}))


def test_what_is_stored_for_an_invalid_configuration(tmp_path: object) -> None:
    """Users, servers and their order; a file of an earlier version has local users alone."""
    from pathlib import Path

    path = Path(str(tmp_path)) / "access.json"
    memory, config = Memory(path), loads(GOOD, filters=False)
    assert memory.differs(config)
    memory.keep({"admin": 2000}, config)
    assert not memory.differs(config)
    assert memory.differs(loads(GOOD + "tries = 3\n", filters=False))
    again = Memory(path)
    again.load()
    assert (again.config().aaa, again.config().radius) == (config.aaa, config.radius)
    assert "a secret of many words" in again.secrets()
    path.write_text('{"uids": {"admin": 2000}, "config": {"management": {}, "user": [{"name": "admin"}]}}')
    old = Memory(path)
    old.load()
    assert (old.config().aaa, old.config().user[0].name) == (Config().aaa, "admin")
