# SPDX-License-Identifier: GPL-2.0-only
"""Taps are attached and detached beside the event loop, in the order of the calls, and to the end."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any, cast

import pytest

from appliance.config.schema import model
from appliance.errors import DatapathError, GuestError
from appliance.guest import wiring as wiring_module
from appliance.guest.port import management_port, tap
from appliance.guest.wiring import Wiring

SLOW_S = 0.3
GUEST = model.Guest(name="ips1", image="a")


class Slow:
    """A datapath that is slow to detach, and what was done to it and to the taps, in order."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.threads: set[threading.Thread] = set()
        self.begun = threading.Event()
        self.refusal = ""

    def hop_id(self, name: str) -> int:
        return int(name[-1])

    def segment_id(self, name: str) -> int:
        return 0 if name == "main" else 1

    def mtu(self, segment: str) -> int:
        return 1500

    def load(self, hop: str, segment: str, side: object) -> Any:
        return None

    def attach_hop(self, device: str, hop: str, segment: str, side: object, *, tags: bool = False) -> None:
        self.threads.add(threading.current_thread())
        self.log.append(f"attach {device}{' tags' * tags}")

    def detach_hop(self, hop: str, segment: str | None = None) -> None:
        self.threads.add(threading.current_thread())
        self.begun.set()
        time.sleep(SLOW_S)  # the kernel waits for its other processors
        self.log.append(f"detach {hop} {segment or 'everywhere'}")
        if self.refusal:
            raise DatapathError(self.refusal)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Slow:
    made = Slow()
    taps: set[str] = set()
    monkeypatch.setattr(tap, "ensure", lambda name, queues=1: taps.add(name))
    monkeypatch.setattr(tap, "existing", lambda: sorted(taps))

    def remove(name: str) -> None:
        if name == "held":
            raise GuestError("tap held is in use")
        made.log.append(f"remove {name}")
        taps.remove(name)

    monkeypatch.setattr(tap, "remove", remove)
    monkeypatch.setattr(management_port, "port", lambda *_: None)
    monkeypatch.setattr(management_port, "tidy", lambda *_: None)
    return made


def wiring_of(slow: Slow) -> Wiring:
    return Wiring(cast(Any, slow), cast(Any, None))


async def longest_stall(work: asyncio.Future[Any]) -> float:
    """How long the loop had no turn until the work was done."""
    longest, last = 0.0, time.monotonic()
    while not work.done():
        await asyncio.sleep(0.001)
        now = time.monotonic()
        longest, last = max(longest, now - last), now
    await work
    return longest


def test_a_slow_detach_does_not_stall_the_loop(slow: Slow) -> None:
    async def body() -> None:
        wiring = wiring_of(slow)
        await wiring.connect(GUEST, ("main",), tags=False)
        assert await longest_stall(asyncio.ensure_future(wiring.disconnect("ips1"))) < SLOW_S / 2
        assert wiring.served("ips1") == ()

    asyncio.run(body())
    assert slow.log[-1] == "detach ips1 everywhere"
    assert threading.main_thread() not in slow.threads


def test_another_segment_detaches_beside_the_loop(slow: Slow) -> None:
    async def body() -> None:
        wiring = wiring_of(slow)
        await wiring.connect(GUEST, ("main", "dmz"), tags=False)
        work = asyncio.ensure_future(wiring.connect(GUEST, ("dmz",), tags=False))
        assert await longest_stall(work) < SLOW_S / 2
        assert wiring.served("ips1") == ("dmz",)

    asyncio.run(body())
    assert slow.log[-1] == "detach ips1 main"


def test_changes_come_in_the_order_of_the_calls(slow: Slow) -> None:
    """A guest that is removed and added again at once is attached in the end; tags set meanwhile count."""

    async def body() -> None:
        wiring = wiring_of(slow)
        await wiring.connect(GUEST, ("main",), tags=False)
        slow.log.clear()
        await asyncio.gather(
            wiring.disconnect("ips1"),
            wiring.remove_others(),
            wiring.connect(GUEST, ("main",), tags=False),
            wiring.retag("ips1", True),
            wiring.remove_others(),
        )
        assert wiring.served("ips1") == ("main",)

    asyncio.run(body())
    lan, wan = tap.tap_name(1, 0, 0), tap.tap_name(1, 0, 1)
    assert slow.log == [
        "detach ips1 everywhere",
        *(f"remove {name}" for name in (lan, wan)),
        *(f"attach {name}" for name in (lan, wan)),
        *(f"attach {name} tags" for name in (lan, wan)),
    ]


def test_what_has_begun_is_finished_when_bypassd_ends(slow: Slow) -> None:
    async def body() -> None:
        wiring = wiring_of(slow)
        await wiring.connect(GUEST, ("main",), tags=False)
        work = asyncio.ensure_future(wiring.disconnect("ips1"))
        await asyncio.to_thread(slow.begun.wait)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        assert slow.log[-1] == "detach ips1 everywhere", "before anybody closes the datapath"

    asyncio.run(body())


def test_what_the_kernel_refuses_is_logged(slow: Slow, caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        wiring = wiring_of(slow)
        slow.refusal = "no"
        await wiring.disconnect("ips1")
        tap.ensure("held")
        await wiring.remove_others()
        await wiring.retag("ips9", True)  # it is gone: nothing to do

    asyncio.run(body())
    assert [record.message for record in caplog.records if record.name == wiring_module.__name__] == [
        "guest ips1: its taps stay attached: no",
        "tap held is in use; it is kept",
    ]
