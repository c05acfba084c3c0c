# SPDX-License-Identifier: GPL-2.0-or-later
"""Changes of an appliance's configuration: tried, committed, and confirmed over a new connection.

`configure --json` says in one object what a script of `configure` lines changed. Knows nothing of Ansible.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

from .appliance import Link, RefusedError, UnreachableError, ask, reason, result_of

CHANGES: Final = ("set", "delete", "move")  # the lines of `configure` that change something by an absolute path
END_OF_TEXT: Final = "."  # ends the text after `load -`
MAX_COMMENT: Final = 500  # characters of the appliance's history
FIRST_PAUSE_S, LAST_PAUSE_S = 2.0, 20.0  # between new connections: few, because keys that are refused block the sender
SETTLE_S: Final = 60.0  # for an appliance to answer again after it has rolled back


class Wanted(NamedTuple):
    """A change: lines of `configure`, or a whole configuration (`merge`: a part of one)."""

    lines: Sequence[str] = ()
    text: str | None = None
    merge: bool = False


class Done(NamedTuple):
    """What a change did, or would do. `changes`: rows with where, old, new and effect; secrets are hidden."""

    changed: bool
    commit: int
    changes: list[dict[str, str]]
    warnings: list[str]


class Clock(NamedTuple):
    """The time of this computer, in seconds."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


def checked(lines: Iterable[str]) -> list[str]:
    """Lines without comments and empty ones. RefusedError: one is no change, for example a commit."""
    found = [line.strip() for text in lines for line in text.splitlines()]
    found = [line for line in found if line and not line.startswith("#")]
    for line in found:
        if line.split()[0] not in CHANGES:
            raise RefusedError(f'"{line.split()[0]}" is no change: lines begin with set, delete or move')
    return found


def _script(wanted: Wanted) -> list[str]:
    if wanted.text is None:
        return list(wanted.lines)
    if END_OF_TEXT in wanted.text.splitlines():
        raise RefusedError("the configuration has a line that is a single full stop, which would end it")
    return [f"load {'merge ' if wanted.merge else ''}-", wanted.text.rstrip("\n"), END_OF_TEXT]


def _without_absent(link: Link, lines: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The state of the configuration, and the lines without deletions of what the running configuration has not.

    The appliance says what is there, so a path may be typed as in `configure`. What it does not know stays, so that it
    says so itself.
    """
    paths: dict[str, list[str]] = {}
    for line in lines:
        if line.split()[0] == "delete":
            try:
                paths[line] = shlex.split(line)[1:]
            except ValueError:
                continue  # a quote is missing: the appliance says so

    asked = [(line, words[:end]) for line, words in paths.items() for end in range(1, len(words) + 1)]
    shown = [
        {"method": "config.show", "params": {"words": words, "of": "running", "format": "json"}} for _, words in asked
    ]
    state, *answers = ask(link, {"method": "config.status"}, *shown)
    absent = set()
    for line, words in paths.items():
        found = [answer for (of, _), answer in zip(asked, answers, strict=True) if of == line]
        if _is_absent(words, found):
            absent.add(line)
    return result_of(state), [line for line in lines if line not in absent]


def _is_absent(words: Sequence[str], answers: Sequence[dict[str, Any]]) -> bool:
    """Whether a path does not exist; `answers`: those of config.show to its first word, its first two, and so on."""
    there = next((number for number, answer in enumerate(answers) if "error" in answer), len(words))
    if there == len(words):
        return False
    if there:
        here = _leaf(answers[there - 1]["result"]["data"], there)
        if isinstance(here, list):
            return words[there] not in [str(row.get("name")) if isinstance(row, dict) else str(row) for row in here]
    return (answers[there]["error"].get("data") or {}).get("kind") == "NotFoundError"


def _leaf(data: Any, depth: int) -> Any:
    """What a path of so many words leads to, in the part of a configuration that config.show answers."""
    for _ in range(depth):
        if isinstance(data, list):
            data = {key: value for key, value in data[0].items() if key != "name"}
        elif isinstance(data, dict) and len(data) == 1:
            (data,) = data.values()
    return data


def _run(link: Link, script: Sequence[str]) -> Done:
    """Run a script. RefusedError: an error, in one sentence; nothing was changed."""
    text = "\n".join(script) + "\n"
    reply = link.run("configure --json", text.encode())
    try:
        answer = json.loads(reply.out)
    except ValueError as error:
        raise RefusedError(reason(reply)) from error
    if reply.code:
        errors = [f"{each['where']}: {each['what']}" for each in answer["errors"]]
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise RefusedError(errors[0] + more if errors else reason(reply))
    warnings = [f"{each['where']}: {each['what']}" for each in answer["warnings"]]
    return Done(answer["changed"], answer["commit"], answer["changes"], warnings)


def change(
    link: Link, wanted: Wanted, comment: str, confirm_s: int, *, dry: bool = False, clock: Clock | None = None
) -> Done:
    """Commit a change if there is one; `dry`: only say what it would change.

    With `confirm_s` the commit is confirmed over a new connection, and rolled back by the appliance if none can be made
    within that time. RefusedError: nothing has changed, or all of it was rolled back.
    """
    state, lines = _without_absent(link, wanted.lines)
    if pending := state.get("confirm"):
        raise RefusedError(
            f"commit {pending['number']} by {pending['user']} awaits confirmation: confirm or revert it first"
        )
    script = _script(wanted._replace(lines=lines))
    if not script:
        return Done(False, state["number"], [], [])
    would = _run(link, [*script, "commit check"])
    if dry or not would.changed:
        return would
    why = shlex.quote(" ".join(comment.split())[:MAX_COMMENT])
    if not confirm_s:
        try:
            return _run(link, [*script, f"commit comment {why}"])
        except UnreachableError as error:
            raise UnreachableError(f"{error}; whether the change was committed is not known") from error
    clock = clock or Clock()
    link.renew()  # its settings are ours then: a connection that the change breaks must be noticed
    deadline = clock.now() + confirm_s
    try:
        done, lost = _run(link, [*script, f"commit confirmed {confirm_s}s comment {why}"]), False
    except UnreachableError:  # perhaps by the change: if a new connection gets through, the appliance says
        done, lost = would._replace(commit=state["number"] + 1), True
    if done.changed:  # else somebody has committed the same meanwhile
        _confirm(link, done.commit, deadline, clock, lost=lost)
    return done


def _confirm(link: Link, number: int, deadline: float, clock: Clock, *, lost: bool) -> None:
    """Confirm a commit over a new connection; `lost`: its answer was. RefusedError: it is not in force, and why."""
    broke, pause, asked = "", FIRST_PAUSE_S, False
    while clock.now() < deadline:
        link.renew()
        try:
            state = _status(link)
            if pending := state["confirm"]:
                if pending["number"] != number:
                    raise RefusedError(f"commit {pending['number']} by {pending['user']} has replaced commit {number}")
                asked = True
                _run(link, ["confirm"])
                return
            if asked and state["number"] >= number:
                return  # only the answer to `confirm` was lost
            if asked or not lost:
                raise RefusedError(f"commit {number} was {_became(state, number)} by somebody else")
        except UnreachableError as error:
            broke = str(error)
        clock.sleep(min(pause, max(0.0, deadline - clock.now())))
        pause = min(2 * pause, LAST_PAUSE_S)
    if not broke:
        raise RefusedError("the connection broke at the commit; the change is not in force")
    _wait_for_rollback(link, number, f"no new connection after the commit ({broke})", clock)


def _became(state: dict[str, Any], number: int) -> str:
    return "confirmed" if state["number"] >= number else "rolled back"


def _wait_for_rollback(link: Link, number: int, failed: str, clock: Clock) -> None:
    """RefusedError: `failed`, and what has become of the commit that was not confirmed in time."""
    until, pause = clock.now() + SETTLE_S, FIRST_PAUSE_S
    while clock.now() < until:
        link.renew()
        try:
            state = _status(link)
            if not state["confirm"]:
                raise RefusedError(f"{failed}; it was {_became(state, number)}")
        except UnreachableError:
            pass
        clock.sleep(pause)
        pause = min(2 * pause, LAST_PAUSE_S)
    raise RefusedError(f"{failed}; the appliance rolls it back by itself, but does not answer yet: see its serial line")


def _status(link: Link) -> dict[str, Any]:
    (answer,) = ask(link, {"method": "config.status"})
    found: dict[str, Any] = result_of(answer)
    return found


def shown(changes: Iterable[dict[str, str]]) -> str:
    """Changes as a text in the manner of a diff."""
    rows = []
    for each in changes:
        rows.append(f"@@ {each['where']}  ({each['effect']})")
        rows += [f"{sign}{each[key]}" for sign, key in (("-", "old"), ("+", "new")) if each[key]]
    return "".join(f"{row}\n" for row in rows)
