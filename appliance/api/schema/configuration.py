# SPDX-License-Identifier: GPL-2.0-only
"""Answers of the methods config.*."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import UNSET, Meta, UnsetType

from appliance.api.schema.base import Answer, Detail, When


class Problem(Answer):
    """An error. `line`: of the text. For a filter also the position in it, and `pointer`: its line with a caret."""

    where: str
    what: str
    pointer: str | UnsetType = UNSET
    line: int | UnsetType = UNSET
    filter_line: int | UnsetType = UNSET
    filter_column: int | UnsetType = UNSET


class Finding(Answer):
    """A remark on what a configuration means for traffic."""

    severity: Annotated[str, Meta(description="warning or note")]
    where: str
    what: str


class Change(Answer):
    """A difference, and when it takes effect."""

    where: str
    old: str
    new: str
    effect: str


class Pending(Answer):
    """A commit that awaits confirmation."""

    seconds_left: int
    number: int
    user: str
    when: When


class Holder(Answer):
    """The user who edits. `since` and `last` (last activity) in seconds since 1970."""

    user: str
    uid: int
    pid: int
    tty: str
    since: float
    last: float


class Shown(Answer, kw_only=True):
    """A configuration: `text`, or `data` when JSON was requested."""

    text: str | UnsetType = UNSET
    data: dict[str, Any] | UnsetType = UNSET
    of: str


class Compared(Answer):
    """Two configurations as a unified diff, and what differs."""

    text: str
    changes: list[Change]
    errors: list[Problem]


class Checked(Answer):
    """The errors of a configuration, remarks on what it means for traffic, and what it changes."""

    good: bool
    message: str
    errors: list[Problem]
    lint: list[Finding]
    changes: list[Change]


class Committed(Answer):
    """The result of a commit. `number` 0: there was nothing to do, or it was rolled back."""

    message: str
    number: int
    changes: list[Change]
    lint: list[Finding]
    took_ms: int
    confirm: Pending | None


class Commit(Answer):
    """An entry of the history. `n`: how many commits ago."""

    n: int
    number: int
    when: When
    user: str
    comment: str
    how: str


class RolledBack(Answer):
    """A commit that was rolled back. `by`: who asked for it; empty: the appliance, because nobody confirmed it."""

    when: When
    by: str
    user: str
    committed: When
    comment: str
    why: str


class State(Answer):
    """Who edits, what is uncommitted, what awaits confirmation. `mine`: the caller edits; `author`: of the changes."""

    held_by: Holder | None
    mine: bool
    changes: int
    author: str
    number: int
    confirm: Pending | None
    startup: Annotated[str, Meta(description="same, differs, or why it cannot be read")]
    rolled_back: Annotated[list[RolledBack], Meta(description="the last ones, newest first")]


class Next(Answer):
    """A possible next word."""

    word: str
    help: str
    kind: Annotated[str, Meta(description="table, name, key, value or end")]


class Completed(Answer):
    """The possible next words, whether the line is complete as it is, and the path that it names."""

    words: list[Next]
    complete: bool
    path: list[str]


class Field(Answer):
    """A key of the configuration."""

    path: str
    type: str
    range: str
    default: str
    doc: str
    effect: str
    source: str


class Edited(Answer):
    """The caller now edits the candidate."""

    message: Detail
    changes: int
    left_by: str
    confirm: Pending | None


class Changes(Answer):
    """The number of differences between candidate and running configuration."""

    message: Detail
    changes: int


class Set(Answer):
    """One changed value of the candidate."""

    message: str
    path: list[str]
    old: str | None
    new: str


class Deleted(Answer):
    """What was deleted."""

    message: str
    path: list[str]


class Moved(Answer):
    """The new position, from 0."""

    message: str
    path: list[str]
    index: int


class Loaded(Answer):
    """The text was put into the candidate; `errors` are those of the candidate, and secrets that were left out."""

    message: str
    changes: int
    errors: list[Problem]
