# SPDX-License-Identifier: GPL-2.0-only
"""Hashes passwords with the system's own libcrypt, so that the SSH server can check them.

This happens in the process in which the password was typed: no password crosses a socket or reaches a log. Nothing is
owned; the library is opened at the first call.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Final

from appliance.errors import RefusedError, UnreachableError

MIN_LENGTH: Final = 8
MAX_LENGTH: Final = 100  # bytes; limit of the SSH server (DROPBEAR_MAX_PASSWORD_LEN)
_LIBRARIES: Final = ("libcrypt.so.1", "libcrypt.so.2")


@functools.cache
def _library() -> ctypes.CDLL:
    for name in _LIBRARIES:
        try:
            library = ctypes.CDLL(name, use_errno=True)
        except OSError:
            continue
        library.crypt.restype = library.crypt_gensalt.restype = ctypes.c_char_p
        library.crypt.argtypes = [ctypes.c_char_p, ctypes.c_char_p]
        library.crypt_gensalt.argtypes = [ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p, ctypes.c_int]
        return library
    raise UnreachableError(f"passwords cannot be hashed: there is no {' or '.join(_LIBRARIES)}")


def trouble(password: str, name: str = "") -> str:
    """Why this password is refused; "" if it is accepted. Only length matters: no mix of characters is required."""
    if len(password) < MIN_LENGTH:
        return f"a password needs at least {MIN_LENGTH} characters"
    if len(password.encode()) > MAX_LENGTH:
        return f"a password can have at most {MAX_LENGTH} bytes"
    if any(not c.isprintable() for c in password):
        return "a password cannot contain control characters"
    if len(set(password)) < 4:
        return "password is too easy to guess: it has fewer than 4 different characters"
    if name and name.lower() in password.lower():
        return "password is too easy to guess: it contains the user name"
    return ""


def hashed(password: str, name: str = "") -> str:
    """The hash (yescrypt) of a new password, with a new salt. RefusedError says why the password is refused."""
    if why := trouble(password, name):
        raise RefusedError(why)
    library = _library()
    salt = library.crypt_gensalt(b"$y$", 0, None, 0)
    made = library.crypt(password.encode(), salt) if salt else None
    if not made or made.startswith(b"*"):
        raise UnreachableError("passwords cannot be hashed: this libcrypt has no yescrypt")
    return str(made.decode())


def fits(password: str, made: str) -> bool:
    """Whether this password has the hash `made`."""
    found = _library().crypt(password.encode(), made.encode())
    return found is not None and found.decode() == made
