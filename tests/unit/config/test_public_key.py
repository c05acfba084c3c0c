# SPDX-License-Identifier: GPL-2.0-only
"""Public keys: those from ssh-keygen are accepted, and those that dropbear would silently skip are errors.

Compared with dropbear 2022.83: it accepts logins with exactly the lines that are accepted here.
"""

from __future__ import annotations

import base64
import re
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.config.check.public_key import KEY_TYPES, MOST_BYTES, trouble


def key(kind: str, *fields: bytes, comment: str = " me@laptop", end: bytes = b"") -> str:
    blob = b"".join(struct.pack(">I", len(field)) + field for field in (kind.encode(), *fields)) + end
    return f"{kind} {base64.b64encode(blob).decode()}{comment}"


ED = key("ssh-ed25519", bytes(range(32)))
POINT = b"\x04" + bytes(64)
SK_ED = key("sk-ssh-ed25519@openssh.com", bytes(32), b"ssh:")
SK_EC = key("sk-ecdsa-sha2-nistp256@openssh.com", b"nistp256", POINT, b"ssh:")
EXPONENT = b"\x01\0\x01"


MADE = ["ed25519", "ecdsa -b 256", "ecdsa -b 384", "ecdsa -b 521", "rsa -b 1024", "rsa -b 2048"]


@pytest.mark.parametrize("words", MADE)
def test_what_ssh_keygen_makes(tmp_path: Path, words: str) -> None:
    place = ["-f", str(tmp_path / "key"), "-N", "", "-C", "jörg at the desk"]
    subprocess.run(["ssh-keygen", "-q", *place, "-t", *words.split()], check=True)
    made = (tmp_path / "key.pub").read_text().rstrip("\n")
    assert trouble(made) == ""
    assert trouble(made.rpartition(" jörg")[0]) == "", "a comment need not be there"
    assert trouble(made.replace("=", "")) == "", "the padding need not be there either"
    begin = len(made.split()[0]) + 1
    end = begin + len(made.split()[1])
    for cut in range(begin, end - made.count("="), 7):
        assert trouble(made[:cut] + made[end:]), f"{end - cut} characters are missing"


def test_as_long_as_a_line_may_be() -> None:
    assert trouble(ED + "x" * (MOST_BYTES - len(ED))) == ""
    assert "shorten the comment" in trouble(ED + "x" * (MOST_BYTES - len(ED) + 1))


@pytest.mark.parametrize("text", [ED, SK_ED, SK_EC, key("ssh-rsa", EXPONENT, b"\0" + b"\xff" * 1024)])
def test_good(text: str) -> None:
    assert trouble(text) == ""


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (f" {ED}", "begins with a blank"),
        (ED.replace(" ", "  ", 1), "has two blanks after its type"),
        (ED.replace(" ", "\t", 1), "has a tab"),
        (ED.replace(" me", "\tme"), "has a tab"),
        (f"{ED}\n{ED}", "one line"),
        (f"restrict {ED}", "has options before its type"),
        (f'command="x y" {ED}', "has options before its type"),
        (f"# {ED}", "has options before its type"),
        (ED + "x" * MOST_BYTES, "more than 4199 bytes"),
        ("ssh-ed25519", "damaged"),
        ("ssh-ed25519 me@laptop", "not base64"),
        ("ssh-dss AAAAB3NzaC1kc3MAAACBAP", "not a public key"),
        ("ssh-ed25519-cert-v01@openssh.com AAAA", "not a public key"),
        ("", "not a public key"),
        (key("ssh-ed25519", bytes(31)), "damaged"),
        (key("ssh-ed25519", bytes(33)), "damaged"),
        (key("ssh-ed25519", bytes(32), end=b"x"), "damaged"),
        (ED.replace("ssh-ed25519", "ssh-rsa"), "damaged"),
        (key("ssh-rsa", EXPONENT, b"\x7f" + b"\xff" * 63), "RSA key of 511 bits.*takes 1024 to 8192"),
        (key("ssh-rsa", EXPONENT, b"\x01" + b"\xff" * 1024), "RSA key of 8193 bits.*takes 1024 to 8192"),
        (key("ssh-rsa", EXPONENT, b"\xff" * 256), "damaged"),
        (key("ssh-rsa", b"\x01" * 9, b"\x7f" + b"\xff" * 255), "damaged"),
        (key("ssh-rsa", EXPONENT), "damaged"),
        (key("ecdsa-sha2-nistp256", b"nistp384", b"\x04" + bytes(96)), "damaged"),
        (key("ecdsa-sha2-nistp256", b"nistp256", b"\x02" + bytes(32)), "damaged"),
        (key("sk-ssh-ed25519@openssh.com", bytes(32)), "damaged"),
    ],
)
def test_what_the_server_would_skip(text: str, why: str) -> None:
    assert re.search(why, trouble(text)), trouble(text)


@given(st.binary(max_size=80), st.sampled_from(KEY_TYPES))
def test_any_bytes_are_judged(blob: bytes, kind: str) -> None:
    assert isinstance(trouble(f"{kind} {base64.b64encode(blob).decode()}"), str)
