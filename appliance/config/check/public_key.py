# SPDX-License-Identifier: GPL-2.0-only
"""Public keys of users, as the SSH server reads them: what passes here lets its owner log in. Pure.

dropbear is strict where people are not: it takes a line of at most 4,199 bytes, exactly one blank between type and key,
and compares the bytes of the key with those that the client sends. A line that differs is skipped without a word, and
so is a key that it cannot use. Source: dropbear, svr-authpubkey.c, rsa.c, ecdsa.c, ed25519.c, sk-*.c; RFC 4253, 5656
and 8709; OpenSSH, PROTOCOL.u2f. Options before the type are refused: what a user may do is their role.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final

_CURVES: Final = {"nistp256": 32, "nistp384": 48, "nistp521": 66}  # bytes of a coordinate
KEY_TYPES: Final = (
    "ssh-ed25519",
    *(f"ecdsa-sha2-{curve}" for curve in _CURVES),
    "ssh-rsa",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
)
MOST_BYTES: Final = 4199  # of a line, without its end
_LEAST_RSA, _MOST_RSA, _MOST_EXPONENT = 1024, 8192, 64  # bits
_ED25519: Final = 32  # bytes

_DAMAGED: Final = "is damaged or cut off: copy the whole line of the .pub file"


class _DamagedError(Exception):
    """The bytes of the key are not those of a key of its type."""


class _Fields:
    """The strings and numbers of a key, in order."""

    def __init__(self, blob: bytes) -> None:
        self._left = blob

    def text(self) -> bytes:
        length = int.from_bytes(self._left[:4], "big")
        found, self._left = self._left[4 : 4 + length], self._left[4 + length :]
        if len(found) != length or not found:
            raise _DamagedError
        return found

    def number(self) -> int:
        found = self.text()
        if found[:1] >= b"\x80":
            raise _DamagedError  # negative
        return int.from_bytes(found, "big")

    def end(self) -> None:
        if self._left:
            raise _DamagedError


def trouble(text: str) -> str:
    """Why the owner of this public key could not log in with it; "" when they can."""
    if "\t" in text:
        return "has a tab: type, key and comment are separated by one blank"
    if any(not letter.isprintable() for letter in text):
        return "a key is one line"
    if len(text.encode()) > MOST_BYTES:
        return f"has more than {MOST_BYTES} bytes, and the SSH server would skip it: shorten the comment"
    kind, _, rest = text.partition(" ")
    if kind not in KEY_TYPES:
        words = text.split()
        if words[:1] and words[0] in KEY_TYPES:
            return "begins with a blank, and the SSH server would skip it"
        if any(word in KEY_TYPES for word in words):
            return "has options before its type: it has type, key and comment only; what may be done is the role's"
        return f"is not a public key: one line of a .pub file, beginning with {KEY_TYPES[0]} or another type"
    encoded = rest.partition(" ")[0]
    if not encoded and rest.strip():
        return "has two blanks after its type, and the SSH server would skip it"
    padded = encoded.rstrip("=") + "=" * (-len(encoded.rstrip("=")) % 4)
    try:
        blob = base64.b64decode(padded, validate=True)
    except (binascii.Error, ValueError):
        return "is damaged: what stands after the type is not base64"
    if base64.b64encode(blob).decode() != padded or encoded not in (padded, padded.rstrip("=")):
        return _DAMAGED
    try:
        return _read(kind, _Fields(blob))
    except _DamagedError:
        return _DAMAGED


def _read(kind: str, fields: _Fields) -> str:
    """What is wrong with the fields of a key of this type; _DamagedError when they are not those of one."""
    if fields.text() != kind.encode():
        raise _DamagedError  # the type inside is the one that counts
    found = ""
    if kind == "ssh-rsa":
        exponent, modulus = fields.number(), fields.number()
        found = _rsa(exponent, modulus)
    elif "ed25519" in kind:
        if len(fields.text()) != _ED25519:
            raise _DamagedError
    else:
        curve, point = fields.text().decode("ascii", "replace"), fields.text()
        if f"-{curve}" not in kind or curve not in _CURVES:
            raise _DamagedError
        if len(point) != 1 + 2 * _CURVES[curve] or point[0] != 4:  # uncompressed
            raise _DamagedError
    if kind.startswith("sk-"):
        fields.text()  # the application, such as "ssh:"
    fields.end()
    return found


def _rsa(exponent: int, modulus: int) -> str:
    bits = modulus.bit_length()
    if not exponent or exponent.bit_length() > _MOST_EXPONENT:
        raise _DamagedError
    if _LEAST_RSA <= bits <= _MOST_RSA:
        return ""
    return f"is an RSA key of {bits} bits, and the SSH server takes {_LEAST_RSA} to {_MOST_RSA}"
