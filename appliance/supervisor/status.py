# SPDX-License-Identifier: GPL-2.0-only
"""The state of the system as the types of api/schema/state.py: what `show status` and `show segments` show.

Reads the system and changes nothing. The handlers of the methods are in show.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from msgspec import UNSET

import appliance
from appliance.api.schema import state
from appliance.api.schema.guests import Guest
from appliance.api.schema.remotes import Remote, Serve
from appliance.causes import DESCRIPTION, Cause
from appliance.config.schema.served import mirrored
from appliance.hardware import data_partition, relay_facts
from appliance.hardware.board import Relay
from appliance.keeper.client import KeeperState
from appliance.steering import answers
from appliance.supervisor.system import System

if TYPE_CHECKING:
    from appliance.steering.kernel.layout import Loss
    from appliance.steering.kernel.slots import Attachment

IDLE_S = 900.0  # idle timeout of a session while there is no valid configuration


def status(system: System, now: int) -> state.Status:
    """The state of the appliance on one page."""
    found = segments(system, now)
    inline = bool(found) and all(segment.relay == "inline" for segment in found)
    known, longest = system.keeper.state, system.loop_watch.longest
    return state.Status(
        hostname=system.config.system.hostname if system.config else "bypass",
        version=appliance.__version__,
        idle_timeout_s=int(system.config.system.idle_timeout) / 1e9 if system.config else IDLE_S,
        board=system.board.name if system.board else system.board_error,
        state="inline" if inline else "bypass",
        uptime_s=round(now / 1e9),
        segments=[
            state.ShortSegment(each.name, each.relay, each.want, each.cause, each.detail, each.also) for each in found
        ],
        guests=guests(system),
        remotes=remotes(system),
        serves=serves(system),
        parts=parts(system, now),
        watchdog=watchdog(system),
        relays=relays(system),
        keeper=keeper(system, now),
        supervisor=state.Bypassd(
            uptime_s=round((now - system.began) / 1e9),
            restarts=known.restarts if known else 0,
            last_exit=known.last_exit if known else "",
            stalls=system.loop_watch.counts.total(),
            longest_stall_ms=round(longest.own * 1e3, 1) if longest is not None else 0.0,
            longest_stall=str(longest) if longest is not None else "",
        ),
        last_reset=state.Reset(kind=system.crash_log.reset.kind, text=system.crash_log.reset.text),
        crashes=system.safe_mode.answer(),
        datapath=datapath(system),
        data_partition=partition(system),
        protection=system.protection(),
        snmp_failure=system.access.snmp.told if system.access is not None else "",
        power=system.power_due(),
        config=state.ConfigState(
            valid=system.config is not None,
            errors=[str(error) for error in system.config_errors],
            confirm_s=system.confirm_s(),
            rolled_back=system.rolled_back(),
        ),
    )


def segments(system: System, now: int) -> list[state.Segment]:
    """All segments; while the configuration is not valid, the relays of the board."""
    if system.config is None:
        return _relays_without_config(system)
    found = system.segments.show(now)
    steered = system.steering.datapath
    attached = steered.attachments() if steered is not None else []
    counts = steered.port_counts() if steered is not None else {}
    for segment in found:
        ports = [one for one in attached if one.segment == segment.name and not one.hop]
        segment.attach = "/".join(dict.fromkeys(port.mode for port in ports)) or "none"
        segment.attach_why = "; ".join(dict.fromkeys(port.reason for port in ports))
        if steered is not None and ports:
            segment.mtu = steered.mtu(segment.name)
            segment.longest_bytes = min(port.device.longest for port in ports)
        segment.unsent = _sum(counts[segment.name, port.side].unsent for port in ports)
    return found


def _relays_without_config(system: System) -> list[state.Segment]:
    """While the configuration is not valid, no segment has a name: show the relays of the board instead."""
    relays = system.keeper.state.relays if system.keeper.state else {}
    detail = str(system.config_errors[0]) if system.config_errors else DESCRIPTION[Cause.CONFIG_INVALID]
    return [
        state.Segment(
            name="-".join(relay.ports),
            relay=relays[relay.line].relay if relay.line in relays else "bypass",
            state="bypass",
            want="bypass",
            cause=Cause.CONFIG_INVALID,
            detail=detail,
            lan=relay.ports[0],
            wan=relay.ports[1],
        )
        for relay in (system.board.relay if system.board else ())
    ]


def guests(system: System) -> list[Guest]:
    """All guests, also while the part that runs them is not running."""
    if system.guests is not None:
        return system.guests.summary()
    cause = Cause.STARTING if system.config else Cause.CONFIG_INVALID
    cause = Cause.SAFE_MODE if system.safe_mode.active else cause
    return [Guest(name=g.name, state="defined", cause=cause) for g in (system.config.guest if system.config else ())]


def groups(system: System, now: int) -> list[state.Group]:
    """All groups."""
    config, datapath = system.steering.effective, system.steering.datapath
    rules = {group.name: [rule.name for rule in config.rule if group.name in rule.path] for group in config.group}
    leases = datapath.leases if datapath is not None else None
    return [answers.group(group, rules[group.name], leases, now) for group in config.group]


def mirrors(system: System, now: int) -> list[state.Mirror]:
    """All hops that are mirrors, by name."""
    config, datapath = system.steering.effective, system.steering.datapath
    leases = datapath.leases if datapath is not None else None
    counts = datapath.counters().hops if datapath is not None else {}
    found = []
    for hop, segments in sorted(mirrored(config).items()):
        rules = [rule for rule in config.rule if any(mirror.hop == hop for mirror in rule.mirrors)]
        found.append(
            answers.mirror(
                hop, segments, rules, UNSET if leases is None else leases.available(hop, now), counts.get(hop)
            )
        )
    return found


def remotes(system: System) -> list[Remote]:
    """All remotes, also while the part that runs them is not running."""
    if system.remotes is not None:
        return system.remotes.summary()
    cause = Cause.SAFE_MODE if system.safe_mode.active else Cause.STARTING if system.config else Cause.CONFIG_INVALID
    return [Remote(name=r.name, state="defined", cause=cause) for r in (system.config.remote if system.config else ())]


def serves(system: System) -> list[Serve]:
    """All that is served to other appliances, also while the part that does it is not running."""
    if system.remotes is not None:
        return system.remotes.served()
    cause = Cause.SAFE_MODE if system.safe_mode.active else Cause.STARTING if system.config else Cause.CONFIG_INVALID
    return [Serve(name=s.name, state="down", cause=cause) for s in (system.config.serve if system.config else ())]


def partition(system: System) -> state.Partition:
    """The data partition: its state, its alarms, and the room that is left."""
    found = data_partition.read(system.paths.data_partition)
    room = system.guests.disk_space.room if system.guests is not None else None
    alarms = (found.alarm, system.transitions.alarm, room.alarm if room is not None else "")
    return state.Partition(
        state=found.state,
        alarm="; ".join(filter(None, alarms)),
        available_bytes=room.available if room is not None else UNSET,
        total_bytes=room.total if room is not None else UNSET,
    )


def parts(system: System, now: int) -> list[state.Part]:
    """The parts of bypassd, and how long ago each last checked in."""
    ages = system.check_ins.ages(now)
    return [
        state.Part(
            name=name,
            state=word,
            detail=system.part_faults.get(name, ""),
            checked_in_ms=ages[name] // 1_000_000 if name in ages else None,
        )
        for name, word in system.part_states.items()
    ]


def watchdog(system: System) -> state.Watchdog:
    """The watchdog as the keeper reports it."""
    known = system.keeper.state
    if known is None:
        return state.Watchdog(state="unknown", detail="the keeper is not running")
    return state.Watchdog(
        state="armed" if known.watchdog_ms else "missing" if known.watchdog_present else "none on this board",
        timeout_ms=known.watchdog_ms,
        asked_ms=int(system.config.watchdog.timeout) // 1_000_000 if system.config else None,
        detail=known.watchdog_error,
        devices=[state.WatchdogDevice(**device._asdict()) for device in known.watchdogs],
    )


def relays(system: System) -> list[state.BoardRelay]:
    """The relays of the board, with what they do when nobody drives them."""
    if system.board is None:
        return []
    client = system.keeper_state
    segments = {unit.relay: name for name, unit in system.segments.units.items()}
    drill = next(((each.passed, each.at) for each in system.drilled() if each.kind == "power"), None)
    return [_relay(relay, client, segments.get(relay.line, ""), drill) for relay in system.board.relay]


def _relay(
    relay: Relay, client: KeeperState | None, segment: str, drill: tuple[bool, float] | None
) -> state.BoardRelay:
    now = client.relays.get(relay.line) if client is not None else None
    gap = relay_facts.when_hung(relay, client.watchdog_ms if client is not None else 0)
    power = relay_facts.when_unpowered(relay, drill)
    return state.BoardRelay(
        name=relay.line,
        segment=segment,
        ports=list(relay.ports),
        kind=relay.kind,
        relay=now.relay if now is not None else "unknown",
        cause=now.cause if now is not None else Cause.RELAY_MISSING,
        detail=now.error if now is not None else "the keeper does not report it",
        power_up=relay.power_up or None,
        unpowered=power.word or None,
        unpowered_detail=power.said,
        on_watchdog=relay.on_watchdog or None,
        released=relay.released,
        hang_ms=gap.ms,
        hang_detail=gap.why,
        disconnect=relay.disconnect,
        settle_ms=int(relay.settle) / 1e6,
    )


def keeper(system: System, now: int) -> state.Keeper:
    """The keeper, and its relays."""
    client = system.keeper
    if client.state is None or not client.present:
        return state.Keeper(state="missing")
    relays = [
        state.KeeperRelay(line=name, relay=r.relay, cause=r.cause, usable=r.usable, detail=r.error)
        for name, r in client.state.relays.items()
    ]
    return state.Keeper(state="running", uptime_s=round((now - client.state.started_ns) / 1e9), relays=relays)


def datapath(system: System) -> state.Datapath:
    """Whether the datapath is up, and what is attached to it."""
    steering = system.steering
    if steering.datapath is None:
        return state.Datapath(state="down", detail=system.part_faults.get("steering", ""))
    attached = [_attached(attachment) for attachment in steering.datapath.attachments()]
    return state.Datapath(
        state="up",
        adopted=steering.adopted,
        counts_losses=steering.datapath.kernel.sees_losses,
        attached=attached,
    )


def _sum(counted: Iterable[Mapping[Loss, int]]) -> dict[str, int]:
    """The sum of several devices' lost frames, by cause."""
    total: Counter[Loss] = Counter()
    for each in counted:
        total.update(each)
    return answers.causes(total)


def _attached(attachment: Attachment) -> state.Attached:
    """A device that the datapath takes frames from."""
    return state.Attached(
        device=attachment.device.name,
        driver=attachment.device.driver,
        segment=attachment.segment,
        side=attachment.side.name.lower(),
        hop=attachment.hop or None,
        mode=attachment.mode,
        reason=attachment.reason,
    )
