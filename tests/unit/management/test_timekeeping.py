# SPDX-License-Identifier: GPL-2.0-only
"""Time zone, name servers and NTP client as the configuration has them; setting the clock by hand."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from appliance.config.schema import model
from appliance.config.schema.model import Config
from appliance.errors import ConfigError, RefusedError
from appliance.management import timekeeping
from appliance.management.port import ManagementPort
from appliance.management.timekeeping import Timekeeping
from appliance.paths import Paths
from appliance.system import clock
from appliance.system.namespace import Namespace
from appliance.system.service import Program
from appliance.telemetry.events import Events

ZONES = Path("/usr/share/zoneinfo")


class Kept(Program):
    """A program that only notes how it was wanted."""

    asked: list[str] | None = None
    alive = False

    async def want(self, words: list[str] | None) -> None:
        self.asked = words

    @property
    def running(self) -> bool:
        return self.alive


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    for name in ("Europe/Berlin", "Europe/Bern", "UTC"):
        (tmp_path / clock.ZONES / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / clock.ZONES / name).write_bytes(b"TZif")
    (tmp_path / "etc").mkdir()
    yield tmp_path
    time.tzset()


def made(root: Path) -> tuple[Timekeeping, Kept, Path]:
    lease = root / "lease"
    program = Kept("ntp", root, root / "log")
    port = ManagementPort([], Namespace("mgmt", root), Kept("dhcp", root, root / "log"), lease)
    return Timekeeping(Paths(root), port, program, Events()), program, lease


def config(address: str = "192.0.2.10/24", dns: tuple[str, ...] = (), **times: object) -> Config:
    return Config(management=model.Management(address=address, dns=dns), time=model.Time(**times))  # type: ignore[arg-type]


def test_servers_of_the_configuration_else_of_dhcp(root: Path) -> None:
    keeping, program, lease = made(root)
    lease.write_text("state=bound\ndns=192.0.2.53\nntp=192.0.2.123\n")

    async def body() -> None:
        await keeping.converge(config(dns=("10.0.0.53",), servers=("ntp.example.net",)))
        assert program.asked is not None
        assert program.asked[0] == "nsenter"
        assert "server ntp.example.net iburst maxpoll 9" in program.asked
        assert "nameserver 10.0.0.53" in (root / "etc/resolv.conf").read_text()
        await keeping.converge(config("dhcp"))
        assert "server 192.0.2.123 iburst maxpoll 9" in program.asked
        assert "nameserver 192.0.2.53" in (root / "etc/resolv.conf").read_text()
        await keeping.converge(config())
        assert program.asked is None
        assert "nameserver" not in (root / "etc/resolv.conf").read_text()
        shown = await keeping.show()
        assert (shown.state, shown.servers_from) == ("off", "none")

    asyncio.run(body())


def test_a_client_that_does_not_run_is_named(root: Path) -> None:
    keeping, program, _ = made(root)

    async def body() -> None:
        await keeping.converge(config(servers=("192.0.2.1",)))
        program.detail = "chronyd: No such file or directory"
        shown = await keeping.show()
        assert (shown.state, shown.detail) == ("failed", "chronyd: No such file or directory")

    asyncio.run(body())


def test_the_time_zone_is_a_link_that_programs_follow(root: Path) -> None:
    keeping, _, _ = made(root)

    async def body() -> None:
        keeping.check(config(zone="Europe/Berlin"))
        await keeping.converge(config(zone="Europe/Berlin"))
        assert os.readlink(root / "etc/localtime") == "/usr/share/zoneinfo/Europe/Berlin"
        assert (await keeping.show()).zone == "Europe/Berlin"
        await keeping.converge(config())
        assert os.readlink(root / "etc/localtime") == "/usr/share/zoneinfo/UTC"

    asyncio.run(body())
    with pytest.raises(ConfigError, match=r"did you mean Europe/Ber(n|lin)"):
        keeping.check(config(zone="Europe/Berln"))


def test_an_image_without_zones_has_utc(tmp_path: Path) -> None:
    keeping, _, _ = made(tmp_path)
    (tmp_path / "etc").mkdir()
    keeping.check(config())
    asyncio.run(keeping.converge(config()))
    assert not (tmp_path / "etc/localtime").exists()
    with pytest.raises(ConfigError, match="no time zones other than UTC"):
        keeping.check(config(zone="Europe/Berlin"))


def test_the_clock_is_set_by_hand_unless_ntp_keeps_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[datetime] = []
    keeping, program, _ = made(root)
    with pytest.raises(RefusedError, match="the clock is not its own"):
        asyncio.run(keeping.set("2026-12-24 03:30", "anna"))
    keeping._set = told.append

    async def body() -> None:
        said = await keeping.set("2026-12-24 03:30", "anna")
        assert said.startswith("clock: 2026-12-24 03:30:00")
        assert told == [datetime(2026, 12, 24, 3, 30).astimezone()]
        for wrong in ("soon", "2026-13-01 10:00", "1970-01-01 00:00"):
            with pytest.raises(RefusedError):
                await keeping.set(wrong, "anna")
        program.alive = True
        await keeping.converge(config(servers=("192.0.2.1",)))

        async def chronyc(words: list[str], timeout: float) -> tuple[int, str]:
            text = "C0000201,192.0.2.1,2,1.0,0.1,0.1,0.1,0,0,0,0.002,0.005,64.2,Normal\n"
            return 0, text if words[-1] == "tracking" else ""

        monkeypatch.setattr(timekeeping, "run", chronyc)
        with pytest.raises(RefusedError, match="NTP keeps the clock"):
            await keeping.set("2026-12-24 03:30", "anna")
        shown = await keeping.show()
        assert (shown.state, shown.source, shown.offset_s) == ("synchronized", "192.0.2.1", -0.1)

    asyncio.run(body())
    assert len(told) == 1


@pytest.mark.skipif(not ZONES.is_dir() or not shutil.which("date"), reason="no time zones here")
def test_programs_read_the_zone(root: Path) -> None:
    """The link that is written is one that the C library reads."""
    assert clock.zone_trouble(Path("/"), "Europe/Berlin") == ""
    assert "did you mean" in clock.zone_trouble(Path("/"), "Europe/Berlinn")
