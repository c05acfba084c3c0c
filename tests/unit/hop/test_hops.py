# SPDX-License-Identifier: GPL-2.0-only
"""The life of the hops of one kind over commits: added, changed, kept, rolled back, removed, added again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from appliance.errors import GuestError, NotFoundError
from appliance.hop import hops as hops_module
from appliance.hop.hops import Hops


class Table(NamedTuple):
    name: str
    value: int = 0


class One:
    """A hop that ends when the test lets it."""

    def __init__(self, config: Table, log: list[str]) -> None:
        self.name, self.value, self.idle, self._log = config.name, config.value, False, log
        self.looked = 0
        self.hop: Any = SimpleNamespace(lease=SimpleNamespace(revoke=lambda: self.log("revoked")), look=self._look)

    def log(self, what: str) -> None:
        self._log.append(f"{self.name} {what}")

    def _look(self, now: int) -> None:
        self.looked += 1

    def autostart(self) -> None:
        self.log("autostart")

    def stop(self) -> None:
        self.log("stop")

    async def run(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self.log("task ended")


class Bench:
    def __init__(self) -> None:
        self.log: list[str] = []
        self.refused: set[str] = set()
        self.forget_now = asyncio.Event()
        self.forget_now.set()
        self.hops: Hops[One, Table] = Hops("guest", make=self._make, forget=self._forget, removed=self._removed)

    async def _make(self, config: Table) -> One:
        await asyncio.sleep(0)
        if config.name in self.refused:
            raise GuestError(f"{config.name} cannot be made")
        self.log.append(f"{config.name} made")
        return One(config, self.log)

    async def _forget(self, one: One) -> None:
        await self.forget_now.wait()
        one.log("forgotten")

    def _removed(self, one: One) -> None:
        one.log("removed")

    async def _change(self, one: One, config: Table) -> None:
        await asyncio.sleep(0)
        one.value = config.value

    async def commit(self, *wanted: Table, final: bool = True) -> None:
        await self.hops.add_new(wanted)
        await self.hops.apply(wanted, self._change)
        if final:
            self.hops.remove_old(wanted)

    @property
    def names(self) -> list[str]:
        return [one.name for one in self.hops]

    async def until(self, entry: str) -> None:
        async with asyncio.timeout(5):
            while entry not in self.log:
                await asyncio.sleep(0.001)


A, B, C = Table("a"), Table("b"), Table("c")


def play(story: Callable[[Bench], Awaitable[None]], *first: Table) -> Bench:
    """Tell the story while the hops of the first configuration run."""

    async def life(bench: Bench) -> None:
        async with bench.hops.running():
            await asyncio.Event().wait()

    async def body() -> Bench:
        bench = Bench()
        await bench.hops.load(first)
        bench.hops.started()
        living = asyncio.ensure_future(life(bench))
        await asyncio.sleep(0)
        try:
            await story(bench)
        finally:
            living.cancel()
            await asyncio.gather(living, return_exceptions=True)
        return bench

    return asyncio.run(body())


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hops_module, "CHECK_IN_S", 0.001)


def test_a_commit_adds_changes_and_orders() -> None:
    async def story(bench: Bench) -> None:
        a = bench.hops.named("a")
        await bench.commit(C, Table("a", 7), B)
        assert bench.names == ["c", "a", "b"]
        assert (bench.hops.named("a"), a.value) == (a, 7), "changed, and not made anew"
        bench.hops.look(0)
        assert [one.looked for one in bench.hops] == [1, 1, 1]

    log = play(story, A).log
    assert log[:6] + sorted(log[6:]) == [
        "a made",
        "a autostart",
        *("c made", "b made"),  # before the datapath switches
        *("c autostart", "b autostart"),
        *(f"{name} task ended" for name in "abc"),  # with bypassd, in any order
    ]


def test_one_that_is_removed_is_ended_first_and_in_order() -> None:
    async def story(bench: Bench) -> None:
        b = bench.hops.named("b")
        await bench.commit(A)
        await bench.until("b stop")
        assert bench.names == ["a", "b"], "it is there until it has ended"
        await bench.commit(A)
        assert bench.log.count("b stop") == 1, "another commit does not stop it twice"
        b.idle = True
        await bench.until("b removed")
        assert bench.names == ["a"]

    log = play(story, A, B).log
    assert log[-6:] == ["b stop", "b task ended", "b revoked", "b forgotten", "b removed", "a task ended"]


def test_one_of_the_same_name_waits_for_the_end_of_the_first() -> None:
    async def story(bench: Bench) -> None:
        old = bench.hops.named("a")
        await bench.commit()
        await bench.until("a stop")
        again = asyncio.ensure_future(bench.commit(A))
        await asyncio.sleep(0.01)
        assert not again.done()
        old.idle = True
        await again
        assert bench.hops.named("a") is not old

    log = play(story, A).log
    assert log[log.index("a removed") :] == ["a removed", "a made", "a autostart", "a task ended"]


def test_a_commit_is_refused_if_the_first_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hops_module, "REMOVE_S", 0.01)

    async def story(bench: Bench) -> None:
        await bench.commit()
        await bench.until("a stop")
        with pytest.raises(GuestError, match="a guest of this name is still being removed: try again later"):
            await bench.commit(A)

    play(story, A)


def test_one_that_is_gone_with_its_commit_has_never_begun() -> None:
    async def story(bench: Bench) -> None:
        await bench.hops.add_new([A, B])
        await bench.commit(A, final=False)  # rolled back before it was applied
        assert bench.names == ["a"]

    log = play(story, A).log
    assert log[2:] == ["b made", "b forgotten", "a task ended"]


def test_one_that_is_being_removed_is_not_removed_twice() -> None:
    """By a commit that comes when it has ended, and what belongs to it is not gone yet."""

    async def story(bench: Bench) -> None:
        bench.forget_now.clear()
        bench.hops.named("b").idle = True
        await bench.commit(A)
        await bench.until("b revoked")
        await bench.commit(A)
        assert bench.names == ["a", "b"]
        bench.forget_now.set()
        await bench.until("b removed")
        assert bench.names == ["a"]
        assert bench.log.count("b forgotten") == 1

    play(story, A, B)


def test_rolled_back_after_it_has_begun_it_goes_on_until_the_next_commit() -> None:
    async def story(bench: Bench) -> None:
        await bench.commit(A, B, final=False)
        await bench.commit(A, final=False)
        assert bench.names == ["a", "b"]
        bench.hops.named("b").idle = True
        await bench.commit(A)
        await bench.until("b removed")

    play(story, A)


def test_what_cannot_be_made_leaves_the_others() -> None:
    async def story(bench: Bench) -> None:
        bench.refused.add("b")
        with pytest.raises(GuestError, match="b cannot be made"):
            await bench.commit(B, A)
        assert bench.names == ["a"]

    assert "a task ended" in play(story, A).log


def test_a_commit_between_the_start_and_the_life_counts() -> None:
    """What it removes has been adopted, and is ended as by any commit."""

    async def body() -> list[str]:
        bench = Bench()
        await bench.hops.load([A, B])
        bench.hops.started()
        await bench.commit(A)
        assert bench.names == ["a", "b"]
        bench.hops.named("b").idle = True
        async with bench.hops.running():
            await bench.until("b removed")
            for task in [each for each in asyncio.all_tasks() if each.get_name() == "guest a"]:
                task.cancel()
        assert not bench.hops.ready, "a part that has failed loads them again"
        return bench.log

    log = asyncio.run(body())
    assert log[:5] == ["a made", "b made", "a autostart", "b autostart", "b stop"]


def test_they_may_change_while_somebody_goes_through_them() -> None:
    async def story(bench: Bench) -> None:
        for one in bench.hops:
            one.idle = True
            await bench.commit(A)
            await bench.until("b removed")
        await bench.until("b removed")
        assert bench.names == ["a"]

    play(story, B, A)


def test_one_that_is_not_there_is_named_with_those_that_are() -> None:
    async def story(bench: Bench) -> None:
        assert bench.hops.get("x") is None
        with pytest.raises(NotFoundError, match='there is no guest "x"; there is: a, b'):
            bench.hops.named("x")
        for one in bench.hops:
            one.idle = True
        await bench.commit()
        await bench.until("b removed")
        await bench.until("a removed")
        with pytest.raises(NotFoundError, match='no guest "x"; there is: none'):
            bench.hops.named("x")

    play(story, A, B)
