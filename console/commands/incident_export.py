# SPDX-License-Identifier: GPL-2.0-only
"""`incident NUMBER export`: the last frames sent to a guest, as pcapng, to standard output or to a file."""

from __future__ import annotations

import base64
from pathlib import Path

from appliance.counted import counted
from appliance.errors import RefusedError
from console.commands.private_file import to_file, whole
from console.line.outcome import Outcome
from console.line.parse import Parsed, UsageError
from console.session import Context

WAIT = 30.0  # seconds


def export(parsed: Parsed, context: Context) -> Outcome:
    """Write all of it or nothing; an existing file is not overwritten."""
    number, name = parsed.args["NUMBER"], to_file(parsed.args.get("FILE", ""))
    if not number.isdigit():
        raise UsageError(f'NUMBER must be a number, not "{number}"')
    if not name and context.out.isatty():
        how = f"ssh USER@BOX incident {number} export | wireshark -k -i -"
        raise RefusedError(f"export writes binary data: use `{how}`, or name a file to write on the appliance")
    answer = context.client.call("incident.export", {"number": int(number)}, WAIT)
    data = base64.b64decode(answer["pcapng"])
    if name:
        with whole(Path(name)) as out:
            out.write(data)
        context.say(f"{name}: {counted(len(data), 'byte')}")
    else:
        context.out.flush()
        context.out.buffer.write(data)
        context.out.buffer.flush()
    return Outcome([], "lines")


def show_all(_: Parsed, context: Context) -> Outcome:
    """`show incidents all`."""
    return Outcome(context.client.call("incidents.show", {"all": True}), "incidents")
