# SPDX-License-Identifier: GPL-2.0-only
"""Which filters test only what a flow's key holds, so that their answer can be cached by flow.

Pure. The frames in question are those whose key is complete: untagged, IPv4 without a fragment offset or IPv6 without
extension headers, with ports, and long enough to hold them. On such a frame a filter may look at EtherType, addresses,
protocol and ports. Any other test (a length, a flag, the TTL, MAC addresses, the absence of a tag) rules it out:
correctness comes first.
"""

from __future__ import annotations

from appliance.filter import merge
from appliance.filter.classic import ClassicFilter
from appliance.filter.graph import INFINITY, LENGTH, Field, FieldKind

_IPV4, _IPV6 = 0x0800, 0x86DD
_IPV4_BYTES = frozenset((12, 13, 23, *range(26, 34)))
_IPV6_BYTES = frozenset((12, 13, 20, *range(22, 58)))
_PORT_BYTES = frozenset(range(14, 18))  # behind the IPv4 header at 14
_WITH_PORTS = (6, 17, 132)


def uses_only_flow_key(filt: ClassicFilter) -> bool:
    """Whether all frames of one flow (as above) get the same answer from the filter."""
    with merge.lock:
        graph = merge.kept_graph()
        root = merge.root_of(filt)
        ethertype = graph.number(Field(FieldKind.FIXED, 12, 2, 0xFFFF))
        offset = graph.number(Field(FieldKind.FIXED, 20, 2, 0x1FFF))
        behind = graph.number(Field(FieldKind.HEADER_LENGTH, header=14))
        following = graph.number(Field(FieldKind.FIXED, 20, 1, 0xFF))
        four = graph.restrict(root, ethertype, _IPV4, _IPV4)
        four = graph.restrict(four, LENGTH, 38, INFINITY - 1)
        four = graph.restrict(four, offset, 0, 0)
        four = graph.restrict(four, behind, 18, INFINITY - 1)
        six = graph.restrict(root, ethertype, _IPV6, _IPV6)
        six = graph.restrict(six, LENGTH, 58, INFINITY - 1)
        sixes = [graph.restrict(six, following, protocol, protocol) for protocol in _WITH_PORTS]
        return _only(graph.fields, graph.mask[four], graph.opaque[four], _IPV4_BYTES) and all(
            _only(graph.fields, graph.mask[node], graph.opaque[node], _IPV6_BYTES) for node in sixes
        )


def _only(fields: list[Field], mask: int, opaque: bool, held: frozenset[int]) -> bool:
    if opaque:
        return False
    for number, field in enumerate(fields):
        if not mask >> number & 1:
            continue
        asked = frozenset(range(field.offset, field.offset + field.size))
        if field.kind is FieldKind.FIXED and asked <= held:
            continue
        if (
            field.kind is FieldKind.BEHIND_HEADER
            and held is _IPV4_BYTES
            and field.header == 14
            and asked <= _PORT_BYTES
        ):
            continue
        return False
    return True
