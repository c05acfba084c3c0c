# SPDX-License-Identifier: GPL-2.0-only
"""Names by which an agent says what its guest takes, instead of a pcap filter. Pure.

Each stands for a filter, which means what it means to tcpdump: so none of the ports is found behind a tag, unless the
application asks for a filter that says so. Ports are those of IANA's registry, and of HTTP/3 for https. Names are never
looked up anywhere else, and a name's meaning only grows with a new version of the appliance.
"""

from __future__ import annotations

from collections.abc import Sequence

from appliance.errors import RefusedError

NAMES = {
    "ipv4": "ip",
    "ipv6": "ip6",
    "arp": "arp",
    "tcp": "tcp",
    "udp": "udp",
    "sctp": "sctp",
    "icmp": "icmp or icmp6",
    "gre": "ip proto 47 or ip6 proto 47",
    "ipsec": "ip proto 50 or ip6 proto 50 or ip proto 51 or ip6 proto 51 or udp port 500 or udp port 4500",
    "vlan": "vlan",
    "dns": "port 53 or tcp port 853",
    "dhcp": "udp portrange 67-68 or udp portrange 546-547",
    "ntp": "udp port 123",
    "http": "tcp port 80",
    "https": "port 443",
    "ssh": "tcp port 22",
    "telnet": "tcp port 23",
    "ftp": "tcp portrange 20-21",
    "tftp": "udp port 69",
    "smtp": "tcp port 25 or tcp port 465 or tcp port 587",
    "imap": "tcp port 143 or tcp port 993",
    "pop3": "tcp port 110 or tcp port 995",
    "smb": "tcp port 139 or tcp port 445",
    "rdp": "port 3389",
    "ldap": "port 389 or tcp port 636",
    "kerberos": "port 88",
    "sip": "portrange 5060-5061",
    "snmp": "udp portrange 161-162",
    "syslog": "udp port 514 or tcp port 6514",
    "mqtt": "tcp port 1883 or tcp port 8883",
    "modbus": "tcp port 502",
}


def filter_of(names: Sequence[str]) -> str:
    """The pcap filter of what has any of these names. RefusedError: one is not known."""
    for name in names:
        if name not in NAMES:
            raise RefusedError(f'"{name}" is no name of traffic; there are: {", ".join(NAMES)}')
    return " or ".join(NAMES[name] for name in dict.fromkeys(names))
