# SPDX-License-Identifier: GPL-2.0-only
"""The SSH server's command line and host keys.

Keys are generated at the first start and kept on the data partition, so that no two appliances share one. An unreadable
key is replaced with an event, because administrators' clients will warn. The server is configured only by its command
line, so that Debian's and Buildroot's dropbear behave alike.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from appliance.access.accounts import may_log_in
from appliance.config.schema.model import Aaa, Management, User
from appliance.errors import RefusedError, UnreachableError
from appliance.system import files
from appliance.system.command import run
from appliance.system.threads import to_the_end

KEY_TYPES: Final = ("ed25519", "ecdsa")
MAX_KEY: Final = 4096  # bytes of a host key's file
TRIES: Final = 3  # wrong passwords in one connection
HOOK: Final = "/usr/lib/bypass/login-hook.so"
LOCAL: Final = Aaa()
KEEPALIVE: Final = 60  # seconds; after three without an answer the session ends


@dataclass(frozen=True)
class HostKey:
    """One host key: its file, and the fingerprint to compare at the first connection."""

    path: Path
    kind: str
    fingerprint: str


def by_servers(aaa: Aaa) -> bool:
    """Whether servers are asked about logins."""
    return any(method != "local" for method in aaa.order)


def why_off(management: Management, users: Sequence[User], aaa: Aaa = LOCAL) -> str:
    """Why SSH does not listen, for display; "" if it does."""
    if not management.ssh:
        return "switched off: set management ssh true"
    if not management.address and not management.address6:
        return "the management port has no address: set management address"
    if not by_servers(aaa) and not any(may_log_in(user) for user in users):
        return "no user can log in: give a user a password (user NAME password) or a key"
    return ""


def command(
    management: Management,
    users: Sequence[User],
    keys: Sequence[HostKey],
    pid_file: Path,
    banner: Path | None = None,
    *,
    aaa: Aaa = LOCAL,
) -> list[str]:
    """The command line of the server: in the foreground, no root, no forwarding, few attempts, only our users.

    Where servers are asked about logins, a library is loaded into it that asks bypassd (appliance/login-hook).
    """
    words = ["env", f"LD_PRELOAD={HOOK}"] if by_servers(aaa) else []
    words += ["dropbear", "-F", "-E", "-m", "-w", "-j", "-k", "-T", str(TRIES), "-G", "bypass", "-K", str(KEEPALIVE)]
    words += ["-I", str(int(management.idle_timeout.seconds)), "-p", str(management.ssh_port), "-P", str(pid_file)]
    if not by_servers(aaa) and not any(user.password for user in users):
        words.append("-s")  # keys only: no password prompt
    for key in keys:
        words += ["-r", str(key.path)]
    return [*words, *(["-b", str(banner)] if banner else [])]


def keep_banner(text: str, folder: Path) -> Path | None:
    """The file with the text that is shown before a login; None: there is none. OSError: it cannot be written.

    The server reads it at its start, so another text is another file, and by that another command line. The console
    shows the one that is there (terminal/login.py).
    """
    shown = "".join(char if char.isprintable() or char == "\n" else "?" for char in text).strip("\n")
    path = folder / f"banner-{hashlib.sha256(shown.encode()).hexdigest()[:12]}" if shown else None
    if path is not None and not path.exists():
        files.replace(path, f"{shown}\n", 0o644, synced=False)
    for old in folder.glob("banner-*"):
        if old != path:
            old.unlink(missing_ok=True)
    return path


async def host_keys(folder: Path) -> tuple[list[HostKey], list[str]]:
    """The host keys, generated if missing, and the kinds of those that were damaged and replaced."""
    keys, renewed = [], []
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for kind in KEY_TYPES:
            path = folder / f"host_{kind}"
            there = path.exists()
            found = await _read(path, kind) if there else None
            if found is None:
                if there:
                    renewed.append(kind)
                await _make(path, kind)
                found = await _read(path, kind)
            if found is None:
                raise UnreachableError(f"the SSH host key {path} cannot be read back: check the data partition")
            keys.append(found)
    except OSError as error:
        raise RefusedError(f"SSH host keys: {folder}: {error.strerror}") from error
    return keys, renewed


def read_keys(folder: Path) -> dict[str, bytes]:
    """The files of the host keys by name, for a backup. RefusedError: they cannot be read."""
    try:
        return {path.name: path.read_bytes() for kind in KEY_TYPES if (path := folder / f"host_{kind}").exists()}
    except OSError as error:
        raise RefusedError(f"SSH host keys: {error.filename}: {error.strerror}") from error


async def replace_keys(folder: Path, found: Mapping[str, bytes]) -> int:
    """Put host keys of a backup in place, all of them or none; returns how many are others than before.

    RefusedError: one is none, or cannot be written.
    """
    kinds = {f"host_{kind}": kind for kind in KEY_TYPES}
    made: list[tuple[Path, Path]] = []
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        here = await asyncio.to_thread(read_keys, folder)
        for name, data in found.items():
            path = folder / name
            if data == here.get(name):
                continue
            if name not in kinds or len(data) > MAX_KEY:
                raise RefusedError(f"{name[:40]} is not a host key of the SSH server")
            new = path.with_name(f"{name}.new")
            made.append((new, path))
            await to_the_end(partial(files.replace, new, data, 0o600))
            if await _read(new, kinds[name]) is None:
                raise RefusedError(f"{name} in the backup is not a host key")
        for new, path in made:
            await to_the_end(partial(files.put_in_place, new, path))
    except OSError as error:
        raise RefusedError(f"SSH host keys: {error.filename}: {error.strerror}") from error
    finally:
        for new, _ in made:
            new.unlink(missing_ok=True)
    return len(made)


async def _read(path: Path, kind: str) -> HostKey | None:
    status, text = await run(["dropbearkey", "-y", "-f", str(path)])
    found = re.search(r"^Fingerprint: (?:.* )?(SHA256:\S+)", text, re.MULTILINE)
    return HostKey(path, kind, found[1]) if status == 0 and found else None


async def _make(path: Path, kind: str) -> None:
    """Generate a key in one step: a power cut leaves no part of a key."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    status, text = await run(["dropbearkey", "-t", kind, "-f", str(new)])
    if status != 0:
        raise UnreachableError(f"an SSH host key cannot be generated: {text.strip().splitlines()[-1:] or status}")
    await to_the_end(partial(files.put_in_place, new, path))
