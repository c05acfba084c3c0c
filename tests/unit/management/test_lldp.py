# SPDX-License-Identifier: GPL-2.0-only
"""lldpd's command line and configuration, and what it says of neighbours: texts of lldpd 1.0.16."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from appliance.config.schema import model
from appliance.config.schema.model import Config
from appliance.errors import RefusedError
from appliance.hardware import board
from appliance.management import discovery, lldp
from appliance.management.discovery import Discovery
from appliance.management.port import ManagementPort
from appliance.paths import Paths
from appliance.system.namespace import Namespace
from appliance.system.service import Program

ROW = {
    "name": "mgmt0-hw",
    "via": "LLDP",
    "rid": "1",
    "age": "2 days, 00:01:03",
    "chassis": [
        {
            "id": [{"type": "mac", "value": "7a:00:0f:ad:f7:93"}],
            "name": [{"value": "switch7"}],
            "descr": [{"value": "A switch"}],
            "mgmt-ip": [{"value": "10.88.0.1"}, {"value": "fe80::1"}],
            "capability": [{"type": "Bridge", "enabled": True}, {"type": "Router", "enabled": False}],
        }
    ],
    "port": [
        {
            "id": [{"type": "ifname", "value": "Gi1/0/12"}],
            "descr": [{"value": "rack 4"}],
            "ttl": [{"value": "120"}],
        }
    ],
    "vlan": [{"vlan-id": "7", "pvid": True, "value": "office"}],
}


def test_a_neighbour_is_read() -> None:
    found = lldp.neighbours(json.dumps({"lldp": [{"interface": [ROW]}]}))
    assert found is not None
    (one,) = found
    assert (one.name, one.chassis, one.port, one.port_description) == (
        "switch7",
        "7a:00:0f:ad:f7:93",
        "Gi1/0/12",
        "rack 4",
    )
    assert (one.addresses, one.capabilities, one.vlans) == (["10.88.0.1", "fe80::1"], ["bridge"], ["7"])
    assert (one.age_s, one.ttl_s) == (2 * 86400 + 63, 120)


def test_no_neighbour_is_none_and_no_answer_is_no_answer() -> None:
    assert lldp.neighbours('{"lldp": [{}]}') == []
    for text in ("", "[]", '{"x": 1}', "unable to connect to socket"):
        assert lldp.neighbours(text) is None
    odd = lldp.neighbours('{"lldp": [{"interface": [{"port": {}, "chassis": [1], "age": null}]}]}')
    assert odd is not None
    assert (odd[0].name, odd[0].age_s, odd[0].ttl_s) == ("", 0, 0)


def test_only_the_hardware_port_sends_and_only_if_asked_to() -> None:
    words = lldp.command("mgmt0", "on", Path("/run/c"), Path("/run/s"))
    assert words[words.index("-I") + 1] == "mgmt0-hw"
    assert "-r" not in words
    assert "-r" in lldp.command("mgmt0", "receive", Path("/run/c"), Path("/run/s"))
    text = lldp.configuration("mgmt0", "wire1")
    assert "configure system hostname wire1\n" in text
    assert f"max-neighbors {lldp.MAX_NEIGHBOURS}\n" in text


class Kept(Program):
    asked: list[str] | None = None
    alive = False

    async def want(self, words: list[str] | None) -> None:
        self.asked = words

    @property
    def running(self) -> bool:
        return self.alive


def made(root: Path) -> tuple[Discovery, Kept]:
    program = Kept("lldp", root, root / "log")
    ports = [board.Port(name="mgmt0", mac="02:ff:ff:ff:ff:01", role="management")]
    port = ManagementPort(ports, Namespace("mgmt", root), Kept("dhcp", root, root / "log"), root / "lease")
    return Discovery(Paths(root), port, program), program


def config(mode: str, address: str = "192.0.2.10/24", hostname: str = "wire1") -> Config:
    return Config(
        system=model.System(hostname=hostname),
        management=model.Management(address=address, lldp=mode),  # type: ignore[arg-type]
    )


def test_another_name_is_another_command_line_and_no_file_is_left(tmp_path: Path) -> None:
    found, program = made(tmp_path)

    async def body() -> None:
        await found.converge(config("on"))
        first = program.asked
        assert first is not None
        assert first[0] == "nsenter"
        assert "wire1" in Path(first[first.index("-O") + 1]).read_text()
        assert (tmp_path / discovery.FOLDER).is_dir()
        await found.converge(config("on", hostname="wire2"))
        assert program.asked is not None
        assert program.asked != first
        assert len(list((tmp_path / discovery.FOLDER).glob("*.conf"))) == 1
        for off in (config("off"), config("on", address="")):
            await found.converge(off)
            assert program.asked is None
            assert (await found.show()).state == "off"

    asyncio.run(body())


def test_a_program_that_does_not_run_or_answer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, program = made(tmp_path)
    said = 1, "unable to connect"

    async def answer(argv: list[str], timeout: float) -> tuple[int, str]:
        assert argv[0] == "lldpcli"
        return said

    monkeypatch.setattr(discovery, "run", answer)

    async def body() -> None:
        nonlocal said
        await found.converge(config("receive"))
        program.detail = "lldpd: No such file or directory"
        assert (await found.show()).detail == "lldpd: No such file or directory"
        program.alive, program.detail = True, ""
        shown = await found.show()
        assert (shown.state, shown.detail) == ("failed", "lldpd does not answer")
        said = 0, json.dumps({"lldp": [{"interface": [ROW]}]})
        shown = await found.show()
        assert (shown.state, shown.neighbours[0].name) == ("receive", "switch7")

    asyncio.run(body())


def test_a_file_that_cannot_be_written_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    found, _ = made(tmp_path)
    with pytest.raises(RefusedError, match=r"LLDP: .*run"):
        asyncio.run(found.converge(config("on")))
