# SPDX-License-Identifier: GPL-2.0-only
"""Frames that wait for a stopped guest are dropped before it continues, and its tap works as before."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import pytest

from appliance.guest.guest import Guest
from appliance.guest.port import tap
from appliance.health.watch import TapPair
from appliance.hop.lifecycle import HopState
from appliance.system import namespace, netdev

pytestmark = pytest.mark.root

ETHERTYPE = b"\x12\x34"
FRAME = b"\x02" * 12 + ETHERTYPE + bytes(50)
TAPS = ("tw1.0l", "tw1.0w")


def elsewhere(work: Callable[[], None]) -> None:
    """Run in a network namespace that goes with its only thread."""
    errors: list[BaseException] = []

    def body() -> None:
        try:
            namespace._call("unshare", namespace._CLONE_NEWNET)
            work()
        except BaseException as error:  # raised again below
            errors.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]


def fill(name: str, frames: int) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind((name, 0))
        for _ in range(frames):
            sender.send(FRAME)


def waiting(fd: int) -> int:
    """How many of our frames can be read."""
    found = 0
    while True:
        try:
            found += os.read(fd, 9000)[12:14] == ETHERTYPE
        except BlockingIOError:
            return found


def opened(name: str) -> int:
    fd = tap.open_tap(name)
    netdev.change_flags(name, netdev.IFF_UP)
    return fd


def test_what_waits_in_a_tap_is_dropped() -> None:
    def work() -> None:
        fd = opened(TAPS[0])
        try:
            fill(TAPS[0], 300)
            assert waiting(fd) == 300
            fill(TAPS[0], 300)
            tap.drop_queued(TAPS[0])
            assert waiting(fd) == 0
            fill(TAPS[0], 300)
            assert waiting(fd) == 300
        finally:
            os.close(fd)

    elsewhere(work)


def test_dropping_in_two_threads_leaves_the_whole_queue() -> None:
    """A guest that fails while it is being resumed: with one thread's 0 left behind, it would get no frame again."""

    def drop() -> None:
        for _ in range(300):
            tap.drop_queued(TAPS[0])

    def work() -> None:
        fd = opened(TAPS[0])
        try:
            threads = [threading.Thread(target=drop) for _ in range(2)]  # in this thread's namespace, as its children
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            fill(TAPS[0], 300)
            assert waiting(fd) == 300
        finally:
            os.close(fd)

    elsewhere(work)


def test_a_queue_that_a_killed_bypassd_left_at_0_is_mended() -> None:
    def work() -> None:
        fd = opened(TAPS[0])
        try:
            netdev.set_queue_length(TAPS[0], 0)
            fill(TAPS[0], 300)
            assert waiting(fd) == 0
            tap.ensure(TAPS[0])
            fill(TAPS[0], 300)
            assert waiting(fd) == 300
        finally:
            os.close(fd)

    elsewhere(work)


@pytest.mark.parametrize("on", [True, False])
def test_a_resumed_guest_finds_no_old_frames(on: bool) -> None:
    """They are gone before its processors run; while it is being paused nothing is dropped."""
    asked: list[tuple[str, int]] = []

    def work() -> None:
        fds = [opened(name) for name in TAPS]
        try:
            for name in TAPS:
                fill(name, 100)

            async def ask(word: str) -> None:
                asked.append((word, sum(waiting(fd) for fd in fds)))

            async def resume() -> None:
                guest = SimpleNamespace(
                    name="a",
                    current_run=SimpleNamespace(monitor=SimpleNamespace(ask=ask), room=SimpleNamespace(held=False)),
                    state=HopState.SUSPECT,
                    hop=SimpleNamespace(lease=SimpleNamespace(revoke=lambda: None)),
                    pairs=(TapPair(*TAPS),),
                )
                # In this thread, which alone is in the namespace.
                guest._drop_queued = lambda: Guest._drop_queued(cast(Guest, guest))
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(asyncio, "to_thread", in_place)
                    await Guest.pause(cast(Guest, guest), on)

            asyncio.run(resume())
        finally:
            for fd in fds:
                os.close(fd)

    elsewhere(work)
    assert asked == [("stop", 200) if on else ("cont", 0)]


async def in_place(call: Callable[[], None]) -> None:
    call()


def test_a_tap_that_is_gone_is_no_error() -> None:
    guest = SimpleNamespace(pairs=(TapPair("tw99.0l", "tw99.0w"),))
    Guest._drop_queued(cast(Guest, guest))
