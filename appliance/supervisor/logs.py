# SPDX-License-Identifier: GPL-2.0-only
"""Keeps the logs below /run/log short: they are in memory, and their writers hold them open for months.

How much bypassd logs depends on guests and users; DHCP adds some lines with each lease. The login logs are truncated by
their reader (access/sshlog.py), and only if that fails here.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from appliance.system import process

LIMIT = 1 << 20  # bytes; as many again are kept as NAME.log.1
LOOK_S = 10.0


def shorten(folder: Path) -> None:
    """Rotate logs that are too long."""
    for log in folder.glob("*.log"):
        process.rotate(log, LIMIT)


async def run(folder: Path) -> None:
    """Check regularly, until cancelled."""
    while True:
        await asyncio.sleep(LOOK_S)
        await asyncio.to_thread(shorten, folder)
