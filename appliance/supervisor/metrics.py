# SPDX-License-Identifier: GPL-2.0-only
"""All metrics, from the state of bypassd's parts. Only reads, and is fast enough for the event loop.

Names, labels and units are a stable interface for dashboards (console/monitoring/).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from msgspec import UNSET

import appliance
from appliance.hop.lifecycle import HopState
from appliance.segment.evidence import Kept
from appliance.segment.machine import State as SegmentState
from appliance.segment.show import Link
from appliance.steering.answers import refused_frames
from appliance.steering.kernel.counters import Counters, DeviceCount
from appliance.steering.kernel.encaps import BY_NAME
from appliance.steering.kernel.layout import Loss
from appliance.supervisor import status
from appliance.supervisor.system import System
from appliance.telemetry.openmetrics import Family
from appliance.telemetry.subject import Severity

RELAY_STATES = ("inline", "bypass", "disconnect", "unknown")


def collect(system: System) -> list[Family]:
    """All families, at one moment."""
    now = time.monotonic_ns()
    datapath = system.steering.datapath
    counters = datapath.counters() if datapath is not None else Counters({}, {}, {}, DeviceCount({}, {}))
    families = [
        *_supervisor(system, now),
        *_segments(system),
        *_relays(system),
        *_guests(system),
        *_remotes(system),
        *_groups(system, now),
        *traffic(counters),
        *_access(system),
    ]
    left = Family(
        "data_partition_available_bytes", "gauge", "Space left on the data partition for guests and users", "bytes"
    )
    size = Family("data_partition_size_bytes", "gauge", "Size of the data partition", "bytes")
    room = system.guests.disk_space.room if system.guests is not None else None
    if room is not None:
        left.add(room.available)
        size.add(room.total)
    families.append(refused(refused_frames(datapath.attachments() if datapath is not None else ())))
    moved = Family("transitions", "counter", "Changes of state, by subject and new state")
    left_out = Family(
        "transitions_left_out", "counter", "Changes of state left out of the ledger because they were too frequent"
    )
    left_out.add(system.transitions.left_out)
    unwritten = Family("transitions_unwritten", "gauge", "Entries of the ledger not written to the disk yet")
    unwritten.add(system.transitions.unwritten)
    for (kind, name, to), count in sorted(system.events.moves.items()):
        moved.add(count, kind=kind, name=name, to=to)
    return [*families, left, size, moved, left_out, unwritten]


def _supervisor(system: System, now: int) -> list[Family]:
    about = Family("build", "info", "Version of the appliance")
    about.add(1, version=appliance.__version__, board=system.board.name if system.board else "unknown")
    started = Family("supervisor_start_time_seconds", "gauge", "When bypassd started, in Unix time", "seconds")
    started.add(round(time.time() - (now - system.began) / 1e9, 3))
    restarts = Family("supervisor_restarts", "counter", "Restarts of bypassd by the keeper")
    armed = Family("watchdog_armed", "gauge", "1 while the hardware watchdog is armed")
    timeout = Family("watchdog_timeout_seconds", "gauge", "The time-out that the device really took", "seconds")
    pretimeout = Family(
        "watchdog_pretimeout_seconds",
        "gauge",
        "The kernel panics this long before the reset; 0: it does not",
        "seconds",
    )
    state = system.keeper.state if system.keeper.present else None
    for device in state.watchdogs if state is not None else ():
        timeout.add(device.timeout_ms / 1e3, device=device.name, identity=device.identity)
        pretimeout.add(device.pretimeout_ms / 1e3, device=device.name, identity=device.identity)
    if state is not None:
        restarts.add(state.restarts)
        armed.add(1 if state.watchdog_ms else 0)
    running = Family("part_running", "gauge", "1 while this part of bypassd runs")
    silent = Family("part_silence_seconds", "gauge", "Time since this part last checked in", "seconds")
    ages = system.check_ins.ages(now)
    for name, word in system.part_states.items():
        running.add(1 if word == "running" else 0, part=name)
        if name in ages:
            silent.add(ages[name] / 1e9, part=name)
    stalls = Family(
        "supervisor_stalls", "counter", "How often this work blocked bypassd's event loop for more than 50 ms"
    )
    for what, count in sorted(system.loop_watch.counts.items()):
        stalls.add(count, what=what)
    longest = Family("supervisor_longest_stall_seconds", "gauge", "The longest of these since the start", "seconds")
    longest.add(system.loop_watch.longest.own if system.loop_watch.longest is not None else 0)
    valid = Family("config_valid", "gauge", "1 while the configuration is valid")
    valid.add(1 if system.config is not None else 0)
    reset = Family("last_reset", "info", "The kind of the last reset")
    reset.add(1, kind=system.crash_log.reset.kind)
    crashes = Family("crashes", "gauge", "Crashes of the machine that count towards safe mode")
    crashes.add(system.crash_log.history.counted)
    safe = Family("safe_mode", "gauge", "1 while the machine is in safe mode: no datapath, no guests")
    safe.add(1 if system.safe_mode.active else 0)
    boots = Family("boots", "counter", "Boots of the machine, by the kind of reset before them")
    for kind, count in system.crash_log.boots.by_kind:
        boots.add(count, kind=kind)
    report = Family("crash_report", "gauge", "Number of the crash report of the last reset; 0: there is none")
    report.add(system.crash_log.report)
    drills = Family("drill_passed", "gauge", "1 if the newest drill of this kind and segment passed")
    drilled = Family("drill_time_seconds", "gauge", "When that drill was made, in Unix time", "seconds")
    for result in system.drilled():
        drills.add(1 if result.passed else 0, kind=result.kind, segment=result.segment)
        drilled.add(result.at, kind=result.kind, segment=result.segment)
    events = Family("events", "counter", "Events since bypassd started, by severity")
    for severity in Severity:
        events.add(system.events.counts[severity], severity=severity.word)
    return [
        about,
        started,
        restarts,
        armed,
        timeout,
        pretimeout,
        running,
        silent,
        stalls,
        longest,
        valid,
        reset,
        boots,
        report,
        crashes,
        safe,
        drills,
        drilled,
        events,
    ]


def _segments(system: System) -> list[Family]:
    inline = Family("segment_inline", "gauge", "1 while the relay is inline and frames reach the appliance")
    state = Family("segment_state", "gauge", "1 for the current state of the segment")
    relay = Family("relay_position", "gauge", "1 for the position of the relay reported by the keeper")
    why = Family("segment_cause", "info", "The cause of the segment's state")
    down = Family("segment_link_down", "gauge", "1 while the links of both ports are held down: hops are missing")
    dry = Family("segment_dry_run", "gauge", "1 while the segment's rules are only counted, and all frames go straight")
    link = Family("port_link_up", "gauge", "1 while the port has a link")
    kept = Family("port_sending", "gauge", "1 for whether the port sends the frames that it is given")
    sent = Family("port_sent_frames", "counter", "Frames that the port sent, as counted by its driver")
    dropped = Family(
        "port_unsent_frames", "counter", "Frames that the port dropped instead of sending, as counted by its driver"
    )
    for name, unit in system.segments.units.items():
        machine = unit.machine
        inline.add(1 if machine.relay == "inline" else 0, segment=name)
        state.states(machine.state, SegmentState, segment=name)
        relay.states(machine.relay or "unknown", RELAY_STATES, segment=name)
        why.add(1, segment=name, cause=machine.cause)
        down.add(int(unit.link_down.held), segment=name)
        dry.add(int(unit.config.dry_run), segment=name)
        for side, port in (("lan", unit.config.lan), ("wan", unit.config.wan)):
            link.add(1 if system.segments.link(port) is Link.UP else 0, segment=name, side=side, port=port)
            kept.states(unit.evidence.ports[side].kept, Kept, segment=name, side=side, port=port)
            there = system.links.ports.get(port)
            if there is not None:
                sent.add(there.sent, segment=name, side=side, port=port)
                dropped.add(there.dropped, segment=name, side=side, port=port)
    return [inline, state, relay, why, down, dry, link, kept, sent, dropped]


def _groups(system: System, now: int) -> list[Family]:
    up = Family("group_available", "gauge", "1 while at least the minimum of the group's members is available")
    members = Family("group_members_available", "gauge", "Members of the group that are available, spare ones too")
    minimum = Family("group_members_minimum", "gauge", "With fewer available members the group gets no frames")
    for group in status.groups(system, now):
        minimum.add(group.minimum, group=group.name)
        if group.available is not UNSET:
            up.add(1 if group.available else 0, group=group.name)
            members.add(sum(member.available is True for member in group.members), group=group.name)
    return [up, members, minimum]


def _relays(system: System) -> list[Family]:
    hang = Family(
        "relay_hang_gap_seconds",
        "gauge",
        "How long the link would be dead at most if the computer hung; missing: no limit is known",
        "seconds",
    )
    facts = Family("relay_facts", "info", "What the relay does when nobody drives it, by board.toml and drills")
    for relay in status.relays(system):
        if relay.hang_ms is not None:
            hang.add(relay.hang_ms / 1e3, relay=relay.name)
        facts.add(
            1,
            relay=relay.name,
            kind=relay.kind,
            power_up=relay.power_up or "unknown",
            unpowered=relay.unpowered or "unknown",
            on_watchdog=relay.on_watchdog or "unknown",
            released=relay.released,
        )
    return [hang, facts]


def _guests(system: System) -> list[Family]:
    state = Family("guest_state", "gauge", "1 for the current state of the guest")
    up = Family("guest_available", "gauge", "1 while the guest may get frames")
    lease = Family("guest_lease_seconds", "gauge", "Remaining time of the guest's lease; 0 = expired", "seconds")
    restarts = Family("guest_restarts", "counter", "Restarts of the guest")
    limit = Family("guest_limit_frames", "gauge", "Frames a second that an overloaded guest gets at most; 0 = no limit")
    latency = Family("guest_latency_seconds", "histogram", "Time of in-band heartbeats through the guest", "seconds")
    dropped = Family("guest_events_dropped", "counter", "QEMU events dropped because they were too frequent")
    would = Family(
        "guest_dry_run_falls", "counter", "How often checks that decide nothing would have bypassed the guest"
    )
    queues = Family("guest_queues", "gauge", "Queues that the guest's driver uses of a port with several, by tap")
    now = time.monotonic_ns()
    for guest in system.guests.guests() if system.guests is not None else ():
        remaining = guest.hop.lease.remaining(now)
        state.states(guest.state.value, (each.value for each in HopState), guest=guest.name)
        up.add(1 if remaining else 0, guest=guest.name)
        lease.add(remaining / 1e9, guest=guest.name)
        restarts.add(guest.restarts.count, guest=guest.name)
        dropped.add(guest.current_run.monitor.dropped if guest.current_run else 0, guest=guest.name)
        latency.add(guest.current_run.watch.histogram if guest.current_run else None, guest=guest.name)
        would.add(guest.current_run.watch.verdict.would_falls if guest.current_run else 0, guest=guest.name)
        for tap, used in guest.current_run.used_queues.items() if guest.current_run else ():
            queues.add(used, guest=guest.name, tap=tap)
        for way in guest.current_run.watch.overload() if guest.current_run else ():
            limit.add(way.limit_frames_per_s, guest=guest.name, way=way.way)
    return [state, up, lease, restarts, limit, latency, dropped, would, queues]


def _remotes(system: System) -> list[Family]:
    state = Family("remote_state", "gauge", "1 for the current state of the remote")
    up = Family("remote_available", "gauge", "1 while the remote may get frames")
    lease = Family("remote_lease_seconds", "gauge", "Remaining time of the remote's lease; 0 = expired", "seconds")
    way = Family("remote_way_up", "gauge", "1 while nothing is known against the way to the remote")
    mtu = Family("remote_way_mtu_bytes", "gauge", "Longest packet that the way to the remote takes", "bytes")
    latency = Family("remote_latency_seconds", "histogram", "Time of in-band heartbeats through the remote", "seconds")
    dropped = Family(
        "management_port_dropped_packets", "counter", "Packets that the filters of the management port dropped"
    )
    if system.remotes is not None:
        dropped.add(system.remotes.dropped)
    counted = Family("remote_tunnel_packets", "counter", "What the remote's tunnel devices have counted, by kind")
    limit = Family(
        "remote_limit_frames", "gauge", "Frames a second that an overloaded remote gets at most; 0 = no limit"
    )
    handshake = Family(
        "remote_handshake_timestamp_seconds", "gauge", "Time of the last WireGuard handshake; 0 = none", "seconds"
    )
    clamped = Family("remote_clamped_syns", "counter", "TCP SYNs whose segment size was lowered to fit the tunnel")
    encapsulated = Family(
        "remote_encapsulated_frames",
        "counter",
        "Frames that XDP may encapsulate: sent, lost, or why they went by the kernel's tunnel",
    )
    now = time.monotonic_ns()
    for remote in system.remotes.remotes() if system.remotes is not None else ():
        remaining = remote.hop.lease.remaining(now)
        state.states(remote.state.value, (each.value for each in HopState), remote=remote.name)
        up.add(1 if remaining else 0, remote=remote.name)
        lease.add(remaining / 1e9, remote=remote.name)
        way.add(0 if remote.way.trouble or not remote.way.mtu else 1, remote=remote.name)
        mtu.add(remote.way.mtu, remote=remote.name)
        latency.add(remote.watch.histogram if remote.watch is not None else None, remote=remote.name)
        for one in remote.watch.overload() if remote.watch is not None else ():
            limit.add(one.limit_frames_per_s, remote=remote.name, way=one.way)
        below = remote.tunnels.secured
        if below is not None:
            handshake.add(below.session.handshake if below.session is not None else 0, remote=remote.name)
        for side, kinds in remote.tunnels.counters().items():
            for kind, packets in kinds.items():
                counted.add(packets, remote=remote.name, side=side, kind=kind)
        if (syns := remote.tunnels.clamped()) is not None:
            clamped.add(syns, remote=remote.name)
        for end, found in (remote.tunnels.encapsulated() or {}).items():
            for what, frames in found.items():
                result = BY_NAME.get(what, what.name.lower())
                encapsulated.add(frames, remote=remote.name, side=end.name.lower(), result=result)
    families = [state, up, lease, way, mtu, latency, limit, counted, handshake, dropped, clamped, encapsulated]
    return [*families, *_serves(system)]


def _serves(system: System) -> list[Family]:
    up = Family("serve_up", "gauge", "1 while the tunnels to the other appliance work")
    missing = Family("serve_missing_hops", "gauge", "Hops and groups of the path that are not available")
    counted = Family("serve_tunnel_packets", "counter", "What the tunnel devices have counted, by kind")
    now = time.monotonic_ns()
    for one in system.remotes.serves if system.remotes is not None else ():
        up.add(int(one.up), serve=one.name)
        missing.add(len(one.unavailable(now)), serve=one.name)
        for side, kinds in one.tunnels.counters().items():
            for kind, packets in kinds.items():
                counted.add(packets, serve=one.name, side=side, kind=kind)
    return [up, missing, counted]


def _access(system: System) -> list[Family]:
    failed = Family("failed_logins", "counter", "Failed logins over SSH")
    shut_out = Family("shut_out_networks", "gauge", "Networks that are blocked after failed logins")
    sessions = Family("ssh_sessions", "gauge", "SSH sessions")
    sent = Family("syslog_sent", "counter", "Events sent to a syslog server")
    lost = Family("syslog_lost", "counter", "Events dropped because a syslog server could not be reached")
    if system.access is not None:
        failed.add(system.access.logins.failures)
        shut_out.add(len(system.access.logins.shut_out()))
        sessions.add(len(system.access.logins.sessions.present()))
        for sender in system.access.syslog.senders():
            sent.add(sender.sent, server=sender.label)
            lost.add(sender.lost, server=sender.label)
    return [failed, shut_out, sessions, sent, lost]


def traffic(counters: Counters) -> list[Family]:
    """Metrics of ports, rules and hops from the datapath's counters."""
    port = {key: Family(f"port_{key}", "counter", text) for key, text in (
        ("frames", "Frames received on a port"), ("bytes", "Bytes received on a port"),
        ("dropped_frames", "Frames received on a port and dropped, for a named reason"))}  # fmt: skip
    outcome = Family("port_outcome_frames", "counter", "Frames received on a port, by outcome")
    lost = Family("port_lost_frames", "counter", "Frames received on a port and lost on their way, by cause")
    unsent = Family("port_unsent_frames", "counter", "Frames that a port should have sent but did not, by cause")
    for (segment, side), count in counters.ports.items():
        labels = {"segment": segment, "side": side.name.lower()}
        port["frames"].add(count.total, **labels)
        port["bytes"].add(sum(count.octets.values()), **labels)
        port["dropped_frames"].add(count.dropped, **labels)
        _outcomes(outcome, count, labels)
        _losses(lost, count.lost, labels)
        _losses(unsent, count.unsent, labels)
    rule = {key: Family(f"rule_{key}", "counter", text) for key, text in (
        ("frames", "Frames that a rule matched"), ("bytes", "Bytes that a rule matched"),
        ("to_hop_frames", "Frames that a rule sent to a hop"),
        ("bypassed_frames", "Frames that a rule matched and that bypassed its hops because none was available"),
        ("blocked_frames", "Frames that a rule matched and blocked because no hop was available"),
        ("excess_frames", "Frames that a rule matched and that exceeded the limit of an overloaded hop"),
        ("shunted_frames", "Frames that a rule matched and that skipped its hops because of shunts"))}  # fmt: skip
    for name, matched in counters.rules.items():
        for key, value in (("frames", matched.frames), ("bytes", matched.octets), ("to_hop_frames", matched.to_hop),
                           ("bypassed_frames", matched.bypassed), ("blocked_frames", matched.blocked),
                           ("excess_frames", matched.excess), ("shunted_frames", matched.shunted)):  # fmt: skip
            rule[key].add(value, rule=name)
    hop = {key: Family(f"hop_{key}", "counter", text) for key, text in (
        ("sent_frames", "Frames sent to a hop"), ("sent_bytes", "Bytes sent to a hop"),
        ("returned_frames", "Frames that came back from a hop, without heartbeats"),
        ("unmatched_frames", "Frames that came back from a hop and belong to no path"),
        ("bad_tag_frames", "Frames with a tag that names no next hop"),
        ("copied_frames", "Frames copied to a hop as a mirror, not in sent_frames"),
        ("copied_bytes", "Bytes copied to a hop as a mirror"),
        ("uncopied_frames", "Frames for a mirror of which the kernel could make no copy"))}  # fmt: skip
    skipped = Family("hop_skipped_frames", "counter", "Frames that skipped a hop, by reason")
    untaken = Family("hop_unsent_frames", "counter", "Frames for a hop that its taps did not deliver, by cause")
    for name, there in counters.hops.items():
        values: dict[str, Any] = {"sent_frames": there.to_frames, "sent_bytes": there.to_octets,
                                  "returned_frames": there.from_frames, "unmatched_frames": there.returned_unmatched,
                                  "bad_tag_frames": there.bad_tag, "copied_frames": there.copies,
                                  "copied_bytes": there.copied_octets,
                                  "uncopied_frames": there.uncopied}  # fmt: skip
        for key, value in values.items():
            hop[key].add(value, hop=name)
        for reason, frames in there.skipped.items():
            skipped.add(frames, hop=name, reason=reason.name.lower())
        _losses(untaken, there.unsent, {"hop": name})
    return [*port.values(), outcome, lost, unsent, *rule.values(), *hop.values(), skipped, untaken]


def refused(frames: Mapping[tuple[str, str], Mapping[str, int]]) -> Family:
    """Frames that ports did not deliver, by segment and side."""
    family = Family("port_refused_frames", "counter", "Frames on the wire that a port did not deliver, by cause")
    for (segment, side), causes in frames.items():
        for cause, count in causes.items():
            family.add(count, segment=segment, side=side, cause=cause)
    return family


def _losses(family: Family, counted: Mapping[Loss, int], labels: dict[str, str]) -> None:
    for loss, frames in counted.items():
        family.add(frames, **labels, cause=loss.name.lower())


def _outcomes(family: Family, count: DeviceCount, labels: dict[str, str]) -> None:
    for each, frames in count.frames.items():
        family.add(frames, **labels, outcome=each.name.lower())
