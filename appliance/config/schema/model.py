# SPDX-License-Identifier: GPL-2.0-only
"""The configuration as typed structs: what `/etc/bypass/config.toml` can contain, with units and defaults.

Pure data. Reading and checking are in their own modules; nothing here touches the system. Unknown keys are errors.
"""

from __future__ import annotations

import functools
from typing import Annotated, Literal

import msgspec

from appliance.config.schema.limits import MAX_MEMBERS, MAX_MTU, MAX_QUEUES
from appliance.units import Duration, Size

NAME_PATTERN = r"^[a-z][a-z0-9_-]{0,30}$"
NAME_RULE = "a lower-case letter, then at most 30 of a-z 0-9 _ -"
HOSTNAME_PATTERN = r"^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$"
WINDOW_PATTERN = r"^((mon|tue|wed|thu|fri|sat|sun) )?([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d$|^$"
ZONE_PATTERN = r"^[A-Z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+){0,2}$"
Secret = Annotated[str, msgspec.Meta(extra={"secret": True})]
"""A value that is kept in the file and never shown: see secrets.py."""
PortNumber = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Name = Annotated[str, msgspec.Meta(pattern=NAME_PATTERN)]
Count = Annotated[int, msgspec.Meta(ge=1, le=1000)]
Mtu = Annotated[int, msgspec.Meta(ge=0, le=MAX_MTU)]
TunnelKey = Annotated[int, msgspec.Meta(ge=0, le=4_294_967_295)]
UdpPort = Annotated[int, msgspec.Meta(ge=0, le=65535)]
PrivilegeLevel = Annotated[int, msgspec.Meta(ge=0, le=15)]
PortMtu = Annotated[int, msgspec.Meta(ge=1500, le=MAX_MTU)]


class _Struct(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Base: unknown keys are refused, values are immutable."""


class System(_Struct, frozen=True):
    """The appliance itself."""

    hostname: Annotated[str, msgspec.Meta(pattern=HOSTNAME_PATTERN)] = "bypass"
    supervisor_grace: Duration = Duration(30_000_000_000)  # how long the relay is held without a supervisor
    idle_timeout: Duration = Duration(900_000_000_000)  # a session without input ends; 0: never
    login_banner: Annotated[str, msgspec.Meta(max_length=2000)] = (
        ""  # shown before a login, over SSH and on the console
    )
    power_button: Literal["poweroff", "ignore"] = "poweroff"  # a press; holding it is the firmware's own
    crash_limit: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 5  # this many crashes lead to safe mode; 0: never
    crash_window: Duration = Duration(3_600_000_000_000)  # within this time of operation


class Segment(_Struct, frozen=True):
    """A LAN/WAN port pair with its relay."""

    name: Name
    lan: str
    wan: str
    mode: Literal["auto", "bypass", "disconnect"] = "auto"
    on_link_loss: Literal["propagate", "bypass", "ignore"] = "propagate"
    link_loss_limit: Duration = Duration(10_000_000_000)  # one link missing for longer: bypass; 0: never
    rearm_delay: Duration = Duration(2_000_000_000)
    attach: Literal["auto", "xdp", "tc"] = "auto"
    mtu: Mtu = 0  # of both ports; 0: the largest that XDP allows
    link_local: Literal["straight", "rules"] = "straight"
    dry_run: bool = False  # its rules are followed and counted, and every frame goes straight


class Watchdog(_Struct, frozen=True):
    """The hardware watchdog."""

    timeout: Duration = Duration(2_000_000_000)


class Heartbeat(_Struct, frozen=True):
    """Passive check: the guest sends heartbeats over its agent channel."""

    interval: Duration = Duration(100_000_000)
    misses: Count = 3


class Slow(_Struct, frozen=True):
    """A limit on latency: over `time`, `percentile` of the in-band heartbeats must stay below `limit`."""

    limit: Duration
    percentile: Annotated[int, msgspec.Meta(ge=1, le=100)] = 99
    time: Duration = Duration(1_000_000_000)


class Routed(_Struct, frozen=True):
    """The two ends of in-band heartbeats through a routing guest, of one family; the guest needs a route to each."""

    lan: str
    wan: str
    port: PortNumber = 9  # of UDP, at both ends: discard


class Probe(_Struct, frozen=True):
    """Active check: we send something and expect an answer (negative: expect none)."""

    kind: Literal["inband", "negative", "http", "tcp", "ping", "arp", "command", "cpu"]
    interval: Duration = Duration(100_000_000)
    misses: Count = 3
    rises: Count = 2  # consecutive good answers before it counts as passed
    url: str = ""  # http: where; http:// or https://
    target: str = ""  # ping, arp: an address; tcp: address:port; command: a word of the guest's agent
    timeout: Duration = Duration(0)  # time for one answer; 0 = `interval`
    via: str = ""  # ping, arp, tcp, http: a network device, or "management": that port; "" = as the routes say
    status: tuple[Annotated[int, msgspec.Meta(ge=100, le=599)], ...] = ()  # http: good answers; none named = 200 .. 399
    body: str = ""  # http: a text that must be in the first 64 KiB of the answer's body
    verify: bool = True  # https: the certificate must be good
    frame: str = ""  # inband, negative: the frame to send, as hex digits, or a capture file whose first frame it is
    enter: Literal["both", "lan", "wan"] = "both"  # inband, negative: the side at which frames enter the guest
    routed: Routed | None = None  # inband: through a guest that routes
    slow: Slow | None = None  # inband


class Recorder(_Struct, frozen=True):
    """The last frames handed to the guest, kept for the case that it crashes. `frames` 0 = off."""

    frames: Annotated[int, msgspec.Meta(ge=0, le=4096)] = 256
    bytes: Annotated[int, msgspec.Meta(ge=64, le=2016)] = 1536  # kept of each frame


class Shunts(_Struct, frozen=True):
    """Flows that the guest may shunt: it says that it needs them no more, and their frames skip it. `max` 0 = none."""

    max: Annotated[int, msgspec.Meta(ge=0, le=65536)] = 0  # at the same time
    time: Duration = Duration(600_000_000_000)  # a shunt lasts at most this long; the guest may ask for less
    idle: Duration = Duration(60_000_000_000)  # or until its flow has had no frame for this long
    rate: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 1000  # new ones per second


class Quarantine(_Struct, frozen=True):
    """A flow that was in the recorder at `deaths` consecutive crashes, each at most `within` after the one before,
    bypasses the guest for `time`; unless more than `flows` flows were present, when none is blamed."""

    deaths: Annotated[int, msgspec.Meta(ge=2, le=8)] = 2
    failures: bool = False  # a failed check counts as a crash too
    within: Duration = Duration(3_600_000_000_000)
    flows: Annotated[int, msgspec.Meta(ge=1, le=32)] = 4
    time: Duration = Duration(86_400_000_000_000)


class Disk(_Struct, frozen=True):
    """One more disk of a guest, after its image."""

    image: str
    readonly: bool = False


class Restart(_Struct, frozen=True):
    """Whether and when a guest that ended by itself is restarted; the wait doubles from `first` to `longest`."""

    policy: Literal["always", "on-failure", "never"] = "always"  # on-failure: not when it powered itself off
    first: Duration = Duration(200_000_000)
    longest: Duration = Duration(30_000_000_000)
    attempts: Count = 8  # consecutive ends, none after a run of `steady`, until it is given up
    steady: Duration = Duration(60_000_000_000)


class Limits(_Struct, frozen=True):
    """Limits of a guest's process (cgroup v2), beside its memory, which is always limited."""

    cpu: Annotated[int, msgspec.Meta(ge=0, le=6400)] = 0  # percent of one processor; 0 = no limit
    weight: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 100  # share among guests that compete
    overhead: Size = Size(192 << 20)  # memory of QEMU itself, beyond the guest's


class Guest(_Struct, frozen=True):
    """A virtual machine in line on the link. Either `image` (disk) or `kernel` (+ `initrd`), or both."""

    name: Name
    image: str = ""
    kernel: str = ""
    initrd: str = ""
    cmdline: str = ""
    memory: Size = Size(512 << 20)
    cpus: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    accel: Literal["auto", "kvm", "tcg"] = "auto"  # auto: KVM where it works, else emulation (slow), with a warning
    firmware: Literal["bios", "uefi"] = "bios"
    disks: tuple[Disk, ...] = ()
    storage: Literal["persistent", "snapshot"] = "persistent"  # snapshot: what it writes is discarded when it ends
    pin: tuple[Annotated[int, msgspec.Meta(ge=0, le=4095)], ...] = ()  # the appliance's processor for each virtual one
    queues: Annotated[int, msgspec.Meta(ge=1, le=MAX_QUEUES)] = 1  # of each of its ports
    queue_pin: tuple[Annotated[int, msgspec.Meta(ge=0, le=4095)], ...] = ()  # the appliance's processor for each
    queue_poll: Duration = Duration(0)  # the kernel looks for more frames so long before it sleeps; 0 = it does not
    hugepages: bool = False  # if enough are free, else ordinary memory and a warning
    mtu: Mtu = 0  # of its ports; 0: that of the segment's
    management: Literal["off", "isolated", "bridged"] = (
        "off"  # a third port: to the supervisor only, or on the management LAN
    )
    management_mac: str = ""  # its third port; "" = chosen by the appliance
    lan_mac: str = ""  # its port at the LAN; "" = chosen by the appliance
    wan_mac: str = ""
    hold: Duration = Duration(1_000_000_000)  # all checks pass this long without a break before it gets traffic
    restart: Restart = Restart()
    start_order: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 100  # lower first; equal ones together
    after: tuple[Name, ...] = ()  # guests that must be available before this one starts
    limits: Limits = Limits()
    accept: str = ""  # pcap filter of the frames it can process; "" = every frame
    tags: bool = False
    autostart: bool = True
    heartbeat: Heartbeat | None = None
    probes: tuple[Probe, ...] = ()
    dry_run: bool = False  # what its checks would have bypassed is told and counted, and nothing is done
    recorder: Recorder = Recorder()
    shunts: Shunts = Shunts()
    quarantine: Quarantine | None = None


class Wireguard(_Struct, frozen=True):
    """WireGuard below the tunnels of a remote: it encrypts their packets, and takes only those of the far end."""

    peer: str  # address of the far end in the network of the management port
    public_key: str  # of the far end, as `wg pubkey` prints it
    address: str  # ours inside; the tunnel's `remote` is that of the far end
    port: PortNumber = 51820  # of UDP, at the management port
    peer_port: PortNumber = 51820
    preshared_key: Secret = ""  # as `wg genpsk` prints it
    private_key_file: str = ""  # "" = the appliance's own key


class Tunnel(_Struct, frozen=True):
    """The two tunnels to a remote, one a side, told apart by key or by port (encapsulations.py)."""

    kind: Literal["gre-ethernet", "gre-ip", "ipip", "fou", "vxlan", "geneve", "vlan"]
    remote: str = ""  # address of the far end; vlan has none
    port: str = ""  # vlan: the port of the board that leads to the far end, and to nothing else
    wan_remote: str = ""  # ipip, which has no keys: another address of the far end, that of the WAN side's tunnel
    lan_key: TunnelKey = 0  # GRE, also in UDP (fou): key; vxlan, geneve: network identifier (VNI); vlan: VLAN ID
    wan_key: TunnelKey = 0
    local: str = ""  # our address; "" = as the routes say
    lan_port: UdpPort = 0  # fou, vxlan, geneve: UDP port at both ends; 0 = the kind's own
    wan_port: UdpPort = 0
    sequence: bool = False  # GRE: numbered, so that late and repeated packets are dropped
    checksum: bool = False  # GRE, or UDP over IPv4
    wireguard: Wireguard | None = None  # None = in the clear
    mss_clamp: bool = False  # TCP connections are made to fit a way that is too narrow for full-size frames
    way: Literal["kernel", "xdp"] = "kernel"  # who puts the outer headers on; what XDP cannot send goes by the kernel

    @property
    def far(self) -> str:
        """The far end's address in the network of the management port; with two, that of the LAN side's tunnel.

        Of VLANs the name of the port.
        """
        return self.wireguard.peer if self.wireguard is not None else self.remote or self.port

    @property
    def remotes(self) -> tuple[str, str]:
        """At which addresses the tunnels of the LAN side and of the WAN side end; of VLANs the port, twice."""
        first = self.remote or self.port
        return first, self.wan_remote or first


class Remote(_Struct, frozen=True):
    """A hop that is a computer system elsewhere, reached through tunnels over the management port."""

    name: Name
    tunnel: Tunnel
    segment: str = ""  # the one that it serves; "" = that of its rules
    accept: str = ""
    tags: bool = False
    autostart: bool = True
    hold: Duration = Duration(1_000_000_000)  # all checks pass this long without a break before it gets traffic
    probes: tuple[Probe, ...] = ()  # none = one in-band heartbeat
    return_timeout: Duration = Duration(5_000_000_000)  # frames go in and none comes back: bypass; 0 = not judged


class Serve(_Struct, frozen=True):
    """Hops of this appliance for the link of another one: frames come by a tunnel, and go back by the other side's."""

    name: Name
    tunnel: Tunnel  # its sides are those of the other appliance's remote
    path: tuple[Name, ...]  # hops and groups, as in a rule
    mtu: PortMtu = 1500  # of the other appliance's segment


class Member(_Struct, frozen=True):
    """One member of a balanced group; weights are relative to each other."""

    hop: Name
    weight: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1


class Group(_Struct, frozen=True):
    """Several hops that act as one: either `balance`, which may have a `spare`, or `standby`."""

    name: Name
    balance: tuple[Member, ...] = ()
    spare: tuple[Name, ...] = ()  # balance: they take over from members that are not available
    standby: tuple[Name, ...] = ()
    minimum: Annotated[int, msgspec.Meta(ge=1, le=MAX_MEMBERS)] = 1  # with fewer available members: not available
    hold_down: Duration = Duration(5_000_000_000)  # standby, spare: how long available before traffic returns
    hash: Literal["5-tuple", "3-tuple", "2-tuple", "source", "destination", "l4", "l3"] = (
        "5-tuple"  # l4 and l3: until 0.1.0
    )
    on_member_failure: Literal["rehash", "keep", "reset"] = "rehash"  # what becomes of its established flows

    @property
    def members(self) -> tuple[str, ...]:
        """The hops that it consists of, in configured order, the spare ones last."""
        return (*(member.hop for member in self.balance), *self.standby, *self.spare)


class Mirror(_Struct, frozen=True):
    """A hop that gets copies of a rule's frames; what it sends is dropped."""

    hop: Name
    beside: str = ""  # the hop or group of the path whose frames it gets, from both sides; "" = the first one


class Rule(_Struct, frozen=True):
    """What happens to the frames that `match`; the first rule that matches wins."""

    name: Name
    segment: str = ""  # "" = every segment
    match: str = ""  # pcap filter; "" = every frame
    through: tuple[Literal["vlan", "qinq", "pppoe", "mpls", "snap", "ip6ext", "fragments"], ...] = ()
    path: tuple[Name, ...] = ()
    mirrors: tuple[Mirror, ...] = ()
    on_unavailable: Literal["bypass", "block", "link-down"] = "bypass"
    require: Literal["any", "all"] = "any"
    on_overload: Literal["auto", "bypass-excess", "block-excess", "bypass-all"] = "auto"  # auto: as on_unavailable
    keep_shunts: bool = False  # with block: flows that a hop has shunted go on while it is not available

    @property
    def fails_closed(self) -> bool:
        """Whether its frames are dropped while too few hops of the path are available."""
        return self.on_unavailable != "bypass"

    @property
    def names(self) -> tuple[str, ...]:
        """The hops and groups of the path, and the mirrors."""
        return (*self.path, *(mirror.hop for mirror in self.mirrors))


class Management(_Struct, frozen=True):
    """The management port, in a network namespace of its own that no frame of the data path enters."""

    port: str = ""  # name in board.toml; "" = the board's first management port
    address: str = ""  # "" = none, "dhcp", or IPv4 with prefix length, as "192.0.2.10/24"
    gateway: str = ""  # IPv4 address of the default route; DHCP brings its own
    address6: str = ""  # IPv6 with prefix length, as "2001:db8::10/64"; "" = IPv6 off
    gateway6: str = ""
    mtu: PortMtu = 1500  # tunnels to remotes need more
    allow: tuple[str, ...] = ()  # networks that may reach SSH, metrics and SNMP; none named = all
    dns: tuple[str, ...] = ()  # addresses of name servers; none named = those of DHCP
    ssh: bool = True  # SSH listens when there are an address and a user with a password or a key
    ssh_port: PortNumber = 22
    idle_timeout: Duration = Duration(3_600_000_000_000)  # an SSH session without input ends; 0s = never
    lldp: Literal["off", "receive", "on"] = "off"  # on: sends and receives; never on data ports
    serial_login: bool = True  # the console requires a login, once an administrator has a password


class Drill(_Struct, frozen=True):
    """Bypass drills: what makes the appliance count as proven, and when it makes drills by itself."""

    max_age_days: Annotated[int, msgspec.Meta(ge=0, le=3650)] = 180  # an older drill proves nothing; 0: not judged
    required: tuple[Literal["relay", "watchdog", "power"], ...] = ("relay",)
    window: Annotated[str, msgspec.Meta(pattern=WINDOW_PATTERN)] = ""  # local time, as "sun 03:00-04:00"; "" = none
    automatic: tuple[Literal["relay", "watchdog"], ...] = ("relay",)
    every_days: Annotated[int, msgspec.Meta(ge=0, le=3650)] = 0  # 0: none by itself


class Time(_Struct, frozen=True):
    """The clock: its time zone, and the servers that keep it, reached through the management port."""

    zone: Annotated[str, msgspec.Meta(pattern=ZONE_PATTERN)] = "UTC"  # as Europe/Berlin
    servers: tuple[str, ...] = ()  # NTP servers, addresses or names; none named = those of DHCP


class User(_Struct, frozen=True):
    """A user who may log in over SSH. Without password and keys the account is locked."""

    name: Name
    role: Literal["viewer", "operator", "admin"] = "viewer"  # each role includes those before it
    password: Secret = ""  # in the format of crypt(5), "$y$..." or "$6$..."; `user NAME password` makes one
    keys: tuple[str, ...] = ()  # OpenSSH public keys, "ssh-ed25519 AAAA... comment"


class Aaa(_Struct, frozen=True):
    """Who decides about logins, and which role somebody has that only a server knows."""

    order: tuple[Literal["local", "radius", "tacacs"], ...] = ("local",)
    timeout: Duration = Duration(10_000_000_000)  # for all servers of a login together
    retry_after: Duration = Duration(60_000_000_000)  # a server that did not answer is not asked for so long
    role_attribute: Literal["filter-id", "class", "vendor"] = "filter-id"  # RADIUS
    vendor: Annotated[int, msgspec.Meta(ge=1, le=16_777_215)] = 9  # role_attribute vendor: 9 is Cisco
    vendor_attribute: Annotated[int, msgspec.Meta(ge=1, le=255)] = 1  # Cisco-AVPair
    admin: tuple[str, ...] = ("admin",)  # values of the attribute that give this role
    operator: tuple[str, ...] = ("operator",)
    viewer: tuple[str, ...] = ("viewer",)
    admin_level: PrivilegeLevel = 15  # the lowest privilege level with this role
    operator_level: PrivilegeLevel = 7
    viewer_level: PrivilegeLevel = 1
    accounting: Literal["off", "sessions", "commands"] = "off"


class Radius(_Struct, frozen=True):
    """A RADIUS server (RFC 2865), asked in the order of the file."""

    name: Name
    address: str
    secret: Secret = ""  # required; a text that hides it can be read all the same
    port: PortNumber = 1812
    accounting_port: UdpPort = 1813  # 0: it gets no accounting
    timeout: Duration = Duration(2_000_000_000)  # for the answer to one packet
    tries: Annotated[int, msgspec.Meta(ge=1, le=5)] = 2


class Tacacs(_Struct, frozen=True):
    """A TACACS+ server (RFC 8907), asked in the order of the file."""

    name: Name
    address: str
    secret: Secret = ""  # required; a text that hides it can be read all the same
    port: PortNumber = 49
    timeout: Duration = Duration(4_000_000_000)  # for each answer
    login: Literal["ascii", "pap"] = "ascii"


class Metrics(_Struct, frozen=True):
    """OpenMetrics on the management port, for Prometheus and the like. Shows counters and names, no traffic."""

    enabled: bool = False
    port: PortNumber = 9469


class SnmpUser(_Struct, frozen=True):
    """A user of SNMPv3 (RFC 3414), always with authentication and encryption. A passphrase is kept as its key."""

    name: Name
    access: Literal["read", "notify"] = "read"  # notify: only to sign notifications
    auth: Literal["sha-256", "sha-384", "sha-512"] = "sha-256"  # RFC 7860
    auth_passphrase: Secret = ""  # required, as the other one
    priv: Literal["aes-128"] = "aes-128"  # RFC 3826
    priv_passphrase: Secret = ""


class SnmpReceiver(_Struct, frozen=True):
    """Who gets notifications. `trap`: sent once; `inform`: repeated until it is acknowledged."""

    name: Name
    address: str
    user: Name  # with whose keys they are signed and encrypted
    port: PortNumber = 162
    kind: Literal["trap", "inform"] = "trap"


class Snmp(_Struct, frozen=True):
    """SNMPv3 on the management port, to read only; there is no SNMPv1 and no SNMPv2c."""

    enabled: bool = False
    port: PortNumber = 161
    location: Annotated[str, msgspec.Meta(max_length=255)] = ""  # sysLocation
    contact: Annotated[str, msgspec.Meta(max_length=255)] = ""  # sysContact
    user: tuple[SnmpUser, ...] = ()
    receiver: tuple[SnmpReceiver, ...] = ()


class Syslog(_Struct, frozen=True):
    """Events to syslog servers (RFC 5424), through the management port."""

    servers: tuple[str, ...] = ()  # "udp://192.0.2.1:514" (RFC 5426), "tcp://[2001:db8::1]:601", "tls://192.0.2.1:6514"
    ca: str = ""  # PEM: the certificates that tls:// servers are verified with; no others are trusted
    server_name: str = ""  # name expected in the certificates of tls:// servers; "" = their address
    severity: Literal["critical", "error", "warning", "notice", "info"] = "info"  # this severity and worse


class Config(_Struct, frozen=True):
    """The whole file."""

    system: System = System()
    segment: tuple[Segment, ...] = ()
    watchdog: Watchdog = Watchdog()
    drill: Drill = Drill()
    guest: tuple[Guest, ...] = ()
    remote: tuple[Remote, ...] = ()
    serve: tuple[Serve, ...] = ()
    group: tuple[Group, ...] = ()
    rule: tuple[Rule, ...] = ()
    management: Management = Management()
    time: Time = Time()
    user: tuple[User, ...] = ()
    aaa: Aaa = Aaa()
    radius: tuple[Radius, ...] = ()
    tacacs: tuple[Tacacs, ...] = ()
    metrics: Metrics = Metrics()
    snmp: Snmp = Snmp()
    syslog: Syslog = Syslog()


@functools.cache
def struct_fields(cls: type[msgspec.Struct]) -> dict[str, msgspec.structs.FieldInfo]:
    """The fields of a struct by key. Cached, because finding them takes longer than reading a whole table."""
    return {field.encode_name: field for field in msgspec.structs.fields(cls)}
