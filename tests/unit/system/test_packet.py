# SPDX-License-Identifier: GPL-2.0-only
"""Where packet sockets are closed. What their filters keep is tested with those."""

from __future__ import annotations

import asyncio
import socket
import threading

from appliance.system import packet


class Recording(socket.socket):
    """Knows the thread that closed it."""

    closed_by = 0

    def close(self) -> None:
        self.closed_by = threading.get_ident()
        super().close()


def opened() -> Recording:
    return Recording(socket.AF_UNIX, socket.SOCK_DGRAM)


def test_the_event_loop_does_not_wait_for_the_kernel() -> None:
    closing = opened()

    async def life() -> None:
        packet.close(closing)

    asyncio.run(life())
    assert closing.fileno() == -1
    assert closing.closed_by not in (0, threading.get_ident())


def test_without_an_event_loop_it_is_closed_at_once() -> None:
    closing = opened()
    packet.close(closing)
    assert closing.closed_by == threading.get_ident()
