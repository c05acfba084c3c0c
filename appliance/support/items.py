# SPDX-License-Identifier: GPL-2.0-only
"""The contents of a support bundle as one table: folder in the archive, and the file or command that it comes from.

Pure data. Keys, password files, homes, histories and guest images must never be listed here. Everything listed still
passes through the redaction of bundle.py.
"""

from __future__ import annotations

from typing import NamedTuple

from appliance.system.namespace import NAME


class Item(NamedTuple):
    """One entry: `files` is a pattern below the root, `command` is run; with `each`, once per network port."""

    folder: str
    files: str = ""
    command: tuple[str, ...] = ()
    name: str = ""
    each: str = ""


def _ip(name: str, *words: str) -> Item:
    return Item("network", command=("ip", *words), name=name)


ITEMS: tuple[Item, ...] = (
    Item("config", "etc/bypass/config.toml"),
    Item("config", "usr/share/bypass/board.toml"),
    Item("logs", "run/log/*"),
    Item("logs", "var/lib/bypass/transitions.jsonl*"),
    Item("guests", "run/bypass/guests/*/*.log*"),
    Item("guests", "run/bypass/guests/*/state.json"),
    Item("state", "run/bypass/*.json"),
    Item("state", "var/lib/bypass/names.json"),
    Item("state", "var/lib/bypass/overlay.json"),
    Item("guests/incidents", "var/lib/bypass/incidents/*.json"),
    Item("crash", "var/lib/bypass/crash/*"),
    Item("crash", "var/lib/bypass/last-run.json"),
    Item("crash", "sys/fs/pstore/*"),
    Item("kernel", command=("dmesg",), name="dmesg"),
    *(Item("kernel", f"proc/{name}") for name in (
        "cmdline", "version", "uptime", "loadavg", "meminfo", "cpuinfo", "interrupts", "softirqs", "mounts",
        "modules", "vmstat", "net/softnet_stat", "pressure/*", "sys/kernel/tainted")),
    Item("hardware", "sys/class/watchdog/*/*"),
    Item("hardware", "sys/bus/pci/devices/*/uevent"),
    Item("hardware", "sys/class/gpio/*/label"),
    Item("storage", command=("df", "-k"), name="df"),
    Item("storage", "proc/partitions"),
    Item("storage", command=("ls", "-lR", "/var/lib/bypass", "/sys/fs/bpf/bypass"), name="files"),
    _ip("links", "-s", "-s", "-d", "link"),
    _ip("addresses", "address"),
    _ip("routes", "route", "show", "table", "all"),
    _ip("management-links", "-n", NAME, "-s", "-d", "link"),
    _ip("management-addresses", "-n", NAME, "address"),
    _ip("management-routes", "-n", NAME, "route", "show", "table", "all"),
    _ip("management-neighbours", "-n", NAME, "neighbour"),
    Item("network", command=("nsenter", f"--net=/run/netns/{NAME}", "ss", "-tlnp"), name="management-listeners"),
    Item("network", command=("tc", "-s", "qdisc"), name="qdiscs"),
    Item("network/ports", command=("ethtool",), each="settings"),
    Item("network/ports", command=("ethtool", "-S"), each="statistics"),
    Item("network/ports", command=("ethtool", "-k"), each="offloads"),
    Item("network/ports", command=("ethtool", "-i"), each="driver"),
)  # fmt: skip

API: tuple[str, ...] = (
    "version.show", "status.show", "segments.show", "guests.show", "remotes.show", "groups.show", "mirrors.show",
    "rules.show", "counters.show", "transitions.show", "incidents.show", "quarantine.show", "events.show",
    "crash-log.show", "boots.show", "drills.show", "management.show", "sessions.show", "config.status",
    "config.history", "clock.show", "lldp.show", "snmp.show", "ports.show", "power.show", "system.show", "api.schema",
)  # fmt: skip
"""Methods whose answers are included if registered; if one fails, its file has the error."""
