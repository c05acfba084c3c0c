# SPDX-License-Identifier: GPL-2.0-only
"""Runs lldpd on the management port as configured, and asks it who is at the other end of the cable.

The program outlives bypassd. Owned by the part "access".
"""

from __future__ import annotations

import asyncio
import hashlib
from functools import partial
from pathlib import Path

from appliance.api.schema import machine
from appliance.config.schema.model import Config
from appliance.errors import RefusedError, UnreachableError
from appliance.management import lldp
from appliance.management.port import ManagementPort
from appliance.paths import Paths
from appliance.system import files
from appliance.system.command import run
from appliance.system.service import Program
from appliance.system.threads import to_the_end

ANSWER_S = 3.0
FOLDER = "run/lldpd"
"""The half of the program that reads frames is confined to this folder, where it is built in two halves. lldpcli drops
root's rights before it opens files, so its files are here, and the folder is no secret."""


class Discovery:
    """See the module."""

    def __init__(self, paths: Paths, port: ManagementPort, program: Program) -> None:
        self._folder, self._port, self.program = paths.root / FOLDER, port, program
        self._mode: lldp.Mode = "off"
        self._name = ""

    @property
    def _socket(self) -> Path:
        return self._folder / "socket"

    async def converge(self, config: Config) -> None:
        """Be as configured. RefusedError: a file cannot be written."""
        management = config.management
        reachable = bool(management.address or management.address6)
        self._mode = management.lldp if reachable else "off"
        if self._mode == "off":
            await self.program.want(None)
            return
        self._name = self._port.name(management)
        text = lldp.configuration(self._name, config.system.hostname)
        try:
            settings = await to_the_end(partial(self._write, text))
        except OSError as error:
            raise RefusedError(f"LLDP: {error.filename}: {error.strerror}") from error
        words = lldp.command(self._name, self._mode, settings, self._socket)
        await self.program.want(self._port.space.command(words))

    def _write(self, text: str) -> Path:
        """The file with the configuration, which is read at the program's start: another text is another file, and by
        that another command line. In a thread."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{hashlib.sha256(text.encode()).hexdigest()[:12]}.conf"
        if not path.exists():
            files.replace(path, text, 0o644, synced=False)
        for old in self._folder.glob("*.conf"):
            if old != path:
                old.unlink(missing_ok=True)
        return path

    async def show(self) -> machine.Lldp:
        """lldp.show"""
        answer = machine.Lldp(self._mode, "", self._name if self._mode != "off" else "", [])
        if self._mode == "off":
            answer.detail = "`set management lldp on` sends and receives, `receive` only listens"
            return answer
        answer.state, answer.detail = "failed", self.program.detail or "lldpd does not answer"
        if not self.program.running:
            return answer
        try:
            status, text = await run(lldp.question(self._socket), ANSWER_S)
        except UnreachableError as error:
            answer.detail = str(error)
            return answer
        found = await asyncio.to_thread(lldp.neighbours, text) if status == 0 else None
        if found is not None:
            answer.state, answer.detail, answer.neighbours = self._mode, "", found
        return answer
