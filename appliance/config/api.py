# SPDX-License-Identifier: GPL-2.0-only
"""The methods config.* of the control socket: what `configure` and its relatives are made of.

A thin shell over the candidate, the engine and the store; console/ is its client. Work that grows with the size of a
configuration runs in a thread, one piece at a time, so that a client with a large one delays nobody's lease.
"""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from appliance.config import document, fields, limits, load, secrets, words
from appliance.config.candidate import Candidate
from appliance.config.changes import changes
from appliance.config.commit import Check, Engine, Report
from appliance.config.document import Document
from appliance.errors import BypassError, ConfigError, NotFoundError, RefusedError
from appliance.rpc import Param, Params, Registry, caller

T = TypeVar("T")
Row = dict[str, object]

SAVE_S = 1.0
"""After a change, until the candidate is in its file: many changes are one write."""

MAX_ERRORS = 100
"""Errors in one answer; a person mends the first ones first."""

_WORDS = Param("array", "as typed, without the verb: rule web match tcp port 80")
_OPTIONAL_WORDS = _WORDS._replace(required=False)
_WHICH = Param("string", "candidate, running, startup, or how many commits ago", required=False)


class Api:
    """The handlers. `ports` gives the board's port names, for completion."""

    def __init__(self, engine: Engine, candidate: Candidate, ports: Callable[[], Sequence[str]] = tuple) -> None:
        self._engine, self._candidate, self._ports = engine, candidate, ports
        self._lock = asyncio.Lock()  # the candidate's document
        self._saving: asyncio.Task[None] | None = None

    def register(self, registry: Registry) -> None:
        """Offer the methods."""
        flag = Param("boolean", required=False)
        text = Param("string", "TOML")
        takeover = flag._replace(doc="take the candidate from who has it")
        end = flag._replace(doc="and forget what was changed")
        mode = Param("string", "replace all, or merge into what is there", choices=("replace", "merge"))
        source = Param("string", "where the text comes from, for errors", required=False)
        where = Param("string", "the new place", choices=("first", "last", "before", "after"))
        form = Param("string", "how", required=False, choices=("toml", "set", "json"))
        verb = Param("string", "the verb", choices=("set", "delete", "show", "edit", "move"))
        seconds = Param("integer", "taken back after so many seconds unless it is confirmed", required=False)
        rows: tuple[tuple[str, Any, str, str, dict[str, Param]], ...] = (
            ("edit", self.edit, "admin", "hold the candidate", {"takeover": takeover}),
            ("end", self.end, "admin", "let go of the candidate", {"discard": end}),
            ("set", self.set, "admin", "change the candidate", {"words": _WORDS}),
            ("delete", self.delete, "admin", "take something out of the candidate", {"words": _WORDS}),
            (
                "move",
                self.move,
                "admin",
                "change the order; the first rule that matches wins",
                {"words": _WORDS, "where": where, "other": Param("string", "before or after whom", required=False)},
            ),
            (
                "load",
                self.load,
                "admin",
                "put a text into the candidate",
                {"text": text, "mode": mode, "source": source},
            ),
            (
                "show",
                self.show,
                "viewer",
                "a configuration, or what `words` name of it",
                {
                    "words": _OPTIONAL_WORDS,
                    "of": _WHICH,
                    "format": form,
                    "secrets": flag._replace(doc="with password hashes; admin only"),
                },
            ),
            ("compare", self.compare, "viewer", "two configurations", {"old": _WHICH, "new": _WHICH}),
            (
                "check",
                self.check,
                "viewer",
                "what is wrong with a text or the candidate, and what it means for traffic",
                {"text": text._replace(required=False), "source": source},
            ),
            (
                "commit",
                self.commit,
                "admin",
                "make the candidate the running configuration, proven or not at all",
                {"comment": Param("string", "why", required=False), "confirmed_s": seconds},
            ),
            ("confirm", self.confirm, "admin", "keep what was committed for some seconds", {}),
            ("revert", self.revert, "admin", "take back what was committed for some seconds", {}),
            (
                "rollback",
                self.rollback,
                "admin",
                "make the candidate the configuration of so many commits ago",
                {"number": Param("integer", "0: the running one")},
            ),
            ("history", self.history, "viewer", "who committed what, when and why", {}),
            ("status", self.status, "viewer", "who edits, what is pending", {}),
            ("complete", self.complete, "viewer", "what may come next", {"words": _WORDS, "action": verb}),
            ("fields", self.fields, "viewer", "every key: type, range, default, meaning, effect", {}),
        )
        for name, handler, role, doc, params in rows:
            registry.add(f"config.{name}", handler, role, doc, params)

    async def _work(self, work: Callable[[], T]) -> T:
        """Run something on the candidate's document in a thread, alone."""
        async with self._lock:
            return await asyncio.to_thread(work)

    def _save_soon(self) -> None:
        """Have the candidate written for the next bypassd, a moment from now."""

        async def save() -> None:
            await asyncio.sleep(SAVE_S)
            self._saving = None
            await self._work(self._candidate.save)

        if self._saving is None:
            self._saving = asyncio.get_running_loop().create_task(save(), name="save the candidate")

    async def stop(self) -> None:
        """bypassd ends: write what is not written yet."""
        if self._saving is not None:
            self._saving.cancel()
        await self._work(self._candidate.save)
        self._candidate.close()

    # -- the candidate

    async def edit(self, params: Params) -> Row:
        """config.edit"""
        candidate, who = self._candidate, caller()
        left_by = candidate.author if candidate.holder is None or candidate.holder.pid != who.pid else ""
        candidate.hold(who, takeover=bool(params.get("takeover")))
        found = await self._changes()
        if not found and not await self._work(lambda: candidate.changed):
            left_by = ""
        message = f"{len(found)} uncommitted changes by {left_by} are in the candidate" if left_by else ""
        return {"message": message, "changes": len(found), "left_by": left_by, "confirm": self._pending()}

    async def end(self, params: Params) -> Row:
        """config.end"""
        candidate, who = self._candidate, caller()
        if params.get("discard"):
            candidate.require(who)
            self._discard()
        found = await self._changes()
        candidate.release(who)
        message = f"{len(found)} uncommitted changes stay in the candidate" if found else ""
        return {"message": message, "changes": len(found)}

    async def set(self, params: Params) -> Row:
        """config.set"""

        def work() -> Row:
            doc = self._candidate.document
            changes = words.assignments(params["words"], doc.data)
            first = changes[0]
            old = words.look(doc.data, first.path)
            for change in changes:
                doc.assign(change)
            new = words.look(doc.data, first.path)
            return {"path": _texts(first.path), "old": None if old is None else _shown(old), "new": _shown(new)}

        return await self._edit(work)

    async def delete(self, params: Params) -> Row:
        """config.delete"""

        def work() -> Row:
            doc = self._candidate.document
            place = words.walk(params["words"], doc.data)
            if not place.path:
                raise ConfigError("delete", "is followed by what is to go; `rollback 0` undoes all changes")
            here = words.look(doc.data, place.path)
            if here is None:
                raise ConfigError(words.where(place.path), "is not there")
            if isinstance(place.node, fields.Leaf) and len(place.path) > 2 and place.path[-1] in ("name", "hop"):
                raise ConfigError(words.where(place.path), "cannot go alone: delete all of it")
            if place.rest:
                gone = [word for word in place.rest if isinstance(here, list) and word in map(str, here)]
                if len(gone) != len(place.rest):
                    raise ConfigError(words.where(place.path), f'has no "{" ".join(place.rest)[:60]}"')
                doc.take(place.path, gone)
            else:
                doc.delete(place.path)
            return {"path": _texts(place.path)}

        return await self._edit(work)

    async def move(self, params: Params) -> Row:
        """config.move"""

        def work() -> Row:
            doc = self._candidate.document
            place = words.walk(params["words"], doc.data)
            if len(place.path) != 2 or not isinstance(fields.ROOT.keys.get(str(place.path[0])), fields.Tables):
                raise ConfigError("move", "is followed by a table and a name: rule web")
            table, name = str(place.path[0]), str(place.path[1])
            others = [each for each in words.names(doc.data[table], fields.tables(table)) if each != name]
            side, other = params["where"], params.get("other", "")
            if side in ("before", "after") and other not in others:
                raise ConfigError(f"move {table} {name}", f'there is no other {table} "{other[:40]}"')
            index = {"first": 0, "last": len(others)}.get(side)
            if index is None:
                index = others.index(other) + (side == "after")
            doc.move((table, name), index)
            return {"path": [table, name], "index": index}

        return await self._edit(work)

    async def load(self, params: Params) -> Row:
        """config.load"""
        who, text, source = caller(), str(params["text"]), str(params.get("source", ""))
        self._candidate.require(who)
        if len(text.encode()) > limits.MAX_FILE:
            raise ConfigError("file", f"is larger than MAX_FILE = {limits.MAX_FILE} bytes", source)

        def work() -> None:
            data = load.read_toml(text, source)
            if params["mode"] == "replace":
                self._candidate.replace(text, who)
                return
            doc = Document(self._candidate.text)
            doc.merge(data)
            self._candidate.replace(doc.text, who)

        await self._work(work)
        self._save_soon()
        check = await self._check(self._candidate.text, source)
        return {**self._loaded(len(check.changes)), "errors": _errors(check.errors)}

    async def rollback(self, params: Params) -> Row:
        """config.rollback"""
        who, number = caller(), int(params["number"])
        self._candidate.require(who)
        if number == 0:
            self._discard()
            return {"message": "the candidate is the running configuration", "changes": 0}
        entry = await asyncio.to_thread(self._engine.store.entry, number)
        await self._work(lambda: self._candidate.replace(entry.text, who))
        self._save_soon()
        found = await self._changes()
        message = f"the candidate is configuration {entry.number} of {entry.when}: `compare`, then `commit`"
        return {"message": message, "changes": len(found)}

    async def _edit(self, work: Callable[[], Row]) -> Row:
        who = caller()
        self._candidate.require(who)
        row = await self._work(work)
        self._candidate.edited(who)
        self._save_soon()
        message = words.where(tuple(row["path"])) if isinstance(row["path"], list) else ""
        return {"message": message, **row}

    def _discard(self) -> None:
        self._candidate.discard()
        self._save_soon()

    def _loaded(self, count: int) -> Row:
        lost = " Its comments could not be kept." if self._candidate.document.comments_lost else ""
        return {"message": f"loaded: {count} changes; nothing runs before `commit`.{lost}", "changes": count}

    # -- looking

    async def show(self, params: Params) -> Row:
        """config.show"""
        open_ = bool(params.get("secrets"))
        if open_ and caller().role != "admin":
            raise RefusedError("secrets are shown to administrators only")
        name = self._default(params.get("of"))
        text = await self._text(name)
        form = params.get("format", "toml")
        wanted: list[str] = params.get("words") or []

        def work() -> Row:
            if not wanted and form == "toml":
                return {"text": text if open_ else secrets.redact(text), "of": name}
            data = load.read_toml(text, name)
            if wanted:
                data = _part(data, wanted)
            if not open_:
                data = secrets.hide(data)
            if form == "json":
                return {"data": data, "of": name}
            lines = "\n".join(words.set_lines(data)) + "\n" if form == "set" else document.canonical(data)
            return {"text": lines, "of": name}

        return await self._work(work)

    async def compare(self, params: Params) -> Row:
        """config.compare"""
        old, new = params.get("old") or "running", params.get("new") or "candidate"
        before, after = await self._text(old), await self._text(new)

        def work() -> Row:
            lines = difflib.unified_diff(
                secrets.redact(before).splitlines(), secrets.redact(after).splitlines(), old, new, lineterm=""
            )
            text = "\n".join(lines)
            first, _ = load.parse(before, old, filters=False)
            second, errors = load.parse(after, new, filters=False)
            found = [] if second is None else [each._asdict() for each in changes(first, second)]
            return {"text": text, "changes": secrets.hide(found), "errors": _errors(errors)}

        return await asyncio.to_thread(work)

    async def check(self, params: Params) -> Row:
        """config.check: deep for the candidate; a viewer's text is only read."""
        if "text" in params:
            check = await self._check(params["text"], str(params.get("source", "")))
        else:
            text = await self._work(lambda: self._candidate.text)
            check = await self._engine.check(text, "candidate", deep=caller().role == "admin")
        good = check.config is not None
        count = f"{len(check.errors)} error{'s' if len(check.errors) != 1 else ''}"
        message = "good; nothing was changed" if good else f"not good: {count}"
        return {
            "good": good,
            "message": message,
            "errors": _errors(check.errors),
            "lint": [each._asdict() for each in check.lint],
            "changes": secrets.hide([each._asdict() for each in check.changes]),
        }

    async def history(self, _: Params) -> list[Row]:
        """config.history"""
        entries = await asyncio.to_thread(self._engine.store.history)
        return [
            {"n": n, "number": e.number, "when": e.when, "user": e.user, "comment": e.comment, "how": e.how}
            for n, e in enumerate(entries)
        ]

    async def status(self, _: Params) -> Row:
        """config.status"""
        holder, who = self._candidate.holder, caller()
        found = await self._changes()
        return {
            "held_by": holder._asdict() if holder else None,
            "mine": holder is not None and holder.pid == who.pid,
            "changes": len(found),
            "author": self._candidate.author,
            "number": await asyncio.to_thread(lambda: self._engine.store.newest),
            "confirm": self._pending(),
            "startup": await asyncio.to_thread(self._startup),
        }

    async def complete(self, params: Params) -> Row:
        """config.complete"""

        def work() -> Row:
            mine = self._candidate.holder is not None or self._candidate.author
            data = self._candidate.document.data if mine else load.read_toml(self._engine.text)
            found, whole = words.complete(params["words"], params["action"], data, list(self._ports()))
            try:
                path = _texts(words.walk(params["words"], data, adding=params["action"] == "set").path)
            except ConfigError:
                path = []
            return {"words": [each._asdict() for each in found], "complete": whole, "path": path}

        try:
            return await self._work(work)
        except ConfigError:
            return {"words": [], "complete": False, "path": []}  # nothing valid to complete from

    async def fields(self, _: Params) -> list[dict[str, str]]:
        """config.fields"""
        return fields.describe()

    # -- commits

    async def commit(self, params: Params) -> Row:
        """config.commit"""
        who, engine = caller(), self._engine
        self._candidate.require(who)
        comment, seconds = str(params.get("comment", "")), int(params.get("confirmed_s", 0))
        if "confirmed_s" in params and seconds < 1:
            raise RefusedError("commit confirmed: at least 1 second")
        text = await self._work(lambda: self._candidate.text)
        if len(text.encode()) > limits.MAX_FILE:
            raise ConfigError("candidate", f"is larger than MAX_FILE = {limits.MAX_FILE} bytes")
        report = await engine.commit(text, who.user, comment, seconds)
        if await self._work(lambda: self._candidate.text) == text:
            self._discard()  # nothing was changed meanwhile: it follows the running one again
        return self._report(report)

    async def confirm(self, _: Params) -> Row:
        """config.confirm"""
        return self._report(await self._engine.confirm(caller().user))

    async def revert(self, _: Params) -> Row:
        """config.revert"""
        return self._report(await self._engine.revert(caller().user, f"{caller().user} took it back"))

    # -- inside

    def _report(self, report: Report) -> Row:
        return {
            "message": report.message,
            "number": report.number,
            "changes": secrets.hide([each._asdict() for each in report.changes]),
            "lint": [each._asdict() for each in report.lint],
            "took_ms": report.took_ms,
            "confirm": self._pending(),
        }

    def _pending(self) -> Row | None:
        pending = self._engine.pending
        if pending is None:
            return None
        return {
            "seconds_left": self._engine.seconds_left(),
            "number": pending.entry.number,
            "user": pending.entry.user,
            "when": pending.entry.when,
        }

    def _default(self, name: object) -> str:
        if name:
            return str(name)
        holder = self._candidate.holder
        return "candidate" if holder is not None and holder.pid == caller().pid else "running"

    async def _text(self, name: str) -> str:
        if name == "running":
            return self._engine.text
        if name == "candidate":
            return await self._work(lambda: self._candidate.text)
        if name == "startup":
            return await asyncio.to_thread(self._engine.store.startup_text)
        if name.isdecimal() and len(name) < 6:
            entry = await asyncio.to_thread(self._engine.store.entry, int(name))
            return entry.text
        raise NotFoundError(f'there is no configuration "{name[:40]}": candidate, running, startup, or a number')

    async def _check(self, text: str, source: str) -> Check:
        if len(text.encode()) > limits.MAX_FILE:
            raise ConfigError("file", f"is larger than MAX_FILE = {limits.MAX_FILE} bytes", source)
        return await self._engine.check(text, source)

    async def _changes(self) -> list[object]:
        """The candidate's differences; a text that is not valid yet counts as one."""

        def work() -> list[object]:
            if not self._candidate.changed:
                return []
            config, errors = load.parse(self._candidate.text, "candidate", filters=False)
            if config is None:
                return list(errors[:1])
            return list(changes(self._engine.running, config))

        return await self._work(work)

    def _startup(self) -> str:
        try:
            text = self._engine.store.startup_text()
        except BypassError as error:
            return f"invalid: {error}"
        pending = self._engine.pending is not None
        same = text == self._engine.text
        return "same" if same else "the one before, until the pending commit is confirmed" if pending else "differs"


def _part(data: dict[str, Any], wanted: Sequence[str]) -> dict[str, Any]:
    """What `words` name, as a configuration of its own."""
    place = words.walk(wanted, data)
    here = words.look(data, place.path)
    if here is None or place.rest:
        raise NotFoundError(f"{words.where(place.path) if place.path else wanted[0]}: is not there")
    if not place.path:
        return data
    head = fields.ROOT.keys[str(place.path[0])]
    if isinstance(head, fields.Tables) and len(place.path) >= 2:
        item = words.look(data, place.path[:2])
        if len(place.path) > 2:
            key = str(place.path[2])
            item = {head.key: item[head.key], key: item[key]}
        return {str(place.path[0]): [item]}
    value = data[str(place.path[0])]
    if len(place.path) > 1 and isinstance(value, dict):
        value = {str(place.path[1]): value[str(place.path[1])]}
    return {str(place.path[0]): value}


def _texts(path: words.Path) -> list[str]:
    return [str(part) for part in path]


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_shown(each)}" for key, each in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_shown(each) for each in value) + "]"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return secrets.redact(text)


def _errors(errors: Sequence[BypassError]) -> list[Row]:
    """As rows: where and what; line and pointer where they are known."""
    rows: list[Row] = []
    for error in errors[:MAX_ERRORS]:
        if isinstance(error, ConfigError):
            row: Row = {"where": error.where, "what": error.what}
            if error.pointer:
                row["pointer"] = error.pointer
            rows.append(row)
        else:
            rows.append({"where": "", "what": str(error)})
    return rows
