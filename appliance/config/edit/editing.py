# SPDX-License-Identifier: GPL-2.0-only
"""The config.* methods that change the candidate: edit, set, delete, move, load, rollback, end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from appliance.api.rpc import Param, Params, Registry, caller
from appliance.api.schema import configuration, methods
from appliance.config.check import load
from appliance.config.edit import at_once, hidden, key_path, passphrases
from appliance.config.edit.document import Document
from appliance.config.edit.session import Session, T, problems, shown, texts
from appliance.config.schema import limits, secrets, shape
from appliance.counted import counted
from appliance.errors import ConfigError

WORDS = Param("array", "as typed, without the verb: rule web match tcp port 80")


class Editing:
    """The handlers, for administrators only; all but `edit` require that the caller holds the candidate."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def register(self, registry: Registry) -> None:
        """Register the methods."""
        flag = Param("boolean", required=False)
        takeover = flag._replace(doc="take the candidate over from its holder")
        where = Param("string", "the new place", choices=("first", "last", "before", "after"))
        other = Param("string", "the table before or after which it goes", required=False)
        mode = Param("string", "replace everything, or merge into the candidate", choices=("replace", "merge"))
        source = Param("string", "where the text comes from, for errors", required=False)
        number = Param("integer", "how many commits ago; 0: the running one")
        add = registry.add
        add(methods.CONFIG_EDIT, self.edit, "admin", "start editing the candidate", {"takeover": takeover})
        end = {"discard": flag._replace(doc="discard the changes too")}
        add(methods.CONFIG_END, self.end, "admin", "stop editing the candidate", end)
        add(methods.CONFIG_SET, self.set, "admin", "change the candidate", {"words": WORDS})
        add(methods.CONFIG_DELETE, self.delete, "admin", "remove something from the candidate", {"words": WORDS})
        move = {"words": WORDS, "where": where, "other": other}
        add(methods.CONFIG_MOVE, self.move, "admin", "change the order; the first rule that matches wins", move)
        text = {"text": Param("string", "TOML"), "mode": mode, "source": source}
        add(methods.CONFIG_LOAD, self.load, "admin", "load a text into the candidate", text)
        doc = "load an earlier configuration into the candidate"
        add(methods.CONFIG_ROLLBACK, self.rollback, "admin", doc, {"number": number})

    async def edit(self, params: Params) -> configuration.Edited:
        """config.edit"""
        candidate, who = self._session.candidate, caller()
        left_by = candidate.author if candidate.holder is None or candidate.holder.pid != who.pid else ""
        candidate.hold(who, takeover=bool(params.get("takeover")))
        found = await self._session.changes()
        if not found and not await self._session.work(lambda: candidate.changed):
            left_by = ""
        change, changes = f"uncommitted change by {left_by} is", f"uncommitted changes by {left_by} are"
        message = f"{counted(len(found), change, changes)} in the candidate" if left_by else ""
        return configuration.Edited(message, len(found), left_by, self._session.pending())

    async def end(self, params: Params) -> configuration.Changes:
        """config.end"""
        candidate, who = self._session.candidate, caller()
        if params.get("discard"):
            candidate.require(who)
            self._session.discard()
        found = await self._session.changes()
        candidate.release(who)
        held = counted(len(found), "uncommitted change stays", "uncommitted changes stay")
        message = f"{held} in the candidate" if found else ""
        return configuration.Changes(message, len(found))

    async def set(self, params: Params) -> configuration.Set:
        """config.set"""

        def work() -> configuration.Set:
            doc = self._session.candidate.document
            changes = key_path.assignments(params["words"], doc.data)
            at_once.refuse(changes, doc.data)
            changes = passphrases.as_keys([_known(change, doc.data) for change in changes], doc.data)
            first = changes[0]
            old = key_path.look(doc.data, first.path)
            for change in changes:
                doc.assign(change)
            new = key_path.look(doc.data, first.path)
            key = first.path[-1]
            old_text = None if old is None else shown(old, key)
            return configuration.Set(key_path.where(first.path), texts(first.path), old_text, shown(new, key))

        return await self._edit(work)

    async def delete(self, params: Params) -> configuration.Deleted:
        """config.delete"""

        def work() -> configuration.Deleted:
            doc = self._session.candidate.document
            place = key_path.walk(params["words"], doc.data)
            if not place.path:
                raise ConfigError("delete", "needs the path to remove; `rollback 0` undoes all changes")
            here = key_path.look(doc.data, place.path)
            if here is None:
                raise ConfigError(key_path.where(place.path), "is not there")
            if isinstance(place.node, shape.Leaf) and len(place.path) > 2 and place.path[-1] in ("name", "hop"):
                raise ConfigError(key_path.where(place.path), "cannot be deleted alone: delete the whole table")
            if place.rest:
                gone = [word for word in place.rest if isinstance(here, list) and word in map(str, here)]
                if len(gone) != len(place.rest):
                    raise ConfigError(key_path.where(place.path), f'has no "{" ".join(place.rest)[:60]}"')
                doc.take(place.path, gone)
            else:
                doc.delete(place.path)
            return configuration.Deleted(key_path.where(place.path), texts(place.path))

        return await self._edit(work)

    async def move(self, params: Params) -> configuration.Moved:
        """config.move"""

        def work() -> configuration.Moved:
            doc = self._session.candidate.document
            place = key_path.walk(params["words"], doc.data)
            if len(place.path) != 2 or not isinstance(shape.ROOT.keys.get(str(place.path[0])), shape.Tables):
                raise ConfigError("move", "is followed by a table and a name: rule web")
            table, name = str(place.path[0]), str(place.path[1])
            others = [each for each in key_path.names(doc.data[table], shape.tables(table)) if each != name]
            side, other = params["where"], params.get("other", "")
            if side in ("before", "after") and other not in others:
                raise ConfigError(f"move {table} {name}", f'there is no other {table} "{other[:40]}"')
            index = {"first": 0, "last": len(others)}.get(side)
            if index is None:
                index = others.index(other) + (side == "after")
            doc.move((table, name), index)
            return configuration.Moved(key_path.where((table, name)), [table, name], index)

        return await self._edit(work)

    async def load(self, params: Params) -> configuration.Loaded:
        """config.load"""
        who, text, source = caller(), str(params["text"]), str(params.get("source", ""))
        self._session.candidate.require(who)
        if len(text.encode()) > limits.MAX_FILE:
            raise ConfigError("file", f"is larger than MAX_FILE = {limits.MAX_FILE} bytes", source)

        def work() -> list[ConfigError]:
            load.read_toml(text, source)
            loaded, left = Document(text), list[ConfigError]()
            if secrets.HIDDEN in text:
                left = hidden.keep(loaded, load.read_toml(self._session.candidate.text))
            if params["mode"] == "replace":
                self._session.candidate.replace(loaded.text, who)
                return left
            doc = Document(self._session.candidate.text)
            doc.merge(loaded.data)
            self._session.candidate.replace(doc.text, who)
            return left

        left = await self._session.work(work)
        self._session.save_soon()
        check = await self._session.check(self._session.candidate.text, source)
        lost = " Its comments could not be kept." if self._session.candidate.document.comments_lost else ""
        count = len(check.changes)
        message = f"loaded: {counted(count, 'change')}; nothing takes effect before `commit`.{lost}"
        return configuration.Loaded(message, count, problems([*left, *check.errors]))

    async def rollback(self, params: Params) -> configuration.Changes:
        """config.rollback"""
        who, number = caller(), int(params["number"])
        self._session.candidate.require(who)
        if number == 0:
            self._session.discard()
            return configuration.Changes("the candidate is the running configuration", 0)
        entry = await asyncio.to_thread(self._session.engine.store.entry, number)
        await self._session.work(lambda: self._session.candidate.replace(entry.text, who))
        self._session.save_soon()
        found = await self._session.changes()
        when = entry.when.replace("T", " ").replace("+00:00", "Z")
        message = f"the candidate is that of commit {entry.number} ({when}): `compare`, then `commit`"
        return configuration.Changes(message, len(found))

    async def _edit(self, work: Callable[[], T]) -> T:
        who = caller()
        self._session.candidate.require(who)
        done = await self._session.work(work)
        self._session.candidate.edited(who)
        self._session.save_soon()
        return done


def _known(change: key_path.Assign, data: key_path.Data) -> key_path.Assign:
    """The change; a secret that a text hides stays as it is. ConfigError: there is none here."""
    if change.value != secrets.HIDDEN:
        return change
    there = key_path.look(data, change.path)
    if there is None:
        raise ConfigError(key_path.where(change.path), "is hidden in the text and is not known here")
    return change._replace(value=there)
