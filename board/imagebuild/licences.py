# SPDX-License-Identifier: GPL-2.0-only
"""The list of the image's packages with versions and licences, as `show licences` reads it. Standard library alone.

Made with the image, because it takes the reading of hundreds of files. Debian's packages are those of dpkg's status
file and their copyright files; for Buildroot, `python -m imagebuild.licences --info FILE` prints the list from what its
`make show-info` says. Python packages are not in it: the appliance knows them by their own metadata.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from imagebuild import sbom

FILE: Final = "licences.json"
_COMMON = re.compile(r"/usr/share/common-licenses/([A-Za-z0-9.-]+)")

Row = tuple[str, str, str]  # package, version, licences


def installed(status: str) -> Iterator[tuple[str, str]]:
    """(package, version) of what is installed, from dpkg's status file. Pure."""
    for block in status.split("\n\n"):
        fields = dict(re.findall(r"^(Package|Version|Status): (.*)$", block, re.M))
        if fields.get("Status", "").endswith(" installed") and "Package" in fields:
            yield fields["Package"], fields.get("Version", "")


def names(copyright_text: str) -> str:
    """The licences that a Debian copyright file names: DEP-5 fields, else the common ones it refers to. Pure."""
    found = re.findall(r"^License: *(\S[^\n]*)", copyright_text, re.M) or _COMMON.findall(copyright_text)
    return ", ".join(sorted({name.strip() for name in found}))


def debian(tree: Path) -> Iterator[Row]:
    """The packages of an unpacked Debian system."""
    for package, version in installed((tree / "var/lib/dpkg/status").read_text(encoding="utf-8", errors="replace")):
        file = tree / "usr/share/doc" / package / "copyright"
        text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
        yield package, version, names(text)


def buildroot(info: dict[str, dict[str, object]]) -> Iterator[Row]:
    """The packages that Buildroot installs, without those of Python and ourselves (pure)."""
    for name, (version, licences) in sbom.on_appliance(info).items():
        if name not in ("throughwire", "linux") and not name.startswith("python-"):
            yield name, version, licences


def listed(rows: Iterable[Row], source: str) -> str:
    """The list as the file has it (pure)."""
    keys = ("name", "version", "licence")
    return json.dumps([{**dict(zip(keys, row, strict=True)), "source": source} for row in rows], indent=0) + "\n"


def main() -> int:
    """Print the list of an image that Buildroot makes."""
    parser = argparse.ArgumentParser(prog="imagebuild.licences", description="The packages that `show licences` lists.")
    parser.add_argument("--info", type=Path, required=True, help="what `make show-info` says")
    print(listed(buildroot(json.loads(parser.parse_args().info.read_text())), "Buildroot"), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
