# SPDX-License-Identifier: GPL-2.0-only
"""`crash-log NUMBER export`: a crash report as it is stored, to standard output or to a file."""

from __future__ import annotations

from pathlib import Path

from appliance.counted import counted
from console.commands.private_file import to_file, whole
from console.line.outcome import Outcome
from console.line.parse import Parsed, UsageError
from console.session import Context


def export(parsed: Parsed, context: Context) -> Outcome:
    """Write all of it or nothing; an existing file is not overwritten."""
    number, name = parsed.args["NUMBER"], to_file(parsed.args.get("FILE", ""))
    if not number.isdigit():
        raise UsageError(f'NUMBER must be a number, not "{number}"')
    (report,) = context.client.call("crash-log.show", {"number": int(number)})
    text = str(report["text"])
    if name:
        data = text.encode()
        with whole(Path(name)) as out:
            out.write(data)
        context.say(f"{name}: {counted(len(data), 'byte')}")
    elif context.out.isatty():
        return Outcome(text.splitlines(), "lines")
    else:
        context.out.write(text)
        context.out.flush()
    return Outcome([], "lines")
