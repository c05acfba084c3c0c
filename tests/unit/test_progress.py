# SPDX-License-Identifier: GPL-2.0-only
"""The number that tells the keeper that a start goes on."""

from __future__ import annotations

import json
import socket
from types import SimpleNamespace

import pytest

from appliance import progress
from appliance.filter import loader
from appliance.filter.linkage import LoadableProgram
from appliance.keeper.client import KeeperLink
from appliance.keeper.messages import CheckIn
from appliance.keeper.protocol import PACKET_BYTES, parse_packet


def check_in(link: KeeperLink) -> None:
    link.check_in({"a": ("hold", "starting")}, None, None, at=1, steps=())


def progress_of(packet: bytes) -> str:
    told = parse_packet(packet)
    assert isinstance(told, CheckIn)
    return told.progress


def test_each_hold_is_a_step_and_a_check_in_tells_the_steps_between() -> None:
    """What loads long, far below, and says so with `step`, reaches the keeper with the next check-in."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        link, told = KeeperLink(ours), []
        for act in (link.hold, link.hold, lambda: check_in(link)):
            act()
            told.append(progress_of(theirs.recv(PACKET_BYTES)))
        progress.step()
        check_in(link)
        told.append(progress_of(theirs.recv(PACKET_BYTES)))
    first, second, same, stepped = map(int, told)
    assert first < second == same < stepped


def test_a_program_given_to_the_kernel_is_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixty filters may take a slow machine minutes, all in one step of a part."""
    kernel = SimpleNamespace(bpf_prog_load=lambda *_: 5)
    monkeypatch.setattr("appliance.system.libbpf.library", lambda: kernel)
    before = progress.done()
    assert loader.load_program(LoadableProgram("a filter", b"", (), None), "tc", {}) == 5
    assert progress.done() == before + 1


def test_a_check_in_without_a_progress_is_a_check_in() -> None:
    """Of a bypassd of another version."""
    assert progress_of(json.dumps({"type": "checkin", "relays": {}}).encode()) == ""
