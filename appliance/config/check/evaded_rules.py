# SPDX-License-Identifier: GPL-2.0-only
"""Rules that frames evade because of what precedes their packets: tags, labels, fragments and the like.

`tcp port 80` means what it means to tcpdump: untagged frames, and only the first fragment of a datagram. For each rule
a sample frame that matches it is wrapped in every way; a way is reported when the wrapped frame then matches neither
this rule nor another one with a path, so what is reported is certain. A rule with parts that `vlan` or the like moved
is left out: filter_traps.py asks its author first what it is meant for. Bounded by time. Pure.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from appliance.config.check.unreachable_rules import Finding, compiled
from appliance.config.schema.model import Config
from appliance.filter import shifting

if TYPE_CHECKING:
    from appliance.filter.classic import ClassicFilter

SECONDS: Final = 0.2  # of processor time
_SIX: Final = b"\x86\xdd"


def _labelled(frame: bytes) -> bytes:
    return frame[:12] + b"\x88\x47\0\0\x11\x40" + frame[14:]


def _session(frame: bytes) -> bytes:
    protocol = b"\0\x57" if frame[12:14] == _SIX else b"\0\x21"
    return frame[:12] + b"\x88\x64\x11\0\0\x01" + (len(frame) - 12).to_bytes(2, "big") + protocol + frame[14:]


def _extended(frame: bytes) -> bytes:
    if frame[12:14] != _SIX:
        return frame
    return frame[:20] + b"\0" + frame[21:54] + frame[20:21] + bytes(7) + frame[54:]


def _later(frame: bytes) -> bytes:
    if frame[12:14] == _SIX:
        return frame[:20] + b"\x2c" + frame[21:54] + frame[20:21] + b"\0\0\x08\0\0\0\x01" + bytes(len(frame) - 62)
    return frame[:20] + b"\0\x01" + frame[22:34] + bytes(len(frame) - 34)


WAYS: Final[Mapping[str, tuple[str, Callable[[bytes], bytes]]]] = MappingProxyType(
    {
        "vlan": ("with a VLAN tag", lambda frame: frame[:12] + b"\x81\0\0\x01" + frame[12:]),
        "qinq": ("with two VLAN tags", lambda frame: frame[:12] + b"\x88\xa8\0\x01\x81\0\0\x01" + frame[12:]),
        "pppoe": ("in PPPoE", _session),
        "mpls": ("behind MPLS labels", _labelled),
        "snap": ("in LLC/SNAP", lambda frame: frame[:12] + b"\0\x40\xaa\xaa\x03\0\0\0" + frame[12:]),
        "ip6ext": ("with extension headers of IPv6", _extended),
        "fragments": ("that are later fragments whose first was not seen", _later),
    }
)
"""By the word of `through`: in words, and how a frame looks then."""


def evaded(
    config: Config, seconds: float = SECONDS, clock: Callable[[], float] = time.thread_time
) -> Iterator[Finding]:
    """Rules with a path that frames go around; a warning where the rule blocks."""
    from appliance.filter import reach

    until = clock() + seconds
    filters: dict[int, ClassicFilter | None] = {}

    def takes(index: int, frame: bytes) -> bool:
        if index not in filters:
            filters[index] = compiled(config.rule[index].match.strip(), config.rule[index].through)
        found = filters[index]
        return found is not None and found.matches(frame)

    for index, rule in enumerate(config.rule):
        if rule.through and not rule.match.strip():
            yield Finding("note", f"rule {rule.name}: through", "has no meaning without a match: every frame is taken")
        if not rule.path or not rule.match.strip() or any(shifting.shifted(rule.match)):
            continue
        if clock() > until:
            yield Finding("note", "rule", f"rules were not checked for frames that evade them from rule {rule.name} on")
            break
        own = compiled(rule.match.strip())
        frames = [] if own is None else reach.examples(own)
        segments = [segment.name for segment in config.segment if rule.segment in ("", segment.name)]
        ways: list[str] = []
        for way, (_, wrap) in WAYS.items():
            wrapped = [wrap(frame) for frame in frames]
            if any(not takes(index, one) and _straight(config, segments, one, takes) for one in wrapped):
                ways.append(way)
            if clock() > until:
                break
        if ways:
            words = ", ".join(WAYS[way][0] for way in ways)
            remedy = ", ".join(f'"{way}"' for way in (*rule.through, *ways))
            what = f"frames {words} go around it, as for tcpdump; through = [{remedy}] includes them"
            severity = "warning" if rule.fails_closed else "note"
            yield Finding(severity, f"rule {rule.name}: match", what)


def _straight(config: Config, segments: list[str], frame: bytes, takes: Callable[[int, bytes], bool]) -> bool:
    """Whether the frame passes some of these segments without a hop."""
    for segment in segments:
        chain = (number for number, rule in enumerate(config.rule) if rule.segment in ("", segment))
        first = next((number for number in chain if takes(number, frame)), None)
        if first is None or not config.rule[first].path:
            return True
    return False
