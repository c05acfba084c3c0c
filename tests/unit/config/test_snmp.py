# SPDX-License-Identifier: GPL-2.0-only
"""[snmp]: what is refused and remarked, and that a passphrase is kept as its key and shown nowhere."""

from __future__ import annotations

import hashlib

import pytest

from appliance.config.check.lint import lint
from appliance.config.check.load import check, loads
from appliance.config.edit import hidden, key_path, passphrases
from appliance.config.edit.completion import complete
from appliance.config.edit.document import Document
from appliance.config.edit.key_path import Assign
from appliance.config.schema import snmp_keys
from appliance.config.schema.secrets import HIDDEN, redact
from tests.unit.config.test_access import errors

KEYS = {auth: snmp_keys.key("correct horse", auth) for auth in ("sha-256", "sha-384", "sha-512")}
ADDRESS = '[management]\naddress = "192.0.2.10/24"\n'
USER = f"""\
[[snmp.user]]
name = "monitor"
auth_passphrase = "{KEYS["sha-256"]}"
priv_passphrase = "{snmp_keys.key("battery staple", "sha-256")}"
"""
RECEIVER = '[[snmp.receiver]]\nname = "nms"\naddress = "192.0.2.162"\nuser = "monitor"\n'
GOOD = ADDRESS + "[snmp]\nenabled = true\n" + USER + RECEIVER


def test_a_good_one() -> None:
    assert errors(GOOD) == []
    assert [each.what for each in lint(loads(GOOD, filters=False)) if "snmp" in each.where] == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD.replace(ADDRESS, ""), "snmp: enabled: SNMP is read through the management port, which has no address"),
        (ADDRESS + "[snmp]\nenabled = true\n", "snmp: enabled: needs a user"),
        (GOOD.replace(KEYS["sha-256"], ""), "snmp: user monitor: auth_passphrase: is required"),
        (GOOD.replace(KEYS["sha-256"], "short"), "auth_passphrase: must have 8 characters or more (RFC 3414)"),
        (GOOD.replace(KEYS["sha-256"], "x" * 129), "must have 128 characters at most"),
        (GOOD.replace(KEYS["sha-256"], KEYS["sha-512"]), "its key is not one of sha-256: set both passphrases again"),
        (GOOD.replace(KEYS["sha-256"], "tabs\\tare none"), "characters that cannot be typed"),
        (GOOD + USER, 'snmp: user monitor: name: "monitor" is already the name of a user'),
        (GOOD + RECEIVER, '"nms" is already the name of a receiver'),
        (GOOD.replace('user = "monitor"', 'user = "other"'), 'there is no user "other"; there is: monitor'),
        (GOOD.replace("192.0.2.162", "nms.example.net"), "names are not resolved here"),
        (GOOD.replace("enabled = true\n", 'enabled = true\nlocation = "a\\nb"\n'), "snmp: location: must be one line"),
        (ADDRESS + "".join(USER.replace("monitor", f"m{n}") for n in range(17)), "more than MAX_SNMP_USERS = 16"),
        (GOOD + "".join(RECEIVER.replace("nms", f"n{n}") for n in range(8)), "more than MAX_SNMP_RECEIVERS = 8"),
        (GOOD.replace("[snmp]\n", '[snmp]\ncommunity = "public"\n'), "community"),
        (GOOD + 'auth = "md5"\n', "auth"),
    ],
)
def test_what_is_refused(text: str, said: str) -> None:
    found = errors(text)
    assert any(said in error for error in found), found
    assert not any(KEYS["sha-256"] in error for error in found)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD.replace(KEYS["sha-256"], "correct horse"), "a passphrase is in the file as it was typed"),
        (GOOD.replace(snmp_keys.key("battery staple", "sha-256"), KEYS["sha-256"]), "both passphrases are the same"),
        (GOOD.replace("enabled = true", "enabled = false"), "SNMP is off"),
    ],
)
def test_what_is_remarked(text: str, said: str) -> None:
    assert check(text, filters=False) == []
    assert any(said in each.what for each in lint(loads(text, filters=False)))


def assigned(line: str, text: str = "") -> dict[str, str]:
    """What `set` keeps, by the last word of the path."""
    data = Document(text).data
    changes = passphrases.as_keys(key_path.assignments(line.split(), data), data)
    return {str(change.path[-1]): change.value for change in changes}


def test_set_keeps_the_key_of_a_passphrase() -> None:
    """That of the user's own way of authentication: from the line, the configuration or the default."""
    assert assigned("snmp user m auth_passphrase correcthorse")["auth_passphrase"] == snmp_keys.key(
        "correcthorse", "sha-256"
    )
    line = assigned("snmp user m auth_passphrase correcthorse auth sha-512")
    assert line == {"auth_passphrase": snmp_keys.key("correcthorse", "sha-512"), "auth": "sha-512"}
    known = assigned("snmp user m priv_passphrase correcthorse", '[[snmp.user]]\nname = "m"\nauth = "sha-384"\n')
    assert known["priv_passphrase"] == snmp_keys.key("correcthorse", "sha-384")
    assert assigned(f"snmp user m auth_passphrase {KEYS['sha-256']}")["auth_passphrase"] == KEYS["sha-256"]
    assert assigned("snmp location correcthorse")["location"] == "correcthorse"
    path = ("snmp", "user", "m", "auth_passphrase")
    assert passphrases.as_keys([Assign(path, HIDDEN)], {}) == [Assign(path, HIDDEN)]


def test_the_users_are_offered_to_a_receiver_and_a_passphrase_is_explained() -> None:
    data = Document(GOOD).data
    found, _ = complete(["snmp", "receiver", "nms", "user"], "set", data)
    assert "monitor" in [each.word for each in found]
    keys = {each.word: each.help for each in complete(["snmp", "user", "monitor"], "set", data)[0]}
    assert "never shown" in keys["auth_passphrase"]
    assert "name" not in keys


def test_what_is_shown_hides_it_and_is_understood_again() -> None:
    shown = redact(GOOD)
    assert KEYS["sha-256"] not in shown
    assert f'auth_passphrase = "{HIDDEN}"' in shown
    document = Document(shown)
    assert hidden.keep(document, Document(GOOD).data) == []
    assert loads(document.text, filters=False) == loads(GOOD, filters=False)


def test_a_key_is_that_of_rfc_3414_with_the_digests_of_rfc_7860() -> None:
    """The live test shows that snmpd and a manager make the same ones."""
    whole = ("maplesyrup" * 104858)[: 1 << 20].encode()
    digest = hashlib.sha256(whole).digest()
    assert snmp_keys.key("maplesyrup", "sha-256") == f"0x{digest.hex()}"
    engine = bytes.fromhex("000000000000000000000002")
    own = hashlib.sha256(digest + engine + digest).digest()
    assert snmp_keys.localized("maplesyrup", "sha-256", engine) == own
    assert snmp_keys.localized(f"0x{digest.hex()}", "sha-256", engine) == own
    assert snmp_keys.localized("maplesyrup", "sha-256", engine[:-1] + b"\3") != own
    assert [len(key) for key in KEYS.values()] == [66, 98, 130]
    assert not snmp_keys.is_key("0xabcd")
