# SPDX-License-Identifier: GPL-2.0-only
"""The NTP client's command line, and what it says: texts of chrony 4.3 and 4.6."""

from __future__ import annotations

from pathlib import Path

from appliance.management import ntp, resolver

BEFORE = (
    "00000000,,0,0.000000000,0.000000000,0.000000000,0.000000000,0.000,0.000,0.000,"
    "1.000000000,1.000000000,0.0,Not synchronised\n"
)
AFTER = (
    "7F000009,127.0.0.9,2,1795960421.837675749,0.000012000,-5.000148773,5.000148773,0.000,-56.637,1000000.000,"
    "0.002000000,0.005000000,64.2,Normal\n"
)
SOURCES = (
    "^,*,127.0.0.9,1,6,7,1,-5.000378132,-5.000378132,0.000433520\n"
    "^,?,127.0.0.10,0,6,0,4294967295,0.000000000,0.000000000,0.000000000\n"
    "^,x,2001:db8::1,3,6,377,12,0.100000000,0.250000000,0.000433520\n"
)


def test_a_clock_that_is_kept() -> None:
    """chrony counts how far the clock is behind; an error is half the way to the source and what it may be off."""
    found = ntp.tracking(AFTER)
    assert found is not None
    assert (found.source, found.stratum, found.synchronized) == ("127.0.0.9", 2, True)
    assert (found.offset_s, round(found.error_s, 9)) == (-0.000012, 0.006)


def test_a_clock_that_is_not_kept_yet_and_a_client_that_says_nothing() -> None:
    found = ntp.tracking(BEFORE)
    assert found is not None
    assert not found.synchronized
    for text in ("", "506 Cannot talk to daemon\n", "a,b,c\n"):
        assert ntp.tracking(text) is None
        assert ntp.sources(text) == []


def test_sources() -> None:
    used, silent, false = ntp.sources(SOURCES)
    assert (used.server, used.state, used.stratum, used.answers, used.last_s) == ("127.0.0.9", "used", 1, 3, 1)
    assert used.offset_s == -5.000378132
    assert (silent.state, silent.answers, silent.last_s) == ("no answer", 0, None)
    assert (false.state, false.answers, false.offset_s) == ("false", 8, 0.25)


def test_the_command_line_is_the_configuration() -> None:
    words = ntp.command(["192.0.2.1", "ntp.example.net"], Path("/var/lib/bypass/ntp/drift"), "_chrony")
    assert words[:4] == ["chronyd", "-d", "-u", "_chrony"]
    assert [word for word in words if word.startswith("server ")] == [
        "server 192.0.2.1 iburst maxpoll 9",
        "server ntp.example.net iburst maxpoll 9",
    ]
    assert {"makestep 1 3", "rtcsync", "port 0", "cmdport 0"} <= set(words)


def test_configured_servers_win_over_those_of_dhcp() -> None:
    lease = {"dns": "192.0.2.53 192.0.2.53 nonsense 2001:db8::53", "ntp": "; reboot"}
    assert resolver.chosen(("10.0.0.1",), lease, "dns") == (["10.0.0.1"], "configuration")
    assert resolver.chosen((), lease, "dns") == (["192.0.2.53", "2001:db8::53"], "dhcp")
    assert resolver.chosen((), lease, "ntp") == resolver.chosen((), {}, "ntp") == ([], "none")
    assert resolver.text(["192.0.2.53"]).splitlines()[1:] == ["nameserver 192.0.2.53", "options timeout:2 attempts:2"]
