# SPDX-License-Identifier: GPL-2.0-only
"""Checks of [[remote]] and [[serve]]: addresses, keys, what fits into the way, a remote's segment and probes. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import NamedTuple

from appliance.config.check.finding import Finding
from appliance.config.check.unreachable_rules import Finding as Remark
from appliance.config.check.verify_access import interface
from appliance.config.check.verify_probe import MANAGEMENT
from appliance.config.schema import encapsulations, limits
from appliance.config.schema.model import Config, Management, Remote, Serve, Tunnel, Wireguard
from appliance.config.schema.served import segments_of

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Fault = tuple[str, str]  # key, what is wrong

PROBES = ("inband", "negative", "http", "tcp", "ping")
"""Kinds of probes that a remote can have: it has no agent and no processor of ours."""


def findings(config: Config) -> Iterator[Finding]:
    """Everything that is wrong with the remotes, and with what is served to others."""
    ports = {port: segment.name for segment in config.segment for port in (segment.lan, segment.wan)}
    taken = _Taken({}, {})
    for index, remote in enumerate(config.remote):
        sound = yield from _tunnel(("remote", index), remote, config.management, ports, taken)
        for key, what in (*_segment(config, remote, fits=sound), *_probes(config, remote)):
            yield Finding(f"remote {remote.name}: {key}", ("remote", index, key), what)
    names = [segment.name for segment in config.segment]
    for index, serve in enumerate(config.serve):
        where: tuple[str, int] = ("serve", index)
        sound = yield from _tunnel(where, serve, config.management, ports, taken)
        for key, what in _serve(serve, names, config.management, fits=sound):
            yield Finding(f"serve {serve.name}: {key}", (*where, key), what)
        names.append(serve.name)


class _Taken(NamedTuple):
    """What tunnels have taken so far: their claims, and UDP ports with their use; by whom."""

    claims: dict[tuple[object, ...], str]
    udp: dict[int, tuple[str, str]]


def _tunnel(
    at: tuple[str, int], one: Remote | Serve, management: Management, ports: Mapping[str, str], taken: _Taken
) -> Generator[Finding, None, bool]:
    """What is wrong with the tunnel of a table. Whether its addresses are such that its overhead is known."""
    table, tunnel, sound = at[0], one.tunnel, True
    where, on_port = f"{table} {one.name}", encapsulations.on_port(one.tunnel)
    for key, what in _port(tunnel, management, ports):
        sound = sound and key != "wireguard"
        yield Finding(f"{where}: tunnel: {key}", (*at, "tunnel", key), what)
    for key, what in () if on_port else _addresses(tunnel, management):
        sound = sound and key not in ("remote", "peer", "wan_remote")
        names = ("tunnel", "wireguard", key) if key in ("peer", "address") else ("tunnel", key)
        yield Finding(f"{where}: {': '.join(names)}", (*at, *names), what)
    for key, what in (*_options(tunnel), *_by_xdp(tunnel)):
        yield Finding(f"{where}: tunnel: {key}", (*at, "tunnel", key), what)
    if tunnel.wireguard is not None:
        for key, what in _wireguard(where, tunnel.wireguard, taken.udp):
            yield Finding(f"{where}: tunnel: wireguard: {key}", (*at, "tunnel", "wireguard", key), what)
    if on_port or all(address(end) is not None for end in tunnel.remotes):
        for key, what in _overlaps(where, tunnel, taken):
            yield Finding(f"{where}: tunnel: {key}", (*at, "tunnel", key), what)
    return sound


def _serve(serve: Serve, names: Sequence[str], management: Management, *, fits: bool) -> Iterator[Fault]:
    """`names`: of segments and of earlier tables of this kind, among which counters are told apart."""
    if serve.name in names:
        yield "name", f'"{serve.name}" is already the name of a segment or of what is served'
    if serve.tunnel.mss_clamp:
        yield "tunnel", "mss_clamp belongs to the other appliance's remote: leave it out"
    if serve.tunnel.way == "xdp":
        yield "tunnel", "way: what is served goes by the kernel's tunnels: leave it out"
    if encapsulations.carries_ip(serve.tunnel):
        yield "tunnel", f"{serve.tunnel.kind} carries IP, and guests get frames: use a kind that carries Ethernet"
    elif fits and (what := misfit(serve.tunnel, serve.mtu, _room(serve.tunnel, management))):
        yield "tunnel", what


def _room(tunnel: Tunnel, management: Management) -> int:
    """The MTU at the beginning of a tunnel's way. That of a port of VLANs is raised as they need it."""
    return limits.MAX_MTU if encapsulations.on_port(tunnel) else management.mtu


def remarks(config: Config) -> Iterator[Remark]:
    """What is right, and may surprise."""
    tunnels = [("remote", one.name, one.tunnel) for one in config.remote]
    tunnels += [("serve", one.name, one.tunnel) for one in config.serve]
    for who, name, tunnel in tunnels:
        where = f"{who} {name}: tunnel"
        if encapsulations.secured(tunnel) == "no":
            what = "its packets are not encrypted, and whoever can send with its addresses and keys reaches the link"
            say = f"{what}: add wireguard, or use a network that nobody else reaches"
            if encapsulations.on_port(tunnel):
                say = "its frames are not encrypted, and whoever can send in its VLANs reaches the link"
            yield Remark("note", where, say)
        if tunnel.mss_clamp:
            yield Remark("note", where, "TCP connections are made to fit; other frames that do not fit skip the remote")
        if encapsulations.carries_ip(tunnel):
            carried = "IPv4" if encapsulations.only_ipv4(tunnel) else "IP"
            what = f"it carries {carried}: frames with a tag, and those that are no {carried}, skip the remote"
            yield Remark("note", where, what)


def address(text: str) -> Address | None:
    """An address that a tunnel can end at; None: it is none."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    wrong = found.is_multicast or found.is_unspecified or found.is_loopback or getattr(found, "scope_id", None)
    return None if wrong else found


def address_trouble(text: str) -> str:
    """Why a tunnel cannot end at this address; "" if it can."""
    return "" if address(text) is not None else f'"{text}" is not the address of a computer; names are not resolved'


def _port(tunnel: Tunnel, management: Management, ports: Mapping[str, str]) -> Iterator[Fault]:
    """The port of VLANs, which no other kind has. `ports`: the segments, by their ports."""
    if not encapsulations.on_port(tunnel):
        if tunnel.port:
            yield "port", f"{tunnel.kind} goes by the management port: leave it out"
        return
    if not tunnel.port:
        yield "port", "is empty: name the port from the board's board.toml that leads to the far end"
    elif tunnel.port in ports:
        yield "port", f'"{tunnel.port}" is a port of segment {ports[tunnel.port]}: a tunnel has one of its own'
    elif tunnel.port == management.port:
        yield "port", f'"{tunnel.port}" is the management port: a tunnel has one of its own'
    for key in ("remote", "wan_remote", "local", "wireguard", "checksum"):
        if getattr(tunnel, key):
            yield key, "there is no IP around a VLAN: leave it out"


def _addresses(tunnel: Tunnel, management: Management) -> Iterator[Fault]:
    yield from _second(tunnel, management)
    if tunnel.wireguard is None:
        yield from _in_the_clear(tunnel, management)
        return
    yield from _reachable(tunnel.wireguard.peer, "peer", "", management)
    far, own = address(tunnel.remote), address(tunnel.wireguard.address)
    if far is None:
        yield "remote", address_trouble(tunnel.remote)
    if own is None:
        yield "address", address_trouble(tunnel.wireguard.address)
    elif far is not None and own.version != far.version:
        yield "address", f"{own} is IPv{own.version} and the far end IPv{far.version}: a tunnel has one of them"
    elif far == own:
        yield "address", f"{own} is the far end's address: both need one of their own inside"
    if tunnel.local:
        yield "local", "it is the address of WireGuard: leave it out"


def _second(tunnel: Tunnel, management: Management) -> Iterator[Fault]:
    """The far end's other address, which only tunnels without keys have and need."""
    text, keyed = tunnel.wan_remote, encapsulations.KINDS[tunnel.kind].keyed
    if keyed and text:
        yield "wan_remote", f"{tunnel.kind} tells the sides apart by their keys: leave it out"
    if keyed or not text:
        return
    first, second = address(tunnel.remote), address(text)
    if second is None:
        yield "wan_remote", address_trouble(text)
    elif first is not None and first.version != second.version:
        yield "wan_remote", f"{second} is IPv{second.version}, and remote IPv{first.version}: both have the same"
    elif tunnel.wireguard is None:
        yield from _reachable(text, "wan_remote", tunnel.local, management)
    elif second == address(tunnel.wireguard.address):
        yield "wan_remote", f"{second} is our address inside WireGuard: it is one of the far end's"


def _in_the_clear(tunnel: Tunnel, management: Management) -> Iterator[Fault]:
    yield from _reachable(tunnel.remote, "remote", tunnel.local, management)
    far = address(tunnel.remote)
    if far is None or not tunnel.local:
        return
    key = "address" if far.version == 4 else "address6"
    text: str = getattr(management, key)
    known, _ = interface(text, far.version) if text not in ("", "dhcp") else (None, "")
    near = address(tunnel.local)
    if near is None:
        yield "local", address_trouble(tunnel.local)
    elif near.version != far.version:
        yield "local", f"{near} is IPv{near.version} and the far end IPv{far.version}: a tunnel has one of them"
    elif tunnel.kind == "geneve":
        yield "local", "the kernel's Geneve has no local address: leave it out, the routes choose it"
    elif known is not None and near != known.ip:
        yield "local", f"{near} is not the address of the management port, which is {known.ip}: leave it out"


def _reachable(text: str, name: str, local: str, management: Management) -> Iterator[Fault]:
    """Whether the management port can lead to an address, that of the key `name`."""
    far = address(text)
    if far is None:
        yield name, address_trouble(text)
        return
    key, via = ("address", "gateway") if far.version == 4 else ("address6", "gateway6")
    ours: str = getattr(management, key)
    if not ours:
        what = f"{far} is IPv{far.version}, and the management port has no such address: set management {key}"
        yield name, what
        return
    known, _ = interface(ours, far.version) if ours != "dhcp" else (None, "")
    own = [local] if local else []
    own += [str(known.ip)] if known is not None else []
    if str(far) in own:
        yield name, f"{far} is the address of the appliance itself: a tunnel to itself carries nothing anywhere"
    elif known is not None and far not in known.network and not getattr(management, via):
        yield name, f"{far} is not in {known.network}, and no gateway leads there: set management {via}"


def _wireguard(who: str, wireguard: Wireguard, udp: dict[int, tuple[str, str]]) -> Iterator[Fault]:
    """Its keys, and its UDP port, which is its own."""
    if not encapsulations.WIREGUARD_KEY.fullmatch(wireguard.public_key):
        yield "public_key", "it is no key: `wg pubkey` prints 44 characters"
    if wireguard.preshared_key and not encapsulations.WIREGUARD_KEY.fullmatch(wireguard.preshared_key):
        yield "preshared_key", "it is no key: `wg genpsk` prints 44 characters"
    if wireguard.private_key_file and not wireguard.private_key_file.startswith("/"):
        yield "private_key_file", f'"{wireguard.private_key_file}" is not a whole path'
    kind, first = udp.setdefault(wireguard.port, ("WireGuard", who))
    if first != who:
        yield "port", f"UDP port {wireguard.port} is already used for {kind} by {first}"


def _options(tunnel: Tunnel) -> Iterator[Fault]:
    kind = encapsulations.KINDS[tunnel.kind]
    for key in ("lan_key", "wan_key"):
        value = getattr(tunnel, key)
        if not kind.least_key <= value <= kind.most_key:
            what = f"{kind.least_key} to {kind.most_key}" if kind.keyed else "it has no keys: leave it out"
            yield key, f"{value} is not possible with {tunnel.kind}: {what}"
    if not kind.port:
        for key in ("lan_port", "wan_port"):
            if getattr(tunnel, key):
                yield key, f"{tunnel.kind} has no ports: leave it out"
    far = address(tunnel.remote)
    if tunnel.kind == "fou" and far is not None and far.version == 6:
        yield "remote", f"{far} is IPv6, over which GRE in UDP carries no traffic yet: use IPv4, or vxlan"
    if tunnel.sequence and not kind.gre:
        yield "sequence", f"only GRE numbers its packets, not {tunnel.kind}"
    if tunnel.checksum and not kind.keyed and not kind.on_port:
        yield "checksum", f"{tunnel.kind} has none: leave it out"


def _by_xdp(tunnel: Tunnel) -> Iterator[Fault]:
    """What XDP cannot put around a frame."""
    if tunnel.way != "xdp":
        return
    far, kinds = address(tunnel.remote), encapsulations.BY_XDP
    if tunnel.kind not in kinds:
        yield "way", f"XDP makes no {tunnel.kind}: use {', '.join(kinds[:-1])} or {kinds[-1]}, or leave way out"
    elif tunnel.kind != "gre-ethernet" and far is not None and far.version == 6:
        what = "UDP over IPv6 has a checksum over the whole packet, which only the kernel computes"
        yield "way", f"{what}: use IPv4 or gre-ethernet, or leave way out"
    for key, what in (
        ("wireguard", "only the kernel encrypts"),
        ("sequence", "only the kernel numbers packets"),
        ("checksum", "only the kernel computes a checksum over the whole packet"),
        ("mss_clamp", "segment sizes are lowered where the kernel's tunnel sends, and XDP sends beside it"),
    ):
        if getattr(tunnel, key):
            yield "way", f"{what}: leave out {key}, or way"


def _overlaps(who: str, tunnel: Tunnel, taken: _Taken) -> Iterator[Fault]:
    """Tunnels that the kernel, and the direction of returning frames, could not tell apart."""
    lan, wan = encapsulations.claims(tunnel)
    if lan == wan:
        kind = encapsulations.KINDS[tunnel.kind]
        if not kind.keyed:
            what = f"{tunnel.kind} has no keys: give the far end a second address, and name it here"
            yield "wan_remote", f"the two sides cannot be told apart: {what}"
            return
        more = " or ports" if kind.port and not kind.gre else ""
        yield "wan_key", f"the two sides cannot be told apart: give them different keys{more}"
        return
    if tunnel.wireguard is not None and not encapsulations.on_port(tunnel):
        return  # in a namespace of their own
    for side, claim, port in zip(("lan", "wan"), (lan, wan), encapsulations.ports(tunnel), strict=True):
        owner = taken.claims.setdefault(claim, who)
        if owner != who:
            port_too = f" on port {claim[2]}" if claim[2] else ""
            key, what = f"{side}_key", f"{claim[-1]}{port_too} is already a key of {owner}"
            if encapsulations.on_port(tunnel):
                what = f"VLAN {claim[-1]} of port {tunnel.port} is already a tunnel of {owner}"
            if not encapsulations.KINDS[tunnel.kind].keyed:
                key = "remote" if side == "lan" else "wan_remote"
                what = f"at {claim[1]} a tunnel of {owner} ends already"
            yield key, f"{what}: frames would be mixed up"
        use, first = taken.udp.setdefault(port, (tunnel.kind, who)) if port else (tunnel.kind, "")
        if use != tunnel.kind:
            yield f"{side}_port", f"UDP port {port} is already used for {use} by {first}"


def _segment(config: Config, remote: Remote, *, fits: bool) -> Iterator[Fault]:
    """The one segment that it serves, and whether that one's frames fit into its tunnels."""
    names = [segment.name for segment in config.segment]
    used = segments_of(config, remote.name)
    if remote.segment and remote.segment not in names:
        yield "segment", f'no segment is named "{remote.segment}"; there are: {", ".join(names) or "none"}'
        return
    wanted = [remote.segment] if remote.segment else used or names
    if not wanted:
        yield "segment", "there is no segment that it could serve: add one, or name it in the path of a serve table"
        return
    others = [name for name in used if remote.segment and name != remote.segment]
    if others:
        what = f"it serves {remote.segment}, and rules of {', '.join(others)} lead to it"
        yield "segment", f"{what}: a remote has one pair of tunnels, give each segment a remote of its own"
        return
    if len(wanted) > 1:
        what = f"it would serve {' and '.join(wanted)}, and has one pair of tunnels"
        yield "segment", f"{what}: name one, and give each segment a remote of its own"
        return
    for segment in config.segment:
        if segment.name not in wanted:
            continue
        if segment.attach == "xdp" and remote.tunnel.way == "kernel":
            what = f'segment {segment.name} has attach = "xdp", and XDP cannot send to a tunnel of the kernel'
            yield "segment", f'{what}: set attach to "auto" or "tc"'
        room = _room(remote.tunnel, config.management)
        if fits and not remote.tunnel.mss_clamp and (what := misfit(remote.tunnel, segment.mtu, room)):
            yield "tunnel", f"segment {segment.name}: {what}"


def misfit(tunnel: Tunnel, mtu: int, outer: int) -> str:
    """Why full-size frames of a segment with this MTU (0: Ethernet's) cannot cross the way whole; "" if they can.

    `outer`: the MTU of the port at the beginning of the way.
    """
    mtu = mtu or encapsulations.ETHERNET_MTU
    need = encapsulations.outer_mtu(tunnel, mtu)
    if need <= outer:
        return ""
    whole = mtu + encapsulations.beyond_mtu(tunnel)
    kind = "packet" if encapsulations.carries_ip(tunnel) else "frame"
    if encapsulations.on_port(tunnel):
        return f"its port would need an MTU of {need}, and has {outer}: give the segment a smaller mtu"
    what = (
        f"a {kind} of {whole} bytes becomes a packet of {need} in the tunnel, and the management port carries {outer}"
    )
    if need > limits.MAX_MTU:
        return f"{what}; no port carries more than {limits.MAX_MTU}: give the segment a smaller mtu"
    clamp = "set mss_clamp" if tunnel.way == "kernel" else "set mss_clamp and leave way out"
    return f"{what}: set management mtu to {need} or more, and let everything on the way carry it, or {clamp}"


def _carries_no_ipv6(tunnel: Tunnel) -> bool:
    return address(tunnel.remote) is not None and encapsulations.only_ipv4(tunnel)


def _probes(config: Config, remote: Remote) -> Iterator[Fault]:
    kinds, carries_ip = {probe.kind for probe in remote.probes}, encapsulations.carries_ip(remote.tunnel)
    if remote.tags and carries_ip:
        yield "tags", "its tunnel carries IP and no tags: leave it out"
    if "negative" in kinds and "inband" not in kinds:
        yield "probes", "a negative heartbeat alone proves nothing (a dead remote blocks all): add an inband probe"
    if remote.probes and not kinds & {"inband"}:
        yield "probes", "one of them must be of kind inband: only that proves that frames come back"
    if len(remote.probes) > limits.MAX_PROBES:
        yield "probes", f"{len(remote.probes)} are more than MAX_PROBES = {limits.MAX_PROBES}"
    for number, probe in enumerate(remote.probes, 1):
        if probe.kind not in PROBES:
            yield "probes", f"{number}: a remote has no probes of kind {probe.kind}; it can have: {', '.join(PROBES)}"
        if probe.routed is not None and not carries_ip:
            yield "probes", f"{number}: routed heartbeats need the addresses of a guest's ports: leave out routed"
        if carries_ip and (probe.frame or probe.kind == "negative"):
            what = "its tunnel carries IP and no frames"
            yield "probes", f"{number}: {what}: of in-band probes it can have those without frame"
        if carries_ip and probe.routed is not None and ":" in probe.routed.lan and _carries_no_ipv6(remote.tunnel):
            yield "probes", f"{number}: routed: its tunnel carries IPv4 only: name IPv4 addresses"
        if probe.via == MANAGEMENT and not (config.management.address or config.management.address6):
            yield "probes", f"{number}: the management port has no address to send probes from"
