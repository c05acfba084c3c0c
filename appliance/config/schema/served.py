# SPDX-License-Identifier: GPL-2.0-only
"""Which segments a guest serves, derived from the rules and groups of a configuration. Pure."""

from __future__ import annotations

from appliance.config.schema.model import Config


def served(config: Config) -> dict[str, list[str]]:
    """For each guest, the segments with rules that use it, directly or in a group; all segments when no rule does."""
    everywhere = [segment.name for segment in config.segment]
    behind = {group.name: tuple(member.hop for member in group.balance) or group.standby for group in config.group}
    found: dict[str, set[str]] = {guest.name: set() for guest in config.guest}
    for rule in config.rule:
        for name in rule.path:
            for hop in behind.get(name, (name,)):
                if hop in found:
                    found[hop].update([rule.segment] if rule.segment else everywhere)
    return {name: [one for one in everywhere if one in some] or everywhere for name, some in found.items()}
