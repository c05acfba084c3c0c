# SPDX-License-Identifier: GPL-2.0-only
"""The NTP client is chrony: its command line, which is all of its configuration, and what it says of its sources. Pure.

Without a configuration file a change of the servers is another command line, which system/service.py starts anew. Far
from the time it steps the clock at its first measurements, later it only slews, so that no server can set an appliance
in service back.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from appliance.api.schema.machine import NtpSource

SOCKET = "/run/chrony/chronyd.sock"
CLIENT = ("chronyc", "-n", "-c", "-h", SOCKET)
_STATES = {"*": "used", "+": "combined", "-": "not combined", "?": "no answer", "x": "false", "~": "too variable"}


def command(servers: Sequence[str], drift: Path, user: str) -> list[str]:
    """chrony's command line. `drift`: the file with the measured drift of the clock, in a folder of `user`."""
    settings = [
        *(f"server {server} iburst maxpoll 9" for server in servers),
        "makestep 1 3",
        "rtcsync",  # the kernel writes the board's clock chip
        "port 0",  # serves nobody
        "cmdport 0",
        f"bindcmdaddress {SOCKET}",
        f"driftfile {drift}",
    ]
    return ["chronyd", "-d", "-u", user, *settings]


class Tracking(NamedTuple):
    """What chrony knows of the clock. `offset_s`: how far it is ahead of NTP time; at most `error_s` off."""

    source: str
    stratum: int
    updated: float
    offset_s: float
    error_s: float
    synchronized: bool


def tracking(text: str) -> Tracking | None:
    """From `chronyc -c tracking`; None: it did not answer."""
    for row in csv.reader(text.splitlines()):
        try:
            (source, stratum, updated, behind), delay, dispersion, leap = row[1:5], row[10], row[11], row[13]
            error = float(dispersion) + float(delay) / 2
            known = leap != "Not synchronised" and bool(source)
            return Tracking(source, int(stratum), float(updated), -float(behind) or 0.0, error, known)
        except (ValueError, IndexError):
            continue
    return None


def sources(text: str) -> list[NtpSource]:
    """From `chronyc -c sources`."""
    found = []
    for row in csv.reader(text.splitlines()):
        try:
            _, state, name, stratum, _, reach, last, _, measured, _ = row
            found.append(
                NtpSource(
                    server=name,
                    state=_STATES.get(state, state),
                    stratum=int(stratum),
                    answers=int(reach, 8).bit_count(),
                    offset_s=float(measured),
                    last_s=int(last) if int(last) < 1 << 31 else None,
                )
            )
        except ValueError:
            continue
    return found
