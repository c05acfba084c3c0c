# SPDX-License-Identifier: GPL-2.0-only
"""WireGuard below tunnels: what its tool is given and what it says, and how one that refuses is named."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from appliance.config.schema.model import Tunnel, Wireguard
from appliance.errors import UnreachableError
from appliance.system.namespace import Namespace
from appliance.tunnel import secured, wireguard

OURS, THEIRS, SHARED = ("O" * 42 + "E=", "T" * 42 + "E=", "S" * 42 + "E=")
CONFIG = Wireguard(peer="198.51.100.7", public_key=THEIRS, address="10.9.0.1", preshared_key=SHARED)
TUNNEL = Tunnel(kind="vxlan", remote="10.9.0.2", lan_key=7, wan_key=8, wireguard=CONFIG)
DUMP = "private\tpublic\t51820\toff\n{peer}\t(none)\t198.51.100.7:51820\t10.9.0.2/32\t{at}\t92\t180\toff\n"


def test_only_the_far_end_inside_is_taken() -> None:
    """One peer, and of its packets those from the one address that the tunnels end at."""
    assert wireguard.settings(CONFIG, ["10.9.0.2"], OURS).splitlines() == [
        "[Interface]",
        f"PrivateKey = {OURS}",
        "ListenPort = 51820",
        "[Peer]",
        f"PublicKey = {THEIRS}",
        f"PresharedKey = {SHARED}",
        "AllowedIPs = 10.9.0.2/32",
        "Endpoint = 198.51.100.7:51820",
    ]
    six = msgspec.structs.replace(CONFIG, peer="2001:db8::7", preshared_key="", peer_port=7)
    text = wireguard.settings(six, ["fd00::2", "fd00::3"], OURS)
    assert "AllowedIPs = fd00::2/128, fd00::3/128\nEndpoint = [2001:db8::7]:7\n" in text
    assert "PresharedKey" not in text


def test_the_way_to_the_far_end_inside() -> None:
    assert wireguard.addressing("wg1", CONFIG, ["10.9.0.2", "10.9.0.3"], 1540) == [
        ["address", "add", "10.9.0.1/32", "dev", "wg1"],
        ["link", "set", "wg1", "mtu", "1540", "up"],
        ["-4", "route", "add", "10.9.0.2/32", "dev", "wg1"],
        ["-4", "route", "add", "10.9.0.3/32", "dev", "wg1"],
    ]


def test_a_mark_tells_every_difference_and_no_secret() -> None:
    variants = [
        TUNNEL,
        msgspec.structs.replace(TUNNEL, remote="10.9.0.3"),
        msgspec.structs.replace(TUNNEL, kind="ipip", wan_remote="10.9.0.3"),
        *(
            msgspec.structs.replace(TUNNEL, wireguard=msgspec.structs.replace(CONFIG, **{key: value}))
            for key, value in (("peer", "198.51.100.8"), ("port", 7), ("preshared_key", ""), ("private_key_file", "/k"))
        ),
    ]
    marks = [wireguard.mark(tunnel) for tunnel in variants]
    assert len(set(marks)) == len(marks)
    assert not any(SHARED[:20] in mark or THEIRS[:20] in mark for mark in marks)
    assert wireguard.mark(msgspec.structs.replace(TUNNEL, wireguard=None)) == ""


@pytest.mark.parametrize(
    ("at", "what"),
    [
        (0, "no WireGuard handshake with 198.51.100.7: it has another key, or does not listen there"),
        (1000, "the last WireGuard handshake with 198.51.100.7 was 200 s ago"),
        (1100, ""),
    ],
)
def test_what_the_tool_says(at: int, what: str) -> None:
    session = wireguard.parse(DUMP.format(peer=THEIRS, at=at), 3)
    assert session == wireguard.Session("public", at, 92, 180, 3)
    assert session.trouble("198.51.100.7", 1200.0) == what


@pytest.mark.parametrize("text", ["", "Unable to access interface: No such device\n", "a\tb\tc\td\ne\n"])
def test_what_is_no_answer(text: str) -> None:
    assert wireguard.parse(text) is None


class Tool:
    """What `ip` and `wg` print, by a word of their command lines; everything that was run."""

    def __init__(self, answers: dict[str, tuple[int, str]]) -> None:
        self.answers, self.ran = answers, list[str]()

    async def run(self, words: Sequence[str], timeout: float = 0) -> tuple[int, str]:
        line = " ".join(words)
        self.ran.append(line)
        return next((answer for word, answer in self.answers.items() if word in line), (0, ""))


class Space(Namespace):
    """A namespace that exists and takes what is done in it."""

    exists = True

    def make(self) -> None: ...

    def remove(self) -> None: ...

    def inside(self, function: object) -> None:  # type: ignore[override]
        ...


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> secured.Secured:
    monkeypatch.setattr(secured, "Namespace", Space)
    return secured.Secured(TUNNEL, 1, Space("mgmt", tmp_path), tmp_path / "own.key")


@pytest.mark.parametrize(
    ("word", "said", "what"),
    [
        ("type wireguard", "Error: Unknown device type.", "the kernel has none: it was built without CONFIG_WIREGUARD"),
        ("mtu", "RTNETLINK answers: Address already in use", "UDP port 51820 of the management port is in use"),
        ("setconf", "Key is not the correct length or format", "WireGuard to 198.51.100.7: Key is not the correct"),
        ("genkey", "wg cannot be run", "WireGuard to 198.51.100.7: wg cannot be run"),
        ("", "", "own.key: it holds no key"),
    ],
)
def test_what_refuses_is_named(  # noqa: PLR0917
    site: secured.Secured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str, said: str, what: str
) -> None:
    tool = Tool({"genkey": (0, OURS), word: (1, said)}) if word else Tool({"genkey": (0, "half a key")})
    monkeypatch.setattr(secured, "run", tool.run)
    with pytest.raises(UnreachableError, match=what):
        asyncio.run(site.set_up(tmp_path, 1600))
    assert not (tmp_path / "wireguard.conf").exists()


def test_keys_are_in_no_command_line_and_the_own_one_is_made_once(
    site: secured.Secured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = Tool({"genkey": (0, OURS), "dump": (0, DUMP.format(peer=THEIRS, at=0))})
    monkeypatch.setattr(secured, "run", tool.run)
    for _ in range(2):
        assert asyncio.run(site.set_up(tmp_path, 1600))
    assert [line for line in tool.ran if "genkey" in line] == ["wg genkey"]
    key = tmp_path / "own.key"
    assert (key.read_text(), key.stat().st_mode & 0o777) == (OURS, 0o600)
    assert not [line for line in tool.ran if OURS in line or SHARED in line]
    assert any("mtu 1540" in line for line in tool.ran)
    assert site.session is not None
    assert site.session.public_key == "public"


def test_one_that_is_there_is_kept_and_one_that_is_gone_is_noticed(
    site: secured.Secured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = f'[{{"ifalias":"{wireguard.mark(TUNNEL)}","mtu":1540,"stats64":{{"rx":{{"errors":4}}}}}}]'
    tool = Tool({"link show": (0, row), "dump": (0, DUMP.format(peer=THEIRS, at=1))})
    monkeypatch.setattr(secured, "run", tool.run)
    assert not asyncio.run(site.set_up(tmp_path, 1600))
    assert site.session is not None
    assert site.session.refused == 4
    assert not [line for line in tool.ran if "add" in line]
    tool.answers = {"link show": (1, 'Device "wg1" does not exist.')}
    assert asyncio.run(site.look()) == "its WireGuard device was removed by another program"
    assert site.gone
