# SPDX-License-Identifier: GPL-2.0-only
"""A commit: all or nothing, verified, and rolled back automatically if nobody confirms it.

    verify -> stage -> prepare -> apply, step by step -> prove -> publish -> finish

Everything that can fail without touching the appliance is done first: the new text is on the disk and the new programs
are in the kernel before anything changes. From `apply` on, every failure applies the old configuration again; each step
converges to the configuration it is given, so going back is the same as going forward. `Engine` owns the running
configuration, the store and the time limit of a pending commit, for the life of bypassd.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from appliance.config.check import last_admin, lint, load
from appliance.config.commit import steps, traffic_check
from appliance.config.commit.diff import Change, changes
from appliance.config.commit.phases import PHASES, Phase, Turn
from appliance.config.commit.steps import Step
from appliance.config.commit.store import Entry, Pending, RolledBack, Store, now
from appliance.config.schema.model import Config
from appliance.errors import BypassError, ConfigError, RefusedError
from appliance.transition import IllegalMoveError

log = logging.getLogger(__name__)

PROOF_S: Final = 1.0  # traffic is watched for at most this long
LOOK_S: Final = 0.1
LEAST_PROOF_S: Final = 0.3
MAX_CONFIRM_S: Final = 24 * 3600
MAX_COMMENT: Final = 500


def describe(last: RolledBack) -> str:
    """A commit that was rolled back, in one sentence."""
    when = last.when.replace("T", " ").replace("+00:00", "Z")
    return f"the commit by {last.user} was rolled back at {when}: {last.why}"


class Check(NamedTuple):
    """The result of checking a text. `config` None: it has errors, see `errors`."""

    config: Config | None
    errors: list[ConfigError]
    lint: list[lint.Finding]
    changes: list[Change]


@dataclass
class Report:
    """What a commit did. `number` 0: nothing to do."""

    message: str
    number: int = 0
    changes: list[Change] = field(default_factory=list)
    lint: list[lint.Finding] = field(default_factory=list)
    took_ms: int = 0


class BrokenError(BypassError):
    """The old configuration could not be restored: bypassd must restart from its startup configuration."""


class Engine:
    """See the module. `tell(event, user, text)` publishes; `end(why)` restarts bypassd; `down`: see lint.py."""

    def __init__(
        self,
        store: Store,
        *,
        running: Config | None,
        text: str,
        boot: str,
        pending: Pending | None = None,
        steps: Sequence[Step] = (),
        look: Callable[[], traffic_check.Look] = lambda: traffic_check.Look(None),
        tell: Callable[[str, str, str], None] = lambda event, user, text: None,
        end: Callable[[str], None] = lambda why: None,
        clock: Callable[[], int] = time.monotonic_ns,
        down: Callable[[], Mapping[str, str]] = lambda: lint.NOBODY,
    ) -> None:
        self.store, self.running, self.text, self.pending = store, running, text, pending
        self.steps = list(steps)
        self.phase = Phase.IDLE
        self._boot, self._look, self._tell, self._end, self._clock = boot, look, tell, end, clock
        self._down = down
        self._lock = asyncio.Lock()
        self._pending_changed = asyncio.Event()
        last = next(iter(store.rolled_back()), None)
        newest = next(iter(store.history()), None)
        self.notice = describe(last) if last and (newest is None or last.when >= newest.when) else ""

    # -- before a commit

    async def check(self, text: str, source: str = "", *, deep: bool = False, without_admin: bool = False) -> Check:
        """Verify a text and report what it means; with `deep` the parts also prepare for it, as a commit does first.

        `without_admin`: it is no error if nobody could log in as administrator any more.
        """
        # all of it in a thread: thousands of rules take seconds, in which leases must be renewed
        check = await asyncio.to_thread(self._read, text, source, dict(self._down()))
        config, errors = check.config, check.errors
        if config is not None and not without_admin and (lost := last_admin.lost(self.running, config)):
            return check._replace(config=None, errors=[lost])
        if config is None:
            return check
        if deep:
            async with self._lock:
                try:
                    check.lint.extend(await steps.prepare(self.steps, config))
                except BypassError as error:
                    errors = [error if isinstance(error, ConfigError) else ConfigError("appliance", str(error))]
                finally:
                    steps.forget(self.steps)
        return check._replace(config=None if errors else config, errors=errors)

    def _read(self, text: str, source: str, down: Mapping[str, str]) -> Check:
        config, errors = load.parse(text, source)
        if config is None:
            return Check(None, errors, [], [])
        found = [*last_admin.opened(self.running, config), *lint.lint(config, self.running, down)]
        return Check(config, [], found, changes(self.running, config))

    # -- commits

    async def commit(
        self, text: str, user: str, comment: str = "", confirmed_s: int = 0, *, without_admin: bool = False
    ) -> Report:
        """Make `text` the running configuration; with `confirmed_s` only for that time, unless it is confirmed.

        While a commit is awaiting confirmation, its author's next one includes it; somebody else's is refused.
        ConfigError: it has errors, or takes away the last administrator without `without_admin`. RefusedError: not
        applied, or failed verification; the old one stays in force.
        """
        if len(comment) > MAX_COMMENT:
            raise RefusedError(f"a comment has at most {MAX_COMMENT} characters")
        if confirmed_s and not 1 <= confirmed_s <= MAX_CONFIRM_S:
            raise RefusedError(f"commit confirmed: 1 to {MAX_CONFIRM_S} seconds")
        async with self._lock:
            self._refuse_when_broken()
            self._refuse_when_anothers(user)
            before = self.pending
            began = self._clock()
            if text == self.text:
                return await self._again(user, confirmed_s)
            self._progress(user, "verifying")
            check = await self.check(text, without_admin=without_admin)
            if check.config is None:
                first, *others = check.errors
                first.also = tuple(others)
                raise first
            if note := await asyncio.to_thread(self.store.note_edit):
                check.lint.append(lint.Finding("warning", "startup", note))
            entry = Entry(self.store.newest + 1, now(), user, comment, "confirmed" if confirmed_s else "commit", text)
            check.lint.extend(await self._replace(entry, check.config, confirmed_s))
            took = (self._clock() - began) // 10**6
            what = f"committed as {entry.number}"
            if before is not None:
                what += ", with the changes that were awaiting confirmation"
            if confirmed_s:
                what = f"committed provisionally; confirm within {confirmed_s} s or it will be rolled back"
                if before is not None:
                    what += ", with the changes that were awaiting confirmation before"
            if self._look().generation is None:
                what += "; not verified, because the datapath is down"
            return Report(what, entry.number, check.changes, check.lint, took)

    async def confirm(self, user: str) -> Report:
        """Keep the pending configuration."""
        async with self._lock:
            self._refuse_when_broken()
            return await self._confirm(user)

    async def revert(self, user: str, why: str) -> Report:
        """Roll the pending configuration back now."""
        async with self._lock:
            self._refuse_when_broken()
            return await self._revert(user, why)

    def seconds_left(self) -> int:
        """The time until the pending commit is rolled back."""
        return 0 if self.pending is None else max(0, (self.pending.deadline - self._clock()) // 10**9)

    async def run(self) -> None:
        """Watch the time limit of a pending commit, until cancelled."""
        while True:
            self._pending_changed.clear()
            left = None if self.pending is None else max(0.0, (self.pending.deadline - self._clock()) / 1e9)
            try:
                async with asyncio.timeout(left):
                    await self._pending_changed.wait()
                continue
            except TimeoutError:
                pass
            async with self._lock:
                if self.pending is not None and self.pending.deadline <= self._clock():
                    try:
                        await self._revert("", "not confirmed in time")
                    except BypassError as error:
                        log.error("commit confirmed: %s", error)
                        if self.phase is not Phase.BROKEN:
                            self._end(str(error))
                        return

    # -- internal; the lock is held

    async def _replace(self, entry: Entry, config: Config, confirmed_s: int) -> list[lint.Finding]:
        """Stage, prepare, apply, prove and publish; returns the remarks."""
        user = entry.user
        await asyncio.to_thread(self.store.stage, entry)
        try:
            self._turn(Turn.COMMIT)
            self._progress(user, "loading the new datapath programs")
            try:
                try:
                    remarks = await steps.prepare(self.steps, config)
                except BaseException:
                    self._turn(Turn.REFUSED)
                    raise
                await self._apply_and_prove(config, user)
            finally:
                steps.forget(self.steps)
            await self._keep(entry, config, confirmed_s)
            return remarks
        except BaseException:
            await asyncio.to_thread(self.store.unstage, entry)
            raise

    async def _keep(self, entry: Entry, config: Config, confirmed_s: int) -> None:
        """The configuration is verified: write it. Only the disk can still fail."""
        pending: Pending | None = None
        try:
            if confirmed_s:
                deadline = self._clock() + confirmed_s * 10**9
                pending = Pending(entry, self._boot, deadline, 0)
                await asyncio.to_thread(self.store.write_pending, pending)
                await asyncio.to_thread(self.store.unstage, entry)
            else:
                await asyncio.to_thread(self.store.publish, entry)
                await asyncio.to_thread(self.store.remove_pending)
        except BypassError as error:
            await self._back(f"{error}", entry.user)
        self.running, self.text = config, entry.text
        self._set_pending(pending)
        self._turn(Turn.DONE)
        if pending is None:
            await steps.finish(self.steps, config)
        comment = f" ({entry.comment})" if entry.comment else ""
        if pending:
            text = f"commit awaiting confirmation: will be rolled back in {confirmed_s} s unless confirmed{comment}"
            self._tell("pending", entry.user, text)
        else:
            self._tell("committed", entry.user, f"configuration {entry.number} committed{comment}")

    async def _again(self, user: str, confirmed_s: int) -> Report:
        """A commit without changes confirms the pending one, or extends its time."""
        if self.pending is None:
            return Report("nothing to commit: no changes")
        if not confirmed_s:
            return await self._confirm(user)
        pending = self.pending._replace(deadline=self._clock() + confirmed_s * 10**9)
        await asyncio.to_thread(self.store.write_pending, pending)
        self._set_pending(pending)
        what = f"still awaiting confirmation; confirm within {confirmed_s} s or it will be rolled back"
        self._tell("pending", user, what)
        return Report(what, pending.entry.number)

    async def _confirm(self, user: str) -> Report:
        if self.pending is None:
            raise RefusedError("no commit is awaiting confirmation")
        entry = self.pending.entry._replace(number=self.store.newest + 1, how="confirmed", user=user, when=now())
        self._turn(Turn.CONFIRM)
        try:
            await asyncio.to_thread(self.store.stage, entry)
            await asyncio.to_thread(self.store.publish, entry)
            await asyncio.to_thread(self.store.remove_pending)
        except BaseException:
            self._turn(Turn.REFUSED)
            raise
        self._set_pending(None)
        self._turn(Turn.DONE)
        if self.running is not None:
            await steps.finish(self.steps, self.running)
        self._tell("confirmed", user, f"configuration {entry.number} confirmed")
        return Report(f"confirmed: committed as {entry.number}", entry.number)

    async def _revert(self, user: str, why: str) -> Report:
        if self.pending is None:
            raise RefusedError("no commit is awaiting confirmation")
        entry = self.pending.entry
        text = await asyncio.to_thread(self.store.startup_text)
        check = await self.check(text, str(self.store.startup), without_admin=True)
        self._turn(Turn.REVERT)
        if check.config is None:
            raise self._broken(f"the previous configuration cannot be restored: {check.errors[0]}")
        try:
            await self._apply(check.config, user)
            await asyncio.to_thread(self.store.remove_pending)
        except BypassError as error:
            raise self._broken(f"the previous configuration cannot be restored: {error}") from error
        await asyncio.to_thread(self.store.note_rolled_back, entry, user, why)
        self.running, self.text = check.config, text
        self._set_pending(None)
        self._turn(Turn.DONE)
        await steps.finish(self.steps, check.config)
        self.notice = describe(RolledBack(now(), user, entry.user, entry.when, entry.comment, why))
        whose = "" if user else f"the commit by {entry.user} was "
        what = f"{whose}rolled back to the previous configuration: {why}"
        self._tell("reverted", user, what)
        return Report(what, 0, check.changes)

    async def _apply(self, config: Config, user: str) -> None:
        await steps.apply(self.steps, config, lambda text: self._progress(user, text))

    async def _apply_and_prove(self, config: Config, user: str) -> None:
        before = self._look()
        self._turn(Turn.DONE)
        try:
            await self._apply(config, user)
            self._turn(Turn.DONE)
            self._progress(user, "verifying that traffic flows")
            trouble = await self._prove(before)
        except BypassError as error:
            trouble = str(error)
        except IllegalMoveError:
            raise
        except Exception:
            log.exception("a commit failed")
            trouble = "internal error; see the system log"
        if trouble:
            await self._back(trouble, user)
        self._turn(Turn.DONE)

    async def _prove(self, before: traffic_check.Look) -> str:
        """Watch until traffic is seen to flow, for `PROOF_S` at most. Returns what is wrong, or "" if nothing is."""
        began = self._clock()
        while True:
            await asyncio.sleep(LOOK_S)
            after, seconds = self._look(), (self._clock() - began) / 1e9
            if seconds < LEAST_PROOF_S:
                continue
            trouble = traffic_check.judge(before, after)
            if trouble or seconds >= PROOF_S or not traffic_check.quiet(before, after):
                return trouble

    async def _back(self, why: str, user: str) -> None:
        """Restore the running configuration and raise RefusedError; BrokenError if that fails too."""
        log.error("the new configuration is rolled back: %s", why)
        self._turn(Turn.FAILED)
        if self.running is None:
            raise self._broken(f"{why}; there was no valid configuration before: bypassd restarts, in bypass")
        try:
            await self._apply(self.running, user)
            await steps.finish(self.steps, self.running)
        except IllegalMoveError:
            raise
        except Exception as error:
            text = f"{why}; the old configuration could not be restored either ({error}): bypassd restarts from it"
            log.exception("restoring the old configuration failed")
            raise self._broken(text) from error
        self._turn(Turn.DONE)
        raise RefusedError(f"{why}; the previous configuration stays in force")

    def _turn(self, turn: Turn) -> None:
        self.phase = PHASES.after(self.phase, turn)

    def _broken(self, why: str) -> BrokenError:
        """The running state may match neither configuration: have bypassd restarted."""
        self._turn(Turn.FAILED)
        self._end(why)
        return BrokenError(why)

    def _refuse_when_broken(self) -> None:
        if self.phase is Phase.BROKEN:
            raise RefusedError("bypassd restarts from the startup configuration: try again in a moment")

    def _refuse_when_anothers(self, user: str) -> None:
        """RefusedError if another user's commit awaits confirmation.

        This commit would confirm it, although its author wants it rolled back if it cuts them off.
        """
        if self.pending is not None and self.pending.entry.user != user:
            left = f"it is rolled back in {self.seconds_left()} s unless confirmed"
            raise RefusedError(
                f"a commit by {self.pending.entry.user} is awaiting confirmation, and {left}; nothing was changed",
                "`confirm` keeps it, `revert` rolls it back; then commit",
            )

    def _set_pending(self, pending: Pending | None) -> None:
        self.notice = ""
        self.pending = pending
        self._pending_changed.set()

    def _progress(self, user: str, text: str) -> None:
        self._tell("progress", user, text)
