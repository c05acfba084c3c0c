# SPDX-License-Identifier: GPL-2.0-only
"""The changes that swap an inline hop and the mirror beside it, in every rule that has them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from appliance.errors import NotFoundError, RefusedError
from console.commands.one_commit import Change

Rule = Mapping[str, Any]


def promoted(config: Mapping[str, Any], name: str) -> list[Change]:
    """`name` is a mirror and becomes inline. `config`: the running configuration as data."""
    groups = {str(group["name"]) for group in config.get("group", ())}
    rules = [rule for rule in config.get("rule", ()) if name in _mirrors(rule)]
    if not rules:
        raise NotFoundError(f'"{name}" is no mirror: no rule has it in its mirrors')
    changes: list[Change] = []
    for rule in rules:
        old = _beside(rule, name)
        if old in groups:
            what = f'"{name}" is beside group {old}: change its members in `configure` instead'
            raise RefusedError(f"rule {rule['name']}: {what}")
        changes += _swap(rule, old, name)
    return changes


def demoted(config: Mapping[str, Any], name: str) -> list[Change]:
    """`name` is inline and becomes a mirror, of the hop that takes its place."""
    rules = [rule for rule in config.get("rule", ()) if name in rule.get("path", ())]
    if not rules:
        raise NotFoundError(f'"{name}" is not inline: no rule has it in its path')
    changes: list[Change] = []
    for rule in rules:
        others = [mirror for mirror in _mirrors(rule) if _beside(rule, mirror) == name]
        if len(others) > 1:
            what = f"several mirrors are beside it: promote one of {', '.join(others)}"
            raise RefusedError(f"rule {rule['name']}: {what}")
        changes += _swap(rule, name, others[0]) if others else _out(rule, name)
    return changes


def _mirrors(rule: Rule) -> list[str]:
    return [str(mirror["hop"]) for mirror in rule.get("mirrors", ())]


def _beside(rule: Rule, name: str) -> str:
    """The hop or group beside a mirror; "" if the path has none."""
    mirror = next(mirror for mirror in rule["mirrors"] if mirror["hop"] == name)
    return str(mirror.get("beside") or next(iter(rule.get("path", ())), ""))


def _swap(rule: Rule, old: str, new: str) -> Iterator[Change]:
    """The mirror `new` takes the place of `old` in the path; "": of nothing."""
    path = [new if hop == old else str(hop) for hop in rule.get("path", ())] or [new]
    yield _delete(rule, new)
    yield _path(rule, path)
    for mirror in _mirrors(rule):
        if mirror != new and _beside(rule, mirror) == old:
            yield _place(rule, mirror, new)
    if old:
        yield _place(rule, old, new)


def _out(rule: Rule, name: str) -> Iterator[Change]:
    """The hop leaves the path, and is a mirror beside what follows it there, or comes before it."""
    path = [str(hop) for hop in rule["path"]]
    at = path.index(name)
    left = path[:at] + path[at + 1 :]
    yield _path(rule, left)
    yield _place(rule, name, left[min(at, len(left) - 1)] if left else "")


def _path(rule: Rule, path: list[str]) -> Change:
    return Change("set", ("rule", str(rule["name"]), "path", *(path or ["[]"])))


def _delete(rule: Rule, name: str) -> Change:
    return Change("delete", ("rule", str(rule["name"]), "mirrors", name))


def _place(rule: Rule, name: str, beside: str) -> Change:
    words = ("rule", str(rule["name"]), "mirrors", name)
    return Change("set", (*words, "beside", beside) if beside else words)
