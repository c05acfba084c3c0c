# SPDX-License-Identifier: GPL-2.0-only
"""The commands about the machine: reboot, clock, ports, logs, system. Pure data; commands.py joins all topics."""

from __future__ import annotations

from console.line.command import UNITS, Arg, Command, Option

JSON = Option("--json", "print data as JSON")
WAIT = Arg("TIME", "a number of seconds, or a time such as 90s, 10min or 1h", time=True)
UNIT = Arg("UNIT", "the unit of the time", choices=tuple(UNITS), optional=True)
WHEN = Arg("WHEN", "local time of the appliance: 03:30, or 2026-12-24 03:30", rest=True)
FORCE = Option("force", "also if a relay does not close, which interrupts the link")


def _power(action: str, verb: str) -> tuple[Command, ...]:
    def row(words: tuple[str | Arg, ...], text: str, *options: Option) -> Command:
        return Command((action, *words), text, local="power:power", role="admin", options=(*options, JSON))

    return (
        row((), f"{verb}: says what it means for traffic, and asks"),
        row(("now",), f"{verb} without asking", FORCE),
        row(("in", WAIT, UNIT), f"{verb} after a time"),
        row(("at", WHEN), f"{verb} at a time of day"),
        Command(
            (action, "cancel"),
            f"cancel the {action} that is scheduled",
            "power.cancel",
            role="admin",
            view="done",
            options=(JSON,),
        ),
    )


POWER = (
    *_power("reboot", "restart the appliance"),
    *_power("poweroff", "shut the appliance down"),
    Command(
        (
            "factory-reset",
            Arg("WHAT", "what is erased: all, or all but guest images", choices=("all", "keep-images"), optional=True),
        ),
        "erase configuration, users and files at a reboot; asks what to keep",
        local="power:factory_reset",
        role="admin",
        options=(Option("now", "without asking"), JSON),
    ),
    Command(
        ("show", "reboot"),
        "the reboot or poweroff that is scheduled",
        "power.show",
        view="power-order",
        options=(JSON,),
    ),
)

CLOCK = (
    Command(
        ("show", "clock"),
        "time, time zone, time servers and how far the clock is off",
        "clock.show",
        view="clock",
        options=(JSON,),
        wait=10.0,
    ),
    Command(
        ("clock", "set", Arg("WHEN", "local time of the appliance, YYYY-MM-DD HH:MM[:SS]", rest=True)),
        "set the clock by hand, where no time server keeps it",
        "clock.set",
        role="admin",
        view="done",
        options=(JSON,),
        wait=10.0,
    ),
)

PORTS = (
    Command(
        ("show", "ports"),
        "ports: link, speed, errors, driver",
        "ports.show",
        view="ports",
        options=(JSON,),
        wait=15.0,
    ),
    Command(
        ("show", "port", Arg("NAME", "a port of the board", source="all ports")),
        "one port: counters of its driver, rings, transceiver",
        "port.show",
        view="port",
        options=(JSON,),
        wait=20.0,
    ),
)

LLDP = (
    Command(
        ("show", "lldp"),
        "neighbours of the management port, by LLDP",
        "lldp.show",
        view="lldp",
        options=(JSON,),
        wait=10.0,
    ),
)

SNMP = (
    Command(
        ("show", "snmp"),
        "SNMPv3: state, engine, users, receivers, notifications sent",
        "snmp.show",
        view="snmp",
        options=(JSON,),
    ),
)

_SOURCES = {
    "supervisor": "the appliance itself: states, commits, guests (default)",
    "kernel": "the kernel: drivers, links, errors",
    "ssh": "logins over SSH",
    "console": "logins on the console",
    "dhcp": "DHCP client of the management port",
    "ntp": "NTP client",
    "lldp": "LLDP daemon",
    "snmp": "SNMP agent",
    "data-partition": "check and mount of the data partition at the start",
}


def _log(words: tuple[str | Arg, ...], text: str) -> Command:
    return Command(
        ("show", "log", *words),
        text,
        local="log:log",
        role="operator",
        options=(
            Option("match", "only lines that match", Arg("PATTERN", "a regular expression, case-insensitive")),
            Option("lines", "number of lines; default: 40", Arg("N", "1 to 5000", number=True, within=(1, 5000))),
            Option("follow", "print new lines as they come, until Ctrl-C"),
            JSON,
        ),
    )


LOGS = (
    _log(
        (
            Arg(
                "SOURCE",
                "which log; default: supervisor",
                choices=tuple(_SOURCES),
                optional=True,
                meanings=tuple(_SOURCES.values()),
            ),
        ),
        "the newest lines of a log of the appliance or its kernel",
    ),
    _log(("guest", Arg("NAME", "a guest", source="guests")), "what a guest printed on its serial console"),
)

SYSTEM = (
    Command(
        ("show", "system"),
        "load, memory, disks, temperatures, fans, model and serial number, boot slots",
        "system.show",
        view="system",
        options=(JSON,),
    ),
)

LICENCES = (
    Command(
        ("show", "licences"),
        "software of the image, with versions and licences",
        "licences.show",
        view="licences",
        options=(JSON,),
        wait=60.0,  # it reads some hundred files, which takes a busy small box half a minute
    ),
    Command(
        ("show", "licence", Arg("NAME", "a component of `show licences`", source="licences")),
        "the licence text of one component",
        "licence.show",
        view="licence",
        options=(JSON,),
        wait=20.0,
    ),
)
