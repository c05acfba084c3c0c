# SPDX-License-Identifier: GPL-2.0-only
"""`ping`, `traceroute`, `dns`, `tcp` as typed: lines as they come, Ctrl-C, JSON, exit codes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.machine_daemon import MachineDaemon
from tests.support.terminal import Terminal, bypass


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[MachineDaemon]:
    made = MachineDaemon(tmp_path / "control.sock")
    with made:
        yield made


def test_ping(daemon: MachineDaemon) -> None:
    done = bypass("ping", "ntp.example.net", "count", "2", sock=daemon.path)
    assert (done.returncode, done.stdout) == (
        0,
        """\
1: ntp.example.net (192.0.2.1): 0.500 ms, ttl 64
2: ntp.example.net (192.0.2.1): 1.000 ms, ttl 64
2 sent, 2 received; min/mean/max 0.500/0.750/1.000 ms
""",
    )
    silent = bypass("ping", "x", "count", "1", "size", "8", sock=daemon.path)
    assert (silent.returncode, silent.stdout) == (1, "1: x (192.0.2.1): no reply\n1 sent, 0 received\n")
    data = json.loads(bypass("ping", "x", "count", "1", "--json", sock=daemon.path).stdout)
    assert (data["sent"], data["received"], data["address"]) == (1, 1, "192.0.2.1")
    assert bypass("ping", "x", "count", "999999", sock=daemon.path).returncode == 2


def test_traceroute_dns_and_tcp(daemon: MachineDaemon) -> None:
    done = bypass("trace", "x", sock=daemon.path)
    assert (done.returncode, done.stdout) == (
        0,
        "to x (192.0.2.1), at most 30 hops\n 1  10.88.0.1  0.100 ms\n 2  no answer\n 3  192.0.2.1  2.500 ms\n",
    )
    assert bypass("traceroute", "x", "hops", "2", sock=daemon.path).returncode == 1
    refused = bypass("traceroute", "six", sock=daemon.path)
    assert (refused.returncode, refused.stdout.splitlines()[1]) == (1, " 1  fd00:88::1  1.000 ms (host unreachable)")
    assert len(json.loads(bypass("traceroute", "x", "--json", sock=daemon.path).stdout)) == 3
    assert bypass("dns", "x", sock=daemon.path).stdout == "192.0.2.1\n2001:db8::1\n"
    assert json.loads(bypass("dns", "x", "--json", sock=daemon.path).stdout)["ms"] == 1.0
    assert bypass("tcp", "x", "443", sock=daemon.path).stdout == "x (192.0.2.1) port 443: connected in 3.250 ms\n"
    refused = bypass("tcp", "x", "80", sock=daemon.path)
    assert (refused.returncode, "connection refused" in refused.stderr) == (1, True)


def test_ctrl_c_ends_it_with_the_summary(daemon: MachineDaemon) -> None:
    person = Terminal(daemon.path, "xterm")
    person.until("inline]>")
    person.type("ping x count 100\r")
    person.until("2: x (192.0.2.1): 1.000 ms")
    person.type("\x03")
    person.until("min/mean/max")
    person.until("inline]>")
    assert len(daemon.calls) < 10
    person.close()
