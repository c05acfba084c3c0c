# SPDX-License-Identifier: GPL-2.0-only
"""Data encrypted with a passphrase, by GnuPG: what is written here, `gpg -d` reads anywhere.

Data streams through gpg, so that it may be larger than memory. The passphrase reaches gpg by a descriptor of its own;
no agent and no key ring is used. What gpg puts out counts only when `finish` returns, because it checks the integrity
at the end.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Final

from appliance.errors import RefusedError

LEAST: Final = 8  # characters of a passphrase
MOST: Final = 1000
_GPG: Final = (
    "gpg", "--no-options", "--batch", "--quiet", "--no-autostart", "--no-symkey-cache", "--pinentry-mode", "loopback",
)  # fmt: skip
_SEAL: Final = (
    "--rfc4880", "--symmetric", "--cipher-algo", "AES256", "--s2k-digest-algo", "SHA512", "--s2k-count", "65011712",
    "--compress-algo", "none",
)  # fmt: skip
_CHUNK: Final = 1 << 16


@contextmanager
def sealing(passphrase: str, target: int) -> Iterator[IO[bytes]]:
    """A stream to write to; what is written is encrypted into the descriptor `target`.

    RefusedError: gpg cannot be run, or cannot write. The target is incomplete after any exception.
    """
    with _gpg(_SEAL, passphrase, subprocess.PIPE, target) as (process, messages):
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # gpg has ended, and says why
            yield process.stdin
            process.stdin.close()
        if process.wait() != 0:
            raise RefusedError(f"the backup cannot be written: {_said(messages)}")


class Opened:
    """Decrypted data: `stream` to read from, and `finish`, after which it can be trusted."""

    def __init__(self, process: subprocess.Popen[bytes], messages: IO[bytes]) -> None:
        assert process.stdout is not None
        self.stream, self._process, self._messages = process.stdout, process, messages

    def finish(self) -> None:
        """Read to the end. RefusedError: another passphrase, no encrypted data, or some that was changed."""
        while self.stream.read(_CHUNK):
            pass
        if self._process.wait() != 0:
            said = _said(self._messages)
            why = "the passphrase is wrong" if "Bad session key" in said else said
            raise RefusedError(f"the backup cannot be decrypted: {why}")


@contextmanager
def opening(passphrase: str, source: int) -> Iterator[Opened]:
    """Decrypt what the descriptor `source` has, to its end. RefusedError: gpg cannot be run."""
    with _gpg(("--decrypt",), passphrase, source, subprocess.PIPE) as (process, messages):
        yield Opened(process, messages)


@contextmanager
def _gpg(
    words: Sequence[str], passphrase: str, stdin: int, stdout: int
) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """gpg, running, and the file of its messages; it is ended with the block."""
    read, write = os.pipe2(os.O_CLOEXEC)
    os.write(write, f"{passphrase}\n".encode())  # a line fits into a pipe
    os.close(write)
    with tempfile.TemporaryDirectory(prefix="gpg-") as home, tempfile.TemporaryFile() as messages:
        try:
            process = subprocess.Popen(
                [*_GPG, "--homedir", home, "--passphrase-fd", str(read), *words],
                stdin=stdin,
                stdout=stdout,
                stderr=messages,
                pass_fds=(read,),
                env={"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C"},
            )
        except FileNotFoundError as error:
            raise RefusedError("gpg is not installed") from error
        except OSError as error:
            raise RefusedError(f"gpg: {error.strerror}") from error
        finally:
            os.close(read)
        try:
            yield process, messages
        finally:
            process.kill()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with suppress(OSError):  # what it had not written yet is of no use
                        stream.close()
            process.wait()


def _said(messages: IO[bytes]) -> str:
    """The line of gpg's messages that says most."""
    messages.seek(0)
    text = messages.read(_CHUNK).decode("utf-8", "replace")
    lines = [line.removeprefix("gpg: ") for line in text.splitlines()]
    telling = ("failed", "manipulated", "No space left")
    return next((line for line in lines if any(word in line for word in telling)), lines[-1] if lines else "gpg ended")
