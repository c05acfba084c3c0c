# SPDX-License-Identifier: GPL-2.0-only
"""What every key of the configuration means, its range, from when a change counts, and where its default comes from.

One row a field of the structs in model.py; types, choices and defaults are read from there (shape.py). The checks, the
help in `configure`, config.fields of the API, the effects that a commit announces, and what running guests take over at
once are made from this table. Pure data.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final, NamedTuple

from appliance.config.schema import limits
from appliance.units import Duration, Size


class Effect(StrEnum):
    """From when a change counts. `{name}` stands for the guest."""

    NOW = "immediately"
    POLICY = "immediately, hitless"  # part of the policy, which is replaced by one atomic write
    PORTS = "immediately; the relay closes until the new ports are verified"
    CHECKS = "immediately; the guest keeps its traffic while it passes the new checks"
    PROCESS = "when guest {name} is restarted"  # what its process is started with
    NEXT_START = "when guest {name} starts next"
    BOOT = "when the appliance starts next"
    PROMPT = "at the next prompt"
    LOGIN = "at the next login"
    SESSION = "immediately, for new sessions"
    ADDRESS = "immediately; a session through the old address ends: use `commit confirmed`"
    RENAME = "a new name is a new item: the old one is removed"


class Field(NamedTuple):
    """One key. `effect` None: that of the table it is in. `rest`: its value is the rest of a typed line.

    `least` and `most` bound a time (ns) or a size (bytes); `zero`: 0 is allowed too, and means something else. `range`
    says what other values may be.
    """

    doc: str
    effect: Effect | None = None
    source: str = ""
    range: str = ""
    rest: bool = False
    least: Duration | Size | None = None
    most: Duration | Size | None = None
    zero: bool = False


def _time(
    doc: str,
    effect: Effect | None = None,
    source: str = "",
    *,
    least: int = 0,
    most: int = limits.MAX_DURATION,
    zero: bool = False,
) -> Field:
    return Field(doc, effect, source, least=Duration(least), most=Duration(most), zero=zero)


_NAME = Field("what rules, commands and events call it", Effect.RENAME)
_FILTER = "pcap-filter(7)"

UNSERVED: Final = frozenset({"remote"})
"""Lists of tables that nothing serves yet: refused in a configuration, and not offered for completion."""

FIELDS: Final[dict[str, Field]] = {
    "system.hostname": Field("the appliance's name, in prompts and logs", source="a name no network has yet"),
    "system.supervisor_grace": _time(
        "how long the relay is held inline without a supervisor before it goes to bypass",
        source="a cold start of the supervisor on the slowest board, twice",
        least=limits.MIN_GRACE,
        most=limits.MAX_GRACE,
    ),
    "system.idle_timeout": _time(
        "a session of the shell in which nobody types ends after this time; 0s: never",
        Effect.PROMPT,
        source="the usual time of network devices",
    ),
    "segment.name": _NAME,
    "segment.lan": Field("port towards the LAN", Effect.PORTS, range="a port of the board's board.toml"),
    "segment.wan": Field("port towards the WAN", Effect.PORTS, range="a port of the board's board.toml"),
    "segment.mode": Field(
        "auto: inline while nothing speaks against it; bypass: relay closed; disconnect: link cut, where the board can",
        source="inspecting is what the appliance is for",
    ),
    "segment.on_link_loss": Field(
        "when a port loses its link: propagate it to the other port, bypass by relay, or ignore it",
        source="neighbours find another way only when they see the loss",
    ),
    "segment.rearm_delay": _time(
        "healthy this long before going inline again; doubles while it flaps",
        source="a relay move makes both neighbours renegotiate, which takes about this long",
    ),
    "segment.attach": Field(
        "how frames are taken from the ports: native XDP, tc, or the first that works", Effect.POLICY, "XDP is fastest"
    ),
    "watchdog.timeout": _time(
        "the board is reset when its software is silent this long",
        source="ring 3: a hung kernel is bypassed in 2 s",
        least=limits.MIN_WATCHDOG,
        most=limits.MAX_WATCHDOG,
    ),
    "guest.name": _NAME,
    "guest.image": Field(
        "disk image; relative names are below the image folder", Effect.PROCESS, "either this or a kernel"
    ),
    "guest.kernel": Field("Linux kernel to boot directly", Effect.PROCESS, "either this or an image"),
    "guest.initrd": Field("initial RAM disk, with a kernel", Effect.PROCESS),
    "guest.cmdline": Field("kernel command line, with a kernel", Effect.PROCESS, rest=True),
    "guest.memory": Field(
        "memory of the virtual machine",
        Effect.PROCESS,
        "fits an inspection engine with a small rule set",
        least=Size(limits.MIN_MEMORY),
        most=Size(limits.MAX_MEMORY),
    ),
    "guest.cpus": Field("processors of the virtual machine", Effect.PROCESS),
    "guest.accel": Field(
        "kvm, tcg (emulation: slow), or auto: kvm where it works, else tcg with a warning",
        Effect.PROCESS,
        "works everywhere",
    ),
    "guest.firmware": Field("what the machine starts with, for an image", Effect.PROCESS, "what most images want"),
    "guest.disks": Field("more disks, behind the image", Effect.PROCESS),
    "guest.disks.image": Field("disk image; relative names are below the image folder"),
    "guest.disks.readonly": Field("the guest may not write to it"),
    "guest.storage": Field(
        "persistent: what it writes stays; snapshot: it is discarded when the guest ends",
        Effect.PROCESS,
        "as on a real machine",
    ),
    "guest.pin": Field(
        "the appliance's processor for each of its own, in order; empty: any", Effect.PROCESS, range="as many as cpus"
    ),
    "guest.hugepages": Field(
        "memory in huge pages, reserved while it runs; where not enough are found ordinary memory, with a warning",
        Effect.PROCESS,
    ),
    "guest.management": Field(
        "a third port: none (off); to the appliance alone (isolated): 169.254.N.2, N = its hop; on the LAN of the"
        " management port (bridged), without VLANs and what switches say to each other",
        Effect.PROCESS,
        "what is not there cannot be attacked",
    ),
    "guest.management_mac": Field("address of its third port; empty: the appliance's choice", Effect.PROCESS),
    "guest.lan_mac": Field(
        "address of its port at the LAN; empty: its own. A routed guest takes that of the neighbour at the WAN",
        Effect.PROCESS,
    ),
    "guest.wan_mac": Field(
        "address of its port at the WAN; empty: its own. A routed guest takes that of the neighbour at the LAN",
        Effect.PROCESS,
    ),
    "guest.hold": _time(
        "every check must pass for this long before it gets traffic, at first and after a failure",
        Effect.CHECKS,
        "longer than an application that starts and dies again lives",
    ),
    "guest.restart": Field("whether and when it is started again after it ended by itself"),
    "guest.restart.policy": Field(
        "always; on-failure: not when it powered itself off; never", source="the application belongs on the link"
    ),
    "guest.restart.first": _time(
        "wait before the first start; doubles each time", least=limits.MIN_RESTART_WAIT, most=limits.MAX_RESTART_WAIT
    ),
    "guest.restart.longest": _time("longest wait", least=limits.MIN_RESTART_WAIT, most=limits.MAX_RESTART_WAIT),
    "guest.restart.attempts": Field("ends in a row until it is given up (crash loop)"),
    "guest.restart.steady": _time(
        "a run as long as this forgives earlier ends", least=limits.MIN_RESTART_WAIT, most=limits.MAX_RESTART_WAIT
    ),
    "guest.start_order": Field("lower first, at the start of the appliance; equal ones start together"),
    "guest.after": Field("guests that must be available before it starts", Effect.NEXT_START),
    "guest.limits": Field("what its process may take of the machine", Effect.PROCESS),
    "guest.limits.cpu": Field("ceiling in percent of one processor; 0: none"),
    "guest.limits.weight": Field("share of the processors among guests that compete"),
    "guest.limits.overhead": Field(
        "memory of QEMU itself, above the guest's; more than that ends the guest",
        Effect.PROCESS,
        "three times what was seen",
        least=Size(limits.MIN_OVERHEAD),
        most=Size(limits.MAX_MEMORY),
    ),
    "guest.accept": Field(
        "frames it can process; others skip it. Empty: every frame", Effect.POLICY, "no guess", _FILTER, rest=True
    ),
    "guest.tags": Field(
        "may it choose the next hop by an 802.1ad tag: every frame that it gets carries one of ours, outermost",
        Effect.POLICY,
        "a guest is not trusted unasked",
    ),
    "guest.autostart": Field("start it with the appliance", Effect.BOOT),
    "guest.heartbeat": Field(
        "heartbeats it must send over its agent channel", Effect.CHECKS, source="off: not every guest can"
    ),
    "guest.heartbeat.interval": _time(
        "time between two heartbeats", source="found out in 300 ms", least=limits.MIN_INTERVAL
    ),
    "guest.heartbeat.misses": Field("missed in a row before the guest is skipped", source="two may be late"),
    "guest.probes": Field("questions put to it; all must be answered for it to have traffic", Effect.CHECKS),
    "guest.recorder": Field("the last frames handed to it, kept for the day it dies", Effect.POLICY),
    "guest.recorder.frames": Field("how many; 0: none", source="half a MiB a guest"),
    "guest.recorder.bytes": Field("kept of each frame", source="a whole Ethernet frame"),
    "guest.quarantine": Field(
        "bypass the guest for a flow that was present at each of its crashes",
        source="off: a flow that bypasses the guest is not inspected",
    ),
    "guest.quarantine.deaths": Field("deaths in a row at which the flow was there", source="once may be chance"),
    "guest.quarantine.failures": Field("failing a check counts as a death, too", source="a check has other reasons"),
    "guest.quarantine.within": _time("the longest time between two of them", least=10**9, most=limits.MAX_QUARANTINE),
    "guest.quarantine.flows": Field("when more flows than this were there, none is to blame"),
    "guest.quarantine.time": _time(
        "how long a flow is led around; `quarantine NAME release` ends it", least=10**9, most=limits.MAX_QUARANTINE
    ),
    "remote.name": _NAME,
    "remote.tunnel": Field("how it is reached", Effect.POLICY),
    "remote.tunnel.kind": Field("encapsulation"),
    "remote.tunnel.local": Field("our address"),
    "remote.tunnel.remote": Field("its address"),
    "remote.tunnel.key": Field("key (GRE), network number (VXLAN) or port (FOU)"),
    "remote.accept": Field(
        "frames it can process; others skip it. Empty: every frame", Effect.POLICY, "", _FILTER, rest=True
    ),
    "remote.tags": Field("may it choose the next hop by an 802.1ad tag", source="a remote is not trusted unasked"),
    "remote.probes": Field("questions put to it; all must be answered for it to have traffic"),
    "group.name": _NAME,
    "group.balance": Field("members that share the flows by weight", Effect.POLICY),
    "group.balance.hop": Field("guest or remote"),
    "group.balance.weight": Field("its share, relative to the others'", source="all alike"),
    "group.standby": Field("members in order of preference; the first available one has the traffic", Effect.POLICY),
    "group.hold_down": _time(
        "standby: a better member must be available this long before traffic goes back to it",
        Effect.POLICY,
        "longer than a guest that crashes in a loop stays up",
    ),
    "group.hash": Field(
        "flows are told apart by addresses and ports (l4) or addresses (l3)", Effect.POLICY, "spreads best"
    ),
    "rule.name": _NAME,
    "rule.segment": Field("the segment it is for. Empty: every segment", Effect.POLICY),
    "rule.match": Field("frames it is for. Empty: every frame", Effect.POLICY, "", _FILTER, rest=True),
    "rule.path": Field("hops to pass, in order. Empty: straight to the other port", Effect.POLICY),
    "rule.on_unavailable": Field(
        "no hop of the path is available: pass the frames (bypass) or drop them (block)",
        Effect.POLICY,
        "the link comes first; block is the deliberate exception",
    ),
    "rule.on_overload": Field(
        "a hop of the path gets more frames than it carries: those that exceed it go past it (bypass-excess) or are "
        "dropped (block-excess), or all frames of the rule go past it until it is over (bypass-all); auto: "
        "bypass-excess, or block-excess where on_unavailable says block",
        Effect.POLICY,
        "whoever floods must not switch inspection off",
    ),
    "management.port": Field("which port of the board", range="a port of board.toml", source="the board's first one"),
    "management.address": Field(
        "its IPv4 address with prefix length, or dhcp; empty: none",
        Effect.ADDRESS,
        "off until somebody says so",
        "192.0.2.10/24 | dhcp",
    ),
    "management.gateway": Field("IPv4 address of the default route", source="DHCP brings its own"),
    "management.address6": Field("its IPv6 address with prefix length; empty: IPv6 off", range="2001:db8::10/64"),
    "management.gateway6": Field("IPv6 address of the default route"),
    "management.ssh": Field(
        "SSH listens when there is an address, and a user who has a password or a key",
        source="the way to administer it",
    ),
    "management.ssh_port": Field("TCP port of SSH", Effect.SESSION, "the port of SSH"),
    "management.idle_timeout": _time(
        "an SSH session without a key pressed ends after this; 0s: never", Effect.SESSION, least=10**9, zero=True
    ),
    "management.serial_login": Field(
        "whether the console requires a login once an administrator has a password",
        source="as over the network; if the password is lost: bypass.recovery on the kernel command line",
    ),
    "user.name": _NAME,
    "user.role": Field(
        "viewer looks, operator acts, admin configures; each may do what those before it may", Effect.LOGIN
    ),
    "user.password": Field("hash of the password, as crypt(5) has it; `user NAME password` makes one", Effect.LOGIN),
    "user.keys": Field("OpenSSH public keys, each in quotes", Effect.LOGIN),
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
            "interval": _time("time between two questions", source="found out in 300 ms", least=limits.MIN_INTERVAL),
            "misses": Field("missed in a row before it is skipped", source="two may be late"),
            "rises": Field("answered in a row before it counts as passed", source="one may be luck"),
            "url": Field("http: the page that must answer", range="http://192.0.2.1/health | https://..."),
            "target": Field(
                "ping, arp: whom to ask; tcp: address:port; command: a word of its agent", range="an address, no name"
            ),
            "timeout": Field(
                "for one answer; 0s: as long as the interval",
                range="0s .. interval x misses",
                least=Duration(limits.MIN_INTERVAL),
                most=Duration(limits.MAX_DURATION),
                zero=True,
            ),
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
            "slow.limit": _time("the longest time through it that is still good", least=1000),
            "slow.percentile": Field(
                "of the frames that must be within the limit", source="one in a hundred may be late"
            ),
            "slow.time": _time("over how long", least=limits.MIN_INTERVAL, most=600 * 10**9),
        }.items()
    },
}


def field(path: str) -> Field:
    """The row of a key; an empty one for a key that has none, so that a forgotten row breaks no appliance."""
    row = FIELDS.get(path, Field(""))
    if row.effect is not None:
        return row
    outer = path.rpartition(".")[0]
    return row._replace(effect=field(outer).effect if "." in outer else Effect.NOW)


def differ(table: str, old: Any, new: Any, effect: Effect) -> bool:
    """Whether two structs of a table differ in a key whose change counts as `effect` says."""
    return any(getattr(old, key) != getattr(new, key) for key in keys_of(table, effect))


def keys_of(table: str, effect: Effect) -> tuple[str, ...]:
    """The keys of a table (not those of tables in it) whose change counts as `effect` says."""
    paths = (path.split(".") for path in FIELDS if path.startswith(f"{table}."))
    return tuple(path[1] for path in paths if len(path) == 2 and field(".".join(path)).effect is effect)
