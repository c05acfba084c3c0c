# SPDX-License-Identifier: GPL-2.0-only
"""What the config.* methods share: the engine, the candidate, one job on it at a time, and texts by name.

Work that grows with the size of a configuration runs in a thread, one job after the other, so that a client with a
large configuration delays no lease. Owns the writing of the candidate for the next bypassd.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from appliance.api.schema.configuration import Change, Pending, Problem
from appliance.config.check import lint, load
from appliance.config.check.finding import facts
from appliance.config.commit import diff
from appliance.config.commit.engine import Check, Engine
from appliance.config.edit import key_path
from appliance.config.edit.candidate import Candidate
from appliance.config.schema import limits, secrets
from appliance.errors import BypassError, ConfigError, NotFoundError

T = TypeVar("T")

SAVE_S = 1.0
"""Delay from a change to the write of the candidate's file: many changes make one write."""

MAX_ERRORS = 100
"""Errors in one answer; a person fixes the first ones first."""


class Session:
    """See the module. Lives as long as bypassd."""

    def __init__(self, engine: Engine, candidate: Candidate) -> None:
        self.engine, self.candidate = engine, candidate
        self._lock = asyncio.Lock()  # the candidate's document
        self._checking = asyncio.Lock()
        self._saving: asyncio.Task[None] | None = None

    async def work(self, work: Callable[[], T]) -> T:
        """Run something on the candidate's document in a thread, alone."""
        async with self._lock:
            return await asyncio.to_thread(work)

    def save_soon(self) -> None:
        """Have the candidate written for the next bypassd, a moment from now."""

        async def save() -> None:
            await asyncio.sleep(SAVE_S)
            self._saving = None
            await self.work(self.candidate.save)

        if self._saving is None:
            self._saving = asyncio.get_running_loop().create_task(save(), name="save the candidate")

    async def stop(self) -> None:
        """Write what is not written yet, when bypassd ends."""
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.cancel()
            await asyncio.wait({saving})
        await self.work(self.candidate.save)
        self.candidate.close()

    def discard(self) -> None:
        self.candidate.discard()
        self.save_soon()

    async def text(self, name: str) -> str:
        if name == "running":
            return self.engine.text
        if name == "candidate":
            return await self.work(lambda: self.candidate.text)
        if name == "startup":
            return await asyncio.to_thread(self.engine.store.startup_text)
        if name.isdecimal() and len(name) < 6:
            entry = await asyncio.to_thread(self.engine.store.entry, int(name))
            return entry.text
        raise NotFoundError(f'there is no configuration "{name[:40]}": candidate, running, startup, or a number')

    async def check(self, text: str, source: str) -> Check:
        if len(text.encode()) > limits.MAX_FILE:
            raise ConfigError("file", f"is larger than MAX_FILE = {limits.MAX_FILE} bytes", source)
        async with self._checking:  # one after the other, however many ask
            return await self.engine.check(text, source)

    async def changes(self) -> list[object]:
        """The candidate's differences; a text that is not valid yet counts as one difference."""

        def work() -> list[object]:
            if not self.candidate.changed:
                return []
            config, errors = load.parse(self.candidate.text, "candidate", filters=False)
            if config is None:
                return list(errors[:1])
            return list(diff.changes(self.engine.running, config))

        return await self.work(work)

    def lost_comments(self) -> list[lint.Finding]:
        """What to say of a candidate whose comments could not be kept."""
        if not self.candidate.changed or not self.candidate.document.comments_lost:
            return []
        return [lint.Finding("warning", "candidate", "its comments could not be kept: the text was written anew")]

    def pending(self) -> Pending | None:
        pending = self.engine.pending
        if pending is None:
            return None
        return Pending(
            seconds_left=self.engine.seconds_left(),
            number=pending.entry.number,
            user=pending.entry.user,
            when=pending.entry.when,
        )


def texts(path: key_path.Path) -> list[str]:
    return [str(part) for part in path]


def shown(value: object, key: object = None) -> str:
    """A value as one line, without secrets: `key`, under which it stands, may say that it is one."""
    if value and key in secrets.SECRET_KEYS:
        return secrets.HIDDEN
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {shown(each, key)}" for key, each in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(shown(each) for each in value) + "]"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return secrets.redact(text)


def problems(errors: Sequence[BypassError]) -> list[Problem]:
    """The first errors."""
    return [msgspec.convert(facts(error), Problem) for error in errors[:MAX_ERRORS]]


def changed(found: Sequence[diff.Change]) -> list[Change]:
    """Differences, without secrets."""
    return [Change(*map(secrets.redact, each)) for each in found]
