# SPDX-License-Identifier: GPL-2.0-only
"""The bill of materials: what Buildroot says, with package URLs and what it leaves out."""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path
from typing import Any

from imagebuild import sbom

PYPI = "https://files.pythonhosted.org/packages/d0/e6/6dcf/qemu_qmp-0.0.6.tar.gz"


def component(name: str, version: str = "1.2", url: str = "", digest: str = "") -> dict[str, Any]:
    source = {"type": "source-distribution", "url": url}
    if digest:
        source["hashes"] = [{"alg": "SHA-256", "content": digest}]  # type: ignore[assignment]
    return {"bom-ref": name, "type": "library", "name": name, "version": version,
            "externalReferences": [source] if url else []}  # fmt: skip


def test_package_urls() -> None:
    """A Python package is named as its index names it, another one by its archive."""
    assert sbom.purl(component("python-qemu-qmp", "0.0.6", PYPI)) == "pkg:pypi/qemu-qmp@0.0.6"
    assert sbom.purl(component("linux", "6.12.91", "https://k.example/linux.tar.xz", "ab")) == (
        "pkg:generic/linux@6.12.91?checksum=sha256:ab&download_url=https://k.example/linux.tar.xz"
    )
    assert sbom.purl(component("throughwire", "0.1+x")) == "pkg:generic/throughwire@0.1%2Bx"


BOM = {"bomFormat": "CycloneDX", "specVersion": "1.6", "components": [component("qemu"), component("acl")],
       "metadata": {"component": {"name": "buildroot", "version": "2026.02.3"}, "tools": {}}}  # fmt: skip


def test_complete(tmp_path: Path) -> None:
    """The subject is the firmware of the board; firmware of guests and clang are in it; the same again is the same."""
    folder = tmp_path / sbom.FIRMWARE
    folder.mkdir(parents=True)
    (folder / "bios-256k.bin").write_bytes(b"bios")
    (folder / "keymaps").mkdir()
    added = [*sbom.firmware(tmp_path, BOM["components"][0]), sbom.clang("Debian clang version 14.0.6\nTarget: x86")]  # type: ignore[index]
    first, second = (sbom.complete(copy.deepcopy(BOM), "qemu-x86_64", "0.1.0", added) for _ in range(2))
    assert first == second
    assert first["metadata"]["component"]["name"] == "throughwire-qemu-x86_64"
    assert first["metadata"]["properties"] == [{"name": "buildroot", "value": "2026.02.3"}]
    rows = {row["bom-ref"]: row for row in first["components"]}
    assert list(rows) == sorted(rows)
    assert rows["firmware-bios-256k.bin"]["hashes"][0]["content"] == hashlib.sha256(b"bios").hexdigest()
    assert rows["host-clang"]["version"] == "14.0.6"
    assert all("purl" in row for row in rows.values() if row["type"] == "library")
    assert sbom.complete(copy.deepcopy(BOM), "x86_64", "0.1.0", added)["serialNumber"] != first["serialNumber"]


INFO: dict[str, dict[str, Any]] = {
    "qemu": {"type": "target", "version": "10.2.0", "licenses": "GPL-2.0"},
    "host-gcc": {"type": "host", "licenses": "GPL-3.0"},
    "udev": {"type": "target", "virtual": True},
    "linux-headers": {"type": "target", "install_target": False},
    "grub2": {
        "type": "target",
        "version": "2.12",
        "licenses": "GPL-3.0+",
        "install_target": False,
        "install_images": True,
    },
    "initscripts": {"type": "target", "licenses": ""},
}


def test_licences() -> None:
    """What is on the appliance; tools of the build and virtual packages are not."""
    text = sbom.licences(INFO, "x86_64", "0.1.0")
    assert "| qemu | 10.2.0 | GPL-2.0 |" in text
    assert "| grub2 | 2.12 | GPL-3.0+ |" in text, "on the disk, and not in the root file system"
    assert "| initscripts |  | GPL-2.0+ (part of Buildroot) |" in text
    assert "gcc" not in text
    assert "udev" not in text


def test_a_package_without_a_licence_is_named() -> None:
    assert sbom.unknown(INFO) == []
    assert sbom.unknown(INFO | {"new": {"type": "target", "version": "1"}}) == ["new"]
