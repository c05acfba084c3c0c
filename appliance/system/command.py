# SPDX-License-Identifier: GPL-2.0-only
"""Runs a command to its end without blocking the event loop, and collects what it prints. Stateless."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from appliance.errors import UnreachableError


async def run(argv: Sequence[str], timeout: float = 20.0) -> tuple[int, str]:
    """Exit status and output of a command. UnreachableError: it cannot be run, or took longer than `timeout` s."""
    try:
        process = await asyncio.create_subprocess_exec(
            *argv, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
    except OSError as error:
        raise UnreachableError(f"{argv[0]} cannot be run: {error.strerror}") from error
    try:
        async with asyncio.timeout(timeout):
            out, _ = await process.communicate()
    except BaseException as error:
        process.kill()
        await process.wait()
        if isinstance(error, TimeoutError):
            raise UnreachableError(f"{argv[0]} did not end within {timeout:g} s") from error
        raise
    return process.returncode or 0, out.decode("utf-8", "replace")
