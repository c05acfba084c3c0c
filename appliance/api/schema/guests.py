# SPDX-License-Identifier: GPL-2.0-only
"""Answers about guests, their images, incidents and quarantine."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, UnsetType

from appliance.api.schema.base import Answer, Cause, Detail, Ms, Seconds, When

State = Annotated[str, Meta(description="defined, starting, proving, available, suspect, draining, stopped or failed")]


class Guest(Answer, kw_only=True):
    """A guest. Until the part "guests" is up, only name, state and cause are known. `hop`: its number in VLAN tags."""

    name: str
    hop: int | UnsetType = UNSET
    state: State
    cause: Cause
    detail: Detail | UnsetType = UNSET
    lease_ms: Ms | UnsetType = UNSET
    lease: str | UnsetType = UNSET
    pid: int | UnsetType | None = UNSET
    accel: Annotated[str, Meta(description="kvm, tcg, or empty while it does not run")] | UnsetType = UNSET
    restarts: int | UnsetType = UNSET
    uptime_s: Seconds | UnsetType | None = UNSET
    application: str | UnsetType = UNSET
    unsent: Annotated[dict[str, int], Meta(description="frames that its taps did not deliver")] | UnsetType = UNSET
    warning: Detail | UnsetType = UNSET


class Taps(Answer):
    """The guest's pair of taps in one segment; `segment` is empty when the guest serves only one."""

    segment: str
    lan: str
    wan: str


class Queues(Answer):
    """A port of the guest with several queues: how many it has, and how many of them its driver uses."""

    tap: str
    queues: int
    used: Annotated[int | None, Meta(description="null: not known yet")]


class Agent(Answer):
    """What the guest's agent reported, and how many of its messages were accepted or rejected."""

    name: str
    version: Annotated[int, Meta(description="of the protocol; 0: no hello was received yet")]
    capabilities: list[str]
    accept: Annotated[str, Meta(description="pcap filter of the frames that it asked for")]
    accept_names: Annotated[list[str], Meta(description="by which it asked for them; empty: by the filter")]
    accept_refused: str
    tags: bool
    unanswered: int
    counters: dict[str, int]
    accepted: int
    malformed: int
    oversized: int
    too_frequent: int


class Bypassed(Answer):
    """How soon traffic bypassed the guest after `runs` faults of one cause.

    `at_most` counts from when the guest was last known to work, `detected` from the detection.
    """

    cause: Cause
    runs: int
    at_most_p50_ms: Ms | None
    at_most_p99_ms: Ms | None
    at_most_max_ms: Ms | None
    detected_p50_ms: Ms | None
    detected_p99_ms: Ms | None
    detected_max_ms: Ms | None


class Check(Answer, kw_only=True):
    """One check. A veto by the guest itself or by QEMU has no optional fields. `_ms`: how long ago."""

    check: str
    state: str
    why: Detail
    last_good_ms: Ms | UnsetType | None = UNSET
    latency_ms: Ms | UnsetType | None = UNSET
    changed_ms: Ms | None
    falls: int | UnsetType = UNSET
    late: int | UnsetType = UNSET
    dry_run: bool | UnsetType = UNSET


class Heartbeats(Answer):
    """Heartbeat frames sent through the guest in one direction."""

    lane: str
    sent: int
    received: int
    foreign: int
    refused: int


class Overload(Answer):
    """One direction through a guest: the limit of its frames, and its last observed capacity. 0: no limit."""

    way: str
    limit_frames_per_s: int
    carries_frames_per_s: int


class Flip(Answer):
    """A change of a check's state."""

    ago_ms: Ms
    check: str
    to: str
    why: str


class GuestDetails(Guest, kw_only=True):
    """A guest with the evidence. `ended_ms`: it does not run; `checks` are those of its last process.

    `qmp_dropped`: QEMU events dropped because they were too frequent.
    """

    taps: list[Taps] | UnsetType = UNSET
    queues: Annotated[list[Queues], Meta(description="of the ports, if they have several")] | UnsetType = UNSET
    management: str | UnsetType = UNSET
    flip_count: int | UnsetType = UNSET
    lease_renewals: int | UnsetType = UNSET
    agent: Agent | UnsetType = UNSET
    bypass: list[Bypassed] | UnsetType = UNSET
    qmp_events: list[str] | UnsetType = UNSET
    qmp_dropped: int | UnsetType = UNSET
    flips: list[Flip] | UnsetType = UNSET
    ended_ms: Ms | UnsetType = UNSET
    checks: list[Check] | UnsetType = UNSET
    latency_p50_ms: Ms | UnsetType | None = UNSET
    latency_p99_ms: Ms | UnsetType | None = UNSET
    heartbeats: list[Heartbeats] | UnsetType = UNSET
    overload: list[Overload] | UnsetType = UNSET
    dry_run_falls: Annotated[int, Meta(description="how often its checks would have bypassed it")] | UnsetType = UNSET


class Console(Answer):
    """After this answer the connection is the guest's serial console."""

    state: State


class Log(Answer):
    """The last lines that the guest printed on its serial console."""

    file: str
    lines: list[str]


class Image(Answer):
    """An image. `undo`: what `image.undo` would do: "previous" (restore the one before), "remove", or "" (nothing)."""

    name: str
    size_bytes: int
    format: str
    virtual_bytes: int
    sha256: str
    verified: bool
    imported: str | float | None
    source: str
    used_by: list[str]
    undo: str


class Job(Answer):
    """An import and its progress. The optional fields are present when it is done."""

    job: int
    name: str
    stage: str
    why: Detail
    done_bytes: int
    total_bytes: int
    size: int | UnsetType = UNSET
    sha256: str | UnsetType = UNSET
    verified: bool | UnsetType = UNSET
    format: str | UnsetType = UNSET
    virtual_bytes: int | UnsetType = UNSET
    source: str | UnsetType = UNSET
    imported: Annotated[float, Meta(description="when, in seconds since 1970")] | UnsetType = UNSET


class Incident(Answer):
    """A guest that exited unexpectedly or failed its checks."""

    number: int
    when: When
    guest: str
    kind: Annotated[str, Meta(description="died or failed")]
    cause: Cause
    frames: int
    flows: int
    bypass_at_most_ms: Ms | None
    quarantined: list[str]
    detail: Detail
    times: Annotated[int, Meta(description="it failed alike so often, with no more frames")]
    last: When


class IncidentDetails(Answer):
    """An incident without its frames. `at`: seconds since 1970; `flows`: the most likely cause first."""

    number: int
    at: float
    when: When
    guest: str
    kind: str
    cause: Cause
    detail: Detail
    frames: int
    flows: list[str]
    console: str
    last_proof_ms: Ms | None
    bypass_at_most_ms: Ms | None
    verdict: str
    quarantined: list[str]
    times: int
    last: When
    trouble: Detail


class IncidentFrames(Answer):
    """The last frames that were sent to the guest, as pcapng in base64."""

    number: int
    pcapng: str


class Quarantined(Answer):
    """A flow that bypasses the guests that it crashed. `rules`: how many rules do that."""

    name: str
    guests: list[str]
    flow: str
    left_s: int
    rules: int
    why: Detail
