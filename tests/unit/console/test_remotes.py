# SPDX-License-Identifier: GPL-2.0-only
"""How remotes are shown: one line each, and one with its tunnels and the way to it."""

from __future__ import annotations

from typing import Any

from console.views import render

ROW: dict[str, Any] = {
    "name": "dpi",
    "hop": 1,
    "state": "suspect",
    "cause": "tunnel_down",
    "detail": "mgmt0 has no link",
    "lease": "none",
    "lease_ms": 0.0,
    "segment": "main",
    "tunnel": "gre-ethernet, sequence",
    "far": "192.0.2.7",
    "keys": "17 / 18",
    "way": "mgmt0 has no link",
    "unsent": {"queue": 3},
    "warning": "",
}
SIDE = {"side": "lan", "device": "tr1.0l", "key": 17, "port": 0, "mtu": 1554, "refused": 2}
DETAILS = {
    **ROW,
    "path_mtu": 1600,
    "tunnels": [{**SIDE, "counters": {"tx_packets": 5, "rx_packets": 4, "rx_fifo_errors": 2, "rx_crc_errors": 0}}],
    "checks": [{"check": "in-band lan to wan", "state": "failing", "why": "nothing for 150 ms", "changed_ms": 12.0}],
    "flips": [{"ago_ms": 12.0, "check": "in-band lan to wan", "to": "failing", "why": "nothing for 150 ms"}],
    "overload": [{"way": "lan to wan", "limit_frames_per_s": 400, "carries_frames_per_s": 500}],
    "wireguard": {"public_key": "abc=", "port": 51820, "handshake_s": 3.5, "refused": 0},
    "heartbeats": [{"lane": "in-band lan to wan", "sent": 9, "received": 4, "foreign": 0, "refused": 0}],
}


def test_one_line_says_what_and_why() -> None:
    text = render("remotes", [ROW])
    for word in (
        "dpi",
        "suspect",
        "tunnel_down",
        "gre-ethernet, sequence",
        "192.0.2.7",
        "17 / 18",
        "mgmt0 has no link",
    ):
        assert word in text
    assert render("remotes", []) == "no remotes are configured"


def test_one_remote_has_its_tunnels_with_what_they_refused() -> None:
    text = render("remote", DETAILS)
    (line,) = [line for line in text.splitlines() if "tr1.0l" in line]
    assert "rx_fifo_errors 2" in line
    assert "rx_crc_errors" not in text, "zeros are noise"
    assert "1600" in text
    assert "last handshake: 3.5 s ago" in text
    (line,) = [line for line in text.splitlines() if line.startswith("lan to wan")]
    assert line.split()[-2:] == ["400", "500"]
    assert "in-band lan to wan" in text
    assert "no checks: its tunnels have not been set up yet" in render("remote", ROW)


def test_what_is_unexpected_is_shown_all_the_same() -> None:
    assert "odd" in render("remote", {"odd": 1})


def test_the_status_has_the_remotes() -> None:
    text = render("status", {"hostname": "a", "state": "bypass", "segments": [], "guests": [], "remotes": [ROW]})
    assert "REMOTE" in text
    assert "suspect" in text


SERVED: dict[str, Any] = {
    "name": "for-b",
    "state": "up",
    "cause": "none",
    "path": ["ids", "dpi"],
    "not_available": ["ids"],
    "tunnel": "vxlan",
    "far": "192.0.2.9",
    "keys": "17 port 4789 / 18 port 4789",
    "way": "up",
}


def test_what_is_served_shows_which_hops_it_lacks() -> None:
    """While it lacks any, its frames are dropped."""
    text = render("serves", [SERVED])
    for word in ("for-b", "OTHER APPLIANCE", "192.0.2.9", "17 port 4789", "NOT AVAILABLE", "ids"):
        assert word in text
    assert render("serves", []) == "nothing is served to other appliances"
    side = {**SIDE, "device": "ts3l", "far": "192.0.2.9", "counters": {"rx_packets": 4, "tx_packets": 5}}
    one = render("serve", {**SERVED, "path_mtu": 1600, "tunnels": [side]})
    (line,) = [line for line in one.splitlines() if "ts3l" in line]
    assert "192.0.2.9" in line
    assert "1600" in one
