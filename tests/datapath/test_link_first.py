# SPDX-License-Identifier: GPL-2.0-only
"""The relay is driven only while frames can cross, or the cause that they cannot is reported: on a whole appliance.

Real keeper, bypassd, datapath and devices; another program interferes with the ports. One appliance serves all tests of
this module; each leaves the segment inline.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from simulator import netns

from appliance.segment.carrier import SETTLE_NS
from appliance.segment.evidence import NONE_OF
from tests.support.live import CONFIG, Live
from tests.support.wire import LAN_MAC, Wire

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]
XDP = CONFIG.replace('rearm_delay = "0s"', 'link_loss_limit = "2s"\nrearm_delay = "0s"')


@pytest.fixture(scope="module")
def live(bpf_object: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with Wire() as wire, Live(wire, tmp_path_factory.mktemp("live"), bpf_object, XDP) as made:
        yield made


@pytest.fixture(autouse=True)
def healthy(live: Live) -> Iterator[None]:
    """Leave the segment healthy, after a test that failed too: only frames show that a port sends again."""
    yield
    gro(live, "on")
    live.call("segment.set", name="main", mode="auto")
    live.until(lambda: live.inline() and flows(live, "healthy"), "inline again")


def gro(live: Live, state: str) -> None:
    """Without GRO and so without NAPI, the far end of the WAN's veth takes no frame that XDP sends."""
    netns.run("ip", "netns", "exec", live.wire.wan, "ethtool", "-K", "eth0", "gro", state)


def flows(live: Live, expected: str) -> bool:
    """Send a burst from the LAN: whether the WAN's port, or the segment by its cause, is then found as expected."""
    row = segment(live)
    if expected not in (row["wan_sent"], row["cause"]):
        for number in range(60):
            live.wire.send(number)
        row = segment(live)
    return expected in (row["wan_sent"], row["cause"])


def segment(live: Live) -> dict[str, Any]:
    row: dict[str, Any] = live.call("segments.show")[0]
    return row


def away(live: Live, cause: str) -> dict[str, Any]:
    """Wait until the segment is in bypass for this cause."""
    live.until(lambda: segment(live)["cause"] == cause and segment(live)["relay"] == "bypass", f"bypass for {cause}")
    return segment(live)


def settle(live: Live) -> None:
    """Wait until links mean something, after the relay moved."""
    since = segment(live)["since_mono_ns"]
    live.until(lambda: time.monotonic_ns() - since > SETTLE_NS + 10**9, "links have settled")


def link(live: Live, name: str, *words: str, space: str = "") -> None:
    netns.run("ip", "-n", space or live.wire.box, "link", "set", "dev", name, *words)


def entries(live: Live, cause: str) -> list[dict[str, Any]]:
    return [entry for entry in live.call("transitions.show", count=0) if entry["cause"] == cause]


@pytest.mark.parametrize("change", [("down",), ("promisc", "off"), ("arp", "on")], ids=" ".join)
def test_what_another_program_does_to_a_port_is_set_right(live: Live, change: tuple[str, ...]) -> None:
    """Within a second, with an entry in the ledger; frames cross again and the relay did not move."""
    since, before = segment(live)["since_mono_ns"], len(entries(live, "port_set_down"))
    link(live, "lan0", *change)
    began = time.monotonic()
    live.until(lambda: len(entries(live, "port_set_down")) > before, "the repair in the ledger")
    took = time.monotonic() - began
    assert live.wire.stream(32) == []
    flags = netns.run("ip", "-n", live.wire.box, "link", "show", "dev", "lan0")
    assert "NOARP" in flags
    assert "PROMISC" in flags
    assert segment(live)["since_mono_ns"] == since
    assert took < 5, "a second on an idle machine"


def test_who_keeps_setting_a_port_down_is_named_and_the_relay_closes(live: Live) -> None:
    def insist() -> bool:
        link(live, "wan0", "down")
        return bool(segment(live)["cause"] == "port_set_down")

    live.until(insist, "the contest is named")
    row = away(live, "port_set_down")
    assert "wan0 was restored 4 times in a minute" in row["detail"]
    live.call("segment.set", name="main", mode="auto")  # somebody has ended the other program
    live.until(live.inline, "inline again")


def test_a_program_that_is_detached_is_attached_again(live: Live) -> None:
    before = len(entries(live, "program_detached"))
    netns.run("ip", "netns", "exec", live.wire.box, "bpftool", "link", "detach", "pinned",
              str(live.root / "sys/fs/bpf/bypass/links/0"))  # fmt: skip
    live.until(lambda: len(entries(live, "program_detached")) > before, "the repair in the ledger")
    assert live.wire.stream(32) == []
    assert segment(live)["relay"] == "inline"


def test_both_links_lost_lead_to_bypass_and_back(live: Live) -> None:
    """Veth ports show their neighbours in bypass too, so returning links are detected at once."""
    settle(live)
    for space in (live.wire.lan, live.wire.wan):
        link(live, "eth0", "down", space=space)
    row = away(live, "links_down")
    assert row["next_attempt_ms"] > 0
    assert "lan0 and wan0 have no link" in row["detail"]
    for space in (live.wire.lan, live.wire.wan):
        link(live, "eth0", "up", space=space)
    live.until(live.inline, "inline again")
    live.wire.renew()
    assert live.wire.stream(32) == []


def test_one_link_lost_is_named_at_once_and_leads_to_bypass_in_the_end(live: Live) -> None:
    settle(live)
    link(live, "eth0", "down", space=live.wire.wan)
    live.until(lambda: segment(live)["cause"] == "link_down", "named")
    assert segment(live)["detail"].startswith("wan0 has no link")
    away(live, "link_down")
    assert segment(live)["lan_link"] == "up", "nothing is held down in bypass"
    link(live, "eth0", "up", space=live.wire.wan)


def test_a_port_that_vanishes_and_returns(live: Live) -> None:
    """As when its driver resets it: another index, the same address."""
    ours = netns.run("ip", "netns", "exec", live.wire.box, "cat", "/sys/class/net/lan0/address").strip()
    netns.run("ip", "-n", live.wire.box, "link", "del", "lan0")
    away(live, "port_missing")
    live.wire.pair("lan0x", live.wire.lan, "eth0", LAN_MAC)
    link(live, "lan0x", "address", ours)
    live.until(live.inline, "inline again")
    live.wire.renew()
    assert live.wire.stream(32) == []


def test_a_port_that_sends_nothing_is_found_by_its_counters(live: Live) -> None:
    """Everything is attached and both links are up, but what goes in at the LAN does not leave at the WAN."""
    live.until(lambda: flows(live, "sent"), "the driver is seen to count")
    gro(live, "off")
    live.until(lambda: flows(live, "not_sent"), "the loss is found")
    row = away(live, "not_sent")
    # The last burst before may be counted as sent within the window: the two counters are not read at one moment.
    told = re.match(r"wan0 sent (\d+) of (\d+) frames in ", row["detail"])
    assert told, row["detail"]
    assert int(told[1]) * NONE_OF < int(told[2])
    gro(live, "on")
    live.call("segment.set", name="main", mode="auto")
    live.until(live.inline, "inline again")
    live.until(lambda: flows(live, "healthy"), "the port is seen to send again")
    live.wire.renew()
    assert live.wire.stream(32) == []


def test_links_that_are_taken_down_for_want_of_hops(live: Live) -> None:
    """Both neighbours lose their link, with a cause, and the relay stays; then they have it again, and frames cross."""
    settle(live)
    since = segment(live)["since_mono_ns"]
    live.call("config.edit")
    live.set("guest absent kernel none", "guest absent autostart false")
    live.set("rule all path absent", "rule all on_unavailable link-down")
    live.commit()
    live.until(lambda: segment(live)["cause"] == "hops_missing", "the links are taken down")
    assert segment(live)["detail"] == 'rule all: "absent" is not available'
    live.until(lambda: {segment(live)[f"{side}_link"] for side in ("lan", "wan")} == {"held down"}, "both are down")
    for space in (live.wire.lan, live.wire.wan):
        assert "NO-CARRIER" in netns.run("ip", "-n", space, "link", "show", "dev", "eth0")
    assert (segment(live)["relay"], segment(live)["since_mono_ns"]) == ("inline", since)
    live.call("segment.set", name="main", mode="bypass")
    live.until(lambda: segment(live)["relay"] == "bypass", "bypass")
    live.until(lambda: "held down" not in (segment(live)["lan_link"], segment(live)["wan_link"]), "up in bypass")
    live.call("segment.set", name="main", mode="auto")
    live.until(lambda: segment(live)["cause"] == "hops_missing", "down again once inline")
    live.call("config.delete", words=["rule", "all"])
    live.call("config.delete", words=["guest", "absent"])
    live.commit()
    live.until(lambda: segment(live)["cause"] == "healthy", "the links are back")
    live.wire.renew()
    live.until(lambda: live.wire.stream(8) == [], "frames cross")
    named = " ".join(entry["what"] for entry in entries(live, "hops_missing"))
    assert "lan0" in named
    assert "wan0" in named
