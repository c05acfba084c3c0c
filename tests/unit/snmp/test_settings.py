# SPDX-License-Identifier: GPL-2.0-only
"""snmpd's configuration, and the record of its engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.config.schema import model, snmp_keys
from appliance.config.schema.model import Config
from appliance.snmp import engine, settings

ENGINE = bytes.fromhex("80001f88050102030405060708")
AUTH = snmp_keys.key("correct horse", "sha-256")
PRIV = snmp_keys.key("battery staple", "sha-256")
USER = model.SnmpUser(name="monitor", auth_passphrase=AUTH, priv_passphrase=PRIV)


def text(**more: object) -> list[str]:
    made = Config(
        system=model.System(hostname="wire1"),
        management=model.Management(address="192.0.2.1/24", address6="2001:db8::1/64"),
        snmp=model.Snmp(enabled=True, **{"user": (USER,), **more}),  # type: ignore[arg-type]
    )
    return settings.configuration(made, engine=ENGINE, about="A box", socket=Path("/s")).splitlines()


def test_nothing_is_open_to_communities_and_nothing_can_be_set() -> None:
    words = {line.split()[0] for line in text()}
    assert not words & {"rocommunity", "rwcommunity", "rocommunity6", "com2sec", "rwuser", "authcommunity", "trapsink"}
    assert "rouser -s usm monitor priv -V offered" in text()
    notify = (USER, model.SnmpUser(name="signs", access="notify", auth_passphrase=AUTH, priv_passphrase=PRIV))
    assert not any(line.startswith("rouser") and "signs" in line for line in text(user=notify))


def test_users_have_keys_of_this_engine_alone() -> None:
    (line,) = (line for line in text() if line.startswith("createUser"))
    auth = snmp_keys.localized("correct horse", "sha-256", ENGINE)
    priv = snmp_keys.localized("battery staple", "sha-256", ENGINE)[:16]
    assert line == f"createUser monitor SHA-256 -l 0x{auth.hex()} AES -l 0x{priv.hex()}"
    whole = "\n".join(text())
    assert AUTH not in whole
    assert "correct" not in whole


def test_only_addresses_that_are_there_are_listened_at() -> None:
    assert text()[0] == "agentaddress udp:161,udp6:[::]:161"
    one = Config(management=model.Management(address6="2001:db8::1/64"), snmp=model.Snmp(port=1161, user=(USER,)))
    said = settings.configuration(one, engine=ENGINE, about="x", socket=Path("/s"))
    assert said.startswith("agentaddress udp6:[::]:1161\n")


def test_a_text_cannot_bring_a_line_of_its_own() -> None:
    found = text(location="rack\nrwcommunity x", contact="")
    assert "sysLocation rack rwcommunity x" in found
    assert "sysContact -" in found


@pytest.mark.parametrize("kind", ["trap", "inform"])
def test_receivers(kind: str) -> None:
    receiver = model.SnmpReceiver(name="nms", address="2001:db8::162", user="monitor", kind=kind)  # type: ignore[arg-type]
    line = text(receiver=(receiver,))[-1]
    assert line.startswith("trapsess -v 3 -u monitor -l authPriv -a SHA-256 -x AES ")
    assert line.endswith(" udp6:[2001:db8::162]:162")
    assert (f"-e 0x{ENGINE.hex()} -3k" in line, "-Ci" in line) == (kind == "trap", kind == "inform")
    assert (AUTH in line) == (kind == "inform"), "the receiver's engine is not ours"


def test_the_arguments_have_no_secret_and_give_up_root() -> None:
    words = settings.command(Path("/conf"), Path("/kept"), "snmp")
    assert words[-4:] == ["-u", "snmp", "-g", "snmp"]
    assert "SNMPCONFPATH=/conf:/kept" in words
    assert "-C" not in words, "it would begin to count anew"


def test_the_count_is_on_the_disk_before_it_is_used(tmp_path: Path) -> None:
    path = tmp_path / "snmp.json"
    first = engine.load(path)
    assert first.boots == 0
    assert len(first.identity) == 13
    assert engine.load(path) == first
    engine.reserve(path, first, 0)
    assert engine.load(path).boots == first.boots == engine.RESERVED
    written = path.stat().st_mtime_ns
    engine.reserve(path, first, 3)
    assert path.stat().st_mtime_ns == written, "not at every look"
    engine.reserve(path, first, engine.RESERVED // 2)
    assert engine.load(path).boots >= engine.RESERVED + engine.RESERVED // 2


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"engine": "00", "boots": 3}', '{"engine": "80001f8805", "boots": -1}']
)
def test_a_damaged_record_is_another_engine(tmp_path: Path, text: str) -> None:
    path = tmp_path / "snmp.json"
    path.write_text(text)
    made = engine.load(path)
    assert made.boots == 0
    assert len(made.identity) == 13
    assert engine.load(path) == made


def test_the_count_is_read_from_what_snmpd_keeps() -> None:
    assert engine.counted("setserialno 1\nengineBoots 17\noldEngineID 0x80\n") == 17
    assert engine.counted("# engineBoots 17\n") == 0
