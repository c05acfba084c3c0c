# SPDX-License-Identifier: GPL-2.0-only
"""Which rules with `on_unavailable = "link-down"` lack hops, as for frames that all hops accept."""

from __future__ import annotations

from collections.abc import Callable

from appliance.config.schema.model import Config


def lacking(config: Config, segment: str, available: Callable[[str], bool]) -> str:
    """What the first such rule of the segment lacks; empty if none lacks anything."""
    rules = [rule for rule in config.rule if rule.on_unavailable == "link-down" and rule.segment in ("", segment)]
    if not rules:
        return ""
    groups = {group.name: group for group in config.group}

    def there(name: str) -> bool:
        group = groups.get(name)
        if group is None:
            return available(name)
        return sum(available(member) for member in group.members) >= group.minimum

    for rule in rules:
        missing = [name for name in rule.path if not there(name)]
        if missing and (rule.require == "all" or len(missing) == len(rule.path)):
            quoted = ", ".join(f'"{name}"' for name in missing)
            return f"rule {rule.name}: {quoted} {'is' if len(missing) == 1 else 'are'} not available"
    return ""
