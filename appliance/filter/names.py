# SPDX-License-Identifier: GPL-2.0-only
"""Names in pcap expressions that libpcap would ask a resolver for. Pure.

A host name makes a filter depend on a name server: compiling waits for it, with the configuration locked, and another
answer is another filter. So names of hosts and networks are refused before libpcap sees them; names of ports and
protocols, which stand in local files, are left to it. Source of the words: pcap-filter(7) and libpcap's scanner.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from typing import Final

from appliance.errors import FilterError

_WORDS: Final = frozenset(
    re.findall(
        r"\S+",
        """and or not dst src link ether ppp slip fddi tr wlan arp rarp ip sctp tcp udp icmp igmp igrp pim vrrp carp
    radio ip6 icmp6 ah esp atalk aarp decnet lat sca moprc mopdl iso esis es-is isis is-is l1 l2 iih lsp snp csnp psnp
    clnp stp ipx netbeui host net mask port portrange proto protochain gateway type subtype direction dir address1 addr1
    address2 addr2 address3 addr3 address4 addr4 less greater byte broadcast multicast len length inbound outbound
    ifindex vlan mpls pppoed pppoes geneve vxlan lane llc metac bcc oam oamf4 oamf4ec oamf4sc sc ilmic vpi vci
    connectmsg metaconnect on ifname rset ruleset rnr rulenum srnr subrulenum reason action fisu lssu lsu msu hfisu
    hlssu hlsu hmsu sio opc dpc sls hsio hopc hdpc hsls tcpflags icmptype icmpcode icmp6type icmp6code""",
    )
)
_USUAL: Final = re.findall(
    r"\S+", "and or not dst src ether ip ip6 arp tcp udp icmp icmp6 sctp host net port portrange proto vlan mpls"
)
# what follows these is no name of a host or network
_OWN_NAMES: Final = frozenset(
    re.findall(r"\S+", "proto protochain type subtype direction dir llc on ifname rset ruleset reason action")
)
_JOINERS: Final = frozenset(re.findall(r"\S+", "and or not ( ) & |"))  # `port (http or https)`, `port http or https`
_TOKEN: Final = re.compile(r"\\?[^\W_][\w.:\\-]*|[^\s\w]|\S")
_NUMBER: Final = re.compile(r"0[xX][0-9a-fA-F]+|[0-9][0-9.]*|[0-9a-fA-F]*:[0-9a-fA-F:.]*")
_STATION: Final = re.compile(
    r"[0-9a-fA-F]{1,2}([:.-][0-9a-fA-F]{1,2}){5}|[0-9a-fA-F]{4}(\.[0-9a-fA-F]{4}){2}|[0-9a-fA-F]{12}"
)
_DISPLAY: Final = re.compile(
    r"(tcp|udp|ip|ipv6|icmp|icmpv6|arp|eth|frame|vlan|dns|http|tls|ssl|dhcp|sip|rtp)(\.[a-z_0-9]+)+"
    r"|[a-z][a-z0-9_]*(\.[a-z_0-9]+)+(\s*([=!<>]=|[<>])|\s+(eq|ne|gt|lt|ge|le|contains|matches|in)\b)"
)
_FLAG: Final = re.compile(r"(tcp|icmp|icmp6)-[a-z0-9-]+")
_BINARY: Final = re.compile(r"[0-9]+-[0-9]+")  # `tcp[0]-1`: libpcap subtracts


def check(text: str) -> None:
    """FilterError for the first word that libpcap would look up as a host or network."""
    _must_be_ascii(text)
    before, ports = "", False  # a bare word has the qualifiers of the one before it: `port http or https`
    for found in _TOKEN.finditer(text):
        word = found[0]
        own = ports or before in _OWN_NAMES or (before == "$" and bool(re.fullmatch("[0-9a-fA-F]{1,2}", word)))
        if word in _WORDS and word not in _JOINERS:
            ports = word in ("port", "portrange")
        before = word
        if own or not word[0].isalnum() or word in _WORDS:
            continue
        if any(pattern.fullmatch(word) for pattern in (_NUMBER, _STATION, _FLAG, _BINARY)):
            continue
        close = difflib.get_close_matches(word, _USUAL, 1, 0.6)
        hint = f'; did you mean "{close[0]}"?' if close else ": give an address"
        if _DISPLAY.match(text, found.start()):
            hint = ". It looks like a display filter of Wireshark; this is a capture filter, such as `tcp port 80`"
        what = f'syntax error: "{word}" is no keyword and no address, and host names are not looked up{hint}'
        raise FilterError(what, text=text, column=found.start())


def _must_be_ascii(text: str) -> None:
    """FilterError for the first letter that no filter has: pasted text has brackets and blanks of other kinds."""
    if text.isascii():
        return
    column = next(at for at, letter in enumerate(text) if not letter.isascii())
    letter = text[column]
    meant = unicodedata.normalize("NFKC", letter)
    hint = f': did you mean "{meant}"?' if meant.isascii() and meant.isprintable() else ""
    shown = f'"{letter}" ' if letter.isprintable() else ""
    what = f"syntax error: the character {shown}(U+{ord(letter):04X}) is not ASCII{hint}"
    raise FilterError(what, text=text, column=column)
