# SPDX-License-Identifier: GPL-2.0-only
"""Rules among the keys of one probe, recorder or quarantine, and the frame of a probe. Pure.

`faults` gives (key, what is wrong); verify.py turns them into findings with file, table and line.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Iterator
from urllib.parse import urlsplit

from appliance.config.schema import limits
from appliance.config.schema.model import Guest, Probe
from appliance.counted import counted
from appliance.units import Duration

Fault = tuple[str, str]

_NEEDS = {"http": "url", "tcp": "target", "ping": "target", "arp": "target", "command": "target", "negative": "frame"}
_USED_BY: dict[str, tuple[str, ...]] = {
    "url": ("http",),
    "target": ("tcp", "ping", "arp", "command"),
    "timeout": ("http", "tcp", "ping", "arp", "command"),
    "via": ("http", "tcp", "ping", "arp"),
    "status": ("http",),
    "body": ("http",),
    "verify": ("http",),
    "frame": ("inband", "negative"),
    "enter": ("inband", "negative"),
    "routed": ("inband",),
    "slow": ("inband",),
}
MANAGEMENT = "management"
"""As `via` of a probe: out of the management port."""
FRAME_LEAST, FRAME_MOST = 60, 1514
_DEVICE = re.compile(r"[A-Za-z0-9._@-]{1,15}")
_HEX = re.compile(r"[0-9a-fA-F:\s]+")


def frame_from_hex(text: str) -> bytes | None:
    """The frame that a text of hex digits (with optional blanks and colons) means; None: it is the name of a file."""
    if not _HEX.fullmatch(text):
        return None
    digits = re.sub(r"[:\s]", "", text)
    return bytes.fromhex(digits) if len(digits) % 2 == 0 else None


def split_target(target: str) -> tuple[str, int]:
    """`192.0.2.1:80` or `[2001:db8::1]:80` as address and port; ValueError says what is wrong."""
    host, colon, port = target.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f'"{target}" is not an address and a port, such as 192.0.2.1:80 or [2001:db8::1]:80')
    return str(_address(host)), int(port)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        # A name would have to be resolved, and a resolver that hangs would look like a guest that does.
        raise ValueError(f'"{text}" is not an IP address') from None


def faults(probe: Probe) -> Iterator[Fault]:
    """What is wrong with one probe."""
    needed = _NEEDS.get(probe.kind)
    if needed and not getattr(probe, needed):
        yield needed, f'a probe of kind "{probe.kind}" needs a {needed}'
    default = Probe(kind=probe.kind)
    for key, kinds in _USED_BY.items():
        if probe.kind not in kinds and getattr(probe, key) != getattr(default, key):
            yield key, f'a probe of kind "{probe.kind}" uses no {key}'
    for key, check in (("url", _url), ("target", _target), ("frame", _frame), ("routed", _routed), ("slow", _slow)):
        if getattr(probe, key) and probe.kind in _USED_BY[key]:
            yield from ((key, what) for what in check(probe))
    if probe.kind in _USED_BY["timeout"] and 0 < probe.interval * probe.misses < probe.timeout:
        # An answer proves what was true when it was asked for, and that holds for `misses` intervals.
        longest = Duration(probe.interval * probe.misses)
        proved = f"an answer after more than {longest} ({probe.interval} x {probe.misses}) is too old to count"
        yield (
            "timeout",
            f"{probe.timeout} is too long: {proved}; use at most {longest}, a longer interval or more misses",
        )
    if probe.via and not _DEVICE.fullmatch(probe.via):
        yield "via", f'"{probe.via}" is not the name of a network device'
    if probe.kind == "arp" and not probe.via:
        yield "via", 'a probe of kind "arp" needs the network device to send from'
    elif probe.kind == "arp" and probe.via == MANAGEMENT:
        yield "via", 'a probe of kind "arp" needs a network device; on the management LAN take kind = "ping"'
    if probe.kind in ("http", "tcp") and 0 < probe.interval < limits.MIN_CONNECT_INTERVAL:
        yield "interval", f"{probe.interval} is too short for connections: at least {Duration(10_000_000)}"


def _url(probe: Probe) -> Iterator[str]:
    if not probe.url.startswith(("http://", "https://")):
        yield f'"{probe.url}" does not begin with http:// or https://'
        return
    try:
        parts = urlsplit(probe.url)
        _address(parts.hostname or "")
        if parts.port == 0:
            raise ValueError("port 0 cannot be used")
    except ValueError as error:
        yield f'"{probe.url}": {error}'
        return
    if not probe.url.isascii() or re.search(r"[\s\x00-\x1f]", probe.url):
        yield f'"{probe.url}" contains blanks or other characters that must be written as %xx'


def _target(probe: Probe) -> Iterator[str]:
    try:
        if probe.kind == "tcp":
            split_target(probe.target)
        elif probe.kind == "ping":
            _address(probe.target)
        elif probe.kind == "arp":
            ipaddress.IPv4Address(probe.target)
        elif not re.fullmatch(r"[\w.-]{1,64}", probe.target, re.ASCII):
            yield f'"{probe.target}" is not a word of at most 64 letters, digits, ".", "_" and "-"'
    except ValueError as error:
        yield str(error) if '"' in str(error) else f'"{probe.target}" is not an IPv4 address'


def _frame(probe: Probe) -> Iterator[str]:
    frame = frame_from_hex(probe.frame)
    if frame is not None and not FRAME_LEAST <= len(frame) <= FRAME_MOST:
        length = counted(len(frame), "byte")
        yield f"{length}: a frame has {FRAME_LEAST} to {FRAME_MOST}, addresses first, without the checksum"
    elif frame is None and _HEX.fullmatch(probe.frame):
        yield "an odd number of hex digits"


def _routed(probe: Probe) -> Iterator[str]:
    assert probe.routed is not None
    if probe.frame:
        yield "builds its own frames: leave out frame"
    ends: list[ipaddress.IPv4Address | ipaddress.IPv6Address] = []
    for key in ("lan", "wan"):
        text = getattr(probe.routed, key)
        try:
            ends.append(_address(text))
        except ValueError as error:
            yield f"{key} {error}"
            continue
        end = ends[-1]
        if end.is_multicast or end.is_loopback or end.is_unspecified or end.is_link_local or "%" in text:
            test = "198.18.0.0/15" if end.version == 4 else "2001:2::/48"
            yield f'{key} "{text}" is not an address that a router forwards to; {test} is for tests'
    if len(ends) == 2 and ends[0].version != ends[1].version:
        yield "lan and wan must both be IPv4, or both IPv6: give a probe for each"
    elif len(set(ends)) == 1 and len(ends) == 2:
        yield f'lan and wan are both "{probe.routed.lan}": each side needs an address of its own'


def _slow(probe: Probe) -> Iterator[str]:
    assert probe.slow is not None
    if probe.slow.limit >= probe.interval * probe.misses:
        yield f"limit {probe.slow.limit} has no effect: after {probe.interval} x {probe.misses} a heartbeat is lost"
    if probe.slow.time < probe.interval:
        yield f"time {probe.slow.time} is too short: at least {probe.interval}, the interval"


def guest_faults(guest: Guest) -> Iterator[Fault]:
    """What is wrong among the checks of one guest."""
    kinds = {probe.kind for probe in guest.probes}
    if "negative" in kinds and "inband" not in kinds:
        yield "probes", "a negative heartbeat alone proves nothing (a dead guest blocks all): add an inband probe"
    if len(guest.probes) > limits.MAX_PROBES:
        yield "probes", f"{len(guest.probes)} are more than MAX_PROBES = {limits.MAX_PROBES}"
    for family, number in Counter(":" in probe.routed.lan for probe in guest.probes if probe.routed).items():
        if number > 1:
            what = f"{number} routed probes in {'IPv6' if family else 'IPv4'} cannot be distinguished: keep one"
            yield "probes", what
    if guest.quarantine is None:
        return
    if not guest.recorder.frames:
        yield "quarantine", "needs the recorder, which is off (recorder = { frames = 0 })"
