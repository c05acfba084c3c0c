# SPDX-License-Identifier: GPL-2.0-only
"""The commit engine: order of the steps, rollback, failing disks, expiry of pending commits. Files are real.

The appliance's parts are steps that record their calls; tests/datapath/test_commit.py has the real ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from appliance.causes import Cause
from appliance.config.check.lint import Finding
from appliance.config.check.load import loads
from appliance.config.commit import engine
from appliance.config.commit.engine import BrokenError, Engine
from appliance.config.commit.phases import Phase
from appliance.config.commit.steps import Step
from appliance.config.commit.store import Store
from appliance.config.commit.traffic_check import Look, Segment
from appliance.config.schema.model import Config
from appliance.errors import BypassError, ConfigError, DatapathError, RefusedError
from appliance.system.files import Disk
from appliance.transition import IllegalMoveError

OLD, NEW = '[system]\nhostname = "old"\n', '[system]\nhostname = "new"\n'
SECOND = 10**9


class World:
    """An engine over recording steps."""

    def __init__(self, root: Path, disk: Disk | None = None) -> None:
        (root / "etc").mkdir()
        (root / "etc/config.toml").write_text(OLD)
        self.startup = root / "etc/config.toml"
        self.store = Store(self.startup, root / "state", disk)
        self.store.recover("boot", 0)
        self.did: list[str] = []
        self.told: list[str] = []
        self.ended: list[str] = []
        self.now = 0
        self.generation = 1
        self.trouble: dict[str, BaseException] = {}  # "apply new": raised there
        self.look: Callable[[], Look] = lambda: Look(self.generation, {"main": Segment(inline=True)})
        steps = [Step(name, *self.step(name)) for name in ("first", "second")]
        self.engine = Engine(
            self.store,
            running=loads(OLD),
            text=OLD,
            boot="boot",
            steps=steps,
            look=self.see,
            tell=lambda event, user, text: self.told.append(event),
            end=self.ended.append,
            clock=self.clock,
        )

    def see(self) -> Look:
        return self.look()

    def clock(self) -> int:
        """A clock that advances at every reading, so that no test waits."""
        self.now += SECOND // 50
        return self.now

    def step(
        self, name: str
    ) -> tuple[
        Callable[[Config], Awaitable[None]],
        Callable[[Config], Awaitable[None]],
        Callable[[], None],
        Callable[[Config], Awaitable[None]],
    ]:
        async def do(what: str, config: Config) -> None:
            self.did.append(f"{what} {name} {config.system.hostname}")
            if what == "apply" and name == "second":
                self.generation += 1
            if trouble := self.trouble.pop(f"{what} {name} {config.system.hostname}", None):
                raise trouble

        async def prepare(config: Config) -> None:
            await do("prepare", config)

        async def apply(config: Config) -> None:
            await do("apply", config)

        async def finish(config: Config) -> None:
            await do("finish", config)

        return apply, prepare, lambda: self.did.append(f"forget {name}"), finish

    def commit(self, text: str = NEW, **more: int | str) -> str:
        return asyncio.run(self.engine.commit(text, "mia", **more)).message  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "LOOK_S", 0)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_the_order_of_a_commit(world: World) -> None:
    assert world.commit(comment="why") == "committed as 2"
    assert [line for line in world.did if not line.startswith("forget")] == [
        "prepare first new", "prepare second new", "apply first new", "apply second new",
        "finish first new", "finish second new",
    ]  # fmt: skip
    assert world.startup.read_text() == NEW
    assert world.engine.text == NEW
    assert world.store.entry(0).comment == "why"
    assert [event for event in world.told if event != "progress"] == ["committed"]


def test_a_step_that_is_not_due_is_neither_taken_nor_named(world: World) -> None:
    """What a part asks for is looked at when its turn comes, also on the way back."""
    due, said = {"first": True}, []
    world.engine.steps = [world.engine.steps[0]._replace(due=lambda: due["first"]), world.engine.steps[1]]
    world.engine._tell = lambda event, user, text: said.append(text)
    world.commit()
    assert "applying: first" in said
    said.clear()
    world.did.clear()
    due["first"] = False
    world.commit(OLD)
    assert [text for text in said if text.startswith("applying")] == ["applying: second"]
    assert "apply first old" not in world.did


def test_what_is_wrong_is_all_told_and_nothing_is_done(world: World) -> None:
    with pytest.raises(ConfigError) as caught:
        world.commit('[system]\nhostname = "-"\n[nothing]\n[[rule]]\nname = "X"\n')
    assert len(caught.value.also) >= 2
    assert world.did == []
    assert world.startup.read_text() == OLD


@pytest.mark.parametrize("step", ["first", "second"])
def test_refused_while_preparing(world: World, step: str) -> None:
    world.trouble[f"prepare {step} new"] = DatapathError("the verifier says no")
    with pytest.raises(DatapathError, match="verifier"):
        world.commit()
    assert not [line for line in world.did if line.startswith("apply")]
    assert world.startup.read_text() == OLD
    assert not list(world.startup.parent.parent.rglob("*.new"))
    assert world.store.newest == 1


@pytest.mark.parametrize("error", [DatapathError("the kernel says no"), ValueError("a bug")])
@pytest.mark.parametrize("step", ["first", "second"])
def test_a_failed_step_goes_back_by_the_same_way(world: World, step: str, error: Exception) -> None:
    world.trouble[f"apply {step} new"] = error
    with pytest.raises(RefusedError, match="the previous configuration stays in force"):
        world.commit()
    assert [line for line in world.did if line.startswith("apply")][-2:] == ["apply first old", "apply second old"]
    assert world.startup.read_text() == OLD
    assert world.engine.text == OLD
    assert world.commit() == "committed as 2"


def test_not_proven_is_taken_back(world: World) -> None:
    faults = {Cause.DATAPATH_FAULT: "no XDP"}
    good = world.look
    world.look = lambda: (
        Look(world.generation, {"main": Segment(True, faults)}) if "apply second new" in world.did else good()
    )
    with pytest.raises(RefusedError, match="no XDP; the previous configuration stays in force"):
        world.commit()
    assert "apply second old" in world.did
    assert world.startup.read_text() == OLD


def test_when_going_back_fails_bypassd_starts_anew(world: World) -> None:
    world.trouble["apply second new"] = DatapathError("no")
    world.trouble["apply first old"] = DatapathError("nor this")
    with pytest.raises(BrokenError, match="bypassd restarts from it"):
        world.commit()
    assert len(world.ended) == 1
    assert world.startup.read_text() == OLD


class RefusingDisk(Disk):
    """Accepts staged files, but fails to put them in place."""

    refuse = False

    def rename(self, old: Path, new: Path) -> None:
        if self.refuse and new.name == "config.toml":
            raise OSError(5, "Input/output error")
        super().rename(old, new)


def test_a_disk_that_fails_at_the_last_moment(tmp_path: Path) -> None:
    """Applied, verified, and not written: rolled back, and the history does not have it either."""
    disk = RefusingDisk()
    world = World(tmp_path, disk)
    disk.refuse = True
    with pytest.raises(RefusedError, match="Input/output error"):
        world.commit()
    assert "apply second old" in world.did
    assert world.store.newest == 1
    assert world.startup.read_text() == OLD
    disk.refuse = False
    assert world.commit() == "committed as 2"


def test_no_changes(world: World) -> None:
    assert world.commit(OLD) == "nothing to commit: no changes"
    assert world.did == []


# -- confirmed


def test_pending_then_confirmed(world: World) -> None:
    assert "confirm within 60 s or it will be rolled back" in world.commit(confirmed_s=60)
    assert world.startup.read_text() == OLD
    assert "finish first new" not in world.did, "guests that go are kept until nobody can want them back"
    assert 50 < world.engine.seconds_left() <= 60
    assert world.commit(NEW) == "confirmed: committed as 2"
    assert world.startup.read_text() == NEW
    assert "finish first new" in world.did
    assert world.store.pending() is None


def test_pending_runs_out(world: World) -> None:
    async def scenario() -> None:
        watch = asyncio.create_task(world.engine.run())
        await world.engine.commit(NEW, "mia", confirmed_s=5)
        world.now += 6 * SECOND
        world.engine._set_pending(world.engine.pending)  # as if it had slept so long
        async with asyncio.timeout(10):
            while world.engine.pending is not None:
                await asyncio.sleep(0)
        watch.cancel()

    asyncio.run(scenario())
    assert world.told[-1] == "reverted"
    assert "apply second old" in world.did
    assert (world.engine.text, world.startup.read_text(), world.store.pending()) == (OLD, OLD, None)


def test_more_time_and_another_change_while_pending(world: World) -> None:
    world.commit(confirmed_s=5)
    assert "within 100 s" in world.commit(confirmed_s=100)
    assert world.engine.seconds_left() > 90
    other = NEW.replace("new", "other")
    assert world.commit(other) == "committed as 2, with the changes that were awaiting confirmation"
    assert world.engine.pending is None
    assert world.startup.read_text() == other


def test_another_provisional_commit_includes_the_first(world: World) -> None:
    """Its author is told; both are rolled back."""
    world.commit(confirmed_s=60)
    said = world.commit(NEW.replace("new", "other"), confirmed_s=60)
    assert said.endswith("rolled back, with the changes that were awaiting confirmation before")
    assert world.startup.read_text() == OLD
    asyncio.run(world.engine.revert("mia", "because"))
    assert world.engine.text == OLD


@pytest.mark.parametrize("text", [NEW.replace("new", "other"), NEW], ids=["other changes", "no changes"])
@pytest.mark.parametrize("seconds", [0, 60])
def test_nobody_else_commits_meanwhile(world: World, text: str, seconds: int) -> None:
    """It would keep what is to be rolled back by itself; `confirm` and `revert` say so by name, and anybody may."""
    world.commit(confirmed_s=60)
    with pytest.raises(RefusedError, match="by mia is awaiting confirmation, and it is rolled back in 59 s") as caught:
        asyncio.run(world.engine.commit(text, "joe", confirmed_s=seconds))
    assert "`confirm` keeps it, `revert` rolls it back" in caught.value.hint
    assert world.engine.pending is not None
    assert (world.engine.text, world.startup.read_text()) == (NEW, OLD)
    asyncio.run(world.engine.confirm("joe"))
    assert asyncio.run(world.engine.commit(NEW + "# more\n", "joe")).message == "committed as 3"


@pytest.mark.parametrize("seconds", [-1, 24 * 3600 + 1])
def test_how_long_a_commit_may_be_pending(world: World, seconds: int) -> None:
    with pytest.raises(RefusedError, match="1 to 86400 seconds"):
        world.commit(confirmed_s=seconds)


def test_nothing_to_confirm_or_roll_back(world: World) -> None:
    for work in (world.engine.confirm("mia"), world.engine.revert("mia", "because")):
        with pytest.raises(RefusedError, match="no commit is awaiting confirmation"):
            asyncio.run(work)


def test_revert_that_fails_starts_bypassd_anew(world: World) -> None:
    world.commit(confirmed_s=5)
    world.trouble["apply second old"] = DatapathError("no")
    with pytest.raises(BypassError, match="cannot be restored"):
        asyncio.run(world.engine.revert("mia", "because"))


def test_what_the_parts_remark_is_told_with_the_rest(world: World) -> None:
    """By a check of the candidate, which has them prepare, and by the commit."""
    remark = Finding("note", "segment main", "its rules take 3.0 s to load")
    world.engine.steps[1] = world.engine.steps[1]._replace(remarks=lambda: [remark])
    assert remark in asyncio.run(world.engine.check(NEW, deep=True)).lint
    assert remark not in asyncio.run(world.engine.check(NEW)).lint
    assert remark in asyncio.run(world.engine.commit(NEW, "mia")).lint


def test_an_edited_startup_is_kept_and_said(world: World) -> None:
    world.startup.write_text('[system]\nhostname = "by-hand"\n')
    report = asyncio.run(world.engine.commit(NEW, "mia"))
    assert any("edited by hand" in finding.what for finding in report.lint)
    assert [entry.how for entry in world.store.history()] == ["commit", "found", "installed"]


def test_a_commit_that_cannot_be_taken_back_by_order_restarts_bypassd_and_nothing_is_committed_meanwhile(
    world: World,
) -> None:
    world.commit(confirmed_s=60)
    world.trouble["apply first old"] = DatapathError("the kernel says no")
    with pytest.raises(BrokenError, match="cannot be restored: the kernel says no"):
        asyncio.run(world.engine.revert("mia", "she said so"))
    assert len(world.ended) == 1
    assert world.engine.phase is Phase.BROKEN
    for order in (
        world.engine.commit(NEW + "# more", "mia"),
        world.engine.confirm("mia"),
        world.engine.revert("mia", ""),
    ):
        with pytest.raises(RefusedError, match="bypassd restarts"):
            asyncio.run(order)
    assert len(world.ended) == 1


def test_an_illegal_move_while_applying_is_no_reason_to_go_back_but_ends_bypassd(world: World) -> None:
    world.trouble["apply first new"] = IllegalMoveError("a segment", Phase.IDLE, Phase.IDLE)
    with pytest.raises(IllegalMoveError):
        world.commit()
    assert not [line for line in world.did if line.endswith("old")]
    assert world.startup.read_text() == OLD


# -- the last administrator

HASH = "$6$salt1234$" + "x" * 86
ADMIN = f'[[user]]\nname = "{{}}"\nrole = "{{}}"\npassword = "{HASH}"\n'
TWO = OLD + ADMIN.format("ann", "admin") + ADMIN.format("bob", "admin")


@pytest.mark.parametrize(
    ("text", "good"),
    [
        (OLD + ADMIN.format("bob", "admin"), True),
        (OLD + ADMIN.format("ann", "viewer") + ADMIN.format("bob", "admin"), True),
        (OLD + ADMIN.format("ann", "viewer") + ADMIN.format("bob", "operator"), False),
        (OLD + ADMIN.format("ann", "viewer"), False),
        (OLD + ADMIN.format("ann", "admin").replace(HASH, ""), False),
        (OLD, False),
    ],
)
def test_the_last_administrator_goes_only_where_that_is_asked_for(tmp_path: Path, text: str, good: bool) -> None:
    async def body() -> None:
        world = World(tmp_path)
        await world.engine.commit(TWO, "root")
        check = await world.engine.check(text)
        assert (check.config is not None) is good
        if good:
            await world.engine.commit(text, "root")
            return
        with pytest.raises(ConfigError, match=r"no administrator could log in any more \(ann, bob could\)"):
            await world.engine.commit(text, "root")
        assert world.engine.text == TWO
        report = await world.engine.commit(text, "root", without_admin=True)
        assert any("full access without a login" in finding.what for finding in report.lint)
        await world.engine.commit(NEW, "root")  # nobody is lost any more

    asyncio.run(body())


def test_going_back_to_an_appliance_without_administrators_is_never_refused(tmp_path: Path) -> None:
    """The first administrator, committed provisionally: not confirmed, the configuration before holds again."""

    async def body() -> None:
        world = World(tmp_path)
        await world.engine.commit(TWO, "root", confirmed_s=60)
        await world.engine.revert("root", "test")
        assert world.engine.text == OLD

    asyncio.run(body())


def test_who_rolled_back_is_told_as_it_was(tmp_path: Path) -> None:
    """By itself when nobody confirms it, by a person who asks for it; the next commit ends the notice, not the note."""
    told: list[tuple[str, str, str]] = []

    async def body() -> None:
        world = World(tmp_path)
        world.engine._tell = lambda event, user, text: told.append((event, user, text))
        await world.engine.commit(NEW, "mia", "a reason", confirmed_s=1)
        watch = asyncio.create_task(world.engine.run())
        world.now += 2 * SECOND
        world.engine._pending_changed.set()
        while world.engine.pending is not None:
            await asyncio.sleep(0)
        watch.cancel()
        assert told[-1] == (
            "reverted",
            "",
            "the commit by mia was rolled back to the previous configuration: not confirmed in time",
        )
        assert world.engine.notice.startswith("the commit by mia was rolled back at 20")
        (note,) = world.store.rolled_back()
        assert (note.by, note.user, note.comment, note.why) == ("", "mia", "a reason", "not confirmed in time")
        await world.engine.commit(NEW, "mia", confirmed_s=60)
        assert world.engine.notice == ""
        await world.engine.revert("ann", "requested by ann")
        assert told[-1][1:] == ("ann", "rolled back to the previous configuration: requested by ann")
        assert [note.by for note in world.store.rolled_back()] == ["ann", ""]

    asyncio.run(body())


def test_notes_of_rolled_back_commits_are_bounded_and_may_be_damaged(tmp_path: Path) -> None:
    world = World(tmp_path)
    entry = world.store.entry(0)
    for number in range(30):
        world.store.note_rolled_back(entry, "", str(number))
    assert [note.why for note in world.store.rolled_back()] == [str(number) for number in range(29, 19, -1)]
    for text in ("", "[[1]]", "{}", "null"):
        (tmp_path / "state/rolled-back.json").write_text(text)
        assert world.store.rolled_back() == []
