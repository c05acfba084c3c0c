# SPDX-License-Identifier: GPL-2.0-only
"""What every key of the configuration means, from when a change counts, and where its default comes from.

One row a field of the structs in model.py; types, choices and defaults are read from there (schema.py). Help in
`configure`, config.fields of the API and the effects that a commit announces are made from this table. Pure data.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from appliance.config.schema import limits
from appliance.units import Duration, Size

NOW: Final = "immediately"
RESTART: Final = "when guest {name} is restarted"
NEXT: Final = "at the next login"
CLOSES: Final = "immediately; the relay closes, and opens again when the ports are verified"
SWITCH: Final = "immediately, hitless"


class Field(NamedTuple):
    """One key. `rest`: its value is the rest of a typed line."""

    doc: str
    effect: str = NOW
    source: str = ""
    range: str = ""
    rest: bool = False


def _time(least: int, most: int = limits.MAX_DURATION) -> str:
    return f"{Duration(least) if least else '0s'} .. {Duration(most)}"


_INTERVAL = _time(limits.MIN_INTERVAL)
_NAME = Field("what rules, commands and events call it", "a new name is a new thing: the old one is removed")
_FILTER = "pcap-filter(7)"

FIELDS: Final[dict[str, Field]] = {
    "system.hostname": Field("the appliance's name, in prompts and logs", source="a name no network has yet"),
    "system.supervisor_grace": Field(
        "how long the relay is held inline without a supervisor before it goes to bypass",
        source="a cold start of the supervisor on the slowest board, twice",
        range=_time(limits.MIN_GRACE, limits.MAX_GRACE),
    ),
    "system.idle_timeout": Field(
        "a shell session without input ends after this time; 0s: never",
        "at the next prompt",
        source="the usual time of network devices",
        range=_time(0),
    ),
    "segment.name": _NAME,
    "segment.lan": Field("port towards the LAN", CLOSES, range="a port of the board's board.toml"),
    "segment.wan": Field("port towards the WAN", CLOSES, range="a port of the board's board.toml"),
    "segment.mode": Field(
        "auto: inline while nothing speaks against it; bypass: relay closed; disconnect: link cut, where the board can",
        source="inspecting is what the appliance is for",
    ),
    "segment.on_link_loss": Field(
        "when a port loses its link: propagate it to the other port, bypass by relay, or ignore it",
        source="neighbours find another way only when they see the loss",
    ),
    "segment.rearm_delay": Field(
        "healthy this long before going inline again; doubles while it flaps",
        source="a relay move makes both neighbours renegotiate, which takes about this long",
        range=_time(0),
    ),
    "segment.attach": Field(
        "how frames are taken from the ports: native XDP, tc, or the first that works", SWITCH, "XDP is fastest"
    ),
    "watchdog.timeout": Field(
        "the board is reset when its software is silent this long",
        source="ring 3: a hung kernel is bypassed in 2 s",
        range=_time(limits.MIN_WATCHDOG, limits.MAX_WATCHDOG),
    ),
    "guest.name": _NAME,
    "guest.image": Field("disk image; relative names are below the image folder", RESTART, "either this or a kernel"),
    "guest.kernel": Field("Linux kernel to boot directly", RESTART, "either this or an image"),
    "guest.initrd": Field("initial RAM disk, with a kernel", RESTART),
    "guest.cmdline": Field("kernel command line, with a kernel", RESTART, rest=True),
    "guest.memory": Field(
        "memory of the virtual machine",
        RESTART,
        "fits an inspection engine with a small rule set",
        f"{Size(limits.MIN_MEMORY)} .. {Size(limits.MAX_MEMORY)}",
    ),
    "guest.cpus": Field("processors of the virtual machine", RESTART),
    "guest.accel": Field(
        "kvm, tcg (emulation: slow), or auto: kvm where it works, else tcg with a warning", RESTART, "works everywhere"
    ),
    "guest.firmware": Field("what the machine starts with, for an image", RESTART, "what most images want"),
    "guest.disks": Field("more disks, behind the image", RESTART),
    "guest.disks.image": Field("disk image; relative names are below the image folder", RESTART),
    "guest.disks.readonly": Field("the guest may not write to it", RESTART),
    "guest.storage": Field(
        "persistent: what it writes stays; snapshot: it is discarded when the guest ends",
        RESTART,
        "as on a real machine",
    ),
    "guest.pin": Field(
        "the appliance's processor for each of its own, in order; empty: any", RESTART, range="as many as cpus"
    ),
    "guest.hugepages": Field(
        "memory in huge pages, reserved while it runs; where not enough are found ordinary memory, with a warning",
        RESTART,
    ),
    "guest.management": Field(
        "a third port: none (off); to the appliance alone (isolated): 169.254.N.2, N = its hop; on the LAN of the"
        " management port (bridged), except VLANs and link-local protocols (STP, LLDP)",
        RESTART,
        "a port that does not exist cannot be attacked",
    ),
    "guest.management_mac": Field("address of its third port; empty: the appliance's choice", RESTART),
    "guest.lan_mac": Field(
        "address of its port at the LAN; empty: its own. A routed guest takes that of the neighbour at the WAN", RESTART
    ),
    "guest.wan_mac": Field(
        "address of its port at the WAN; empty: its own. A routed guest takes that of the neighbour at the LAN", RESTART
    ),
    "guest.hold": Field(
        "every check must pass for this long before it has traffic, at first and after a fall",
        RESTART,
        "longer than an application that starts and dies again lives",
        _time(0),
    ),
    "guest.restart": Field("whether and when it is started again after it ended by itself"),
    "guest.restart.policy": Field(
        "always; on-failure: not when it powered itself off; never", source="the application belongs on the link"
    ),
    "guest.restart.first": Field("wait before the first start; doubles each time", range="10ms .. 1h"),
    "guest.restart.longest": Field("longest wait", range="10ms .. 1h"),
    "guest.restart.attempts": Field("ends in a row until it is given up (crash loop)"),
    "guest.restart.steady": Field("a run as long as this forgives earlier ends", range="10ms .. 1h"),
    "guest.start_order": Field("lower first, at the start of the appliance; equal ones start together"),
    "guest.after": Field("guests that must be available before it starts", "at its next start"),
    "guest.limits": Field("what its process may take of the machine", RESTART),
    "guest.limits.cpu": Field("ceiling in percent of one processor; 0: none", RESTART),
    "guest.limits.weight": Field("share of the processors among guests that compete", RESTART),
    "guest.limits.overhead": Field(
        "memory of QEMU itself, above the guest's; more than that ends the guest",
        RESTART,
        "three times what was seen",
        f"{Size(limits.MIN_OVERHEAD)} .. {Size(limits.MAX_MEMORY)}",
    ),
    "guest.accept": Field(
        "frames it can process; others skip it. Empty: every frame", SWITCH, "no guess", _FILTER, rest=True
    ),
    "guest.tags": Field("may it choose the next hop by an 802.1ad tag", source="a guest is not trusted unasked"),
    "guest.autostart": Field("start it with the appliance", "at the next start of the appliance"),
    "guest.heartbeat": Field("heartbeats it must send over its agent channel", source="off: not every guest can"),
    "guest.heartbeat.interval": Field("time between two heartbeats", range=_INTERVAL, source="found out in 300 ms"),
    "guest.heartbeat.misses": Field("missed in a row before the guest is skipped", source="two may be late"),
    "guest.probes": Field("questions put to it; all must be answered for it to have traffic"),
    "guest.recorder": Field("the last frames handed to it, kept for the day it dies"),
    "guest.recorder.frames": Field("how many; 0: none", SWITCH, "half a MiB a guest"),
    "guest.recorder.bytes": Field("kept of each frame", source="a whole Ethernet frame"),
    "guest.quarantine": Field(
        "bypass the guest for a flow that was present at each of its crashes",
        source="off: a flow that bypasses the guest is not inspected",
    ),
    "guest.quarantine.deaths": Field("deaths in a row at which the flow was there", source="once may be chance"),
    "guest.quarantine.failures": Field("failing a check counts as a death, too", source="a check has other reasons"),
    "guest.quarantine.within": Field("the longest time between two of them", range=_time(10**9, limits.MAX_QUARANTINE)),
    "guest.quarantine.flows": Field("when more flows than this were there, none is to blame"),
    "guest.quarantine.time": Field(
        "how long a flow bypasses the guest; `quarantine NAME release` ends it",
        range=_time(10**9, limits.MAX_QUARANTINE),
    ),
    "remote.name": _NAME,
    "remote.tunnel": Field("how it is reached", SWITCH),
    "remote.tunnel.kind": Field("encapsulation", SWITCH),
    "remote.tunnel.local": Field("our address", SWITCH),
    "remote.tunnel.remote": Field("its address", SWITCH),
    "remote.tunnel.key": Field("key (GRE), network number (VXLAN) or port (FOU)", SWITCH),
    "remote.accept": Field("frames it can process; others skip it. Empty: every frame", SWITCH, "", _FILTER, rest=True),
    "remote.tags": Field("may it choose the next hop by an 802.1ad tag", source="a remote is not trusted unasked"),
    "remote.probes": Field("questions put to it; all must be answered for it to have traffic"),
    "group.name": _NAME,
    "group.balance": Field("members that share the flows by weight", SWITCH),
    "group.balance.hop": Field("guest or remote", SWITCH),
    "group.balance.weight": Field("its share, relative to the others'", SWITCH, "all alike"),
    "group.standby": Field("members in order of preference; the first available one has the traffic", SWITCH),
    "group.hold_down": Field(
        "standby: a better member must be available this long before traffic goes back to it",
        SWITCH,
        "longer than a guest that crashes in a loop stays up",
        _time(0),
    ),
    "group.hash": Field("flows are told apart by addresses and ports (l4) or addresses (l3)", SWITCH, "spreads best"),
    "rule.name": _NAME,
    "rule.segment": Field("the segment it is for. Empty: every segment", SWITCH),
    "rule.match": Field("frames it is for. Empty: every frame", SWITCH, "", _FILTER, rest=True),
    "rule.path": Field("hops to pass, in order. Empty: straight to the other port", SWITCH),
    "rule.on_unavailable": Field(
        "no hop of the path is available: pass the frames (bypass) or drop them (block)",
        SWITCH,
        "the link comes first; block is the deliberate exception",
    ),
    "management.port": Field("which port of the board", range="a port of board.toml", source="the board's first one"),
    "management.address": Field(
        "its IPv4 address with prefix length, or dhcp; empty: none",
        "immediately; sessions through the old address end: use `commit confirmed`",
        "off until configured",
        "192.0.2.10/24 | dhcp",
    ),
    "management.gateway": Field("IPv4 address of the default route", source="DHCP brings its own"),
    "management.address6": Field("its IPv6 address with prefix length; empty: IPv6 off", range="2001:db8::10/64"),
    "management.gateway6": Field("IPv6 address of the default route"),
    "management.ssh": Field(
        "SSH listens when there is an address, and a user who has a password or a key",
        source="the way to administer it",
    ),
    "management.ssh_port": Field("TCP port of SSH", "immediately, for new sessions", "the port of SSH"),
    "management.idle_timeout": Field(
        "an SSH session without input ends after this time; 0s: never",
        "immediately, for new sessions",
        range="0s, 1s .. 24h",
    ),
    "management.serial_login": Field(
        "whether the console requires a login once an administrator has a password",
        source="as over the network; if the password is lost: bypass.recovery on the kernel command line",
    ),
    "user.name": _NAME,
    "user.role": Field("viewer: read-only; operator: viewer plus actions; admin: full access", NEXT),
    "user.password": Field("hash of the password, as crypt(5) has it; `user NAME password` makes one", NEXT),
    "user.keys": Field("OpenSSH public keys, each in quotes", NEXT),
    "metrics.enabled": Field("OpenMetrics on the management port", source="nothing is shown unasked"),
    "metrics.port": Field("TCP port of OpenMetrics", source="free in the list of Prometheus exporters"),
    "syslog.servers": Field(
        "where events are sent", range="udp://192.0.2.1:514 | tcp://[2001:db8::1]:601 | tls://192.0.2.1:6514"
    ),
    "syslog.ca": Field(
        "certificates (PEM) by which those of tls:// servers are known; several lines: load merge -",
        source="none is believed unasked",
    ),
    "syslog.server_name": Field("name in the certificates of tls:// servers", source="their address"),
    "syslog.severity": Field("events this severe and worse are sent", source="they are few"),
    **{
        f"{table}.probes.{key}": row
        for table in ("guest", "remote")
        for key, row in {
            "kind": Field(
                "inband: frames through its data ports; negative: frames that it must block; ping, arp, tcp, http: one "
                "of its services; command: its agent; cpu: whether its processors get to run"
            ),
            "interval": Field("time between two questions", range=_INTERVAL, source="found out in 300 ms"),
            "misses": Field("missed in a row before it is skipped", source="two may be late"),
            "rises": Field("answered in a row before it counts as passed", source="one may be luck"),
            "url": Field("http: the page that must answer", range="http://192.0.2.1/health | https://..."),
            "target": Field(
                "ping, arp: whom to ask; tcp: address:port; command: a word of its agent", range="an address, no name"
            ),
            "timeout": Field("for one answer; 0s: as long as the interval", range="0s .. interval x misses"),
            "via": Field('network device to ask through, or "management" for that port; empty: as the routes say'),
            "status": Field("http: good answers; none named: 200 to 399", range="100 .. 599"),
            "body": Field("http: text that must be in the first 64 KiB of the answer"),
            "verify": Field("https: its certificate must be good", source="an answer from anybody proves nothing"),
            "frame": Field(
                "inband, negative: the frame to send, for a guest that drops unknown ones. Its addresses are replaced",
                range="hex digits, or a capture file (its first frame) below /etc/bypass",
                source="a numbered frame of EtherType 0x88b5",
            ),
            "enter": Field("inband, negative: the side at which frames enter it"),
            "routed": Field(
                "inband: as packets between two addresses, for a guest that routes; one for IPv4, one for IPv6"
            ),
            "routed.lan": Field("the end at the LAN; the guest has a route to it", range="an unused address"),
            "routed.wan": Field("the end at the WAN; the guest has a route to it", range="an unused address"),
            "routed.port": Field("UDP port at both ends, which the guest lets pass", source="discard, RFC 863"),
            "slow": Field(
                "inband: being slow is failing: late frames a third of the time apart; one late frame or burst is not",
                source="off: only you know how slow is too slow",
            ),
            "slow.limit": Field("the longest time through it that is still good", range=_time(1000)),
            "slow.percentile": Field(
                "of the frames that must be within the limit", source="one in a hundred may be late"
            ),
            "slow.time": Field("over how long", range=_time(limits.MIN_INTERVAL, 600 * 10**9)),
        }.items()
    },
}


def field(path: str) -> Field:
    """The row of a key; an empty one for a key that has none, so that a forgotten row breaks no appliance."""
    return FIELDS.get(path, Field(""))
