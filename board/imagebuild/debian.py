# SPDX-License-Identifier: GPL-2.0-only
"""Debian packages for the image, from the mirror that this machine's apt uses.

No mirror is hard-coded in the tree: it is derived from the machine's apt configuration when the build runs, along with
the machine's proxy and retry settings. The private apt state is in a folder given by the caller.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from imagebuild.errors import BuildError
from imagebuild.progress import output, run

SUITE = "trixie"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_SETTINGS = re.compile(r'^(Acquire::(?:https?|Retries|Check-Date|Check-Valid-Until|ForceIPv[46])\b[^ ]*) "(.+)";$')


@dataclass(frozen=True)
class Mirror:
    """This machine's Debian mirror, and the apt settings needed to reach it."""

    uri: str
    settings: tuple[str, ...]

    @property
    def source_line(self) -> str:
        """The line of sources.list for the image's suite."""
        signed = f"[signed-by={KEYRING}] " if KEYRING.exists() else ""
        return f"deb {signed}{self.uri} {SUITE} main"


def choose_mirror(targets: str, codename: str) -> str:
    """The archive's address from `apt-get indextargets` lines "URI|release|component" (pure).

    The release must be the machine's own: only that is certain to come from the main archive, which also has trixie.
    """
    for line in targets.splitlines():
        uri, release, component = line.split("|")
        if release in (codename, "stable", "oldstable") and component == "main":
            return uri.rstrip("/")
    raise BuildError(
        f"apt has no source for Debian {codename} main: the image's packages come from the same mirror; "
        "add one to /etc/apt/sources.list.d"
    )


def choose_settings(dump: str) -> tuple[str, ...]:
    """The settings from `apt-config dump` that determine how the mirror is reached (pure)."""
    return tuple(line for line in dump.splitlines() if _SETTINGS.match(line))


def mirror() -> Mirror:
    """The mirror of this machine's apt configuration."""
    release = Path("/etc/os-release").read_text()
    found = re.search(r"^VERSION_CODENAME=(\w+)", release, re.M)
    if not found:
        raise BuildError("this machine does not run a Debian release (no VERSION_CODENAME in /etc/os-release)")
    targets = output(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)|$(RELEASE)|$(COMPONENT)", "Created-By: Packages"],
        what="asking apt for its sources",
    )
    settings = output(["apt-config", "dump", "Acquire"], what="asking apt for its settings")
    return Mirror(choose_mirror(targets, found[1]), choose_settings(settings))


def download(package: str, folder: Path, log: Path) -> Path:
    """Download one package of the image's suite into `folder`; returns the path of the .deb."""
    state = folder / "apt"
    for part in ("lists/partial", "cache/archives/partial"):
        (state / part).mkdir(parents=True)
    origin = mirror()
    (state / "sources.list").write_text(origin.source_line + "\n")
    (state / "apt.conf").write_text(
        "\n".join(
            [
                *origin.settings,
                f'Dir::State "{state}";',
                f'Dir::State::lists "{state}/lists";',
                f'Dir::Cache "{state}/cache";',
                f'Dir::Etc::sourcelist "{state}/sources.list";',
                'Dir::Etc::sourceparts "/dev/null";',
                'APT::Sandbox::User "root";',
            ]
        )
        + "\n"
    )
    options = ["-c", str(state / "apt.conf")]
    run(["apt-get", *options, "update"], what=f"reading the package lists of {SUITE}", log=log)
    run(["apt-get", *options, "download", package], what=f"package {package} cannot be downloaded", log=log, cwd=folder)
    found = sorted(folder.glob(f"{package}_*.deb"))
    if not found:
        raise BuildError(f"package {package} cannot be downloaded: apt delivered no file")
    return found[-1]
