# SPDX-License-Identifier: GPL-2.0-only
"""The software of an image and its licences, from the files that came with it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from imagebuild import licences

from appliance.errors import BypassError, NotFoundError
from appliance.support.licences import LIST, Licences

DEP5 = "Format: x\n\nFiles: *\nLicense: GPL-2\n\nFiles: a\nLicense: LGPL-2.1+ \n text\n\nLicense: GPL-2\n text\n"
ROWS = [("iproute2", "6.15.0-1", "GPL-2, LGPL-2.1+"), ("odd", "", "")]


def test_what_an_image_has(tmp_path: Path) -> None:
    """The list that the image build writes is read as it is, and shown with ours, the kernel's and Python's."""
    (tmp_path / LIST).parent.mkdir(parents=True)
    (tmp_path / LIST).write_text(licences.listed(ROWS, "Debian"))
    shown = asyncio.run(Licences(tmp_path).show({}))
    found = {one.name: one for one in shown}
    assert shown[0].name == "throughwire"
    assert (found["iproute2"].licence, found["iproute2"].source) == ("GPL-2, LGPL-2.1+", "Debian")
    assert (found["odd"].licence, found["throughwire"].licence) == ("", "GPL-2.0-only")
    assert (found["msgspec"].source, "BSD" in found["msgspec"].licence) == ("Python", True)
    assert found["linux"].licence.startswith("GPL-2.0-only")


def test_an_image_without_a_list_and_one_with_a_damaged_list(tmp_path: Path) -> None:
    assert "Debian" not in {one.source for one in asyncio.run(Licences(tmp_path).show({}))}
    (tmp_path / LIST).parent.mkdir(parents=True)
    (tmp_path / LIST).write_text('[{"name": 1}]')
    with pytest.raises(BypassError, match=LIST):
        asyncio.run(Licences(tmp_path).show({}))


def test_texts(tmp_path: Path) -> None:
    (tmp_path / "usr/share/doc/iproute2").mkdir(parents=True)
    (tmp_path / "usr/share/doc/iproute2/copyright").write_text(DEP5)
    (tmp_path / "copyright").write_text("secret")
    offered = Licences(tmp_path)
    assert asyncio.run(offered.text({"name": "iproute2"})).text == DEP5
    assert "Redistribution" in asyncio.run(offered.text({"name": "msgspec"})).text
    for name in ("nothing", "..", "../../..", "/etc", ""):
        with pytest.raises(NotFoundError):
            asyncio.run(offered.text({"name": name}))
