# SPDX-License-Identifier: GPL-2.0-only
"""Is a pcap filter that a guest wrote fit to be compiled here? Pure, but for the compiler that the caller brings.

A guest is not trusted, and a filter is a program: it must be short, in plain ASCII, and without names that libpcap
would ask a resolver for (numbers only), and what it compiles to must be small. libpcap then has the last word.
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
    """RefusedError says why a filter of a guest is not taken; FilterError is libpcap's own word."""
    if len(text) > FILTER_BYTES:
        raise RefusedError(f"the filter has {len(text)} bytes, {FILTER_BYTES} at most")
    if not text.isascii() or not text.isprintable():
        raise RefusedError("the filter has characters that are not plain ASCII")
    before = ""
    for token in _TOKEN.findall(text):
        # An escaped keyword is a protocol's name behind `proto`, and a host's anywhere else.
        word = token[1:] if before in ("proto", "protochain") and token.startswith("\\") else token
        before = token
        if word not in _WORDS and not _NUMBER.fullmatch(word) and not _FLAG.fullmatch(word):
            raise RefusedError(f'"{token}" is no keyword and no number: names are not looked up')
    size = len(compile_filter(text))
    if size > INSTRUCTIONS:
        raise RefusedError(f"the filter compiles to {size} instructions, {INSTRUCTIONS} at most")
