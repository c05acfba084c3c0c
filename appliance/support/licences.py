# SPDX-License-Identifier: GPL-2.0-only
"""The software of the image and its licences: Throughwire, Python packages, the packages of the distribution.

Nothing is listed by hand but ourselves and the kernel: names, versions and texts are those that came with the packages.
The image brings the list of the distribution's packages, because reading the files of all of them takes a busy
appliance longer than anybody waits. Still reads files: call it in a thread.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec

import appliance
from appliance.api.rpc import Param, Params, Registry
from appliance.api.schema import methods
from appliance.api.schema.machine import Licence, LicenceText
from appliance.errors import BypassError, NotFoundError

MOST_TEXT: Final = 256 << 10
OWN: Final = "throughwire"
LIST: Final = "usr/share/bypass/licences.json"
_OSI = "License :: OSI Approved :: "


class Licences:
    """The handlers. `root` is the root of the image; Python packages are those of the interpreter that runs."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def register(self, registry: Registry) -> None:
        """Offer the methods."""
        name = {"name": Param("string", "a component in licences.show")}
        registry.add(methods.LICENCES_SHOW, self.show, doc="software of the image, with versions and licences")
        registry.add(methods.LICENCE_SHOW, self.text, doc="the licence text of one component", params=name)

    async def show(self, _: Params) -> list[Licence]:
        """licences.show"""
        return await asyncio.to_thread(lambda: sorted(self._all(), key=lambda one: (one.name != OWN, one.name)))

    async def text(self, params: Params) -> LicenceText:
        """licence.show"""
        name = str(params["name"])
        found = await asyncio.to_thread(self._text, name)
        if not found:
            raise NotFoundError(f'no licence text of "{name}" in this image: `show licences` has the names')
        return LicenceText(name, found[:MOST_TEXT])

    def _all(self) -> Iterator[Licence]:
        yield Licence("linux", os.uname().release, "GPL-2.0-only WITH Linux-syscall-note", "kernel")
        for found in importlib.metadata.distributions():
            about = found.metadata
            said = next((about[key] for key in ("License-Expression", "License") if key in about), "")
            classes = [each.removeprefix(_OSI) for each in about.get_all("Classifier") or () if each.startswith(_OSI)]
            short = said if said and len(said) < 80 and "\n" not in said else ", ".join(classes)
            name = (about["Name"] or "").lower()
            if name == OWN:
                yield Licence(OWN, appliance.__version__, "GPL-2.0-only", "own")
            elif name:
                yield Licence(name, found.version, short, "Python")
        yield from self._distribution()

    def _distribution(self) -> list[Licence]:
        """The packages of the distribution as the image lists them; none on a computer that is no appliance."""
        listed = self._read(LIST)
        try:
            return msgspec.json.decode(listed, type=list[Licence]) if listed else []
        except msgspec.MsgspecError as error:
            raise BypassError(f"/{LIST} of this image cannot be read: {error}") from error

    def _text(self, name: str) -> str:
        """The text that came with a component; texts that it refers to are named in it."""
        if re.fullmatch(r"[a-z0-9][a-z0-9+.-]*", name) and (found := self._read(self._copyright(name))):
            return found
        for each in importlib.metadata.distributions():
            if (each.metadata["Name"] or "").lower() == name:
                return "\n\n".join(self._texts(each))
        return ""

    def _texts(self, found: importlib.metadata.Distribution) -> Iterable[str]:
        for path in found.files or ():
            if re.match(r"(?i)(licen[cs]e|copying|notice)", path.name):
                yield Path(path.locate()).read_text(encoding="utf-8", errors="replace")

    @staticmethod
    def _copyright(package: str) -> str:
        return f"usr/share/doc/{package.partition(':')[0]}/copyright"

    def _read(self, name: str) -> str:
        try:
            with (self._root / name).open(encoding="utf-8", errors="replace") as file:
                return file.read(8 << 20)
        except OSError:
            return ""
