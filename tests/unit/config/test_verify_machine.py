# SPDX-License-Identifier: GPL-2.0-only
"""Invalid machines of guests: one error per mistake, and valid machines are accepted."""

from __future__ import annotations

import pytest

from appliance.config.check.load import check

BASE = '[[guest]]\nname = "a"\nimage = "a.qcow2"\n'
LAN = '[management]\naddress = "dhcp"\n'
TWIN = 'management = "bridged"\nmanagement_mac = "02:00:00:00:00:0A"\n'
VIA = '{ kind = "ping", target = "192.0.2.9", via = "management" }'
ASKED = 'probes = [ {{ kind = "http", url = "http://192.0.2.1/", {} }} ]\n'
ROUTED = 'probes = [ {{ kind = "inband", routed = {{ lan = "{}", wan = "{}" }} }} ]\n'
END = '{{ kind = "inband", routed = {{ lan = "{}", wan = "{}" }} }} ]'
IMAGES = "/var/lib/bypass/images"
OTHER = '[[guest]]\nname = "b"\nimage = "b.qcow2"\n'


def errors(text: str) -> list[str]:
    return [f"{error.where}: {error.what}" for error in check(text, filters=False)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (BASE + 'firmware = "uefi"\nkernel = "k"\n', "guest a: firmware: a kernel is started without"),
        (BASE + "cpus = 2\npin = [1]\n", "guest a: pin: names 1 processor for 2"),
        (BASE + "cpus = 2\npin = [1, 1]\n", "guest a: pin: names a processor twice"),
        (BASE + "queues = 2\n", "guest a: queues: 2 are more than its 1 processor"),
        (BASE + "cpus = 2\nqueues = 2\nqueue_pin = [1]\n", "guest a: queue_pin: names 1 processor for 2 queues"),
        (BASE + "cpus = 2\nqueues = 2\nqueue_pin = [1, 1]\n", "guest a: queue_pin: names a processor twice"),
        (BASE + "cpus = 64\nqueues = 17\n", "guest a: queues: "),
        (BASE + 'queue_poll = "500ns"\n', "guest a: queue_poll: 500ns is too short: at least 1us"),
        (BASE + 'disks = [ { image = "a.qcow2" } ]\n', 'guest a: disks: "a.qcow2" is listed twice'),
        (
            BASE + "disks = [" + ", ".join(f'{{ image = "d{n}" }}' for n in range(9)) + "]\n",
            "guest a: disks: 9 are more than MAX_DISKS = 8",
        ),
        (
            BASE + 'limits = { overhead = "0M" }\n',
            "guest a: limits: overhead: 0 is too small: at least 64M",
        ),
        (BASE + 'limits = { overhead = "9999G" }\n', "guest a: limits: overhead: 9999G is too large: at most 1024G"),
        (BASE + 'lan_mac = "02:00"\n', 'guest a: lan_mac: "02:00" is not a MAC address'),
        (BASE + 'wan_mac = "03:00:00:00:00:01"\n', 'guest a: wan_mac: "03:00:00:00:00:01" is a group address'),
        (
            BASE + 'lan_mac = "02:00:00:00:00:0A"\nwan_mac = "02:00:00:00:00:0a"\n',
            "guest a: wan_mac: is also the other port's",
        ),
        (BASE + 'management = "bridged"\n', "guest a: management: bridged needs the management port, which has no"),
        (BASE + 'management_mac = "02:00:00:00:00:0a"\n', "guest a: management_mac: is used only with a third port"),
        (
            LAN + BASE + TWIN + OTHER + TWIN.replace("0A", "0a"),
            'guest b: management_mac: "02:00:00:00:00:0a" is the address of guest a on the management LAN',
        ),
        (
            BASE + f"probes = [ {VIA} ]\n",
            "guest a: probes 1: via: the management port has no address to send probes from",
        ),
        (LAN + BASE + f"probes = [ {VIA.replace('ping', 'arp')} ]\n", 'guest a: probes 1: via: a probe of kind "arp"'),
        (
            BASE + ROUTED.format("198.18.0.1", "198.18.0.x"),
            'guest a: probes 1: routed: wan "198.18.0.x" is not an IP address',
        ),
        (
            BASE + ROUTED.format("169.254.0.1", "198.18.0.2"),
            'guest a: probes 1: routed: lan "169.254.0.1" is not an address',
        ),
        (BASE + ROUTED.format("2001:2::1", "fe80::2"), 'guest a: probes 1: routed: wan "fe80::2" is not an address'),
        (BASE + ROUTED.format("198.18.0.1", "2001:2::2"), "guest a: probes 1: routed: lan and wan must both be IPv4"),
        (
            BASE + ROUTED.format("2001:2::1", "2001:2::2").replace(" ]", ", " + END.format("2001:2::3", "2001:2::4")),
            "guest a: probes: 2 routed probes in IPv6 cannot be distinguished",
        ),
        (BASE + ROUTED.format("198.18.0.1", "198.18.0.1"), "guest a: probes 1: routed: lan and wan are both"),
        (
            BASE + ROUTED.format("198.18.0.1", "198.18.0.2").replace("inband", "cpu"),
            "guest a: probes 1: routed: a probe",
        ),
        (
            BASE + ASKED.format('interval = "1s", misses = 3, timeout = "10s"'),
            "guest a: probes 1: timeout: 10s is too long: an answer after more than 3s (1s x 3) is too old to count;",
        ),
        (BASE + ASKED.format('timeout = "301ms"'), "guest a: probes 1: timeout: 301ms is too long: an answer"),
        (BASE + 'restart = { first = "1ms" }\n', "guest a: restart: first: 1ms is too short: at least 10ms"),
        (BASE + 'restart = { first = "40s" }\n', "guest a: restart: first 40s is longer than longest 30s"),
        (BASE + 'restart = { policy = "maybe" }\n', 'guest a: restart: policy: "maybe" is not one of'),
        (BASE + 'after = ["c"]\n', 'guest a: after: no guest is named "c"'),
        (BASE + 'after = ["a"]\n', "guest a: after: a guest cannot wait for itself"),
        (BASE + 'after = ["b"]\n' + OTHER + 'after = ["a"]\n', "guest a: after: waits for itself: a after b after a"),
        (BASE + OTHER.replace("b.qcow2", "a.qcow2"), 'guest b: image: "a.qcow2" is also an image of guest a'),
        (BASE + OTHER + 'disks = [ { image = "a.qcow2" } ]\n', 'guest b: disks: "a.qcow2" is also an image of guest a'),
        (BASE + OTHER.replace("b.qcow2", "./a.qcow2"), 'guest b: image: "./a.qcow2" is also an image of guest a'),
        (
            BASE + OTHER.replace("b.qcow2", f"{IMAGES}/a.qcow2"),
            f'guest b: image: "{IMAGES}/a.qcow2" is also an image of',
        ),
        (
            BASE.replace("a.qcow2", "/srv/a") + OTHER.replace("b.qcow2", "/srv/x/..//a"),
            'guest b: image: "/srv/x/..//a" is also an image of guest a',
        ),
        (BASE + 'disks = [ { image = "./a.qcow2" } ]\n', 'guest a: disks: "a.qcow2" is listed twice'),
        (BASE.replace("a.qcow2", "../../etc/passwd"), 'guest a: image: "../../etc/passwd" is not the name of an image'),
        (BASE + 'disks = [ { image = "" } ]\n', 'guest a: disks: "" is not the name of an image'),
        (BASE + 'disks = [ { image = "x//y" } ]\n', 'guest a: disks: "x//y" is not the name of an image'),
        (BASE + 'disks = [ { image = "." } ]\n', 'guest a: disks: "." is not the name of an image'),
        (
            BASE.replace("image", "kernel") + 'initrd = "a/../b"\n',
            'guest a: initrd: "a/../b" is not the name of an image',
        ),
    ],
)
def test_error(text: str, expected: str) -> None:
    """Each mistake gives exactly one error, which names table and key."""
    found = errors(text)
    assert len(found) == 1, found
    assert found[0].startswith(expected)


@pytest.mark.parametrize(
    "text",
    [
        BASE + 'firmware = "uefi"\ndisks = [ { image = "d", readonly = true } ]\ncpus = 2\npin = [0, 1]\n',
        BASE + 'storage = "snapshot"\n' + OTHER.replace("b.qcow2", "a.qcow2") + 'storage = "snapshot"\n',
        BASE + 'disks = [ { image = "sub/a.qcow2" } ]\n' + OTHER.replace("b.qcow2", "/a.qcow2"),
        LAN + BASE + TWIN + f"probes = [ {VIA} ]\n" + OTHER + 'management = "bridged"\n',
        BASE + ASKED.format('interval = "1s", misses = 3, timeout = "3s"'),
        BASE + ROUTED.format("198.18.0.1", "198.18.0.2"),
        BASE + ROUTED.format("198.18.0.1", "198.18.0.2").replace(" ]", ", " + END.format("2001:2::1", "2001:2::2")),
        BASE + OTHER + 'after = ["a"]\n[[guest]]\nname = "c"\nimage = "c"\nafter = ["a", "b"]\n',
        BASE + 'management = "isolated"\nhugepages = true\nlimits = { cpu = 150, weight = 50, overhead = "64M" }\n',
    ],
)
def test_good(text: str) -> None:
    assert errors(text) == []
