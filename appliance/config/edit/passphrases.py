# SPDX-License-Identifier: GPL-2.0-only
"""What `set` keeps of a passphrase of an SNMPv3 user: its key, so that the text is in no file. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from appliance.config.check.verify_snmp import PASSPHRASES
from appliance.config.edit import key_path
from appliance.config.edit.key_path import Assign, Data
from appliance.config.schema import secrets, snmp_keys
from appliance.config.schema.model import SnmpUser, struct_fields


def as_keys(changes: Sequence[Assign], data: Data) -> list[Assign]:
    """The changes, each passphrase replaced by its key. `data`: the configuration before them."""
    return [_as_key(change, changes, data) for change in changes]


def _as_key(change: Assign, changes: Sequence[Assign], data: Data) -> Assign:
    path = change.path
    if path[:2] != ("snmp", "user") or path[-1] not in PASSPHRASES or change.value in ("", secrets.HIDDEN):
        return change
    return change._replace(value=snmp_keys.key(str(change.value), _auth((*path[:-1], "auth"), changes, data)))


def _auth(path: key_path.Path, changes: Sequence[Assign], data: Data) -> str:
    """The user's way of authentication as it will be: from the same line, from the configuration, or the default."""
    said: Any = next((each.value for each in changes if each.path == path), None)
    return str(said or key_path.look(data, path) or struct_fields(SnmpUser)["auth"].default)
