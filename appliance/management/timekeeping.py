# SPDX-License-Identifier: GPL-2.0-only
"""Time zone, name servers and the NTP client, as the configuration or the DHCP server has them.

The client runs in the namespace of the management port and outlives bypassd. A step of the clock reaches nothing that
frames depend on (system/clock.py). Owned by the part "access".
"""

from __future__ import annotations

import asyncio
import logging
import os
import pwd
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from appliance.api.schema import machine
from appliance.config.schema.model import Config
from appliance.errors import ConfigError, RefusedError, UnreachableError
from appliance.management import ntp, resolver
from appliance.management.port import ManagementPort
from appliance.paths import Paths
from appliance.system import clock, files
from appliance.system.command import run
from appliance.system.service import Program
from appliance.system.threads import to_the_end
from appliance.telemetry.events import Events
from appliance.telemetry.subject import Kind, Notice, Subject

log = logging.getLogger(__name__)

ANSWER_S = 3.0
ACCOUNTS = ("_chrony", "chrony")  # of the client, in either image


class Timekeeping:
    """See the module."""

    def __init__(
        self,
        paths: Paths,
        port: ManagementPort,
        program: Program,
        events: Events,
        set_time: Callable[[datetime], None] = clock.set_time,
    ) -> None:
        self._paths, self._port, self.program, self._events = paths, port, program, events
        self._set = set_time
        self._zone = "UTC"
        self._servers: list[str] = []
        self._from = "none"

    def check(self, new: Config) -> None:
        """ConfigError: this image does not have the time zone. Reads the disk."""
        if new.time.zone != self._zone and (trouble := clock.zone_trouble(self._paths.root, new.time.zone)):
            raise ConfigError("time: zone", trouble)

    async def converge(self, config: Config) -> None:
        """Be as configured. RefusedError: a file cannot be written."""
        reachable = bool(config.management.address or config.management.address6)
        lease = self._port.lease() if config.management.address == "dhcp" else {}
        names, _ = resolver.chosen(config.management.dns, lease, "dns")
        self._servers, self._from = resolver.chosen(config.time.servers, lease, "ntp") if reachable else ([], "none")
        try:
            await to_the_end(partial(self._write, config.time.zone, resolver.text(names)))
            user = await asyncio.to_thread(self._account) if self._servers else ""
        except OSError as error:
            raise RefusedError(f"time and names: {error.filename}: {error.strerror}") from error
        if not self._servers:
            await self.program.want(None)
            return
        words = ntp.command(self._servers, self._paths.state / "ntp" / "drift", user)
        await self.program.want(self._port.space.command(words))

    def _write(self, zone: str, names: str) -> None:
        """In a thread."""
        if clock.use_zone(self._paths.root, zone):
            log.info("time zone: %s", zone)
        self._zone = zone
        path = self._paths.root / "etc/resolv.conf"
        try:
            same = path.read_text() == names
        except OSError:
            same = False
        if not same:
            files.replace(path, names, 0o644, synced=False)

    def _account(self) -> str:
        """Whom the client runs as; its folder is made for it. In a thread."""
        folder = self._paths.state / "ntp"
        folder.mkdir(parents=True, exist_ok=True)
        for name in ACCOUNTS:
            try:
                found = pwd.getpwnam(name)
            except KeyError:
                continue
            if os.stat(folder).st_uid != found.pw_uid:
                shutil.chown(folder, found.pw_uid, found.pw_gid)
            return name
        return "root"

    # -- the API

    async def show(self) -> machine.Clock:
        """clock.show"""
        chip = await asyncio.to_thread(clock.chip)
        now = datetime.now(UTC)
        answer = machine.Clock(
            now=now.astimezone().isoformat(timespec="milliseconds"),
            utc=now.isoformat(timespec="milliseconds"),
            zone=self._zone,
            state="off",
            detail="" if self._servers else "no time server is configured, and DHCP named none",
            servers_from=self._from,
            servers=[],
            chip=chip.isoformat(timespec="seconds") if chip else None,
        )
        if chip is not None:
            answer.chip_ahead_s = round((chip - now).total_seconds())
        if self._servers:
            await self._ask(answer)
        return answer

    async def _ask(self, answer: machine.Clock) -> None:
        answer.state, answer.detail = "failed", self.program.detail or "the NTP client does not answer"
        if not self.program.running:
            return
        try:
            status, tracking = await run([*ntp.CLIENT, "tracking"], ANSWER_S)
            _, sources = await run([*ntp.CLIENT, "sources"], ANSWER_S)
        except UnreachableError as error:
            answer.detail = str(error)
            return
        found = ntp.tracking(tracking) if status == 0 else None
        if found is None:
            return
        answer.servers, answer.detail = ntp.sources(sources), ""
        answer.state = "synchronized" if found.synchronized else "not synchronized"
        if found.synchronized:
            answer.source, answer.stratum = found.source, found.stratum
            answer.offset_s, answer.error_s = found.offset_s, found.error_s

    async def set(self, when: str, user: str) -> str:
        """clock.set: set the clock by hand. RefusedError: NTP keeps it, or `when` is no time."""
        try:
            wanted = datetime.fromisoformat(when).astimezone()
        except (ValueError, OverflowError) as error:
            raise RefusedError(f'"{when}" is not a time: YYYY-MM-DD HH:MM or YYYY-MM-DD HH:MM:SS') from error
        if not clock.FIRST_YEAR <= wanted.year <= clock.LAST_YEAR:
            raise RefusedError(f"{wanted.year} is not a year of this appliance's life")
        if self.program.running and (await self.show()).state == "synchronized":
            raise RefusedError("NTP keeps the clock", "`show clock` names the servers; remove them to set it by hand")
        if self._paths.root != Path("/") and self._set is clock.set_time:
            raise RefusedError(f"the root of this bypassd is {self._paths.root}: the clock is not its own")
        before = datetime.now(UTC)
        try:
            await asyncio.to_thread(self._set, wanted)
        except (OSError, OverflowError) as error:
            raise RefusedError(f"the clock cannot be set: {error}") from error
        moved = (wanted - before).total_seconds()
        said = f"set from {before.astimezone():%Y-%m-%d %H:%M:%S %Z}, by {moved:+.0f} s"
        self._events.record(Notice.CLOCK_SET, Subject(Kind.SYSTEM), f"clock {said}, by {user}")
        return f"clock: {wanted:%Y-%m-%d %H:%M:%S %Z}; {said}"
