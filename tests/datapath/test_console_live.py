# SPDX-License-Identifier: GPL-2.0-only
"""The console against a running appliance: orders that wait until they are carried out."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.live import CONFIG, Live, bring_demo_guest
from tests.support.terminal import bypass
from tests.support.wire import Wire

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

GUESTS = """
[[guest]]
name = "ips1"
kernel = "/guest-demo/bzImage"
initrd = "/guest-demo/initrd.gz"
cmdline = "console=ttyS0 quiet"
memory = "64M"
accel = "tcg"
autostart = false
probes = [ { kind = "inband", interval = "100ms", misses = 5 } ]
[[guest]]
name = "broken"
image = "nowhere.qcow2"
autostart = false
"""


@pytest.fixture(scope="module")
def live(bpf_object: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    root = tmp_path_factory.mktemp("live")
    bring_demo_guest(root)
    with Wire() as wire, Live(wire, root, bpf_object, CONFIG + GUESTS) as made:
        made.until(lambda: made.call("guest.show", name="ips1")["state"] == "defined", "all parts")
        yield made
        made.check_loop()


def test_orders_wait_until_they_are_carried_out(live: Live) -> None:
    """What follows in a script finds the guest as it was ordered; nothing is asked for again and again."""
    sock = live.root / "run/bypass/control.sock"
    started = bypass("guest", "ips1", "start", "--wait", "--json", sock=sock)
    assert started.returncode == 0, started.stderr
    assert json.loads(started.stdout)["state"] == "available"
    assert live.call("guest.show", name="ips1")["state"] == "available"
    first = live.call("guest.show", name="ips1")["pid"]
    again = bypass("guest", "ips1", "restart", "--wait", sock=sock)
    assert (again.returncode, again.stdout) == (0, "guest ips1 is available\n"), again.stderr
    assert live.call("guest.show", name="ips1")["pid"] != first
    stopped = bypass("guest", "ips1", "stop", "--wait", sock=sock)
    assert (stopped.returncode, stopped.stdout) == (0, "guest ips1 is stopped\n"), stopped.stderr
    assert bypass("guest", "ips1", "stop", "--wait", sock=sock).returncode == 0


def test_an_order_that_fails_or_takes_too_long_is_an_error(live: Live) -> None:
    sock = live.root / "run/bypass/control.sock"
    failed = bypass("guest", "broken", "start", "--wait", sock=sock)
    assert failed.returncode == 1
    assert "error: guest broken is failed: " in failed.stderr
    assert "nowhere.qcow2" in failed.stderr
    live.call("guest.start", name="ips1")
    late = bypass("guest", "ips1", "restart", "--wait", "--timeout", "0s", sock=sock)
    assert (late.returncode, "after 0 s: " in late.stderr) == (1, True), late.stderr
    assert bypass("guest", "ips1", "stop", "--timeout", "5s", sock=sock).returncode == 2
    assert bypass("guest", "nobody", "restart", "--wait", sock=sock).returncode == 1


def test_a_bypassd_that_ends_meanwhile_is_told(live: Live) -> None:
    """The order is kept by the next one; the exit code says that the end was not seen."""
    sock = live.root / "run/bypass/control.sock"
    live.until(lambda: live.call("guest.stop", name="ips1") is not None, "stopped")
    live.until(lambda: live.call("guest.show", name="ips1")["state"] == "stopped", "stopped")
    found: list[int] = []
    thread = threading.Thread(
        target=lambda: found.append(bypass("guest", "ips1", "start", "--wait", sock=sock).returncode)
    )
    thread.start()
    live.until(lambda: live.call("guest.show", name="ips1")["state"] in ("starting", "proving"), "ordered")
    live.kill_bypassd()
    thread.join()
    assert found == [3]
