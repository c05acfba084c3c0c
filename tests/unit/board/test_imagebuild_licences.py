# SPDX-License-Identifier: GPL-2.0-only
"""The list of packages and licences that the image build writes for `show licences`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from boardspec import REPO
from imagebuild import appliance_layer, licences

from appliance.support.licences import LIST

STATUS = """\
Package: iproute2
Status: install ok installed
Version: 6.15.0-1

Package: gone
Status: deinstall ok config-files
Version: 1

Package: odd
Status: install ok installed
"""
DEP5 = "Format: x\n\nFiles: *\nLicense: GPL-2\n\nFiles: a\nLicense: LGPL-2.1+ \n text\n\nLicense: GPL-2\n text\n"


def test_names_of_licences() -> None:
    assert list(licences.installed("")) == []
    assert licences.names(DEP5) == "GPL-2, LGPL-2.1+"
    assert licences.names("On Debian systems see /usr/share/common-licenses/GPL-2, or LGPL-2.1.") == "GPL-2"
    assert licences.names("") == ""


def test_packages_of_debian(tmp_path: Path) -> None:
    """What is installed, with the licences of its copyright file where it has one."""
    (tmp_path / "var/lib/dpkg").mkdir(parents=True)
    (tmp_path / "var/lib/dpkg/status").write_text(STATUS)
    (tmp_path / "usr/share/doc/iproute2").mkdir(parents=True)
    (tmp_path / "usr/share/doc/iproute2/copyright").write_text(DEP5)
    rows = json.loads(licences.listed(licences.debian(tmp_path), "Debian"))
    assert rows == [
        {"name": "iproute2", "version": "6.15.0-1", "licence": "GPL-2, LGPL-2.1+", "source": "Debian"},
        {"name": "odd", "version": "", "licence": "", "source": "Debian"},
    ]


def test_packages_of_buildroot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those on the appliance; the kernel, ourselves and Python's packages are known there already."""
    info = {
        name: {"type": kind, "version": "1", "licenses": "GPL-2.0+"}
        for name, kind in (
            ("busybox", "target"), ("gcc", "host"), ("linux", "target"), ("python-pyrad", "target"),
            ("throughwire", "target"),
        )
    }  # fmt: skip
    (tmp_path / "info.json").write_text(json.dumps(info))
    monkeypatch.setattr("sys.argv", ["licences", "--info", str(tmp_path / "info.json")])
    assert licences.main() == 0
    assert json.loads(capsys.readouterr().out) == [
        {"name": "busybox", "version": "1", "licence": "GPL-2.0+", "source": "Buildroot"}
    ]


def test_the_list_lies_where_the_appliance_looks() -> None:
    assert f"{appliance_layer.SHARE}/{licences.FILE}" == LIST
    assert f"$target/{LIST}" in (REPO / "buildroot-config/post-build.sh").read_text()
