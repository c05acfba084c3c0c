# SPDX-License-Identifier: GPL-2.0-only
"""Read Buildroot's show-info from standard input and hold it against this repository, whose folder is the argument.

Every package of buildroot-config/package and every run-time dependency of pyproject.toml is in it, has version and
licence, and a version within the bounds of pyproject.toml: Buildroot's may be older than what the lock pins.

Runs for the length of one check; prints what is wrong, exit code 1 if anything is.
"""

import json
import re
import sys
import tomllib
from pathlib import Path


def numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, for comparing."""
    return tuple(int(part) for part in re.findall(r"\d+", version))


def problems(info: dict[str, dict[str, object]], names: list[str], requirements: list[str]) -> list[str]:
    """What `info` lacks, one line each. A package that the configuration does not select is missing from show-info."""
    lowest = {}
    for requirement in requirements:
        match = re.fullmatch(r"([\w.-]+)>=([\d.]+)", requirement)
        if match is None:
            return [f"pyproject.toml: {requirement}: this check reads only NAME>=VERSION"]
        name = re.sub(r"[-_.]+", "-", match[1]).lower()
        lowest["python-" + name.removeprefix("python-")] = (match[2], requirement)

    found = []
    for name in sorted({*names, *lowest}):
        package = info.get(name)
        if package is None:
            found.append(f"{name}: not selected by the configuration")
            continue
        found += [f"{name}: no {key}" for key in ("version", "licenses", "license_files") if not package.get(key)]
        if name in lowest and numbers(str(package.get("version"))) < numbers(lowest[name][0]):
            found.append(f"{name}: Buildroot has {package.get('version')}, pyproject.toml wants {lowest[name][1]}")
    return found


def main() -> int:
    root = Path(sys.argv[1])
    names = [folder.name for folder in (root / "buildroot-config/package").iterdir() if folder.is_dir()]
    with (root / "pyproject.toml").open("rb") as file:
        requirements = tomllib.load(file)["project"]["dependencies"]
    try:
        info = json.load(sys.stdin)
    except ValueError as error:
        print(f"check-image: show-info is no JSON: {error}", file=sys.stderr)
        return 1
    found = problems(info, names, requirements)
    for line in found:
        print(f"check-image: {line}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
