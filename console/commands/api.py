# SPDX-License-Identifier: GPL-2.0-only
"""`api`: one JSON-RPC request from standard input, its answer as one JSON object on standard output.

For programs on other computers: `ssh admin@box api < request.json`. The role is that of the user, as for every command.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from console.line.outcome import GOOD, INTERNAL, REFUSED, Outcome
from console.line.parse import Parsed, UsageError
from console.render import to_json
from console.session import Context

MOST = 1 << 20  # characters of a request, as of a line on the control socket
WAIT_S = 180.0  # a commit takes its time
_INTERNAL = -32603


def call(_: Parsed, context: Context) -> Outcome:
    """`api`."""
    if sys.stdin.isatty():
        raise UsageError("api reads a request from standard input: ssh admin@box api < request.json")
    request = _request(sys.stdin.read(MOST + 1))
    answer = context.client.raw(request, WAIT_S)
    codes = [one["error"].get("code") for one in (answer if isinstance(answer, list) else [answer]) if "error" in one]
    print(to_json(answer, indent=None), file=context.out, flush=True)
    return Outcome([], "lines", INTERNAL if _INTERNAL in codes else REFUSED if codes else GOOD)


def _request(text: str) -> Any:
    """The request, or a batch of them; what every request says of itself may be left out."""
    if len(text) > MOST:
        raise UsageError(f"a request has at most {MOST >> 20} MiB")
    try:
        request = json.loads(text)
    except ValueError as error:
        raise UsageError(f"standard input is not JSON: {error}") from error
    batch = request if isinstance(request, list) else [request]
    if not batch or not all(isinstance(one, dict) and isinstance(one.get("method"), str) for one in batch):
        raise UsageError('a request is an object as {"method": "status.show", "params": {}}, or a list of them')
    whole = [{"jsonrpc": "2.0", "id": number, **one} for number, one in enumerate(batch, 1)]
    return whole if isinstance(request, list) else whole[0]
