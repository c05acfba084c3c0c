# SPDX-License-Identifier: GPL-2.0-only
"""`incident NUMBER export`: the last frames a guest was handed, as pcapng, to standard output or to a file."""

from __future__ import annotations

import base64
from pathlib import Path

from appliance.counted import counted
from appliance.errors import RefusedError
from console.commands.private_file import whole
from console.line.outcome import Outcome
from console.line.parse import Parsed, UsageError
from console.session import Context

WAIT = 30.0  # seconds


def export(parsed: Parsed, context: Context) -> Outcome:
    """Nothing is written unless all of it is there; a file that is there already is left alone."""
    number, name = parsed.args["NUMBER"], parsed.args.get("FILE", "")
    if not number.isdigit():
        raise UsageError(f'"{number}" is no number')
    if not name and context.out.isatty():
        how = f"ssh USER@BOX incident {number} export | wireshark -k -i -"
        raise RefusedError(f"frames are not for a terminal: {how}, or here: incident {number} export FILE")
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
