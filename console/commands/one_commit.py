# SPDX-License-Identifier: GPL-2.0-only
"""A change of the configuration in one go, for commands that are not `configure`: all of it is committed, or none.

Nobody's half-done work is committed along: when the candidate is held or holds changes, the command is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from appliance.counted import counted
from appliance.errors import BypassError, RefusedError
from console.client import Client

COMMIT_WAIT = 120.0  # seconds


class Change(NamedTuple):
    """`set` or `delete`, and the words behind it."""

    verb: str
    words: tuple[str, ...]


def running(client: Client) -> dict[str, Any]:
    """The running configuration as data, secrets masked."""
    data = client.call("config.show", {"of": "running", "format": "json"})["data"]
    return data if isinstance(data, dict) else {}


def apply(client: Client, changes: Sequence[Change], comment: str) -> dict[str, Any]:
    """Commit these changes; what config.commit answers. BypassError says why not, and nothing has changed then."""
    if client.call("config.status").get("mine"):
        raise RefusedError("this session is editing the configuration: leave `configure` first")
    edit = client.call("config.edit")
    if edit.get("changes"):
        client.call("config.end")
        count, who = edit["changes"], edit.get("left_by") or "somebody"
        raise RefusedError(
            counted(count, f"uncommitted change by {who} is", f"uncommitted changes by {who} are")
            + " in the candidate: run `configure` to commit or discard"
        )
    try:
        for verb, words in changes:
            client.call(f"config.{verb}", {"words": list(words)})
        done: dict[str, Any] = client.call("config.commit", {"comment": comment}, COMMIT_WAIT)
    except BaseException:
        with suppress(BypassError):
            client.call("config.end", {"discard": True})
        raise
    with suppress(BypassError):  # the hold ends with this process anyway
        client.call("config.end")
    return done
