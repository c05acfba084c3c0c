# SPDX-License-Identifier: GPL-2.0-only
"""Data encrypted with a passphrase, by GnuPG: what is written here, `gpg -d` reads anywhere.

The passphrase reaches gpg by a descriptor of its own; no agent and no key ring is used. What gpg puts out counts only
when it ends well, because it checks the integrity at the end.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence
from typing import Final

from appliance.errors import RefusedError

LEAST: Final = 8  # characters of a passphrase
MOST: Final = 1000
MOST_BYTES: Final = 8 << 20  # of what is decrypted
TIME_LIMIT: Final = 120.0  # seconds
_GPG: Final = (
    "gpg", "--no-options", "--batch", "--quiet", "--no-autostart", "--no-symkey-cache", "--pinentry-mode", "loopback",
)  # fmt: skip
_SEAL: Final = (
    "--rfc4880", "--symmetric", "--cipher-algo", "AES256", "--s2k-digest-algo", "SHA512", "--s2k-count", "65011712",
)  # fmt: skip


def seal(data: bytes, passphrase: str) -> bytes:
    """Encrypt. RefusedError: gpg cannot be run."""
    status, sealed, said = _run(_SEAL, data, passphrase)
    if status != 0:
        raise RefusedError(f"the backup cannot be encrypted: {said}")
    return sealed


def open_sealed(data: bytes, passphrase: str) -> bytes:
    """Decrypt. RefusedError: another passphrase, no encrypted data, or some that was changed."""
    status, found, said = _run(("--max-output", str(MOST_BYTES), "--decrypt"), data, passphrase)
    if status != 0:
        why = "the passphrase is wrong" if "Bad session key" in said else said
        raise RefusedError(f"the backup cannot be decrypted: {why}")
    return found


def _run(words: Sequence[str], data: bytes, passphrase: str) -> tuple[int, bytes, str]:
    """Exit status, output, and the last line of messages."""
    read, write = os.pipe2(os.O_CLOEXEC)
    os.write(write, f"{passphrase}\n".encode())  # a line fits into a pipe
    os.close(write)
    try:
        with tempfile.TemporaryDirectory(prefix="gpg-") as home:
            done = subprocess.run(
                [*_GPG, "--homedir", home, "--passphrase-fd", str(read), *words],
                input=data,
                capture_output=True,
                pass_fds=(read,),
                env={"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C"},
                timeout=TIME_LIMIT,
                check=False,
            )
    except FileNotFoundError as error:
        raise RefusedError("gpg is not installed") from error
    except OSError as error:
        raise RefusedError(f"gpg: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise RefusedError(f"gpg did not end within {TIME_LIMIT:g} s") from error
    finally:
        os.close(read)
    lines = [line.removeprefix("gpg: ") for line in done.stderr.decode("utf-8", "replace").splitlines()]
    said = next((line for line in lines if "failed" in line or "manipulated" in line), lines[-1] if lines else "")
    return done.returncode, done.stdout, said
