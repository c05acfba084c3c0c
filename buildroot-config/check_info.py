# SPDX-License-Identifier: GPL-2.0-only
"""Read Buildroot's show-info from standard input: is every package of the given folder in it, with licence and version?

Runs for the length of one check; prints what is wrong, exit code 1 if anything is.
"""

import json
import sys
from pathlib import Path


def problems(info: dict[str, dict[str, object]], names: list[str]) -> list[str]:
    """What `info` lacks, one line each. A package that the configuration does not select is missing from show-info."""
    found = []
    for name in names:
        package = info.get(name)
        if package is None:
            found.append(f"{name}: not selected by the configuration")
            continue
        found += [f"{name}: no {key}" for key in ("version", "licenses", "license_files") if not package.get(key)]
    return found


def main() -> int:
    names = sorted(folder.name for folder in Path(sys.argv[1]).iterdir() if folder.is_dir())
    try:
        info = json.load(sys.stdin)
    except ValueError as error:
        print(f"check-image: show-info is no JSON: {error}", file=sys.stderr)
        return 1
    found = problems(info, names)
    for line in found:
        print(f"check-image: {line}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
