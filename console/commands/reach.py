# SPDX-License-Identifier: GPL-2.0-only
"""`ping`, `traceroute`, `dns`, `tcp`: from the management port, one line for each answer as it comes.

Ctrl-C ends a command with its summary. The exit code is 1 when nothing answered, so that a script can ask.
"""

from __future__ import annotations

import select
from typing import Any

from console.line.outcome import GOOD, REFUSED, Outcome
from console.line.parse import Parsed
from console.render import cell
from console.session import Context
from console.terminal.interrupt import Interrupt

WAIT_S = 30.0
EVERY_S = 1.0
ECHOES = 5
HOPS = 30
_MARKS = {"!H": "host unreachable", "!N": "network unreachable", "!P": "protocol unreachable", "!X": "prohibited"}


def _number(parsed: Parsed, flag: str, otherwise: int) -> int:
    return int(parsed.options[flag][0]) if flag in parsed.options else otherwise


def _resolve(parsed: Parsed, context: Context) -> tuple[str, str]:
    """(what to call it, its address)."""
    host = parsed.args["HOST"]
    address = str(context.client.call("reach.name", {"host": host}, WAIT_S)["addresses"][0])
    return (host if host == address else f"{host} ({address})"), address


def _shows(parsed: Parsed) -> bool:
    """Whether lines are printed as they come: not where data is wanted."""
    return "--json" not in parsed.options and not parsed.pipes


def _say(context: Context, shows: bool, line: str) -> None:
    if shows:
        print(line, file=context.out, flush=True)


def ping(parsed: Parsed, context: Context) -> Outcome:
    """`ping HOST [count N] [size N]`."""
    count = _number(parsed, "count", ECHOES)
    params: dict[str, object] = {"size": int(parsed.options["size"][0])} if "size" in parsed.options else {}
    shows, replies = _shows(parsed), list[Any]()
    with Interrupt() as stop:
        called, params["address"] = _resolve(parsed, context)
        for number in range(1, count + 1):
            if number > 1 and select.select([stop], [], [], EVERY_S)[0]:
                break
            if stop.happened:
                break
            said = context.client.call("reach.ping", params, WAIT_S)
            replies.append(said)
            got = said["ms"] is not None
            text = f"{said['ms']:.3f} ms, ttl {said['ttl']}" if got else cell(said["detail"])
            _say(context, shows, f"{number}: {called}: {text}")
    times = [float(reply["ms"]) for reply in replies if reply["ms"] is not None]
    data = {
        "host": parsed.args["HOST"],
        "address": params["address"],
        "sent": len(replies),
        "received": len(times),
        "min_ms": min(times, default=None),
        "mean_ms": round(sum(times) / len(times), 3) if times else None,
        "max_ms": max(times, default=None),
    }
    return Outcome(data, "reach-ping", GOOD if times else REFUSED)


def traceroute(parsed: Parsed, context: Context) -> Outcome:
    """`traceroute HOST [hops N]`: until the host answers, or Ctrl-C."""
    most, shows, hops = _number(parsed, "hops", HOPS), _shows(parsed), list[Any]()
    with Interrupt() as stop:
        called, address = _resolve(parsed, context)
        _say(context, shows, f"to {called}, at most {most} hops")
        for number in range(1, most + 1):
            if stop.happened:
                break
            hop = context.client.call("reach.hop", {"address": address, "hop": number}, WAIT_S)
            hops.append(hop)
            _say(context, shows, _hop(hop))
            if hop["last"]:
                break
    there = bool(hops) and hops[-1]["last"] and hops[-1]["address"] == address
    return Outcome([] if shows else hops, "lines" if shows else "generic", GOOD if there else REFUSED)


def _hop(hop: dict[str, Any]) -> str:
    if hop["ms"] is None:
        return f"{hop['hop']:>2}  no answer"
    why = f" ({_MARKS.get(hop['mark'], cell(hop['mark']))})" if hop["mark"] else ""
    return f"{hop['hop']:>2}  {cell(hop['address'])}  {hop['ms']:.3f} ms{why}"


def tcp(parsed: Parsed, context: Context) -> Outcome:
    """`tcp HOST PORT`: whether a connection opens."""
    called, address = _resolve(parsed, context)
    found = context.client.call("reach.tcp", {"address": address, "port": int(parsed.args["PORT"])}, WAIT_S)
    text = f"{called} port {found['port']}: connected in {found['ms']:.3f} ms"
    return Outcome(found if "--json" in parsed.options else {"message": text}, "done")


def dns(parsed: Parsed, context: Context) -> Outcome:
    """`dns NAME [server ADDRESS]`."""
    params: dict[str, object] = {"host": parsed.args["HOST"]}
    if "server" in parsed.options:
        params["server"] = parsed.options["server"][0]
    found = context.client.call("reach.name", params, WAIT_S)
    return Outcome(found if not _shows(parsed) else [str(address) for address in found["addresses"]],
                   "generic" if not _shows(parsed) else "lines")  # fmt: skip
