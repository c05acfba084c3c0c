# SPDX-License-Identifier: GPL-2.0-only
"""Active probes of a guest: one request at every interval.

One task per probe and one request at a time, each with a timeout, so that a target that never answers costs one socket
and nothing else. The outcome becomes evidence: `Good` for the time of the request, or `Bad` with the message of the
kernel or the server. Lives as long as the watch of a guest.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Awaitable, Callable

from appliance.config.check.verify_probe import MANAGEMENT, split_target
from appliance.config.schema import model
from appliance.errors import BypassError
from appliance.health import probe_http, probe_net
from appliance.health.detector import Bad, Good, milliseconds
from appliance.system.namespace import Namespace

ASKED = ("ping", "arp", "tcp", "http", "command")
"""The kinds of probe that send a request."""

Question = Callable[[], Awaitable[None]]
AskAgent = Callable[[str], Awaitable[str]]
"""Have the guest's agent run the check of this name; "ok" or what is wrong. UnreachableError without an agent."""


def label(probe: model.Probe) -> str:
    """The name of the probe in `show guest NAME`."""
    return f"{probe.kind} {probe.url or probe.target}"


def question(probe: model.Probe, ask_agent: AskAgent, space: Namespace | None = None) -> Question:
    """The coroutine that sends one request; it returns if the answer is good and raises if it is not.

    `space` is the network namespace of the management port.
    """
    target = probe.target
    via = probe_net.Via(space=space) if probe.via == MANAGEMENT else probe_net.Via(probe.via)
    match probe.kind:
        case "ping":
            return lambda: probe_net.ping(target, via)
        case "arp":
            return lambda: probe_net.arp(target, via.device)
        case "tcp":
            address, port = split_target(target)
            return lambda: probe_net.tcp(address, port, via)
        case "command":
            return lambda: _agent(ask_agent, target)
        case _:
            return _web(probe, via)


async def _agent(ask_agent: AskAgent, word: str) -> None:
    status = await ask_agent(word)
    if status != "ok":
        raise probe_http.BadAnswerError(f'the guest says "{status}"')


def _web(probe: model.Probe, via: probe_net.Via) -> Question:
    context: ssl.SSLContext | None = None

    async def once() -> None:
        nonlocal context
        if context is None and probe.url.startswith("https:"):
            context = await asyncio.to_thread(probe_http.tls, probe.verify)
        await probe_http.http(probe.url, via, status=probe.status, body=probe.body, context=context)

    return once


async def once(probe: model.Probe, put: Question, clock: Callable[[], int]) -> Good | Bad:
    """Send one request, within the probe's timeout."""
    began, limit = clock(), probe.timeout or probe.interval
    try:
        async with asyncio.timeout(limit / 1e9):
            await put()
    except TimeoutError:
        return Bad(f"no answer within {milliseconds(limit)}")
    except ssl.SSLCertVerificationError as error:
        return Bad(f"its certificate is not valid: {error.verify_message}")
    except OSError as error:
        return Bad(os.strerror(error.errno) if error.errno else str(error))
    except (probe_http.BadAnswerError, BypassError) as error:
        return Bad(str(error))
    return Good(began, clock() - began)


async def ask_forever(
    probe: model.Probe, put: Question, say: Callable[[Good | Bad], None], clock: Callable[[], int]
) -> None:
    """Send one request per interval until cancelled; time lost to a slow answer is not caught up."""
    due = clock()
    while True:
        say(await once(probe, put, clock))
        now = clock()
        due = max(due + probe.interval, now)
        await asyncio.sleep((due - now) / 1e9)
