# SPDX-License-Identifier: GPL-2.0-only
"""Which role a server's answer gives. Without one that is configured, nobody gets in. Pure."""

from __future__ import annotations

import re
from typing import Final

from appliance.aaa.verdict import Accepted
from appliance.config.schema.model import Aaa

ROLES: Final = ("viewer", "operator", "admin")
_LEVEL = re.compile(r"(?:shell:)?priv-lvl[=*](\d{1,2})")


def role_of(answer: Accepted, aaa: Aaa) -> str:
    """The role; "" if there is none. If several fit, the least."""
    found = {role for role in ROLES if set(getattr(aaa, role)) & set(answer.values)}
    levels = {int(hit[1]) for value in answer.values if (hit := _LEVEL.fullmatch(value))}
    if answer.level >= 0:
        levels.add(answer.level)
    for level in levels:
        role = next((r for r in reversed(ROLES) if level >= getattr(aaa, f"{r}_level")), "")
        if not role or level > 15:
            return ""
        found.add(role)
    return next((role for role in ROLES if role in found), "")


def named(answer: Accepted) -> str:
    """What the server sent, for a message about a missing role."""
    words = [f'"{_clean(value)}"' for value in answer.values[:4]]
    words += [f"privilege level {answer.level}"] * (answer.level >= 0)
    return ", ".join(words) or "nothing"


def _clean(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)[:40]
