# SPDX-License-Identifier: GPL-2.0-only
"""Whether a change takes away the last administrator, which a commit refuses unless it is asked for. Pure."""

from __future__ import annotations

from appliance.config.check.unreachable_rules import Finding
from appliance.config.schema.model import Config
from appliance.errors import ConfigError


def lost(old: Config | None, new: Config) -> ConfigError | None:
    """Why a commit from `old` to `new` is refused; None when it is not. `old` None: nothing ran."""
    if old is None or not _admins(old) or _admins(new):
        return None
    return ConfigError(
        "user",
        f"no administrator could log in any more ({', '.join(_admins(old))} could): SSH would let nobody configure, and"
        " the console would give full access without a login. `commit without-administrator` does it all the same",
    )


def opened(old: Config | None, new: Config) -> list[Finding]:
    """The warning where the console loses its login because the last administrator's password goes."""
    if old is None or not _passwords(old) or _passwords(new) or not new.management.serial_login:
        return []
    what = "no administrator has a password any more: the console gives full access without a login"
    return [Finding("warning", "user", what)]


def _admins(config: Config) -> list[str]:
    """The administrators who have a password or a key."""
    return [user.name for user in config.user if user.role == "admin" and (user.password or user.keys)]


def _passwords(config: Config) -> bool:
    return any(user.role == "admin" and user.password for user in config.user)
