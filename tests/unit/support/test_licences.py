# SPDX-License-Identifier: GPL-2.0-only
"""The software of an image and its licences, from the files that came with it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from appliance.errors import NotFoundError
from appliance.support.licences import Licences, debian, names

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


def test_packages_of_the_distribution() -> None:
    assert list(debian(STATUS)) == [("iproute2", "6.15.0-1"), ("odd", "")]
    assert list(debian("")) == []
    assert names(DEP5) == "GPL-2, LGPL-2.1+"
    assert names("On Debian systems see /usr/share/common-licenses/GPL-2, or LGPL-2.1.") == "GPL-2"
    assert names("") == ""


def test_what_an_image_has(tmp_path: Path) -> None:
    (tmp_path / "var/lib/dpkg").mkdir(parents=True)
    (tmp_path / "var/lib/dpkg/status").write_text(STATUS)
    (tmp_path / "usr/share/doc/iproute2").mkdir(parents=True)
    (tmp_path / "usr/share/doc/iproute2/copyright").write_text(DEP5)
    shown = asyncio.run(Licences(tmp_path).show({}))
    found = {one.name: one for one in shown}
    assert shown[0].name == "throughwire"
    assert (found["iproute2"].licence, found["iproute2"].source) == ("GPL-2, LGPL-2.1+", "Debian")
    assert (found["odd"].licence, found["throughwire"].licence) == ("", "GPL-2.0-only")
    assert (found["msgspec"].source, "BSD" in found["msgspec"].licence) == ("Python", True)
    assert found["linux"].licence.startswith("GPL-2.0-only")


def test_texts(tmp_path: Path) -> None:
    (tmp_path / "usr/share/doc/iproute2").mkdir(parents=True)
    (tmp_path / "usr/share/doc/iproute2/copyright").write_text(DEP5)
    (tmp_path / "copyright").write_text("secret")
    licences = Licences(tmp_path)
    assert asyncio.run(licences.text({"name": "iproute2"})).text == DEP5
    assert "Redistribution" in asyncio.run(licences.text({"name": "msgspec"})).text
    for name in ("nothing", "..", "../../..", "/etc", ""):
        with pytest.raises(NotFoundError):
            asyncio.run(licences.text({"name": name}))
