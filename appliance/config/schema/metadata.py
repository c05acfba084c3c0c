# SPDX-License-Identifier: GPL-2.0-only
"""What each key of the configuration means, its range, when a change takes effect, and the reason for its default.

One row for each field of the structs in model.py, which hold types, choices and defaults (shape.py reads them). The
checks, the help in `configure`, config.fields of the API, the effects that a commit announces, and what running guests
adopt at once are made from this table. Pure data.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final, NamedTuple

from appliance.config.schema import limits
from appliance.units import Duration, Size


class Effect(StrEnum):
    """When a change takes effect. `{name}` stands for the guest."""

    NOW = "immediately"
    POLICY = "immediately, hitless"  # part of the policy, which is replaced by one atomic write
    PORTS = "immediately; the relay stays closed until the new ports are verified"
    ATTACH = "immediately; the ports are reattached, which may lose frames"
    CHECKS = "immediately; the guest keeps its traffic while it passes the new checks"
    TUNNEL = "immediately; remote {name} is bypassed while its tunnels are replaced"
    SERVED = "immediately; the other appliance bypasses {name} while its tunnels are replaced"
    PROCESS = "when guest {name} is restarted"  # arguments of its process
    NEXT_START = "when guest {name} starts next"
    BOOT = "when the appliance starts next"
    RESTART = "when bypassd or the appliance starts next"
    PROMPT = "at the next prompt"
    LOGIN = "at the next login"
    SESSIONS_END = "immediately; the user's sessions end"
    SESSION = "immediately, for new sessions"
    ADDRESS = "immediately; a session through the old address ends: use `commit confirmed`"
    RENAME = "a new name makes a new item: the old one is removed"


class Field(NamedTuple):
    """One key. `effect` None: that of its table. `rest`: its value is the rest of a typed line.

    `least` and `most` bound a time (ns) or a size (bytes); `zero`: 0 is allowed too, with a meaning of its own. `range`
    describes other values.
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


_NAME = Field("the name used in rules, commands and events", Effect.RENAME)
_FILTER = "pcap-filter(7)"

UNSERVED: Final[frozenset[str]] = frozenset()
"""Lists of tables that nothing serves yet: refused in a configuration, and not offered for completion."""

FIELDS: Final[dict[str, Field]] = {
    "system.hostname": Field(
        "the appliance's name, in prompts and logs",
        source="unlikely to exist in your network",
        range="letters, digits and - in the middle, at most 63",
    ),
    "system.supervisor_grace": _time(
        "how long the relay is held inline without a supervisor before it goes to bypass",
        source="twice the time of a cold start of the supervisor on the slowest board",
        least=limits.MIN_GRACE,
        most=limits.MAX_GRACE,
    ),
    "system.idle_timeout": _time(
        "a shell session without input ends after this time; 0s: never",
        Effect.PROMPT,
        source="usual for network devices",
    ),
    "system.login_banner": Field(
        "text that is shown before a login, over SSH and on the console; several lines in $'...' with \\n between",
        Effect.SESSION,
        "a notice that the law or your company may want; it should not say what the appliance is",
        "at most 2000 characters",
    ),
    "system.power_button": Field(
        "what a press of the power button does: poweroff, in order and relays first, or ignore. Holding it for seconds"
        " always ends the machine, which the firmware does",
        source="who stands in front of the appliance can pull its plug as well, which is no order",
    ),
    "system.crash_limit": Field(
        "number of crashes in crash_window after which the machine starts in safe mode (bypass, no guests); 0: never",
        Effect.RESTART,
        "each crash costs the link the time of a reset",
    ),
    "system.crash_window": _time(
        "time of operation in which crashes are counted; without one for so long they are forgotten",
        Effect.RESTART,
        source="tried again once an hour, a machine that always crashes costs little",
        least=limits.MIN_CRASH_WINDOW,
    ),
    "segment.name": _NAME,
    "segment.lan": Field("port towards the LAN", Effect.PORTS, range="a port of the board's board.toml"),
    "segment.wan": Field("port towards the WAN", Effect.PORTS, range="a port of the board's board.toml"),
    "segment.mode": Field(
        "auto: inline while everything is healthy; bypass: relay closed; disconnect: link cut, where the board can",
        source="inspection is the purpose of the appliance",
    ),
    "segment.on_link_loss": Field(
        "when a port loses its link: propagate it to the other port, bypass by relay, or ignore it",
        source="neighbours switch to another path only when they see the loss",
    ),
    "segment.link_loss_limit": _time(
        "one port without a link for longer than this: bypass, and inline again to look for it; 0s: stay inline",
        source="a dead port of our own looks like this; links negotiate in less",
        least=limits.MIN_LINK_LOSS,
        zero=True,
    ),
    "segment.rearm_delay": _time(
        "time of good health before going inline again; doubles up to 1h while the segment flaps",
        source="a relay move makes both neighbours renegotiate their links, which takes about this long",
    ),
    "segment.attach": Field(
        "how frames are taken from the ports: native XDP, tc, or the first that works", Effect.ATTACH, "XDP is fastest"
    ),
    "segment.mtu": Field(
        "longest packet that its ports take, without Ethernet header and tag; longer ones are dropped and counted."
        f" 0: the largest with which native XDP works, at most {limits.ONE_BUFFER_MTU}",
        Effect.PORTS,
        "room for tags and labels around a full Ethernet frame; `show segments` has the MTU in use",
        "0 | 1500 .. 16000",
    ),
    "segment.link_local": Field(
        "control frames of the link itself (STP, LACP, LLDP, EAPOL, PTP; to 01:80:c2:00:00:00 to 0f): straight to the"
        " other port before any rule, or as the rules say",
        Effect.POLICY,
        "a guest's bridge drops them, and the neighbours then take the link down",
    ),
    "segment.dry_run": Field(
        "the rules are followed and counted as if their hops got the frames, and every frame goes straight to the other"
        " port",
        Effect.POLICY,
        "rules are there to be followed",
    ),
    "watchdog.timeout": _time(
        "the board is reset when its software does not respond for this long",
        source="a hung kernel is bypassed within 2 s",
        least=limits.MIN_WATCHDOG,
        most=limits.MAX_WATCHDOG,
    ),
    "guest.name": _NAME,
    "guest.image": Field(
        "disk image; relative names are below the image folder", Effect.PROCESS, "an image or a kernel is required"
    ),
    "guest.kernel": Field("Linux kernel to boot directly", Effect.PROCESS, "an image or a kernel is required"),
    "guest.initrd": Field("initial RAM disk, with a kernel", Effect.PROCESS),
    "guest.cmdline": Field("kernel command line, with a kernel", Effect.PROCESS, rest=True),
    "guest.memory": Field(
        "memory of the virtual machine",
        Effect.PROCESS,
        "enough for an inspection engine with a small rule set",
        least=Size(limits.MIN_MEMORY),
        most=Size(limits.MAX_MEMORY),
    ),
    "guest.cpus": Field("virtual processors", Effect.PROCESS),
    "guest.accel": Field(
        "kvm, tcg (emulation: slow), or auto: kvm where it works, else tcg with a warning",
        Effect.PROCESS,
        "works everywhere",
    ),
    "guest.firmware": Field("firmware that boots the image", Effect.PROCESS, "supported by most images"),
    "guest.disks": Field("more disks, after the image", Effect.PROCESS),
    "guest.disks.image": Field("disk image; relative names are below the image folder"),
    "guest.disks.readonly": Field("the guest cannot write to it"),
    "guest.storage": Field(
        "persistent: writes are kept; snapshot: they are discarded when the guest ends",
        Effect.PROCESS,
        "as on a real machine",
    ),
    "guest.pin": Field(
        "the appliance's processor for each virtual one, in order; empty: any", Effect.PROCESS, range="as many as cpus"
    ),
    "guest.queues": Field(
        "queues of each of its ports; frames that one of the appliance's processors receives stay in one of them",
        Effect.PROCESS,
        "with more, every queue needs a virtual processor, and a thread of the kernel (vhost) to be worth it",
        range="1 .. cpus",
    ),
    "guest.queue_pin": Field(
        "the appliance's processor that moves the frames of each queue, in order; empty: any",
        Effect.PROCESS,
        range="as many as queues",
    ),
    "guest.queue_poll": _time(
        "how long the kernel looks for more frames before it waits for them; 0: not at all. Needs KVM and vhost",
        Effect.PROCESS,
        "polling takes processor time from the guest",
        least=1000,
        most=limits.MAX_QUEUE_POLL,
        zero=True,
    ),
    "guest.hugepages": Field(
        "memory in huge pages, reserved while it runs; ordinary memory with a warning if there are not enough",
        Effect.PROCESS,
    ),
    "guest.mtu": Field(
        "MTU that its data ports announce to it (virtio-net host_mtu); 0: that of the segment's ports when it starts",
        Effect.PROCESS,
        "a bridge in it passes what the wire does; less for a guest that sends packets of its own",
        "0 | 1500 .. 16000",
    ),
    "guest.management": Field(
        "a third port: none (off); to the appliance only (isolated): 169.254.N.2, N = its hop; on the LAN of the"
        " management port (bridged), without VLANs and link-local protocols (STP, LLDP)",
        Effect.PROCESS,
        "a port that does not exist cannot be attacked",
    ),
    "guest.management_mac": Field("MAC address of its third port; empty: chosen by the appliance", Effect.PROCESS),
    "guest.lan_mac": Field(
        "MAC address of its LAN port; empty: a chosen one. A routed guest takes that of the neighbour at the WAN",
        Effect.PROCESS,
    ),
    "guest.wan_mac": Field(
        "MAC address of its WAN port; empty: a chosen one. A routed guest takes that of the neighbour at the LAN",
        Effect.PROCESS,
    ),
    "guest.hold": _time(
        "all checks must pass for this long before it gets traffic, at first and after a failure",
        Effect.CHECKS,
        "longer than an application lives that crashes soon after its start",
    ),
    "guest.restart": Field("whether and when it is restarted after it ended by itself"),
    "guest.restart.policy": Field(
        "always; on-failure: unless it powered itself off; never", source="the application should be on the link"
    ),
    "guest.restart.first": _time(
        "wait before the first start; doubles each time", least=limits.MIN_RESTART_WAIT, most=limits.MAX_RESTART_WAIT
    ),
    "guest.restart.longest": _time("longest wait", least=limits.MIN_RESTART_WAIT, most=limits.MAX_RESTART_WAIT),
    "guest.restart.attempts": Field("consecutive ends until it is given up (crash loop)"),
    "guest.restart.steady": _time(
        "a run of this length resets the count", least=limits.MIN_RESTART_WAIT, most=limits.MAX_RESTART_WAIT
    ),
    "guest.start_order": Field("guests with lower numbers start first with the appliance; equal ones together"),
    "guest.after": Field("guests that must be available before it starts", Effect.NEXT_START),
    "guest.limits": Field("limits of its process", Effect.PROCESS),
    "guest.limits.cpu": Field("limit in percent of one processor; 0: none"),
    "guest.limits.weight": Field("share of processor time when guests compete"),
    "guest.limits.overhead": Field(
        "memory of QEMU itself, beyond the guest's; exceeding it ends the guest",
        Effect.PROCESS,
        "three times the measured value",
        least=Size(limits.MIN_OVERHEAD),
        most=Size(limits.MAX_MEMORY),
    ),
    "guest.accept": Field(
        "filter of frames it can process; others skip it. Empty: every frame",
        Effect.POLICY,
        "no guess",
        _FILTER,
        rest=True,
    ),
    "guest.tags": Field(
        "whether it may choose the next hop with an 802.1ad tag; then each frame that it gets carries an outer tag",
        Effect.POLICY,
        "a guest is not trusted by default",
    ),
    "guest.autostart": Field("start it with the appliance", Effect.BOOT),
    "guest.heartbeat": Field(
        "heartbeats that it must send through its agent channel",
        Effect.CHECKS,
        source="off, because not every guest has the agent",
    ),
    "guest.heartbeat.interval": _time(
        "time between two heartbeats",
        source="with misses = 3 a failure is detected in 300 ms",
        least=limits.MIN_INTERVAL,
    ),
    "guest.heartbeat.misses": Field(
        "consecutive misses before the guest is bypassed", source="tolerates two late ones"
    ),
    "guest.probes": Field("checks; all must pass for it to have traffic", Effect.CHECKS),
    "guest.dry_run": Field(
        "its checks decide nothing: what they would have bypassed is told and counted. The end of its process, and what"
        " it or QEMU says itself, still count",
        Effect.CHECKS,
        "checks are there to decide",
    ),
    "guest.recorder": Field("the last frames handed to it, kept for the case that it crashes", Effect.POLICY),
    "guest.recorder.frames": Field("how many; 0: none", source="half a MiB for each guest"),
    "guest.recorder.bytes": Field("bytes kept of each frame", source="a full-size Ethernet frame"),
    "guest.shunts": Field(
        "flows that it may shunt: it says, by a tag or through its agent, that it needs a flow no more, and the frames "
        "of the flow skip it",
        Effect.POLICY,
        source="off, because a flow that skips the guest is not inspected",
    ),
    "guest.shunts.max": Field("how many at the same time; 0: it may shunt none"),
    "guest.shunts.time": _time(
        "a shunt lasts at most this long; the guest may ask for less",
        source="long for a transfer, short for a mistake",
        least=10**9,
        most=limits.MAX_SHUNT,
    ),
    "guest.shunts.idle": _time(
        "a shunt ends when its flow has had no frame for this long",
        source="longer than the pauses within a transfer",
        least=2 * 10**9,
        most=limits.MAX_SHUNT,
    ),
    "guest.shunts.rate": Field("new ones per second", source="more than a guest finds in ordinary traffic"),
    "guest.quarantine": Field(
        "flows present at each of its crashes bypass the guest",
        source="off, because a flow that bypasses the guest is not inspected",
    ),
    "guest.quarantine.deaths": Field(
        "consecutive crashes at which the flow was present", source="one crash may be a coincidence"
    ),
    "guest.quarantine.failures": Field(
        "a failed check counts as a crash too", source="a check can fail for other reasons"
    ),
    "guest.quarantine.within": _time("the longest time between two crashes", least=10**9, most=limits.MAX_QUARANTINE),
    "guest.quarantine.flows": Field("with more flows than this present, none is blamed"),
    "guest.quarantine.time": _time(
        "how long a flow bypasses the guest; `quarantine NAME release` ends it", least=10**9, most=limits.MAX_QUARANTINE
    ),
    "remote.name": _NAME,
    "remote.tunnel": Field("the two tunnels by which it is reached, one a side", Effect.TUNNEL),
    "remote.tunnel.kind": Field(
        "encapsulation: Ethernet in GRE (gre-ethernet), IP in GRE (gre-ip), IP in IP (ipip), Ethernet in GRE in UDP "
        "(fou), VXLAN, Geneve, or VLANs on a port of their own (vlan). None of them encrypts or authenticates: add "
        "wireguard"
    ),
    "remote.tunnel.remote": Field(
        "address of the far end, reached through the management port; vlan has none", range="an address"
    ),
    "remote.tunnel.port": Field(
        "vlan: the data port that leads to the far end; it belongs to no segment, and its MTU is raised as needed",
        range="a port of the board's board.toml",
    ),
    "remote.tunnel.wan_remote": Field(
        "ipip, which has no keys: another address of the far end, at which the WAN side's tunnel ends; `remote` is "
        "then that of the LAN side's",
        range="an address",
    ),
    "remote.tunnel.local": Field(
        "our address in the outer packets; empty: as the routes say. Geneve has none",
        range="an address of the management port",
    ),
    **{
        f"remote.tunnel.{side}_key": Field(
            f"key (GRE), network identifier (VXLAN, Geneve) or VLAN ID of the tunnel at the {side.upper()} side; "
            "the far end has the same. ipip has none",
            range="0 .. 4294967295; VXLAN, Geneve: 1 .. 16777215; vlan: 1 .. 4094",
        )
        for side in ("lan", "wan")
    },
    **{
        f"remote.tunnel.{side}_port": Field(
            f"fou, VXLAN, Geneve: UDP port of the tunnel at the {side.upper()} side; 0: 4754 (fou), 4789 (VXLAN), "
            "6081 (Geneve)",
            source="as registered",
            range="0 .. 65535",
        )
        for side in ("lan", "wan")
    },
    "remote.tunnel.sequence": Field(
        "GRE: number the packets; late and repeated ones are dropped, so the way must not reorder them",
        source="a way that reorders would lose frames",
    ),
    "remote.tunnel.checksum": Field(
        "GRE, and UDP over IPv4: checksum over the whole packet; over IPv6, UDP always has one",
        source="the frames have their own",
    ),
    "remote.tunnel.mss_clamp": Field(
        "make TCP connections fit: the segment size that their ends offer each other is lowered to what crosses the "
        "tunnel whole. The way may then be narrower than full-size frames; other long frames skip the remote",
        source="a changed option; a way that carries full-size frames needs none",
    ),
    "remote.tunnel.way": Field(
        "who puts the outer headers on: the kernel, or XDP, which is faster and leaves to the kernel what it cannot "
        "send. XDP: gre-ethernet without sequence and checksum, and VXLAN and Geneve over IPv4 without checksum",
        source="works with every kind and option",
    ),
    "remote.tunnel.wireguard": Field(
        "WireGuard below the tunnels: encrypts their packets and takes only those of the far end; "
        "`remote` is then the far end's address inside"
    ),
    "remote.tunnel.wireguard.peer": Field(
        "address of the far end, reached through the management port", range="an address"
    ),
    "remote.tunnel.wireguard.public_key": Field("the far end's, as `wg pubkey` prints it", range="44 characters"),
    "remote.tunnel.wireguard.address": Field("our address inside WireGuard", range="an address"),
    "remote.tunnel.wireguard.port": Field(
        "UDP port of the management port; each remote has its own", source="as WireGuard's tools have it"
    ),
    "remote.tunnel.wireguard.peer_port": Field("UDP port of the far end", source="as WireGuard's tools have it"),
    "remote.tunnel.wireguard.preshared_key": Field(
        "a secret that both ends have beside their keys, as `wg genpsk` prints it; never shown", range="44 characters"
    ),
    "remote.tunnel.wireguard.private_key_file": Field(
        "file with our private key; empty: the appliance's own, made once. `show remote` has the public key",
        source="no key to copy",
        range="a path",
    ),
    "remote.segment": Field(
        "the segment that it serves; empty: the only one of its rules", Effect.TUNNEL, range="a segment"
    ),
    "remote.accept": Field(
        "filter of frames it can process; others skip it. Empty: every frame", Effect.POLICY, "", _FILTER, rest=True
    ),
    "remote.tags": Field(
        "whether it may choose the next hop with an 802.1ad tag", source="a remote is not trusted by default"
    ),
    "remote.autostart": Field("start it with the appliance", Effect.BOOT),
    "remote.hold": _time("all checks must pass this long before it gets traffic", Effect.CHECKS, "as for a guest"),
    "remote.probes": Field("checks; all must pass for it to have traffic. None: one in-band heartbeat", Effect.CHECKS),
    "remote.return_timeout": _time(
        "frames are sent to it and none comes back for this long, although its checks pass: it is bypassed; 0s: off",
        source="a remote that blocks all of its traffic on purpose needs 0s",
        least=10**9,
        zero=True,
    ),
    "serve.name": _NAME,
    "serve.tunnel": Field(
        "the two tunnels by which another appliance's frames come and go back; keys and ports as in its remote, and "
        "`remote` is that appliance",
        Effect.SERVED,
    ),
    "serve.path": Field(
        "guests, remotes and groups that the frames go through, in order from the LAN; while too few are available the "
        "frames are dropped, so that the other appliance bypasses them",
        Effect.POLICY,
    ),
    "serve.mtu": Field(
        "MTU of the other appliance's segment, whose longest frames must cross the tunnels whole", Effect.SERVED
    ),
    "group.name": _NAME,
    "group.balance": Field("members that share the flows in proportion to their weights", Effect.POLICY),
    "group.balance.hop": Field("guest or remote"),
    "group.balance.weight": Field("its share, relative to the other members'", source="all alike"),
    "group.spare": Field(
        "balance: members that get no flows while all others are available, and share those of the ones that are not",
        Effect.POLICY,
    ),
    "group.standby": Field("members in order of preference; the first available one gets the traffic", Effect.POLICY),
    "group.minimum": Field(
        "with fewer available members than this, the group counts as not available and gets no frames",
        Effect.POLICY,
        "one member that works inspects more than none",
        f"1 .. {limits.MAX_MEMBERS}",
    ),
    "group.hold_down": _time(
        "standby, spare: a preferred member must be available this long before traffic returns to it",
        Effect.POLICY,
        "longer than a guest in a crash loop stays up",
    ),
    "group.hash": Field(
        "flows are distinguished by addresses, ports and protocol (5-tuple), addresses and protocol (3-tuple),"
        " addresses (2-tuple), the address at the LAN (source) or that at the WAN (destination); l4 and l3 are former"
        " names of 5-tuple and 2-tuple",
        Effect.POLICY,
        "spreads best",
    ),
    "group.on_member_failure": Field(
        "established flows of a member that fails: go on through another member (rehash); bypass the group until it is"
        " back (keep); TCP is reset at both ends, so that it begins anew through another member (reset)",
        Effect.POLICY,
        "nothing passes uninspected, and no connection is cut that another member may carry on",
    ),
    "rule.name": _NAME,
    "rule.segment": Field("the segment it applies to. Empty: every segment", Effect.POLICY),
    "rule.match": Field(
        "filter of the frames it applies to. Empty: every frame", Effect.POLICY, "", _FILTER, rest=True
    ),
    "rule.through": Field(
        "what `match` looks through: one tag (vlan), two tags (qinq), PPPoE sessions, up to three MPLS labels, SNAP,"
        " extension headers of IPv6 (ip6ext), later fragments that may belong to such frames (fragments)",
        Effect.POLICY,
        "match means what it means to tcpdump",
    ),
    "rule.path": Field("hops in order. Empty: straight to the other port", Effect.POLICY),
    "rule.mirrors": Field(
        "hops that get copies of the frames; what they send is dropped, and whether they are available changes nothing."
        " The segment is attached by tc",
        Effect.POLICY,
    ),
    "rule.mirrors.hop": Field("guest or remote"),
    "rule.mirrors.beside": Field(
        "the hop or group of the path whose frames it gets, from both sides; empty: the first one",
        source="a path of one hop has no other",
    ),
    "rule.on_unavailable": Field(
        "while too few hops of the path are available (see require): pass the frames (bypass), drop them (block), or"
        " drop them and take down the links of both ports (link-down), so that the neighbours use another path, until"
        " the hops have been available for the segment's rearm_delay",
        Effect.POLICY,
        "the link comes first; block and link-down are deliberate exceptions",
    ),
    "rule.require": Field(
        "hops of the path that must be available: any: one, the others are skipped; all: each that accepts the frame,"
        " or on_unavailable applies",
        Effect.POLICY,
        "a chain with one hop less inspects more than none",
    ),
    "management.port": Field(
        "the board's management port", Effect.ADDRESS, range="a port of board.toml", source="the board's first one"
    ),
    "rule.on_overload": Field(
        "a hop of the path gets more frames than it can handle: those that exceed it bypass it (bypass-excess) or are "
        "dropped (block-excess), or all frames of the rule bypass it until the overload ends (bypass-all); auto: "
        "bypass-excess, or block-excess where on_unavailable says block or link-down",
        Effect.POLICY,
        "a flood must not switch inspection off",
    ),
    "rule.keep_shunts": Field(
        "while a hop of the path is not available, flows that it has shunted still skip it, so that block and require "
        "do not stop them",
        Effect.POLICY,
        "a rule that blocks blocks everything",
    ),
    "management.address": Field(
        "its IPv4 address with prefix length, or dhcp; empty: none",
        Effect.ADDRESS,
        "off until configured",
        "192.0.2.10/24 | dhcp",
    ),
    "management.gateway": Field("IPv4 address of the default route", source="DHCP provides one"),
    "management.address6": Field(
        "its IPv6 address with prefix length; empty: IPv6 off", Effect.ADDRESS, range="2001:db8::10/64"
    ),
    "management.gateway6": Field("IPv6 address of the default route"),
    "management.mtu": Field(
        "longest packet of the port, without Ethernet header; tunnels to remotes need more than 1500, and so does "
        "everything on the way",
        source="that of Ethernet",
        range=f"1500 .. {limits.MAX_MTU}",
    ),
    "management.allow": Field(
        "networks from which SSH, metrics and SNMP may be reached; empty: from everywhere. Open sessions from elsewhere"
        " end: use `commit confirmed`",
        source="until configured",
        range="192.0.2.0/24 | 2001:db8::/64 | 192.0.2.7",
    ),
    "management.dns": Field(
        "addresses of name servers, asked through the management port",
        source="those of DHCP; names are used by time servers, `dns` and `ping` alone",
        range="192.0.2.53 | 2001:db8::53",
    ),
    "drill.max_age_days": Field(
        "days after which a drill no longer proves that the link survives; 0: `show status` does not judge",
        source="two drills a year",
    ),
    "drill.required": Field(
        "the drills that `show status` wants: relay of each segment, watchdog, power",
        source="the others reset the machine, or need somebody beside it",
    ),
    "drill.window": Field(
        "maintenance window for drills, local time; others ask; empty: none",
        source="when a link may be uninspected is for you to say",
        range='"sun 03:00-04:00" | "03:00-04:00" for every day',
    ),
    "drill.automatic": Field(
        "the drills that the appliance makes by itself in the window; watchdog resets the machine",
        source="a relay drill costs a few seconds without inspection",
    ),
    "drill.every_days": Field(
        "days between the drills that it makes by itself in the window; 0: none",
        source="nothing moves a relay unasked",
    ),
    "time.zone": Field(
        "time zone of `show clock`, of `reboot at` and of the logs of programs; events and JSON are in UTC",
        source="the same everywhere, and without summer time",
        range="area and city, Europe/Berlin, or UTC",
    ),
    "time.servers": Field(
        "NTP servers that keep the clock, through the management port",
        source="those of DHCP; without any the clock runs free",
        range="192.0.2.1 | ntp.example.net",
    ),
    "management.ssh": Field(
        "whether SSH listens, once there is an address and a user with a password or a key",
        source="needed to administer the appliance",
    ),
    "management.ssh_port": Field("TCP port of SSH", Effect.SESSION, "the port of SSH"),
    "management.idle_timeout": _time(
        "an SSH session without input ends after this time; 0s: never", Effect.SESSION, least=10**9, zero=True
    ),
    "management.lldp": Field(
        "LLDP on the management port: on sends host name, port and addresses and shows the neighbours (`show lldp`);"
        " receive sends nothing. Data ports never send any",
        source="nothing is published by default",
    ),
    "management.serial_login": Field(
        "whether the console requires a login once an administrator has a password",
        source="as over the network; if the password is lost, put bypass.recovery on the kernel command line",
    ),
    "user.name": _NAME,
    "user.role": Field("viewer: read-only; operator: viewer plus actions; admin: full access", Effect.SESSIONS_END),
    "user.password": Field(
        "hash of the password in the format of crypt(5); `user NAME password` makes one", Effect.LOGIN
    ),
    "user.keys": Field("OpenSSH public keys, each in quotes", Effect.LOGIN),
    "aaa.order": Field(
        "who decides about a login by password, one after another: local (users of this configuration), radius, tacacs."
        " A server that refuses ends it; the next is asked where none answers, or local does not know the user. Keys,"
        " and local users on the console, need no server",
        Effect.LOGIN,
        "no server is configured",
        "local, and radius or tacacs",
    ),
    "aaa.timeout": _time(
        "time for all servers of one login together; then the next in `order` decides",
        Effect.LOGIN,
        "longer than two dead servers take",
        least=limits.MIN_AAA,
        most=limits.MAX_AAA,
    ),
    "aaa.retry_after": _time(
        "a server that did not answer is skipped for this time, unless nobody else can decide; 0s: never skipped",
        Effect.LOGIN,
        "one login waits for a dead server, not each",
        least=10**9,
        most=3600 * 10**9,
        zero=True,
    ),
    "aaa.role_attribute": Field(
        "attribute of RADIUS with the role: Filter-Id, Class, or one of a vendor. Its value is listed below, or is a"
        " level: shell:priv-lvl=15",
        Effect.LOGIN,
        "every server can send it",
    ),
    "aaa.vendor": Field("with role_attribute vendor: number of the vendor", Effect.LOGIN, "Cisco"),
    "aaa.vendor_attribute": Field("with role_attribute vendor: number of its attribute", Effect.LOGIN, "Cisco-AVPair"),
    **{
        f"aaa.{role}": Field(
            f"values of role_attribute that give the role {role}; if several match, the lowest role counts; if none"
            " does, the login is refused",
            Effect.LOGIN,
            "the role's own name",
        )
        for role in ("admin", "operator", "viewer")
    },
    **{
        f"aaa.{role}_level": Field(
            f"lowest privilege level (priv-lvl of TACACS+, shell:priv-lvl of RADIUS) that gives the role {role}",
            Effect.LOGIN,
            source,
        )
        for role, source in (
            ("admin", "the highest there is"),
            ("operator", "between a user's and an administrator's"),
            ("viewer", "that of a user who may look"),
        )
    },
    "aaa.accounting": Field(
        "what is reported to the servers of the first method in `order`: sessions, or also commands (TACACS+)",
        source="who logs in is an event, which syslog servers get",
    ),
    "radius.name": _NAME,
    "radius.address": Field(
        "its address, reached through the management port", Effect.LOGIN, range="192.0.2.1 | 2001:db8::1"
    ),
    "radius.secret": Field(
        "shared secret; never shown", Effect.LOGIN, range="1 to 128 bytes; 16 or more are recommended"
    ),
    "radius.port": Field("UDP port", Effect.LOGIN, "as registered"),
    "radius.accounting_port": Field("UDP port of accounting; 0: it gets none", Effect.LOGIN, "as registered"),
    "radius.timeout": _time("time for the answer to one packet", Effect.LOGIN, least=10**8, most=limits.MAX_AAA),
    "radius.tries": Field("how often a packet is sent until the server counts as dead", Effect.LOGIN),
    "tacacs.name": _NAME,
    "tacacs.address": Field(
        "its address, reached through the management port", Effect.LOGIN, range="192.0.2.1 | 2001:db8::1"
    ),
    "tacacs.secret": Field(
        "shared secret; never shown. It hides what is sent and proves nothing: use a network of your own",
        Effect.LOGIN,
        range="1 to 128 bytes; 16 or more are recommended",
    ),
    "tacacs.port": Field("TCP port", Effect.LOGIN, "as registered"),
    "tacacs.timeout": _time("time for each answer", Effect.LOGIN, least=10**8, most=limits.MAX_AAA),
    "tacacs.login": Field(
        "how the password is sent: ascii when the server asks, pap in the first packet", Effect.LOGIN
    ),
    "metrics.enabled": Field("OpenMetrics on the management port", source="nothing is published by default"),
    "metrics.port": Field("TCP port of OpenMetrics", source="unused in the list of Prometheus exporters"),
    "snmp.enabled": Field(
        "SNMPv3 on the management port: ports, relays, segments and guests to read, notifications to receivers",
        source="nothing is published by default",
    ),
    "snmp.port": Field("UDP port of SNMP", source="as registered"),
    "snmp.location": Field("where the appliance is (sysLocation)", range="at most 255 characters"),
    "snmp.contact": Field("who looks after it (sysContact)", range="at most 255 characters"),
    "snmp.user": Field("users of SNMPv3, apart from those who log in"),
    "snmp.user.name": Field("the name that managers use"),
    "snmp.user.access": Field(
        "read: may read everything that is offered, and sign notifications; notify: only the latter",
        source="reading is the purpose of most users",
    ),
    "snmp.user.auth": Field(
        "how messages are authenticated; another one needs both passphrases again, since their keys depend on it",
        source="every manager of today has it",
    ),
    "snmp.user.auth_passphrase": Field(
        "its passphrase; kept as a key, from which nobody reads it, and never shown",
        range="8 to 128 characters",
    ),
    "snmp.user.priv": Field("how messages are encrypted", source="the only standard one that is not broken (RFC 3826)"),
    "snmp.user.priv_passphrase": Field(
        "the passphrase of the encryption; kept as a key, and never shown", range="8 to 128 characters"
    ),
    "snmp.receiver": Field("who gets notifications, by SNMPv3 too"),
    "snmp.receiver.name": Field("the name used in this configuration"),
    "snmp.receiver.address": Field("its address, reached through the management port", range="192.0.2.1 | 2001:db8::1"),
    "snmp.receiver.user": Field("the user with whose keys they are signed and encrypted", range="a user of snmp"),
    "snmp.receiver.port": Field("UDP port", source="as registered"),
    "snmp.receiver.kind": Field(
        "trap: sent once; inform: repeated until acknowledged, and the receiver has the user for its own engine",
        source="every receiver takes traps",
    ),
    "syslog.servers": Field(
        "where events are sent", range="udp://192.0.2.1:514 | tcp://[2001:db8::1]:601 | tls://192.0.2.1:6514"
    ),
    "syslog.ca": Field(
        "certificates (PEM) that tls:// servers are verified with; to enter several lines: load merge -",
        source="no server is trusted by default",
    ),
    "syslog.server_name": Field("name expected in the certificates of tls:// servers", source="their address"),
    "syslog.severity": Field("lowest severity of events that are sent", source="there are few events"),
    **{
        f"{table}.probes.{key}": row
        for table in ("guest", "remote")
        for key, row in {
            "kind": Field(
                "inband: frames through its data ports; negative: frames that it must block; ping, arp, tcp, http: one "
                "of its services; command: its agent; cpu: whether its virtual processors run"
            ),
            "interval": _time(
                "time between two probes",
                source="with misses = 3 a failure is detected in 300 ms",
                least=limits.MIN_INTERVAL,
            ),
            "misses": Field("consecutive misses before the guest is bypassed", source="tolerates two late ones"),
            "rises": Field("consecutive answers before it counts as passed", source="one may be a coincidence"),
            "url": Field("http: the page to request", range="http://192.0.2.1/health | https://..."),
            "target": Field(
                "ping, arp: address to probe; tcp: address:port; command: a command of its agent",
                range="an address, not a name",
            ),
            "timeout": Field(
                "time for one answer; 0s: the interval",
                range="0s .. interval x misses",
                least=Duration(limits.MIN_INTERVAL),
                most=Duration(limits.MAX_DURATION),
                zero=True,
            ),
            "via": Field('network device to send through, or "management" for that port; empty: by the routing table'),
            "status": Field("http: status codes that pass; empty: 200 to 399", range="100 .. 599"),
            "body": Field("http: text required in the first 64 KiB of the answer"),
            "verify": Field(
                "https: whether its certificate must be valid", source="without it an answer proves nothing"
            ),
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
                "inband: slowness counts as failure: late frames over a third of the time, not one late frame or burst",
                source="off, because the limit depends on your network",
            ),
            "slow.limit": _time("the longest acceptable time through the guest", least=1000),
            "slow.percentile": Field(
                "percentage of frames that must be within the limit", source="tolerates one late frame in a hundred"
            ),
            "slow.time": _time("the period that is evaluated", least=limits.MIN_INTERVAL, most=600 * 10**9),
        }.items()
    },
}


FIELDS.update({  # the same keys at both ends
    f"serve.tunnel.{key.removeprefix('remote.tunnel.')}": row
    for key, row in FIELDS.items()
    if key.startswith("remote.tunnel.")
})  # fmt: skip


def field(path: str) -> Field:
    """The row of a key; an empty one for a key without a row, so that a missing row breaks no appliance."""
    row = FIELDS.get(path, Field(""))
    if row.effect is not None:
        return row
    outer = path.rpartition(".")[0]
    return row._replace(effect=field(outer).effect if "." in outer else Effect.NOW)


def differ(table: str, old: Any, new: Any, effect: Effect) -> bool:
    """Whether two structs of a table differ in a key with this effect."""
    return any(getattr(old, key) != getattr(new, key) for key in keys_of(table, effect))


def keys_of(table: str, effect: Effect) -> tuple[str, ...]:
    """The keys of a table (not of nested tables) with this effect."""
    paths = (path.split(".") for path in FIELDS if path.startswith(f"{table}."))
    return tuple(path[1] for path in paths if len(path) == 2 and field(".".join(path)).effect is effect)
