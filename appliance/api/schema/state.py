# SPDX-License-Identifier: GPL-2.0-only
"""Answers about the appliance as a whole: status, segments, rules, counters, transitions, events, frames."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, UnsetType, field

from appliance.api.schema.base import Answer, Cause, Count, Detail, Ms, Relay, Seconds, Side, When
from appliance.api.schema.guests import Guest
from appliance.api.schema.machine import PowerOrder
from appliance.api.schema.remotes import Remote, Serve


class Version(Answer):
    """The running versions."""

    version: str
    kernel: str
    machine: str
    python: str


class ShortSegment(Answer):
    """A segment on the status page. `also`: further reasons to bypass, besides `cause`."""

    name: str
    relay: Relay
    want: str
    cause: Cause
    detail: Detail
    also: list[str] | UnsetType = UNSET


class Part(Answer):
    """A part of bypassd. `checked_in_ms`: how long ago it last checked in; null: never."""

    name: str
    state: Annotated[str, Meta(description="starting, running or failed")]
    detail: Detail
    checked_in_ms: int | None


class WatchdogDevice(Answer):
    """One watchdog device as it is, read back. `note`: what differs from what was requested."""

    name: str
    identity: str
    timeout_ms: int
    pretimeout_ms: Annotated[int, Meta(description="the kernel panics this long before the reset; 0: it does not")]
    nowayout: Annotated[bool, Meta(description="whether its driver refuses to stop it; it is never stopped anyway")]
    note: Detail


class Watchdog(Answer, kw_only=True):
    """The hardware watchdogs. `timeout_ms` is the time-out in effect, of the first one to expire; `asked_ms` the
    configured one."""

    state: Annotated[str, Meta(description="armed, missing, none on this board or unknown")]
    timeout_ms: int | UnsetType = UNSET
    asked_ms: int | UnsetType | None = UNSET
    detail: Detail
    devices: list[WatchdogDevice] | UnsetType = UNSET


class KeeperRelay(Answer):
    """A relay line as the keeper reports it."""

    line: str
    relay: Relay
    cause: Cause
    usable: bool
    detail: Detail


_POSITION = "inline, bypass, disconnect or keeps; null: not known"


class BoardRelay(Answer, kw_only=True):
    """A relay: where it is, and what it does when nobody drives it. The facts are those of board.toml.

    `hang_ms`: how long the link would be dead at most if the computer hung now; null: no limit is known. `unpowered`:
    whether both ports are joined without power; proven only by a power-off drill with its date.
    """

    name: str
    segment: Annotated[str, Meta(description="that uses it; empty: none")]
    ports: list[str]
    kind: str
    relay: Relay
    cause: Cause
    detail: Detail
    power_up: Annotated[str | None, Meta(description=f"before the supervisor runs: {_POSITION}")]
    unpowered: Annotated[str | None, Meta(description="proven, claimed or no; null: not known")]
    unpowered_detail: Detail
    on_watchdog: Annotated[str | None, Meta(description=f"when the watchdog expires: {_POSITION}")]
    released: Annotated[str, Meta(description="when the keeper dies: reverts, times-out, keeps or unknown")]
    hang_ms: float | None
    hang_detail: Detail
    disconnect: bool
    settle_ms: Ms


class Keeper(Answer):
    """The process that owns the relays and the watchdog."""

    state: Annotated[str, Meta(description="running or missing")]
    uptime_s: int | UnsetType = UNSET
    relays: list[KeeperRelay] | UnsetType = UNSET


class Bypassd(Answer):
    """The process that answers. `restarts`: by the keeper; `last_exit`: how the previous process ended.

    `stalls`: how often a piece of work blocked the event loop for more than 50 ms; the longest, and what it was.
    """

    uptime_s: int
    restarts: int
    last_exit: str
    stalls: int = 0
    longest_stall_ms: Ms = 0.0
    longest_stall: str = ""


class Reset(Answer):
    """Why the appliance last started."""

    kind: Annotated[str, Meta(description="first, orderly, power, watchdog, panic or none (only bypassd restarted)")]
    text: str


class Attached(Answer):
    """A device that the datapath is attached to. `hop` is null for a port."""

    device: str
    driver: str
    segment: str
    side: Side
    hop: str | None
    mode: Annotated[str, Meta(description="xdp or tc")]
    reason: Detail


class Datapath(Answer):
    """The programs in the kernel. `adopted`: they were running before this bypassd started."""

    state: Annotated[str, Meta(description="up or down")]
    detail: Detail | UnsetType = UNSET
    adopted: bool | UnsetType = UNSET
    counts_losses: Annotated[bool, Meta(description="whether frames that devices drop are counted")] | UnsetType = UNSET
    attached: list[Attached] | UnsetType = UNSET


class ConfigState(Answer):
    """Whether the configuration is valid, and whether its last commit awaits confirmation or was rolled back."""

    valid: bool
    errors: list[str]
    confirm_s: Annotated[int | None, Meta(description="until a commit is rolled back unless it is confirmed")]
    rolled_back: Annotated[str, Meta(description="the last commit, if it was; empty: it was not")]


class Partition(Answer):
    """The data partition as found at boot. `alarm`: the consequence for the user; empty if there is none.

    `available_bytes`: for guests and users; missing before the part "guests" is up.
    """

    state: Annotated[str, Meta(description="kept, read-only, absent, unusable, or unknown where no boot recorded it")]
    alarm: str
    available_bytes: int | UnsetType = UNSET
    total_bytes: int | UnsetType = UNSET


class Crashes(Answer):
    """Crashes of the machine that still count, and what follows. `held_s`: until a relay may leave bypass.
    `reasons`: oldest first. `alarm`: the warning at login and when configuring; empty if there is none."""

    mode: Annotated[str, Meta(description="normal, hold (in bypass for a while after the start) or safe (safe mode)")]
    count: int
    limit: Annotated[int, Meta(description="this many lead to safe mode; 0: never")]
    window_s: int
    held_s: int
    reasons: list[str]
    alarm: str


class Protection(Answer):
    """Whether drills prove that the link survives this appliance. No alarm: an unproven box works."""

    state: Annotated[
        str, Meta(description="protected, unproven, not judged (drill.max_age_days is 0) or none (no relay)")
    ]
    detail: Detail


class DrillResult(Answer):
    """The newest drill of a kind, and of a segment for a relay. Times in milliseconds; null: not measured."""

    kind: Annotated[str, Meta(description="relay, watchdog or power")]
    segment: str
    when: str
    by: str
    passed: bool
    detail: Detail
    to_bypass_ms: Annotated[float | None, Meta(description="from the order to the keeper's report of bypass")]
    to_inline_ms: Annotated[float | None, Meta(description="back, with the re-arm delay")]
    first_frame_ms: Annotated[float | None, Meta(description="from inline to the first frame that a port received")]
    reset_ms: Annotated[float | None, Meta(description="from the last feed of the watchdog to the panic")]


class BoardTestItem(Answer):
    """One thing of a board that was tried."""

    what: str
    result: Annotated[str, Meta(description="passed, failed, not known, or to do: a person or a drill shows it")]
    detail: Detail


class BoardTest(Answer):
    """What a board has, tried for the first time. `when`: when it began."""

    board: str
    version: str
    when: When
    passed: bool
    items: list[BoardTestItem]


class DrillPlan(Answer):
    """What a drill means now, one sentence each. `in_window`: now is in the maintenance window."""

    kind: str
    meaning: list[str]
    in_window: bool


class Drills(Answer):
    """The results of drills. `running`: what is under way or waits for a reset or an answer; empty if nothing is."""

    protection: Protection
    running: str
    window: str
    results: list[DrillResult]


class Status(Answer):
    """The appliance on one page. `state` is inline when every segment is. `board`: its name, or why it is unknown."""

    hostname: str
    version: str
    idle_timeout_s: Seconds
    board: str
    state: Annotated[str, Meta(description="inline or bypass")]
    uptime_s: int
    segments: list[ShortSegment]
    guests: list[Guest]
    remotes: list[Remote]
    serves: list[Serve]
    parts: list[Part]
    watchdog: Watchdog
    relays: list[BoardRelay]
    keeper: Keeper
    supervisor: Bypassd
    last_reset: Reset
    crashes: Crashes
    datapath: Datapath
    data_partition: Partition
    protection: Protection
    snmp_failure: Annotated[str, Meta(description="why nobody can read by SNMP, although it is on; empty: all is well")]
    power: PowerOrder
    config: ConfigState


class Segment(Answer, kw_only=True):
    """A port pair. While the configuration is not valid, each relay of the board is shown as one, without the optional
    fields."""

    name: str
    relay: Relay
    state: str
    want: str
    cause: Cause
    detail: Detail
    also: list[str] | UnsetType = UNSET
    mode: Annotated[str, Meta(description="auto, inline, bypass or disconnect: what is requested")] | UnsetType = UNSET
    order_ends_ms: (
        Annotated[int, Meta(description="until a request for inline, or maintenance, ends by itself")] | UnsetType
    ) = UNSET
    lan: str
    lan_link: Annotated[str, Meta(description="up, down, held down or missing")] | UnsetType = UNSET
    wan: str
    wan_link: Annotated[str, Meta(description="up, down, held down or missing")] | UnsetType = UNSET
    on_link_loss: str | UnsetType = UNSET
    link_local: Annotated[str, Meta(description="straight or rules")] | UnsetType = UNSET
    dry_run: Annotated[bool, Meta(description="its rules are only counted")] | UnsetType = UNSET
    rearm_delay_ms: int | UnsetType = UNSET
    since_mono_ns: int | UnsetType = UNSET
    next_attempt_ms: (
        Annotated[int, Meta(description="until the next attempt to go inline, while it waits")] | UnsetType
    ) = UNSET
    lan_sent: (
        Annotated[str, Meta(description="whether the port sends its frames: sent, partly, none, unknown or uncounted")]
        | UnsetType
    ) = UNSET
    wan_sent: Annotated[str, Meta(description="as lan_sent")] | UnsetType = UNSET
    sent_detail: Detail | UnsetType = UNSET
    link_loss_limit_ms: int | UnsetType = UNSET
    attach: Annotated[str, Meta(description="xdp, tc or none")] | UnsetType = UNSET
    attach_why: Detail | UnsetType = UNSET
    mtu: Annotated[int, Meta(description="of both ports, in use")] | UnsetType = UNSET
    longest_bytes: Annotated[int, Meta(description="the longest frame that passes")] | UnsetType = UNSET
    unsent: (
        Annotated[dict[str, Count], Meta(description="frames that its ports did not send, by cause")] | UnsetType
    ) = UNSET


class SegmentSet(Answer):
    """The state of a segment after an operator's request."""

    message: str
    name: str
    mode: str
    state: str
    cause: Cause


class RuleMirror(Answer):
    """A hop that gets copies of a rule's frames. `beside`: the hop or group whose frames; empty: the path has none."""

    hop: str
    beside: str


class Mirror(Answer):
    """A hop that is a mirror. `rules`: whose frames it gets copies of, in `segments`. Counters are of all segments.

    `lost`: copies that its taps did not take, by cause. `skipped`: frames of which no copy was made, by reason.
    `returned_frames`: what it sent, which was dropped. Without the datapath there are no counters.
    """

    name: str
    segments: list[str]
    rules: list[str]
    beside: list[str]
    available: bool | UnsetType = UNSET
    copied_frames: Count | UnsetType = UNSET
    copied_bytes: Count | UnsetType = UNSET
    lost: dict[str, Count] | UnsetType = UNSET
    skipped: dict[str, Count] | UnsetType = UNSET
    uncopied: Annotated[Count, Meta(description="the kernel could make no copy")] | UnsetType = UNSET
    returned_frames: Count | UnsetType = UNSET


class Rule(Answer):
    """A rule and its counters, which are missing while the datapath is down.

    `excess`: frames beyond the limit of an overloaded hop of the path; they bypassed it or were dropped. `shunted`:
    frames that went to the other port because hops of the path have shunted their flows.
    """

    name: str
    segment: str
    match: str
    through: Annotated[list[str], Meta(description="what match looks through")]
    path: list[str]
    on_unavailable: str
    require: Annotated[str, Meta(description="any or all: hops of the path that must be available")]
    on_overload: str
    why: Annotated[str, Meta(description="why a rule that is not in the configuration exists: quarantine")]
    frames: Count | UnsetType = UNSET
    bytes: Count | UnsetType = UNSET
    to_hop: Count | UnsetType = UNSET
    bypassed: Count | UnsetType = UNSET
    blocked: Count | UnsetType = UNSET
    excess: Count | UnsetType = UNSET
    keep_shunts: bool = False
    shunted: Count | UnsetType = UNSET
    mirrors: Annotated[list[RuleMirror], Meta(description="hops that get copies of its frames")] = field(
        default_factory=list
    )


class Shunt(Answer):
    """A flow whose frames skip a guest, because the guest has said that it does not need them."""

    guest: str
    segment: str
    protocol: Annotated[str, Meta(description="tcp or udp")]
    lan: Annotated[str, Meta(description="address of the end at the LAN side")]
    lan_port: int
    wan: Annotated[str, Meta(description="address of the end at the WAN side")]
    wan_port: int
    vlan: Annotated[int | None, Meta(description="VLAN id; null: no tag")]
    direction: Annotated[str, Meta(description="both, to-wan or to-lan: the frames that skip the guest")]
    since_s: Annotated[float, Meta(description="seconds ago")]
    left_s: Annotated[float, Meta(description="seconds until it ends by its time")]
    quiet_s: Annotated[float, Meta(description="seconds without a frame, to the second")]


class Shunting(Answer):
    """What one guest may shunt, and how often it asked for that by tags."""

    guest: str
    most: Annotated[int, Meta(description="flows at the same time")]
    flows: Annotated[int, Meta(description="at present")]
    entered: Annotated[Count, Meta(description="by tags")]
    unfit: Annotated[Count, Meta(description="refused: the frame was of no flow that can be shunted")]
    too_frequent: Annotated[Count, Meta(description="refused: more than `rate` a second")]
    full: Annotated[Count, Meta(description="refused: as many as are allowed")]
    frames: Annotated[Count, Meta(description="that skipped the guest")]


class Shunts(Answer):
    """Shunted flows, oldest first for each guest."""

    shunts: list[Shunt]
    guests: list[Shunting]


class GroupMember(Answer):
    """A member of a group, while the datapath is up. `draining`: it keeps its flows and gets no new ones."""

    name: str
    spare: bool
    available: bool | UnsetType = UNSET
    draining: bool | UnsetType = UNSET


class Group(Answer):
    """A group. `available`: enough members are; missing, like their state, while the datapath is down."""

    name: str
    kind: Annotated[str, Meta(description="balance or standby")]
    members: list[GroupMember]
    minimum: int
    hash: Annotated[str, Meta(description="what tells flows apart")]
    on_member_failure: str
    rules: Annotated[list[str], Meta(description="those with it in their path")]
    available: bool | UnsetType = UNSET


class Filters(Answer):
    """How a set of filters was compiled. `straight`: rule -> why it is evaluated on its own; `hidden`: rules that an
    earlier rule with the same filter makes unreachable."""

    by: Annotated[str, Meta(description="xdp or tc")]
    segments: list[str]
    of: Annotated[str, Meta(description="rules or accept")]
    rules: int
    method: str
    why: str
    programs: int
    joined: bool
    instructions: int
    table_bytes: int
    graph_states: int
    bit_vector_leaves: int
    expected_ns: float | None
    flow_cache: bool
    why_flow_cache: str
    straight: dict[str, str]
    hidden: list[str]
    generate_ms: Ms
    load_ms: Ms
    cache_hits: Count | UnsetType = UNSET
    cache_misses: Count | UnsetType = UNSET


class Rules(Answer):
    """Rules in order; the first that matches wins."""

    rules: list[Rule]
    filters: list[Filters]
    cleared: Annotated[When, Meta(description="the counters are those since then")] | UnsetType = UNSET


class Outcome(Answer):
    """Frames with the same outcome."""

    frames: Count
    bytes: Count


class DeviceCounters(Answer):
    """Frames received on a device, in total and by outcome; `dropped_frames` of them never left.

    `lost`, by cause: frames that another device should have sent but did not; they also count in an outcome. `unsent`:
    frames from other devices that this one should have sent. `refused` (ports): frames on the wire that the port or its
    driver did not deliver; they are in no other count.
    """

    frames: Count
    bytes: Count
    dropped_frames: Count
    outcomes: dict[str, Outcome]
    lost: dict[str, Count]
    unsent: dict[str, Count]
    refused: dict[str, Count] | UnsetType = UNSET


class HopCounters(Answer):
    """Frames to and from a hop, without heartbeats. `skipped`: reason -> how often; `unsent`: frames that its taps did
    not deliver, by cause; `taps`: frames that came back, including heartbeats, by "segment/side"."""

    to_frames: Count
    to_bytes: Count
    from_frames: Count
    skipped: dict[str, int]
    bad_tag: Count
    returned_unmatched: Count
    unsent: dict[str, Count]
    taps: dict[str, DeviceCounters]
    copies: Annotated[Count, Meta(description="frames copied to it as a mirror, not in to_frames")] = 0
    copied_bytes: Count = 0
    uncopied: Annotated[Count, Meta(description="frames of which the kernel could make no copy")] = 0


class RuleCounters(Answer):
    """Frames that a rule matched."""

    frames: Count
    bytes: Count
    to_hop: Count
    bypassed: Count
    blocked: Count
    excess: Count
    shunted: Count = 0


class Counters(Answer):
    """All counters: ports by "segment/side", hops and rules by name."""

    ports: dict[str, DeviceCounters]
    hops: dict[str, HopCounters]
    rules: dict[str, RuleCounters]
    unknown: DeviceCounters
    cleared: Annotated[When, Meta(description="these are the frames since then")] | UnsetType = UNSET


class Transition(Answer, kw_only=True):
    """A change of state. `mono_ns`: CLOCK_MONOTONIC of the boot in which it happened."""

    when: When
    mono_ns: int
    what: str
    from_: str = field(name="from")
    to: str
    cause: Cause
    detail: Detail


class Event(Answer):
    """Something that happened."""

    when: When
    severity: Annotated[str, Meta(description="critical, error, warning, notice or info")]
    source: str
    cause: Cause
    text: str


class CrashReport(Answer):
    """A crash of the machine. `text`: the whole report, if it was requested by number."""

    number: int
    when: Annotated[str, Meta(description="when it was found, after the reset; empty: the clock was not set")]
    kind: Annotated[str, Meta(description="panic, watchdog, unknown, drill, or record: a kernel log without a panic")]
    cause: str
    version: Annotated[str, Meta(description="of the run that crashed; empty: unknown")]
    ran_s: Annotated[int | None, Meta(description="for how long the machine had run; null: unknown")]
    bytes: int
    text: str | UnsetType = UNSET


class Boot(Answer):
    """A boot of the machine, and the reset before it."""

    number: int
    when: Annotated[str, Meta(description="as the machine believed it then; empty: the clock was not set")]
    kind: Annotated[
        str, Meta(description="first, orderly, reboot, poweroff, update, drill, panic, watchdog, power or unknown")
    ]
    cause: str
    version: str
    ran_s: Annotated[int | None, Meta(description="for how long the run before had lasted; null: unknown")]
    report: Annotated[int | None, Meta(description="its crash report; null: there is none")]


class Boots(Answer):
    """`count` boots of this machine, `by_kind` of the reset before, and the newest of them, oldest first."""

    count: int
    by_kind: dict[str, int]
    boots: list[Boot]


class Explained(Answer):
    """What happens to a frame."""

    frame: Annotated[int, Meta(description="its position in the request, from 1")]
    rule: str | None
    hops: list[str]
    verdict: Annotated[str, Meta(description="guest:NAME, remote:NAME, port:lan, port:wan, drop or stack")]
    by: str
    why: list[str]
    mirrors: Annotated[list[str], Meta(description="hops that get a copy, in order")] = field(default_factory=list)


class Point(Answer):
    """A point where frames are copied; `slot` is in the header of each copy."""

    slot: int
    name: str
    description: str


class Capture(Answer):
    """A capture that has started; the descriptor of its ring comes with this answer (SCM_RIGHTS)."""

    capture: int
    bytes: Annotated[int, Meta(description="at most, of each frame")]
    realtime_ns: int
    monotonic_ns: int
    points: list[Point]


class CaptureCounts(Answer):
    """Frames of a capture so far. `lost`: the ring was full."""

    copied: Count
    lost: Count


class Bundle(Answer):
    """A support bundle, which the caller may read."""

    path: str
    bytes: int
    took_ms: int


class Topics(Answer):
    """The topics whose events are sent from now on."""

    topics: list[str]
