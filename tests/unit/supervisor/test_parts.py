# SPDX-License-Identifier: GPL-2.0-only
"""Parts: the order that follows from their needs, the table of the appliance, and the runner with parts that fail."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from appliance.errors import DatapathError
from appliance.part import Alive, CheckIns, Part, wait_alive
from appliance.supervisor import parts
from appliance.supervisor.parts import Entry, PartRunner, order, pick
from appliance.supervisor.table import PARTS, ROLES, parts_of

SECOND = 1_000_000_000


async def nothing(_: object) -> None:
    """Makes no part."""


def entry(name: str, *needs: str, after: tuple[str, ...] = (), configured: bool = False) -> Entry[object]:
    return Entry(name, nothing, needs, after, configured)


def names(entries: tuple[Entry[Any], ...]) -> list[str]:
    return [one.name for one in entries]


# -- the order


def test_each_starts_after_what_it_needs_and_otherwise_as_listed() -> None:
    listed = [entry("d", "b", "c"), entry("a"), entry("c", "a"), entry("b", "a")]
    assert names(order(listed)) == ["a", "c", "b", "d"]


def test_after_orders_only_what_is_there() -> None:
    guests = entry("guests", after=("segments",))
    assert names(order([guests, entry("segments")])) == ["segments", "guests"]
    assert names(order([guests])) == ["guests"]


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        ([entry("a", "nowhere")], "part a needs nowhere, which is not in the list"),
        ([entry("a", "b"), entry("b", "a")], "in a cycle: a, b"),
        ([entry("a", "a")], "in a cycle: a"),
        ([entry("x"), entry("a", "b"), entry("b", "c"), entry("c", after=("a",))], "in a cycle: a, b, c"),
        ([entry("a"), entry("a")], "listed twice: a"),
    ],
)
def test_a_list_that_cannot_be_ordered_is_refused(listed: list[Entry[object]], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        order(listed)


def test_the_appliances_order() -> None:
    assert names(order(parts_of("appliance"))) == [
        "control", "links", "steering", "segments", "access", "guests", "remotes", "unclaimed",
    ]  # fmt: skip


@pytest.mark.parametrize("role", ROLES)
def test_every_role_can_be_ordered(role: str) -> None:
    assert set(names(order(parts_of(role)))) == set(ROLES[role])


def test_a_role_without_relays_picks_the_rest() -> None:
    """The parts of a machine that only processes frames for others: none of them depends on the segments."""
    picked = pick(PARTS, ["control", "links", "steering", "access", "guests", "unclaimed"])
    assert names(order(picked)) == ["control", "links", "steering", "access", "guests", "unclaimed"]
    with pytest.raises(ValueError, match="no such part: relays"):
        pick(PARTS, ["relays"])


# -- the runner


class Fake:
    """A part that records what happens to it, and fails to start as often as it is told."""

    patience = SECOND

    def __init__(self, name: str, did: list[str], fails: int = 0, bug: bool = False) -> None:
        self.name, self.did, self.fails, self.bug = name, did, fails, bug

    async def start(self) -> None:
        self.did.append(f"start {self.name}")
        if self.fails:
            self.fails -= 1
            raise DatapathError("not yet")

    async def run(self, alive: Alive) -> None:
        if self.bug:
            raise ZeroDivisionError("bug")
        await wait_alive(asyncio.Event(), alive, 0.01)

    async def stop(self) -> None:
        self.did.append(f"stop {self.name}")


class World:
    """A runner over fake parts, until `body` returns."""

    def __init__(self, *entries: Entry[Any], **fakes: Fake) -> None:
        self.states: dict[str, str] = {}
        self.faults: dict[str, str] = {}
        self.changed = asyncio.Event()
        self.runner = PartRunner(
            entries, fakes, CheckIns(), states=self.states, faults=self.faults, wake=self.changed.set
        )

    def run(self, body: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async def whole() -> None:
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = self.runner.start(group)
                    async with asyncio.timeout(20):
                        await body()
                    for task in tasks:
                        task.cancel()
            finally:
                await self.runner.stop()

        asyncio.run(whole())

    async def until(self, true: Callable[[], bool]) -> None:
        while not true():
            self.changed.clear()
            await self.changed.wait()


def of(name: str, *needs: str, configured: bool = False) -> Entry[dict[str, Fake]]:
    async def make(fakes: dict[str, Fake]) -> Part:
        return fakes[name]

    return Entry(name, make, needs, configured=configured)


def test_parts_start_in_order_and_stop_in_reverse() -> None:
    did: list[str] = []
    world = World(of("b", "a"), of("c", "b"), of("a"), a=Fake("a", did), b=Fake("b", did), c=Fake("c", did))
    world.run(world.runner.all_tried)
    assert did == ["start a", "start b", "start c", "stop c", "stop b", "stop a"]


def test_a_part_that_fails_is_tried_again_while_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "RETRY_FIRST_S", 0.001)
    did: list[str] = []
    world = World(of("a"), of("b", "a"), a=Fake("a", did, fails=2), b=Fake("b", did))
    seen: list[str] = []

    async def body() -> None:
        await world.until(lambda: "a" in world.faults)
        seen.append(world.faults["a"])
        await world.until(lambda: world.states == {"a": "running", "b": "running"})

    world.run(body)
    assert seen == ["not yet"]
    assert world.faults == {}
    assert did.index("start b") < len(did) - 1 - did[::-1].index("start a"), "b does not wait for a to work"
    assert did[-2:] == ["stop b", "stop a"]


def test_a_bug_of_one_part_ends_all_and_the_others_are_stopped() -> None:
    did: list[str] = []
    world = World(of("a"), of("b", "a"), a=Fake("a", did), b=Fake("b", did, bug=True))
    with pytest.raises(ExceptionGroup) as caught:
        world.run(asyncio.Event().wait)  # type: ignore[arg-type]
    assert [type(error) for error in caught.value.exceptions] == [ZeroDivisionError]
    assert did[-2:] == ["stop b", "stop a"]


def test_without_a_configuration_only_what_waits_for_one_waits() -> None:
    did: list[str] = []
    fakes = {name: Fake(name, did) for name in ("links", "steering", "segments", "guests")}
    listed = (
        of("links"),
        of("steering", "links", configured=True),
        of("segments", "steering"),
        of("guests", "steering", configured=True),
    )
    world = World(*listed, **fakes)

    async def body() -> None:
        await world.until(lambda: world.states.get("segments") == "running")
        assert "steering" not in world.states
        world.runner.configured()
        await world.runner.all_tried()

    world.run(body)
    assert did[:4] == ["start links", "start segments", "start steering", "start guests"]


def test_what_is_coming() -> None:
    """Parts that are on their way up: none that wait for a configuration, none whose need has failed."""
    did: list[str] = []
    gate = asyncio.Event()

    async def make(fakes: dict[str, Fake]) -> Part:
        await gate.wait()
        return fakes["slow"]

    fakes = {"slow": Fake("slow", did), "guests": Fake("guests", did), "bad": Fake("bad", did, fails=1000)}
    world = World(Entry("slow", make), of("bad", configured=True), of("guests", "bad", configured=True), **fakes)

    async def wait(fakes: dict[str, Fake]) -> Part:
        await asyncio.Event().wait()
        raise AssertionError

    behind = World(of("bad"), Entry("behind", wait, ("bad",)), **fakes)

    async def body() -> None:
        assert world.runner.coming()
        gate.set()
        await world.until(lambda: world.states.get("slow") == "running")
        assert not world.runner.coming(), "the others wait for a configuration"
        world.runner.configured()
        assert world.runner.coming()
        await world.runner.all_tried()
        assert not world.runner.coming()

    async def failed() -> None:
        assert behind.runner.coming()
        await behind.until(lambda: "bad" in behind.faults)
        assert not behind.runner.coming(), "it waits for one that has failed"

    world.run(body)
    behind.run(failed)
