# SPDX-License-Identifier: GPL-2.0-only
"""The state that the part "access" keeps on the data partition: user ids, and the last users and management port.

If the configuration is invalid at start, administrators can log in as before. The file contains password hashes, so
only root can read it; the login at the console reads it too (serial_login.py). A damaged file counts as empty, and user
ids are then assigned anew.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import msgspec

from appliance.access.accounts import replace_file
from appliance.access.groups import FIRST_UID, LAST_UID
from appliance.config.check.load import from_data
from appliance.config.schema.model import Aaa, Config, Management, Radius, Tacacs, User
from appliance.errors import ConfigError

log = logging.getLogger(__name__)


class Memory:
    """The file; read once, written at every change."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.uids: dict[str, int] = {}
        self._config = Config()

    def load(self) -> None:
        """Read what an earlier bypassd stored."""
        try:
            data = json.loads(self.path.read_text(encoding="utf-8"))
            uids = {str(name): int(uid) for name, uid in data["uids"].items()}
            config = from_data({**data["config"], **data.get("servers", {})})
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
            log.error("%s is damaged: users get new user ids: %s", self.path, error)
            return
        self.uids = {name: uid for name, uid in uids.items() if FIRST_UID <= uid <= LAST_UID}
        self._config = config

    def keep(self, uids: dict[str, int], config: Config) -> None:
        """Store both. OSError if the data partition cannot be written."""
        kept = _part(config)
        tables = {"management": _plain(kept.management), "user": [_plain(user) for user in kept.user]}
        data: dict[str, Any] = {"uids": uids, "config": tables}
        if kept.aaa != Aaa():
            servers = {name: [_plain(server) for server in getattr(kept, name)] for name in ("radius", "tacacs")}
            data["servers"] = {"aaa": _plain(kept.aaa), **servers}  # apart, for a version that does not know them
        self.path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(self.path, json.dumps(data), 0o600)
        self.uids, self._config = dict(uids), kept

    def config(self) -> Config:
        """A configuration of only the users and the port that were applied last."""
        return self._config

    def users(self) -> tuple[User, ...]:
        """The users applied last."""
        return self._config.user

    def secrets(self) -> list[str]:
        """Secret texts that must never be shown."""
        servers: tuple[Radius | Tacacs, ...] = (*self._config.radius, *self._config.tacacs)
        passwords = [user.password for user in self._config.user if user.password]
        return [*passwords, *(server.secret for server in servers if server.secret)]

    def management(self) -> Management:
        """The management port applied last."""
        return self._config.management

    def differs(self, config: Config) -> bool:
        """Whether this configuration is not the one that was stored last, in what is stored."""
        return _part(config) != _part(self._config)


def _part(config: Config) -> Config:
    return Config(
        system=config.system,
        management=config.management,
        user=config.user,
        aaa=config.aaa,
        radius=config.radius,
        tacacs=config.tacacs,
    )


def _plain(struct: msgspec.Struct) -> dict[str, Any]:
    """In the form of the configuration file: times as text with their unit."""
    pairs = ((field.encode_name, getattr(struct, field.name)) for field in msgspec.structs.fields(struct))
    return {
        key: str(value) if isinstance(value, int) and type(value) not in (int, bool) else value for key, value in pairs
    }
