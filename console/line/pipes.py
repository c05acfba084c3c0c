# SPDX-License-Identifier: GPL-2.0-only
"""Apply the pipes after a command: `| match PATTERN`, `| except PATTERN`, `| json`, `| count`, `| save FILE`."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from appliance.counted import counted
from appliance.errors import RefusedError
from console.line.outcome import Outcome
from console.line.parse import Parsed, UsageError
from console.render import Style, to_json
from console.views import render

HOMES = Path("/var/lib/bypass/home")


def pipe(outcome: Outcome, pipes: Sequence[Parsed], as_json: bool, style: Style) -> str:
    """The text of an outcome after all pipes. UsageError: invalid pattern; RefusedError: a file cannot be written."""
    names = [str(each.command.words[0]) for each in pipes]
    as_json = as_json or "json" in names
    if names:
        style = Style()  # piped output is plain
    if as_json and outcome.json_lines:
        text = "\n".join(to_json(item, indent=None) for item in outcome.data)
    elif as_json:
        text = to_json(outcome.data)
    else:
        text = render(outcome.view, outcome.data, style)
    if names == ["count"] and isinstance(outcome.data, list):
        return str(len(outcome.data))  # rows, not the title above them
    for each, name in zip(pipes, names, strict=True):
        if name in ("match", "except"):
            text = _match(text, each.args["PATTERN"], name == "match")
        elif name == "count":
            text = str(len(text.splitlines()))
        elif name == "save" and each.args["FILE"] != "-":
            text = save_text(text, Path(each.args["FILE"]))
    return text


def _is_users_place(file: Path) -> bool:
    place = file.resolve().parent
    return any(place.is_relative_to(one) for one in (Path.home(), Path("/tmp"), HOMES))


def _match(text: str, pattern: str, wanted: bool) -> str:
    try:
        found = re.compile(pattern, re.IGNORECASE)
    except re.error as error:
        raise UsageError(f'"{pattern}" is not a valid regular expression: {error}') from error
    return "\n".join(line for line in text.splitlines() if bool(found.search(line)) is wanted)


def save_text(text: str, file: Path) -> str:
    """Write all of it or nothing, with the rights of the user. Returns the message to print.

    An existing file is replaced only in the user's home folder and in /tmp: on the console the user is root, who could
    overwrite any file of the appliance.
    """
    lines = len(text.splitlines())
    try:
        if file.exists() and not (file.is_file() and _is_users_place(file)):
            what = "already exists, and is outside your home folder and /tmp: choose another name or place"
            raise RefusedError(f"{file} {what}")
        made, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
        try:
            with open(made, "w", encoding="utf-8") as out:
                out.write(f"{text}\n" if text else "")
                out.flush()
                os.fsync(out.fileno())
            os.replace(name, file)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise RefusedError(f"{file}: cannot be written: {error.strerror}") from error
    return f"{counted(lines, 'line')} saved to {file}"
