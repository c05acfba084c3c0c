# SPDX-License-Identifier: GPL-2.0-only
"""The logs of the appliance over the API: those of its programs, of the kernel, of a guest's serial line.

What a support bundle leaves out is left out here too: every line passes the redaction of secrets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from appliance.api.rpc import Param, Params, Registry
from appliance.api.schema import methods
from appliance.api.schema.machine import Log
from appliance.config.schema.secrets import HIDDEN, redact
from appliance.errors import RefusedError, UnreachableError
from appliance.system import log_reader

FILES: Final = {
    "supervisor": "bypass.log",
    "ssh": "ssh.log",
    "console": "serial.log",
    "dhcp": "dhcp.log",
    "ntp": "ntp.log",
    "lldp": "lldp.log",
    "snmp": "snmp.log",
    "data-partition": "data-partition.log",
}
SOURCES: Final = (*FILES, "kernel", "guest")
MOST: Final = 5000  # lines of an answer


class Logs:
    """The handler. `guest_log` gives the log file of a guest, or raises NotFoundError."""

    def __init__(
        self, folder: Path, guest_log: Callable[[str], Path], secrets: Callable[[], Iterable[str]] = tuple
    ) -> None:
        self._folder, self._guest_log, self._secrets = folder, guest_log, secrets

    def register(self, registry: Registry) -> None:
        """Offer the method."""
        params = {
            "source": Param("string", "whose log", choices=SOURCES),
            "guest": Param("string", "the guest, for the source guest", required=False),
            "lines": Param("integer", f"number of lines, at most {MOST}; left out: 40", required=False),
            "after": Param("string", "the cursor of an earlier answer: only lines since then", required=False),
        }
        registry.add(methods.LOG_SHOW, self.show, "operator", "lines of a log, without secrets", params)

    async def show(self, params: Params) -> Log:
        """log.show"""
        source, after = str(params["source"]), str(params.get("after", ""))
        count = int(params.get("lines", 40))
        if not 1 <= count <= MOST:
            raise RefusedError(f"lines: 1 to {MOST}")
        if ("guest" in params) != (source == "guest"):
            raise RefusedError("guest: it is named with the source guest, and with no other")
        try:
            found = await asyncio.to_thread(self._read, source, str(params.get("guest", "")), after)
        except OSError as error:
            raise UnreachableError(f"log of {source}: {error.strerror}") from error
        shown = found.lines[-count:]
        lost = found.lost or (bool(after) and len(shown) < len(found.lines))
        return Log(await asyncio.to_thread(self._hide, shown), found.cursor, lost)

    def _read(self, source: str, guest: str, after: str) -> log_reader.Lines:
        if source == "kernel":
            return log_reader.kernel(after)
        return log_reader.file(self._guest_log(guest) if source == "guest" else self._folder / FILES[source], after)

    def _hide(self, lines: list[str]) -> list[str]:
        secrets = [secret for secret in self._secrets() if secret]
        shown = []
        for line in lines:
            text = redact(line)
            for secret in secrets:
                text = text.replace(secret, HIDDEN)
            shown.append(text)
        return shown
