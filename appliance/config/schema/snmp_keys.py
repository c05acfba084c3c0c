# SPDX-License-Identifier: GPL-2.0-only
"""The keys of SNMPv3 users: from a passphrase to the key that the configuration keeps, and to the one of an engine.

RFC 3414, A.2 (the key of a passphrase: the digest of 1 MiB of it) and 2.6 (a key that is good for one engine only),
with the digests of RFC 7860. The configuration keeps the first as 0x and hex digits: nobody reads the passphrase in it,
and a configuration that is restored on another appliance still fits. What snmpd gets is good for this engine only.
Pure.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

LEAST: Final = 8
"""Characters of a passphrase at least (RFC 3414, 11.2)."""
MOST: Final = 128
AES_BYTES: Final = 16
"""Key of AES-128 (RFC 3826): the first bytes of the localized key."""
_EXPANDED: Final = 1 << 20  # bytes
_DIGESTS: Final = {"sha-256": "sha256", "sha-384": "sha384", "sha-512": "sha512"}
_KEY = re.compile(r"0x(?:[0-9a-f]{2})+")


def is_key(value: str) -> bool:
    """Whether this is a key as the configuration keeps it, and no passphrase."""
    return bool(_KEY.fullmatch(value)) and len(value) // 2 - 1 in (32, 48, 64)


def key(value: str, auth: str) -> str:
    """The key of a passphrase for users with this authentication; a key stays as it is. Takes milliseconds."""
    if is_key(value):
        return value
    text = value.encode()
    whole = text * (_EXPANDED // len(text) + 1)
    return f"0x{hashlib.new(_DIGESTS[auth], whole[:_EXPANDED]).hexdigest()}"


def localized(value: str, auth: str, engine: bytes) -> bytes:
    """The key of a passphrase, or of a key, for one engine: as long as the digest."""
    secret = bytes.fromhex(key(value, auth)[2:])
    return hashlib.new(_DIGESTS[auth], secret + engine + secret).digest()


def fits(value: str, auth: str) -> bool:
    """Whether a key is one for this authentication; a passphrase fits every one."""
    return not is_key(value) or len(value) // 2 - 1 == hashlib.new(_DIGESTS[auth]).digest_size
