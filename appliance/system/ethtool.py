# SPDX-License-Identifier: GPL-2.0-only
"""What `ip` and `ethtool` say of a network device: link, driver, counters, rings, and the module in its cage. Pure.

Their texts are read, because the kernel has it in three interfaces (rtnetlink, ethtool's netlink and ioctl) of which a
driver serves some. A line that is not understood is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

MOST_COUNTERS = 512
"""Of one driver; some have a dozen for each of their queues."""


class Device(NamedTuple):
    """From `ip -j -s -s link show`. `errors`: by direction and kind, as "rx crc"; those that are 0 are left out."""

    mac: str
    mtu: int
    up: bool
    link: bool
    rx: dict[str, int]
    tx: dict[str, int]

    def errors(self) -> dict[str, int]:
        """Every counter that is no packet and no byte, and is not 0."""
        found = {}
        for way, counted in (("rx", self.rx), ("tx", self.tx)):
            for key, value in counted.items():
                if value and key not in ("bytes", "packets", "multicast"):
                    found[f"{way} {key.replace('_', ' ')}"] = value
        return found


def device(text: str) -> Device | None:
    """The device; None: there is none."""
    try:
        (row,) = (row for row in json.loads(text or "[]") if row)
        flags: list[str] = row["flags"]
        counted: dict[str, dict[str, Any]] = row.get("stats64", {})
        rx, tx = ({key: int(value) for key, value in counted.get(way, {}).items()} for way in ("rx", "tx"))
        return Device(str(row["address"]), int(row["mtu"]), "UP" in flags, "LOWER_UP" in flags, rx, tx)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon and key.strip():
            yield key.strip(), value.strip()


class Link(NamedTuple):
    """From `ethtool DEVICE`. `speed` in Mbit/s; None where the driver does not say."""

    speed: int | None
    duplex: str
    negotiates: bool | None
    medium: str


def link(text: str) -> Link:
    """What is known of the link."""
    said = dict(_pairs(text))
    speed = re.fullmatch(r"(\d+)Mb/s", said.get("Speed", ""))
    duplex = said.get("Duplex", "").lower()
    return Link(
        int(speed[1]) if speed else None,
        duplex if duplex in ("full", "half") else "",
        {"on": True, "off": False}.get(said.get("Auto-negotiation", "")),
        said.get("Port", ""),
    )


class Driver(NamedTuple):
    """From `ethtool -i`."""

    name: str
    firmware: str
    bus: str


def driver(text: str) -> Driver:
    """The driver of the device."""
    said = dict(_pairs(text))
    return Driver(said.get("driver", ""), said.get("firmware-version", ""), said.get("bus-info", ""))


def counters(text: str) -> dict[str, int]:
    """From `ethtool -S`, in the driver's own words."""
    found = {key: int(value) for key, value in _pairs(text) if re.fullmatch(r"-?\d+", value)}
    return dict(list(found.items())[:MOST_COUNTERS])


def rings(text: str) -> dict[str, str]:
    """From `ethtool -g`: entries in use and at most, as "256 of 4096"."""
    most, _, now = text.partition("Current hardware settings:")
    limits, used = dict(_pairs(most)), dict(_pairs(now))
    return {
        key.lower(): f"{used[key]} of {limits[key]}"
        for key in ("RX", "TX")
        if used.get(key, "").isdigit() and limits.get(key, "").isdigit()
    }


_MODULE = (
    "Identifier", "Connector", "Transceiver type", "Vendor name", "Vendor PN", "Vendor SN", "Date code", "Length (SMF)",
    "Laser wavelength", "Laser bias current", "Laser output power", "Receiver signal average optical power",
    "Rcvr signal avg optical power", "Module temperature", "Module voltage",
)  # fmt: skip


def module(text: str) -> dict[str, str]:
    """From `ethtool -m`: the transceiver, its diagnostics, and every alarm or warning that is on."""
    found: dict[str, str] = {}
    for key, value in _pairs(text):
        name = re.sub(r" \(Channel (\d+)\)", r" \1", key)
        base = key.partition(" (Channel")[0]
        alarm = base.endswith(("alarm", "warning"))
        if (base in _MODULE or (alarm and value == "On")) and value and name not in found:
            found[name] = value
    return found
