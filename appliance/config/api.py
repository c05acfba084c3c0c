# SPDX-License-Identifier: GPL-2.0-only
"""The config.* methods that show, check and commit; editing.py has those that change the candidate.

A thin layer over candidate, engine and store; the console is its client.
"""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Callable, Sequence
from typing import Any

from appliance.api.rpc import Param, Params, Registry, caller
from appliance.api.schema import configuration, methods
from appliance.config.check import load
from appliance.config.commit.diff import changes
from appliance.config.commit.engine import Engine, Report
from appliance.config.edit import completion, document, key_path, set_lines
from appliance.config.edit.candidate import Candidate
from appliance.config.edit.editing import WORDS, Editing
from appliance.config.edit.session import Session, changed, problems, texts
from appliance.config.own_password import OwnPassword
from appliance.config.schema import limits, secrets, shape
from appliance.counted import counted
from appliance.errors import BypassError, ConfigError, NotFoundError, RefusedError

_WHICH = Param("string", "candidate, running, startup, or how many commits ago", required=False)


class Api:
    """The handlers. `ports` gives the board's port names, for completion; `wrong_password` is called with the user."""

    def __init__(
        self,
        engine: Engine,
        candidate: Candidate,
        ports: Callable[[], Sequence[str]] = tuple,
        wrong_password: Callable[[str], None] = lambda user: None,
    ) -> None:
        self._session, self._ports, self._wrong_password = Session(engine, candidate), ports, wrong_password
        self.candidate = candidate

    def register(self, registry: Registry) -> None:
        """Register all methods, including those of editing and of changing one's own password."""
        Editing(self._session).register(registry)
        OwnPassword(self._session, self._wrong_password).register(registry)
        text = Param("string", "TOML; left out: the candidate", required=False)
        source = Param("string", "where the text comes from, for errors", required=False)
        form = Param("string", "how", required=False, choices=("toml", "set", "json"))
        verb = Param("string", "the verb", choices=("set", "delete", "show", "edit", "move"))
        hashes = Param("boolean", "with password hashes; for administrators", required=False)
        seconds = Param("integer", "roll back after this many seconds unless confirmed", required=False)
        comment = Param("string", "why", required=False)
        alone = Param("boolean", "also if nobody can log in as administrator any more", required=False)
        add = registry.add
        shown = {"words": WORDS._replace(required=False), "of": _WHICH, "format": form, "secrets": hashes}
        add(methods.CONFIG_SHOW, self.show, doc="a configuration, or the part of it that `words` name", params=shown)
        add(methods.CONFIG_COMPARE, self.compare, doc="two configurations", params={"old": _WHICH, "new": _WHICH})
        doc = "errors of a text or of the candidate, and what it means for traffic"
        add(methods.CONFIG_CHECK, self.check, doc=doc, params={"text": text, "source": source})
        doc = "apply the candidate, only if verification succeeds"
        add(
            methods.CONFIG_COMMIT,
            self.commit,
            "admin",
            doc,
            {"comment": comment, "confirmed_s": seconds, "without_admin": alone},
        )
        add(methods.CONFIG_CONFIRM, self.confirm, "admin", "keep the commit that is awaiting confirmation")
        add(methods.CONFIG_REVERT, self.revert, "admin", "roll back the commit that is awaiting confirmation")
        add(methods.CONFIG_HISTORY, self.history, doc="who committed what, when and why")
        add(methods.CONFIG_STATUS, self.status, doc="who is editing, and what is pending")
        add(methods.CONFIG_COMPLETE, self.complete, doc="what may come next", params={"words": WORDS, "action": verb})
        add(methods.CONFIG_FIELDS, self.fields, doc="every key: type, range, default, meaning, effect")

    async def stop(self) -> None:
        """Write what is not written yet, when bypassd ends."""
        await self._session.stop()

    # -- looking

    async def show(self, params: Params) -> configuration.Shown:
        """config.show"""
        open_ = bool(params.get("secrets"))
        if open_ and caller().role != "admin":
            raise RefusedError("secrets are shown to administrators only")
        name = self._default(params.get("of"))
        text = await self._session.text(name)
        form = params.get("format", "toml")
        wanted: list[str] = params.get("words") or []

        def work() -> configuration.Shown:
            if not wanted and form == "toml":
                return configuration.Shown(text=text if open_ else secrets.redact(text), of=name)
            data = load.read_toml(text, name)
            if wanted:
                data = _part(data, wanted)
            if not open_:
                data = secrets.hide(data)
            if form == "json":
                return configuration.Shown(data=data, of=name)
            lines = "\n".join(set_lines.set_lines(data)) + "\n" if form == "set" else document.canonical(data)
            return configuration.Shown(text=lines, of=name)

        return await self._session.work(work)

    async def compare(self, params: Params) -> configuration.Compared:
        """config.compare"""
        old, new = params.get("old") or "running", params.get("new") or "candidate"
        before, after = await self._session.text(old), await self._session.text(new)

        def work() -> configuration.Compared:
            lines = difflib.unified_diff(
                secrets.redact(before).splitlines(), secrets.redact(after).splitlines(), old, new, lineterm=""
            )
            text = "\n".join(lines)
            first, _ = load.parse(before, old, filters=False)
            second, errors = load.parse(after, new, filters=False)
            found = [] if second is None else changes(first, second)
            return configuration.Compared(text=text, changes=changed(found), errors=problems(errors))

        return await asyncio.to_thread(work)

    async def check(self, params: Params) -> configuration.Checked:
        """config.check: deep only for an administrator's candidate; a text that is passed in is only read."""
        if "text" in params:
            check = await self._session.check(params["text"], str(params.get("source", "")))
        else:
            text = await self._session.work(lambda: self._session.candidate.text)
            check = await self._session.engine.check(text, "candidate", deep=caller().role == "admin")
            check.lint.extend(self._session.lost_comments())
        good = check.config is not None
        message = "Check passed; nothing committed" if good else f"Check failed: {counted(len(check.errors), 'error')}"
        return configuration.Checked(
            good=good,
            message=message,
            errors=problems(check.errors),
            lint=[configuration.Finding(*each) for each in check.lint],
            changes=changed(check.changes),
        )

    async def history(self, _: Params) -> list[configuration.Commit]:
        """config.history"""
        entries = await asyncio.to_thread(self._session.engine.store.history)
        return [
            configuration.Commit(n=n, number=e.number, when=e.when, user=e.user, comment=e.comment, how=e.how)
            for n, e in enumerate(entries)
        ]

    async def status(self, _: Params) -> configuration.State:
        """config.status"""
        holder, who = self._session.candidate.holder, caller()
        found = await self._session.changes()
        return configuration.State(
            held_by=configuration.Holder(*holder) if holder else None,
            mine=holder is not None and holder.pid == who.pid,
            changes=len(found),
            author=self._session.candidate.author,
            number=await asyncio.to_thread(lambda: self._session.engine.store.newest),
            confirm=self._session.pending(),
            startup=await asyncio.to_thread(self._startup),
            rolled_back=[
                configuration.RolledBack(*each)
                for each in await asyncio.to_thread(self._session.engine.store.rolled_back)
            ],
        )

    async def complete(self, params: Params) -> configuration.Completed:
        """config.complete"""

        def work() -> configuration.Completed:
            mine = self._session.candidate.holder is not None or self._session.candidate.author
            data = self._session.candidate.document.data if mine else load.read_toml(self._session.engine.text)
            found, whole = completion.complete(params["words"], params["action"], data, list(self._ports()))
            try:
                path = texts(key_path.walk(params["words"], data, adding=params["action"] == "set").path)
            except ConfigError:
                path = []
            return configuration.Completed([configuration.Next(*each) for each in found], whole, path)

        try:
            return await self._session.work(work)
        except ConfigError:
            return configuration.Completed([], False, [])  # nothing valid to complete from

    async def fields(self, _: Params) -> list[configuration.Field]:
        """config.fields"""
        return shape.describe()

    # -- commits

    async def commit(self, params: Params) -> configuration.Committed:
        """config.commit"""
        who, engine = caller(), self._session.engine
        self._session.candidate.require(who)
        comment, seconds = str(params.get("comment", "")), int(params.get("confirmed_s", 0))
        if "confirmed_s" in params and seconds < 1:
            raise RefusedError("commit confirmed: at least 1 second")
        text = await self._session.work(lambda: self._session.candidate.text)
        if len(text.encode()) > limits.MAX_FILE:
            raise ConfigError("candidate", f"is larger than MAX_FILE = {limits.MAX_FILE} bytes")
        report = await engine.commit(text, who.user, comment, seconds, without_admin=bool(params.get("without_admin")))
        if await self._session.work(lambda: self._session.candidate.text) == text:
            report.lint.extend(self._session.lost_comments())
            self._session.discard()  # nothing was changed meanwhile: it follows the running one again
        return self._report(report)

    async def confirm(self, _: Params) -> configuration.Committed:
        """config.confirm"""
        return self._report(await self._session.engine.confirm(caller().user))

    async def revert(self, _: Params) -> configuration.Committed:
        """config.revert"""
        return self._report(await self._session.engine.revert(caller().user, f"requested by {caller().user}"))

    # -- inside

    def _report(self, report: Report) -> configuration.Committed:
        return configuration.Committed(
            message=report.message,
            number=report.number,
            changes=changed(report.changes),
            lint=[configuration.Finding(*each) for each in report.lint],
            took_ms=report.took_ms,
            confirm=self._session.pending(),
        )

    def _default(self, name: object) -> str:
        if name:
            return str(name)
        holder = self._session.candidate.holder
        return "candidate" if holder is not None and holder.pid == caller().pid else "running"

    def _startup(self) -> str:
        try:
            text = self._session.engine.store.startup_text()
        except BypassError as error:
            return f"invalid: {error}"
        pending = self._session.engine.pending is not None
        same = text == self._session.engine.text
        return "same" if same else "the previous commit, until this one is confirmed" if pending else "differs"


def _part(data: dict[str, Any], wanted: Sequence[str]) -> dict[str, Any]:
    """The part that `words` name, as a configuration of its own."""
    place = key_path.walk(wanted, data)
    here = key_path.look(data, place.path)
    if here is None or place.rest:
        raise NotFoundError(f"{key_path.where(place.path) if place.path else wanted[0]}: does not exist")
    if not place.path:
        return data
    head = shape.ROOT.keys[str(place.path[0])]
    if isinstance(head, shape.Tables) and len(place.path) >= 2:
        item = key_path.look(data, place.path[:2])
        if len(place.path) > 2:
            key = str(place.path[2])
            item = {head.key: item[head.key], key: item[key]}
        return {str(place.path[0]): [item]}
    value = data[str(place.path[0])]
    if len(place.path) > 1 and isinstance(value, dict):
        value = {str(place.path[1]): value[str(place.path[1])]}
    return {str(place.path[0]): value}
