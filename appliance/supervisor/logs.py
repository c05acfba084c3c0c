# SPDX-License-Identifier: GPL-2.0-only
"""Keeps the logs below /run/log short: they lie in memory, and who writes them holds them open for months.

What bypassd logs follows from what guests and users do; DHCP adds some lines with each lease. The logs of logins are
emptied by who reads them (access/sshlog.py), and only when that fails here.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from appliance.system import process

LIMIT = 1 << 20  # bytes; so many more are kept as NAME.log.1
LOOK_S = 10.0


def shorten(folder: Path) -> None:
    """Set logs aside that are too long."""
    for log in folder.glob("*.log"):
        process.rotate(log, LIMIT)


async def run(folder: Path) -> None:
    """Look again and again, until cancelled."""
    while True:
        await asyncio.sleep(LOOK_S)
        await asyncio.to_thread(shorten, folder)
