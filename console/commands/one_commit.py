# SPDX-License-Identifier: GPL-2.0-only
"""Change the configuration in one commit, all or none, for commands other than `configure`.

Unfinished work of other users is never committed: if the candidate is held or has changes, the command is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from appliance.counted import counted
from appliance.errors import BypassError, RefusedError
from console.client import Client
from console.render import cell

COMMIT_WAIT = 120.0  # seconds; an edit is checked like a commit, filters and all, which takes time on a busy machine


class Change(NamedTuple):
    """`set` or `delete`, and the words after it."""

    verb: str
    words: tuple[str, ...]


def running(client: Client) -> dict[str, Any]:
    """The running configuration as data, secrets masked."""
    data = client.call("config.show", {"of": "running", "format": "json"})["data"]
    return data if isinstance(data, dict) else {}


def uncommitted(edit: dict[str, Any]) -> str:
    """Whose changes are in the candidate, from the answer of config.edit."""
    who = cell(edit.get("left_by") or "another user")
    return f"the candidate has {counted(edit['changes'], 'uncommitted change')} by {who}"


def apply(client: Client, changes: Sequence[Change], comment: str) -> dict[str, Any]:
    """Commit these changes; returns the answer of config.commit. On a BypassError nothing has changed."""

    def make() -> None:
        for verb, words in changes:
            client.call(f"config.{verb}", {"words": list(words)}, COMMIT_WAIT)

    return commit(client, make, {"comment": comment})


def commit(client: Client, make: Callable[[], None], params: dict[str, object]) -> dict[str, Any]:
    """Commit what `make` changes in the candidate; `params` are those of config.commit, which is answered."""
    if client.call("config.status").get("mine"):
        raise RefusedError("this session is in configure mode: `exit` it first")
    edit = client.call("config.edit")
    if edit.get("changes"):
        client.call("config.end")
        raise RefusedError(f"{uncommitted(edit)}: use `configure` to commit or discard them")
    try:
        make()
        done: dict[str, Any] = client.call("config.commit", params, COMMIT_WAIT)
    except BaseException:
        with suppress(BypassError):
            client.call("config.end", {"discard": True})
        raise
    with suppress(BypassError):  # the hold ends with this process anyway
        client.call("config.end")
    return done
