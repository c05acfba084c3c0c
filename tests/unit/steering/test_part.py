# SPDX-License-Identifier: GPL-2.0-only
"""The part "steering" and a kernel that refuses: faults with a cause, and retries."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from appliance.causes import Cause
from appliance.config.schema.model import Config, Segment
from appliance.errors import DatapathError, HardwareError
from appliance.hardware.links import Links, Port
from appliance.part import in_thread
from appliance.steering import part
from appliance.steering.attachment_watch import AttachmentWatch, Seen
from appliance.steering.kernel.links import Standing
from appliance.steering.part import PATIENT_TRIES, RETRY_FIRST_NS, RETRY_LAST_NS, Steering

SEGMENT = Segment(name="main", lan="lan0", wan="wan0")


class Kernel:
    """Stands for the datapath: refuses as long as `error` is set, and notes every call."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.calls: list[bool] = []  # whether the caller was patient

    def sweeper(self) -> None:
        """No guest may shunt flows."""

    def attach_segment(self, *_: object, patient: bool, **__: object) -> list[Any]:
        self.calls.append(patient)
        if self.error is not None:
            raise self.error
        return [SimpleNamespace(mode="xdp", reason="")]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> tuple[Steering, Kernel, Callable[[int], None]]:
    """A steering part, its kernel, and a function that sets the clock."""
    links = Links([], lambda: None)
    links.ports = {n: Port(n, n, i, "", up=True, link=True) for i, n in enumerate(("lan0", "wan0"), 1)}
    made, kernel = Steering(Config(segment=(SEGMENT,)), links, Path(), Path(), Path("names.json")), Kernel()
    made.datapath = kernel  # type: ignore[assignment]
    now = 0
    monkeypatch.setattr(part, "time", SimpleNamespace(monotonic_ns=lambda: now))

    def at(when: int) -> None:
        nonlocal now
        now = when

    return made, kernel, at


def test_an_error_of_attaching_is_tried_again_with_back_off(
    world: tuple[Steering, Kernel, Callable[[int], None]],
) -> None:
    """Without any event of a port, at twice the distance each time, and never more rarely than twice a minute."""
    made, kernel, at = world
    kernel.error = DatapathError("attach: busy", errno.EBUSY)
    tried = []
    for now in range(0, 600 * 10**9, RETRY_FIRST_NS // 5):
        at(now)
        before = len(kernel.calls)
        made._attach()  # as `run` does it whenever something is due or changed
        if len(kernel.calls) > before:
            tried.append(now)
        assert made.fault("main") == (Cause.DATAPATH_FAULT, "attach: busy")
    gaps = [after - before for before, after in pairwise(tried)]
    assert gaps[:6] == [RETRY_FIRST_NS << n for n in range(6)]
    assert max(gaps) == RETRY_LAST_NS
    assert kernel.calls[: PATIENT_TRIES + 2] == [True] * PATIENT_TRIES + [False] * 2, "then the next mode will do"
    kernel.error = None
    at(700 * 10**9)
    made._attach()
    assert made.fault("main") is None
    calls = len(kernel.calls)
    made._attach()
    assert len(kernel.calls) == calls, "it is attached"


def test_other_ports_are_tried_at_once(world: tuple[Steering, Kernel, Callable[[int], None]]) -> None:
    made, kernel, at = world
    kernel.error = HardwareError("lan0: no such network device")
    made._attach()
    made._attach()
    assert len(kernel.calls) == 1
    made._links.ports["lan0"].ifindex = 9
    made._attach()
    assert kernel.calls == [True, True]
    del made._links.ports["lan0"]
    made._attach()
    kernel.error = None
    made._links.ports["lan0"] = Port("lan0", "lan0", 10, "")
    at(1)
    made._attach()
    assert made.fault("main") is None


def test_an_operator_need_not_wait(world: tuple[Steering, Kernel, Callable[[int], None]]) -> None:
    made, kernel, _ = world
    kernel.error = DatapathError("attach: busy", errno.EBUSY)
    made._attach()
    kernel.error = None
    made.forgive()
    made._attach()
    assert made.fault("main") is None


def test_nothing_is_mended_while_a_policy_is_switched(
    world: tuple[Steering, Kernel, Callable[[int], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was seen before is of before; it is looked at again a second later."""
    made, kernel, _ = world
    kernel.devices = None  # type: ignore[attr-defined]
    judged = []
    monkeypatch.setattr(made._watch, "judge", lambda *_: judged.append(1))

    def look(_: object) -> Callable[[], Seen]:
        return lambda: Seen(0, {})

    monkeypatch.setattr(part, "look", look)

    async def body() -> None:
        await made._look()
        assert judged == [1]
        async with made._changing:
            await made._look()
        assert judged == [1]

    asyncio.run(body())


def test_the_kernel_may_keep_the_look_waiting(
    world: tuple[Steering, Kernel, Callable[[int], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever changes a link keeps others waiting; the part checks in all the same."""
    made, kernel, _ = world
    kernel.devices = None  # type: ignore[attr-defined]
    check_ins = 0
    answered = asyncio.Event()

    def alive() -> None:
        nonlocal check_ins
        check_ins += 1
        if check_ins == 5:
            answered.set()

    async def slow(_: object) -> Seen:
        await answered.wait()
        return Seen(-1, {})

    monkeypatch.setattr(asyncio, "to_thread", slow)
    monkeypatch.setattr(made._watch, "judge", lambda *_: None)
    monkeypatch.setattr(part, "look", lambda _: None)
    asyncio.run(in_thread(made._look(), alive, 4_000_000))
    assert check_ins >= 5


def test_ports_whose_link_would_drop_are_attached_in_bypass_only(
    world: tuple[Steering, Kernel, Callable[[int], None]],
) -> None:
    """The fault brings the segment to bypass; then they are attached, and the fault is gone."""
    made, kernel, at = world
    kernel.adopted = False  # type: ignore[attr-defined]
    inline = ["wan0 (igb) would lose its link"]
    made._hold = lambda segment: inline[0]
    made._attach()
    assert kernel.calls == []
    assert made.fault("main") == (Cause.DATAPATH_FAULT, "segment main: wan0 (igb) would lose its link")
    inline[0] = ""
    at(RETRY_LAST_NS)
    made._attach()
    assert (kernel.calls, made.fault("main")) == ([True], None)


def test_what_an_earlier_bypassd_attached_is_taken_over_inline(
    world: tuple[Steering, Kernel, Callable[[int], None]],
) -> None:
    """Its programs are there, so nothing comes or goes."""
    made, kernel, _ = world
    kernel.adopted = True  # type: ignore[attr-defined]
    made._hold = lambda segment: "would lose its link"
    made._attach()
    assert (kernel.calls, made.fault("main")) == ([True], None)
    made._attached.clear()  # another mode is configured
    made._attach()
    assert len(kernel.calls) == 1
    assert made.fault("main") is not None


class Pair:
    """One port by XDP from which another program detached the datapath."""

    changes = 0

    def __init__(self) -> None:
        device = SimpleNamespace(name="wan0")
        self.port = SimpleNamespace(slot=1, device=device, segment="main", hop="", mode="xdp")
        self.mended = 0

    def all(self) -> list[Any]:
        return [self.port]

    def standings(self, views: object) -> list[Any]:
        return [] if self.mended else [(self.port, Standing.DETACHED)]

    def mend(self, attachment: object) -> None:
        self.mended += 1

    def withdraw(self, hops: object) -> None: ...


def test_a_port_whose_link_would_drop_is_repaired_in_bypass() -> None:
    repaired, said = [], ["wan0 (igb) would lose its link"]
    watch = AttachmentWatch(lambda *how: repaired.append(how), lambda segment: said[0])
    pair = Pair()
    seen = Seen(0, {1: SimpleNamespace(xdp=0)})  # type: ignore[dict-item]
    watch.judge(pair, seen, 0)
    assert pair.mended == 0
    assert watch.faults["main"].cause is Cause.PROGRAM_DETACHED
    assert watch.faults["main"].detail.endswith("wan0 (igb) would lose its link")
    said[0] = ""
    watch.judge(pair, seen, 1)
    assert (pair.mended, len(repaired)) == (1, 1)
    watch.judge(pair, seen, 2)
    assert watch.faults == {}
