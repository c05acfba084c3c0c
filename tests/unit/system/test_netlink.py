# SPDX-License-Identifier: GPL-2.0-only
"""What the kernel answers about a device's counters, on the loopback device that every namespace has."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from appliance.system import netlink

LOOPBACK, NOBODY = 1, 2**31 - 1


def test_a_devices_counters() -> None:
    """As /proc/net/dev has them, and growing with what is sent."""

    def line() -> list[int]:
        (found,) = (row for row in Path("/proc/thread-self/net/dev").read_text().splitlines() if "lo:" in row)
        return [int(word) for word in found.split(":")[1].split()]

    with netlink.open_socket(netlink.ROUTE) as opened:
        opened.settimeout(5)
        before, counted, after = line(), netlink.link_counters(opened, LOOPBACK), line()
        for value, column in zip(counted, (1, 9, 3, 11), strict=True):
            assert before[column] <= value <= after[column]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
            out.sendto(b"x", ("127.0.0.1", 9))
        assert netlink.link_counters(opened, LOOPBACK).tx_packets > counted.tx_packets


def test_a_device_that_is_not_there() -> None:
    with netlink.open_socket(netlink.ROUTE) as opened:
        opened.settimeout(5)
        with pytest.raises(OSError, match="No such device"):
            netlink.link_counters(opened, NOBODY)
