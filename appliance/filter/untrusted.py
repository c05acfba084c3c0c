# SPDX-License-Identifier: GPL-2.0-only
"""Whether a pcap filter that a guest sent may be compiled here. Pure, except for the compiler that the caller passes.

A guest is not trusted, and a filter is a program: it must be short, plain ASCII, without names that libpcap would
resolve (numbers only), and compile to few instructions. libpcap has the last word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sized

from appliance.errors import RefusedError

FILTER_BYTES = 1024
INSTRUCTIONS = 512

_WORDS = frozenset(
    re.findall(
        r"\w+",
        """and or not dst src host net mask port portrange proto protochain gateway less greater len
        ether fddi tr wlan ip ip6 arp rarp decnet tcp udp sctp icmp icmp6 igmp igrp pim ah esp vrrp carp
        broadcast multicast vlan mpls pppoed pppoes geneve
        atalk aarp iso esis isis clnp stp ipx netbeui lat moprc mopdl
        tcpflags icmptype icmpcode icmp6type icmp6code""",
    )
)
_TOKEN = re.compile(r"[A-Za-z0-9_.:/\\-]+")
_NUMBER = re.compile(r"(0x[0-9a-fA-F]+|\d[\d.]*(/\d+)?|\d+-\d+|[0-9a-fA-F]*:[0-9a-fA-F:.]*(/\d+)?)")
_FLAG = re.compile(r"(tcp|icmp|icmp6)-[a-z0-9]+")


def check(text: str, compile_filter: Callable[[str], Sized]) -> None:
    """Check a guest's filter. RefusedError says why it is not accepted; FilterError is libpcap's own message."""
    if len(text) > FILTER_BYTES:
        raise RefusedError(f"the filter has {len(text)} bytes; at most {FILTER_BYTES} are allowed")
    if not text.isascii() or not text.isprintable():
        raise RefusedError("the filter has characters that are not plain ASCII")
    before = ""
    for token in _TOKEN.findall(text):
        # An escaped keyword is a protocol's name behind `proto`, and a host's anywhere else.
        word = token[1:] if before in ("proto", "protochain") and token.startswith("\\") else token
        before = token
        if word not in _WORDS and not _NUMBER.fullmatch(word) and not _FLAG.fullmatch(word):
            raise RefusedError(f'"{token}" is neither a keyword nor a number: names are not resolved')
    size = len(compile_filter(text))
    if size > INSTRUCTIONS:
        raise RefusedError(f"the filter compiles to {size} instructions; at most {INSTRUCTIONS} are allowed")
