# SPDX-License-Identifier: GPL-2.0-only
"""Texts of `ip` and `ethtool` 6.x of copper, fibre and virtual ports; what is not understood is left out."""

from __future__ import annotations

from appliance.system import ethtool

LINK = """[{"ifindex":4,"ifname":"eth0","flags":["BROADCAST","UP","LOWER_UP"],"mtu":3480,"address":"02:fc:00:00:00:01",
"stats64":{"rx":{"bytes":100,"packets":10,"errors":3,"dropped":0,"multicast":5,"crc_errors":2,"missed_errors":1},
"tx":{"bytes":90,"packets":9,"errors":0,"dropped":7,"carrier_errors":0}}}]"""
COPPER = """Settings for eth0:
\tSupported ports: [ TP ]
\tSpeed: 2500Mb/s
\tDuplex: Full
\tAuto-negotiation: on
\tPort: Twisted Pair
\tLink detected: yes
"""
VIRTUAL = "Settings for eth0:\n\tSpeed: Unknown!\n\tDuplex: Unknown! (255)\n\tAuto-negotiation: off\n\tPort: Other\n"
DRIVER = "driver: igc\nversion: 6.12\nfirmware-version: 1057:8754\nbus-info: 0000:02:00.0\n"
RINGS = """Ring parameters for eth0:
Pre-set maximums:
RX:\t\t4096
RX Mini:\tn/a
TX:\t\t4096
Current hardware settings:
RX:\t\t256
RX Mini:\tn/a
TX:\t\tn/a
"""
STATISTICS = "NIC statistics:\n     rx_packets: 12\n     tx_timeout: 0\n     note: n/a\n     [0]: rx_bytes: 5\n"
SFP = """\tIdentifier                                : 0x03 (SFP)
\tVendor name                               : FS
\tVendor PN                                 : SFP-10GSR-85
\tOptical diagnostics support               : Yes
\tLaser output power                        : 0.5963 mW / -2.25 dBm
\tModule temperature                        : 41.20 degrees C / 106.16 degrees F
\tModule temperature high alarm             : Off
\tLaser rx power low warning                : On
\tReceiver signal average optical power     : 0.0021 mW / -26.78 dBm
"""


def test_a_device() -> None:
    found = ethtool.device(LINK)
    assert found is not None
    assert (found.mac, found.mtu, found.up, found.link) == ("02:fc:00:00:00:01", 3480, True, True)
    assert found.errors() == {"rx errors": 3, "rx crc errors": 2, "rx missed errors": 1, "tx dropped": 7}
    for text in ("", "[]", "[{}]", "nonsense", '{"a": 1}', '[{"ifname": "x"}]'):
        assert ethtool.device(text) is None


def test_a_link() -> None:
    assert ethtool.link(COPPER) == ethtool.Link(2500, "full", True, "Twisted Pair")
    assert ethtool.link(VIRTUAL) == ethtool.Link(None, "", False, "Other")
    assert ethtool.link("netlink error: No such device\n") == ethtool.Link(None, "", None, "")


def test_driver_rings_and_counters() -> None:
    assert ethtool.driver(DRIVER) == ethtool.Driver("igc", "1057:8754", "0000:02:00.0")
    assert ethtool.rings(RINGS) == {"rx": "256 of 4096"}
    assert ethtool.counters(STATISTICS) == {"rx_packets": 12, "tx_timeout": 0}
    many = "".join(f"queue_{number}: 1\n" for number in range(5000))
    assert len(ethtool.counters(many)) == ethtool.MOST_COUNTERS


def test_a_transceiver_shows_its_diagnostics_and_the_alarms_that_are_on() -> None:
    assert ethtool.module(SFP) == {
        "Identifier": "0x03 (SFP)",
        "Vendor name": "FS",
        "Vendor PN": "SFP-10GSR-85",
        "Laser output power": "0.5963 mW / -2.25 dBm",
        "Module temperature": "41.20 degrees C / 106.16 degrees F",
        "Laser rx power low warning": "On",
        "Receiver signal average optical power": "0.0021 mW / -26.78 dBm",
    }
    assert ethtool.module("netlink error: Operation not supported\n") == {}
