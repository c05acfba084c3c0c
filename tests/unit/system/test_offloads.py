# SPDX-License-Identifier: GPL-2.0-only
"""Offloads that change frames are switched off, and what a device keeps on is known: a device that is made up."""

from __future__ import annotations

import struct

import pytest

from appliance.system import netdev, offloads

FEATURES = [f"feature-{number}" for number in range(70)]
FEATURES[5], FEATURES[33], FEATURES[64] = "rx-vlan-hw-parse", "rx-lro", "rx-vlan-stag-hw-parse"


class Fake:
    """A device's answers to ethtool. `fixed`: bits that it does not let go of."""

    def __init__(self, active: set[int], fixed: set[int], *, refuses: bool = False) -> None:
        self.active, self.fixed, self.refuses = set(active), fixed, refuses

    def __call__(self, ifname: str, request: bytes) -> bytes:
        assert ifname == "wan0"
        command = struct.unpack_from("=I", request)[0]
        if command == 0x37:
            return request[:16] + struct.pack("=I", len(FEATURES))
        if command == 0x1B:
            return request[:12] + b"".join(name.encode().ljust(32, b"\0") for name in FEATURES)
        words = struct.unpack_from("=I", request, 4)[0]
        assert words == 3
        if command == 0x3A:
            blocks = [[0, 0, 0, 0] for _ in range(words)]
            for bit in self.active:
                blocks[bit // 32][2] |= 1 << bit % 32
            return request[:8] + b"".join(struct.pack("=4I", *block) for block in blocks)
        assert command == 0x3B
        if self.refuses:
            raise OSError(95, "Operation not supported")
        for word in range(words):
            valid, wanted = struct.unpack_from("=II", request, 8 + 8 * word)
            assert wanted == 0
            off = {32 * word + bit for bit in range(32) if valid >> bit & 1}
            self.active -= off - self.fixed
        return request


@pytest.mark.parametrize(
    ("active", "fixed", "refuses", "left"),
    [
        (set(), set(), False, ()),
        ({5, 33, 64, 7}, set(), False, ()),
        ({5, 33, 64}, {5}, False, ("stripped VLAN tags",)),
        ({64}, {64}, False, ("stripped 802.1ad tags",)),
        ({33}, {33}, True, ("merged packets (LRO)",)),
        ({7}, {7}, True, ()),  # others than these change no frame
    ],
)
def test_what_is_left_on(
    monkeypatch: pytest.MonkeyPatch, active: set[int], fixed: set[int], refuses: bool, left: tuple[str, ...]
) -> None:
    """Only a feature that is read back as off counts as off, whatever the device answers."""
    fake = Fake(active, fixed, refuses=refuses)
    monkeypatch.setattr(netdev, "ethtool", fake)
    assert offloads.switch_off("wan0") == left
    assert offloads.altering("wan0") == left
    assert 7 not in active or 7 in fake.active


def test_a_device_that_answers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> bytes:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(netdev, "ethtool", refuse)
    assert offloads.switch_off("wan0") == ()
