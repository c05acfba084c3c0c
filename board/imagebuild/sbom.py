# SPDX-License-Identifier: GPL-2.0-only
"""Bill of materials and licence report of an image that Buildroot makes. Standard library alone.

`python -m imagebuild.sbom --board NAME --info FILE --cyclonedx FILE --out FOLDER [--target DIR]` takes what Buildroot's
`make show-info` and `utils/generate-cyclonedx` say, and adds what they leave out: package URLs, the firmware
that QEMU's package installs, clang, which compiles the datapath, and the demo guest's kernel. There is no time and no
random number in it: the same sources give the same file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tomllib
import urllib.parse
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from imagebuild.errors import BuildError

REPO = Path(__file__).resolve().parents[2]
_SPACE = uuid.UUID("7d1c5a0e-6f52-4c0b-9b7e-53a7f1f9c0ff")
FIRMWARE = "usr/share/qemu"
OF_BUILDROOT = ("initscripts", "skeleton-init-common", "skeleton-init-sysv", "urandom-scripts")
"""Files that Buildroot itself brings; it gives them no licence of their own."""
DEMO_KERNEL = "usr/share/bypass/guest-demo/*Image"

Component = dict[str, Any]


def purl(component: Component) -> str:
    """The package URL of a component of Buildroot (pure): a Python package by its index, others by their archive."""
    name, version = component["name"], urllib.parse.quote(str(component.get("version", "")), safe="")
    sources = [row for row in component.get("externalReferences", []) if row.get("type") == "source-distribution"]
    url = sources[0]["url"] if sources else ""
    if "//files.pythonhosted.org/" in url:
        archive = re.match(r"(.+)-[0-9][^-]*\.(?:tar\.\w+|zip|whl)$", url.rpartition("/")[2])
        index = re.sub(r"[-_.]+", "-", archive[1] if archive else name.removeprefix("python-")).lower()
        return f"pkg:pypi/{index}@{version}"
    more = [f"download_url={urllib.parse.quote(url, safe=':/')}"] if url else []
    sums = [row["content"] for row in (sources[0].get("hashes", []) if sources else []) if row["alg"] == "SHA-256"]
    more += [f"checksum=sha256:{sums[0]}"] if sums else []
    return f"pkg:generic/{name}@{version}" + ("?" + "&".join(sorted(more)) if more else "")


def firmware(target: Path, qemu: Component) -> list[Component]:
    """Files that QEMU's package installs for guests: programs of their own, in the version that QEMU brings."""
    files = sorted(path for path in (target / FIRMWARE).glob("*") if path.suffix in (".bin", ".rom", ".fd"))
    return [_file(path, f"firmware for guests, from QEMU {qemu.get('version')}", "firmware") for path in files]


def _file(path: Path, what: str, kind: str) -> Component:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"bom-ref": f"{kind}-{path.name}", "type": kind, "name": path.name, "version": digest[:12],
            "description": what, "hashes": [{"alg": "SHA-256", "content": digest}],
            "properties": [{"name": "BR_TYPE", "value": "target"}]}  # fmt: skip


def clang(said: str) -> Component:
    """The compiler of the datapath, by what `clang --version` says (pure)."""
    found = re.search(r"clang version (\d[\w.]*)", said)
    version = found[1] if found else "unknown"
    return {"bom-ref": "host-clang", "type": "application", "name": "clang", "version": version,
            "purl": f"pkg:generic/clang@{version}", "description": "compiles steer.bpf.o on the build machine",
            "licenses": [{"license": {"id": "Apache-2.0"}}],
            "properties": [{"name": "BR_TYPE", "value": "host"}]}  # fmt: skip


def complete(bom: dict[str, Any], board: str, version: str, added: Iterable[Component]) -> dict[str, Any]:
    """Buildroot's bill of materials with package URLs and what it leaves out (pure)."""
    components = [*bom["components"], *added]
    for component in components:
        if component.get("type") == "library" and "purl" not in component:
            component["purl"] = purl(component)
    components.sort(key=lambda component: str(component["bom-ref"]))
    tools = bom.get("metadata", {}).get("tools", {})
    subject = {"bom-ref": "firmware", "type": "firmware", "name": f"throughwire-{board}", "version": version,
               "licenses": [{"license": {"id": "GPL-2.0-only"}}],
               "purl": f"pkg:generic/throughwire@{version}?board={board}"}  # fmt: skip
    buildroot = bom.get("metadata", {}).get("component")
    made = {**bom, "metadata": {"component": subject, "tools": tools}, "components": components, "version": 1}
    if buildroot:
        made["metadata"]["properties"] = [{"name": "buildroot", "value": str(buildroot.get("version"))}]
    serial = uuid.uuid5(_SPACE, json.dumps(made, sort_keys=True))
    return {**made, "serialNumber": f"urn:uuid:{serial}"}


def on_appliance(info: dict[str, dict[str, Any]]) -> dict[str, tuple[str, str]]:
    """Version and licences of the packages that are on the appliance (pure)."""
    found = {}
    for name, package in sorted(info.items()):
        # The boot loader is on the disk, and not in the root file system
        installed = package.get("install_target", True) or package.get("install_images")
        if package.get("type") == "target" and not package.get("virtual") and installed:
            licence = str(package.get("licenses") or "unknown")
            if licence == "unknown" and name in OF_BUILDROOT:
                licence = "GPL-2.0+ (part of Buildroot)"
            found[name] = (str(package.get("version") or ""), licence)
    return found


def licences(info: dict[str, dict[str, Any]], board: str, version: str) -> str:
    """What is on the appliance and under which licence, as a table (pure)."""
    rows = [
        f"# Licences of throughwire {version} for {board}",
        "",
        "Packages on the appliance. `make legal-info` in Buildroot's output folder collects texts and sources.",
        "",
        "| package | version | licences |",
        "|---|---|---|",
    ]
    rows += [f"| {name} | {of} | {licence} |" for name, (of, licence) in on_appliance(info).items()]
    return "\n".join([*rows, ""])


def unknown(info: dict[str, dict[str, Any]]) -> list[str]:
    """Packages on the appliance whose licence nobody has written down (pure)."""
    return [name for name, (_, licence) in on_appliance(info).items() if licence == "unknown"]


def main() -> int:
    """Exit code 0, or 1 with one clear line on standard error."""
    parser = argparse.ArgumentParser(prog="imagebuild.sbom", description="Bill of materials and licence report.")
    parser.add_argument("--board", required=True)
    parser.add_argument("--info", type=Path, required=True, help="what `make show-info` says")
    parser.add_argument("--cyclonedx", type=Path, required=True, help="what `utils/generate-cyclonedx` says")
    parser.add_argument("--target", type=Path, help="the root file system, for the files of the firmware")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    try:
        version = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["version"]
        info, bom = json.loads(options.info.read_text()), json.loads(options.cyclonedx.read_text())
        added = []
        if compiler := shutil.which("clang"):
            added.append(
                clang(subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout)
            )
        if options.target:
            added += firmware(options.target, next(c for c in bom["components"] if c["name"] == "qemu"))
            added += [_file(path, "kernel of the demo guest", "file") for path in options.target.glob(DEMO_KERNEL)]
        if missing := unknown(info):
            raise BuildError(f"packages without a licence: {', '.join(missing)}")
        options.out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(complete(bom, options.board, version, added), indent=1, sort_keys=True)
        (options.out / "sbom.cdx.json").write_text(text + "\n")
        (options.out / "licences.md").write_text(licences(info, options.board, version))
    except (BuildError, OSError, ValueError, KeyError, StopIteration) as error:
        print(f"image: bill of materials: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
