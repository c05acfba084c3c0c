# SPDX-License-Identifier: GPL-2.0-only
"""What is laid over the configuration's steering at run time: filters that guests registered, flows in quarantine.

Pure but for `load` and `save`. The overlay only takes away: a guest's `accept` narrows what the administrator allows,
and a flow in quarantine is led around one guest. The configuration itself stays as it was written; `apply` gives the
one that the datapath gets. A registration that does not fit (any more) is left out, never an error.

A flow in quarantine is a rule of its own directly before each rule that would lead it to the guest: that rule's match
and the flow, and its path without the guest (and without the groups that hold it). Where a rule says
`on_unavailable = "block"` and nothing is left of its path, or it requires all of it, there is no such rule: fail closed
stays closed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from appliance.config.schema import limits
from appliance.config.schema.model import Config, Rule
from appliance.system import files

MAX_QUARANTINED = 32


class Quarantined(msgspec.Struct, frozen=True):
    """A flow led around these guests: the one it killed, and those that would take it over.

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
    """`accepts`: by guest, the filter that it registered. `no_tags`: guests that gave the use of tags up."""

    accepts: dict[str, str] = {}
    no_tags: tuple[str, ...] = ()
    quarantined: tuple[Quarantined, ...] = ()


def load(path: Path) -> Overlay:
    """What an earlier bypassd saved; nothing when there is nothing readable."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Overlay)
    except (OSError, msgspec.DecodeError):
        return Overlay()


def save(path: Path, overlay: Overlay) -> None:
    """Keep it for the next bypassd. OSError when the disk refuses."""
    files.replace(path, msgspec.json.encode(overlay))


def narrowed(allowed: str, wanted: str) -> str:
    """The frames that both the administrator and the guest want the guest to have."""
    if not allowed.strip() or not wanted.strip():
        return wanted.strip() or allowed.strip()
    return allowed if allowed.strip() == wanted.strip() else f"({allowed}) and ({wanted})"


def apply(config: Config, overlay: Overlay) -> Config:
    """The configuration as the datapath gets it."""
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
        rules = list(config.rule)  # no room for them: what the administrator wrote comes first
    return msgspec.structs.replace(config, guest=guests, rule=tuple(rules))


def _ways(config: Config, flow: Quarantined) -> set[str]:
    """The names in a path that lead to the flow's guests: their own, and those of their groups."""
    ways = set(flow.guests)
    for group in config.group:
        if ways.intersection((*(member.hop for member in group.balance), *group.standby)):
            ways.add(group.name)
    return ways


def _around(config: Config, rule: Rule, quarantined: tuple[Quarantined, ...], taken: set[str]) -> Iterator[Rule]:
    for flow in quarantined:
        path = tuple(name for name in rule.path if name not in _ways(config, flow))
        if path == rule.path or _closed(rule, path):
            continue
        number = next(n for n in range(1, len(taken) + 2) if f"{flow.name}-{n}" not in taken)
        taken.add(f"{flow.name}-{number}")
        match = f"({rule.match}) and ({flow.match})" if rule.match.strip() else flow.match
        yield msgspec.structs.replace(rule, name=f"{flow.name}-{number}", match=match, path=path)


def _closed(rule: Rule, path: tuple[str, ...]) -> bool:
    """Whether the rule blocks rather than have its frames take this path, which is shorter than its own."""
    return rule.on_unavailable == "block" and (not path or rule.require == "all")


def kept_closed(config: Config, flow: Quarantined) -> list[str]:
    """The rules that would block instead of leading the flow around its guest, and so keep it as it is."""
    ways = _ways(config, flow)
    left = ((rule, tuple(name for name in rule.path if name not in ways)) for rule in config.rule)
    return [rule.name for rule, path in left if path != rule.path and _closed(rule, path)]


def reason_of(rule: str, overlay: Overlay) -> str:
    """Why a rule that `apply` made is there; "" for one of the configuration."""
    name = rule.rpartition("-")[0]
    return next((flow.why for flow in overlay.quarantined if flow.name == name), "")
