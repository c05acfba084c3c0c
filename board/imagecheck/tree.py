# SPDX-License-Identifier: GPL-2.0-only
"""A root file system in a folder against what the code uses: programs, applets, files, certificates.

The folder is Buildroot's TARGET_DIR, or the unpacked layers of the QEMU image. Nothing in it is run.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

BINARIES = ("usr/bin", "usr/sbin", "bin", "sbin")
CERTIFICATES = ("etc/ssl/certs/ca-certificates.crt", "etc/ssl/cert.pem")
CONFIG = "etc/bypass/config.toml"
FIRMWARE = "usr/share/qemu"


def missing_programs(needed: Mapping[str, str], trees: Iterable[Path]) -> list[str]:
    """Programs that no layer holds. An applet is a link of its own, as init and Python start it by its name."""
    layers = list(trees)
    return [
        f"{where} runs {name}: not in the image"
        for name, where in sorted(needed.items())
        if not any((tree / folder / name).is_symlink() or (tree / folder / name).exists()
                   for tree in layers for folder in BINARIES)
    ]  # fmt: skip


def missing_files(named: Mapping[str, str], trees: Iterable[Path]) -> list[str]:
    """Files that the default configuration names and no layer holds."""
    layers = list(trees)
    return [
        f"{CONFIG} names {path} ({where}): not in the image"
        for path, where in named.items()
        if not any((tree / path.lstrip("/")).is_file() for tree in layers)
    ]


def missing_certificates(trees: Iterable[Path]) -> list[str]:
    """The authorities' certificates, without which no https probe with `verify` can succeed."""
    for tree in trees:
        for name in CERTIFICATES:
            path = tree / name
            if path.is_file() and b"BEGIN CERTIFICATE" in path.read_bytes():
                return []
    return ["no certificates of authorities (etc/ssl/certs): https probes with `verify` cannot succeed"]


def missing_firmware(pairs: Iterable[tuple[str, str]], trees: Iterable[Path]) -> list[str]:
    """Firmware for guests with UEFI: code and variables of one of the pairs that the appliance looks for."""
    layers = list(trees)
    for pair in pairs:
        if all(any((tree / name).exists() for tree in layers) for name in pair):
            return []
    return ["no UEFI firmware for guests: " + " or ".join(" and ".join(pair) for pair in pairs)]


def isolated(trees: Iterable[Path], scripts: Iterable[str]) -> list[str]:
    """Console scripts that start Python without -I: they would see the user's environment."""
    found = []
    for tree in trees:
        for name in scripts:
            path = tree / "usr/bin" / name
            if path.is_file() and path.read_bytes()[:2] == b"#!":
                first = path.read_text(errors="replace").splitlines()[0]
                if " -I" not in first:
                    found.append(f"usr/bin/{name} starts with {first!r}: Python must be started with -I")
    return found


def console_scripts(pyproject: str) -> list[str]:
    """Names of the project's console scripts (pure)."""
    return list(tomllib.loads(pyproject)["project"]["scripts"])
