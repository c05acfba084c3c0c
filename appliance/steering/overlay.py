# SPDX-License-Identifier: GPL-2.0-only
"""The overlay on the configuration's steering at run time: filters registered by guests, and flows in quarantine.

Pure except for `load` and `save`. The overlay only restricts: a guest's `accept` narrows what the administrator allows,
and a flow in quarantine bypasses one guest. The configuration itself is not changed; `apply` returns the one for the
datapath. A registration that does not fit (any more) is left out, without an error.

A flow in quarantine becomes a rule directly before each rule that would send it to the guest: that rule's match and
the flow, with its path without the guest (and without the groups that contain it), which gets no copies of it either.
If a rule fails closed
(`on_unavailable`) and nothing is left of its path, or it requires all of it, there is no such rule.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from appliance.config.schema import limits
from appliance.config.schema.model import Config, Mirror, Rule
from appliance.system import files

MAX_QUARANTINED = 32


class Quarantined(msgspec.Struct, frozen=True):
    """A flow that bypasses these guests: the one it crashed, and those that would take it over.

    `match` is a pcap filter; times are seconds since 1970; `incidents` are numbers.
    """

    name: str
    guests: tuple[str, ...]
    flow: str
    match: str
    since: float
    until: float
    incidents: tuple[int, ...] = ()
    why: str = ""


class Overlay(msgspec.Struct, frozen=True):
    """`accepts`: by guest, the filter that it registered. `no_tags`: guests that do not use tags."""

    accepts: dict[str, str] = {}
    no_tags: tuple[str, ...] = ()
    quarantined: tuple[Quarantined, ...] = ()


def load(path: Path) -> Overlay:
    """The overlay saved by an earlier bypassd; empty if there is none that can be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Overlay)
    except (OSError, msgspec.DecodeError):
        return Overlay()


def save(path: Path, overlay: Overlay) -> None:
    """Save it for the next bypassd. OSError from the disk."""
    files.replace(path, msgspec.json.encode(overlay))


def narrowed(allowed: str, wanted: str) -> str:
    """The filter for frames that both the administrator and the guest allow."""
    if not allowed.strip() or not wanted.strip():
        return wanted.strip() or allowed.strip()
    return allowed if allowed.strip() == wanted.strip() else f"({allowed}) and ({wanted})"


def apply(config: Config, overlay: Overlay) -> Config:
    """The configuration for the datapath."""
    guests = tuple(
        msgspec.structs.replace(
            guest,
            accept=narrowed(guest.accept, overlay.accepts.get(guest.name, "")),
            tags=guest.tags and guest.name not in overlay.no_tags,
        )
        for guest in config.guest
    )
    rules: list[Rule] = []
    taken = {rule.name for rule in config.rule}
    for rule in config.rule:
        rules += _around(config, rule, overlay.quarantined, taken)
        rules.append(rule)
    if len(rules) > limits.MAX_RULES:
        rules = list(config.rule)  # no space for them: the administrator's rules take precedence
    return msgspec.structs.replace(config, guest=guests, rule=tuple(rules))


def _ways(config: Config, flow: Quarantined) -> set[str]:
    """The names in a path that stand for the flow's guests: their own, and those of their groups."""
    ways = set(flow.guests)
    for group in config.group:
        if ways.intersection(group.members):
            ways.add(group.name)
    return ways


def _around(config: Config, rule: Rule, quarantined: tuple[Quarantined, ...], taken: set[str]) -> Iterator[Rule]:
    for flow in quarantined:
        path = tuple(name for name in rule.path if name not in _ways(config, flow))
        mirrors = tuple(_moved(mirror, path) for mirror in rule.mirrors if mirror.hop not in flow.guests)
        if (path == rule.path and mirrors == rule.mirrors) or (path != rule.path and _closed(rule, path)):
            continue
        number = next(n for n in range(1, len(taken) + 2) if f"{flow.name}-{n}" not in taken)
        taken.add(f"{flow.name}-{number}")
        match = f"({rule.match}) and ({flow.match})" if rule.match.strip() else flow.match
        yield msgspec.structs.replace(rule, name=f"{flow.name}-{number}", match=match, path=path, mirrors=mirrors)


def _moved(mirror: Mirror, path: tuple[str, ...]) -> Mirror:
    """The mirror in a shorter path: if the hop beside it is gone, beside the first one."""
    return mirror if mirror.beside in path else Mirror(mirror.hop)


def _closed(rule: Rule, path: tuple[str, ...]) -> bool:
    """Whether the rule blocks its frames rather than send them along this path, which is shorter than its own."""
    return rule.fails_closed and (not path or rule.require == "all")


def kept_closed(config: Config, flow: Quarantined) -> list[str]:
    """The rules that would block the flow instead of bypassing its guest, and so are not changed."""
    ways = _ways(config, flow)
    left = ((rule, tuple(name for name in rule.path if name not in ways)) for rule in config.rule)
    return [rule.name for rule, path in left if path != rule.path and _closed(rule, path)]


def reason_of(rule: str, overlay: Overlay) -> str:
    """Why `apply` added a rule; "" for one of the configuration."""
    name = rule.rpartition("-")[0]
    return next((flow.why for flow in overlay.quarantined if flow.name == name), "")
