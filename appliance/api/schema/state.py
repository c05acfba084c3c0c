# SPDX-License-Identifier: GPL-2.0-only
"""Answers about the appliance as a whole: status, segments, rules, counters, transitions, events, frames."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, UnsetType, field

from appliance.api.schema.base import Answer, Cause, Count, Detail, Ms, Relay, Seconds, Side, When
from appliance.api.schema.guests import Guest


class Version(Answer):
    """What runs."""

    version: str
    kernel: str
    machine: str
    python: str


class ShortSegment(Answer):
    """A segment on the page of the status. `also`: further reasons, beside `cause`."""

    name: str
    relay: Relay
    want: str
    cause: Cause
    detail: Detail
    also: list[str] | UnsetType = UNSET


class Part(Answer):
    """A part of bypassd. `checked_in_ms`: how long ago; null: it has not yet."""

    name: str
    state: Annotated[str, Meta(description="starting, running or failed")]
    detail: Detail
    checked_in_ms: int | None


class Watchdog(Answer, kw_only=True):
    """The hardware watchdog; times in milliseconds. `asked_ms` is the configuration's."""

    state: Annotated[str, Meta(description="armed, missing, none on this board or unknown")]
    timeout_ms: int | UnsetType = UNSET
    asked_ms: int | UnsetType | None = UNSET
    detail: Detail


class KeeperRelay(Answer):
    """A relay line as the keeper has it."""

    line: str
    relay: Relay
    cause: Cause
    usable: bool
    detail: Detail


class Keeper(Answer):
    """The process that owns relays and watchdog."""

    state: Annotated[str, Meta(description="running or missing")]
    uptime_s: int | UnsetType = UNSET
    relays: list[KeeperRelay] | UnsetType = UNSET


class Bypassd(Answer):
    """The process that answers. `restarts` by the keeper; how the one before ended."""

    uptime_s: int
    restarts: int
    last_exit: str


class Reset(Answer):
    """Why the appliance started last."""

    kind: Annotated[str, Meta(description="first, orderly, power, watchdog, panic or none (bypassd alone restarted)")]
    text: str


class Attached(Answer):
    """A device that the datapath takes frames from. `hop` null: a port."""

    device: str
    driver: str
    segment: str
    side: Side
    hop: str | None
    mode: Annotated[str, Meta(description="xdp or tc")]
    reason: Detail


class Datapath(Answer):
    """The programs in the kernel. `adopted`: they ran before this bypassd."""

    state: Annotated[str, Meta(description="up or down")]
    detail: Detail | UnsetType = UNSET
    adopted: bool | UnsetType = UNSET
    attached: list[Attached] | UnsetType = UNSET


class ConfigState(Answer):
    """Whether the configuration is valid."""

    valid: bool
    errors: list[str]


class Partition(Answer):
    """The data partition as the boot found it. `alarm`: what that costs, "" when it costs nothing."""

    state: Annotated[str, Meta(description="kept, read-only, absent, unusable, or unknown where no boot recorded it")]
    alarm: str


class Status(Answer):
    """The appliance on one page. `state` is inline when every segment is. `board`: its name, or what is wrong."""

    hostname: str
    version: str
    idle_timeout_s: Seconds
    board: str
    state: Annotated[str, Meta(description="inline or bypass")]
    uptime_s: int
    segments: list[ShortSegment]
    guests: list[Guest]
    parts: list[Part]
    watchdog: Watchdog
    keeper: Keeper
    supervisor: Bypassd
    last_reset: Reset
    datapath: Datapath
    data_partition: Partition
    config: ConfigState


class Segment(Answer, kw_only=True):
    """A port pair. While the configuration is not valid a relay of the board stands for it, with the first fields."""

    name: str
    relay: Relay
    state: str
    want: str
    cause: Cause
    detail: Detail
    also: list[str] | UnsetType = UNSET
    mode: Annotated[str, Meta(description="auto, bypass or disconnect: what is asked for")] | UnsetType = UNSET
    lan: str
    lan_link: Annotated[str, Meta(description="up, down, held down or missing")] | UnsetType = UNSET
    wan: str
    wan_link: Annotated[str, Meta(description="up, down, held down or missing")] | UnsetType = UNSET
    on_link_loss: str | UnsetType = UNSET
    rearm_delay_ms: int | UnsetType = UNSET
    since_mono_ns: int | UnsetType = UNSET
    attach: Annotated[str, Meta(description="xdp, tc or none")] | UnsetType = UNSET
    attach_why: Detail | UnsetType = UNSET


class SegmentSet(Answer):
    """What became of the operator's word."""

    message: str
    name: str
    mode: str
    state: str
    cause: Cause


class Rule(Answer):
    """A rule and what it matched; no counters while the datapath is down."""

    name: str
    segment: str
    match: str
    path: list[str]
    on_unavailable: str
    why: Annotated[str, Meta(description="why a rule is there that the configuration does not have: quarantine")]
    frames: Count | UnsetType = UNSET
    bytes: Count | UnsetType = UNSET
    to_hop: Count | UnsetType = UNSET
    bypassed: Count | UnsetType = UNSET
    blocked: Count | UnsetType = UNSET


class Filters(Answer):
    """How a set of filters was compiled. `straight`: rule -> why it is asked by itself; `hidden`: never the first."""

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
    """Rules in order: the first that matches wins."""

    rules: list[Rule]
    filters: list[Filters]


class Outcome(Answer):
    """Frames of one fate."""

    frames: Count
    bytes: Count


class DeviceCounters(Answer):
    """Frames that came in by a device; `outcomes`: fate -> how many."""

    frames: Count
    bytes: Count
    dropped_frames: Count
    outcomes: dict[str, Outcome]


class HopCounters(Answer):
    """Frames to and from a hop. `skipped`: reason -> how often; `taps`: "segment/side" -> what came from there."""

    to_frames: Count
    to_bytes: Count
    from_frames: Count
    skipped: dict[str, int]
    bad_tag: Count
    returned_unmatched: Count
    taps: dict[str, DeviceCounters]


class RuleCounters(Answer):
    """Frames of a rule."""

    frames: Count
    bytes: Count
    to_hop: Count
    bypassed: Count
    blocked: Count


class Counters(Answer):
    """Every frame: ports by "segment/side", hops and rules by name."""

    ports: dict[str, DeviceCounters]
    hops: dict[str, HopCounters]
    rules: dict[str, RuleCounters]
    unknown: DeviceCounters


class Transition(Answer, kw_only=True):
    """A change of state. `mono_ns`: the clock CLOCK_MONOTONIC of that boot."""

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


class CrashRecord(Answer):
    """A record of a kernel that crashed: its last lines; all of it when it was asked for by name."""

    name: str
    when: str
    kind: str
    text: str


class Explained(Answer):
    """What becomes of a frame."""

    frame: Annotated[int, Meta(description="which of those that were given, from 1")]
    rule: str | None
    hops: list[str]
    verdict: Annotated[str, Meta(description="guest:NAME, remote:NAME, port:lan, port:wan, drop or stack")]
    by: str
    why: list[str]


class Point(Answer):
    """A place where frames are copied, by the number that stands in each copy."""

    slot: int
    name: str
    description: str


class Capture(Answer):
    """A capture that has begun; the descriptor of its ring comes with this answer."""

    capture: int
    bytes: Annotated[int, Meta(description="of each frame, at most")]
    realtime_ns: int
    monotonic_ns: int
    points: list[Point]


class CaptureCounts(Answer):
    """Of a capture so far."""

    copied: Count
    lost: Count


class Bundle(Answer):
    """A support bundle, which the caller may read and remove."""

    path: str
    bytes: int
    took_ms: int


class Topics(Answer):
    """What is sent from now on."""

    topics: list[str]
