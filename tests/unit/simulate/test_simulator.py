# SPDX-License-Identifier: GPL-2.0-only
"""The simulator finds what it is for, explains it by few faults, and replays it exactly."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from appliance.causes import Cause
from appliance.health.detector import Limits
from appliance.hop.hop import Hop
from appliance.keeper import protocol
from appliance.keeper.core import MS, WANTS, Ask, CheckIn, Feed, KeeperCore
from appliance.segment import manager, policy
from appliance.system import files
from tests.simulate import faults, runs
from tests.simulate.clock import MINUTE, SECOND, Clock
from tests.simulate.disk import DiskModel
from tests.simulate.faults import KINDS, Burst, Fault, Plan, Setup
from tests.simulate.invariants import INVARIANTS
from tests.simulate.runs import Job
from tests.simulate.shrink import shrink
from tests.simulate.world import World, simulate

SEEDS = 60
HOURS = 10.0
NONE: frozenset[str] = frozenset()


@dataclass
class Found:
    """What a search came to."""

    job: Job
    invariant: str
    plan: Plan
    world: World


def find(invariant: str, also: frozenset[str] = NONE) -> Found:
    """Search the first seeds for a violation of this invariant, and shrink it."""
    for seed in range(1, SEEDS + 1):
        job = Job(seed, HOURS, also)
        if runs.one(job).violation == invariant:
            break
    else:
        pytest.fail(f"no seed up to {SEEDS} violates: {INVARIANTS[invariant]}")

    def fails(candidate: Plan) -> bool:
        violation = simulate(seed, candidate).violation
        return violation is not None and violation.invariant == invariant

    plan = shrink(faults.plan(seed, HOURS, also=also), fails)
    return Found(job, invariant, plan, simulate(seed, plan))


def burst(*struck: tuple[float, str, float]) -> Burst:
    """Faults by the second at which they strike, their kind, and how long they last."""
    return Burst(tuple(Fault(int(at * SECOND), kind, int(length * SECOND), 0.25) for at, kind, length in struck))


def transitions(world: World) -> list[str]:
    """What happened, without its times."""
    return [line.split(maxsplit=1)[1] for line in world.lines if " -> " in line]


# -- a run


@pytest.mark.parametrize("seed", [3, 4, 5])
def test_a_run_replays_exactly(seed: int) -> None:
    """The same seed gives the same trace, to the nanosecond."""
    plan = faults.plan(seed, 20)
    first, second = simulate(seed, plan), simulate(seed, plan)
    assert list(first.lines) == list(second.lines)
    assert first.clock.steps == second.clock.steps
    assert len(first.lines) > 20


def test_a_jump_over_quiet_time_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same faults, minutes apart, lead to the same transitions with every second of that time simulated."""
    kinds = ["bypassd dies", "relay missing", "cable pulled", "watchdog missing", "part hangs", "port gone"]
    bursts = tuple(burst((60 + 200 * n, kind, 5 if KINDS[kind].least else 0)) for n, kind in enumerate(kinds))
    plan = Plan(Setup(link_loss="bypass"), bursts, 20 * MINUTE)
    jumped = simulate(1, plan)
    monkeypatch.setattr(Clock, "quiet_until", lambda self: self.now)
    full = simulate(1, plan)
    assert (jumped.violation, full.violation) == (None, None)
    assert jumped.skipped > 15 * MINUTE
    assert full.skipped == 0
    assert full.clock.steps > 5 * jumped.clock.steps
    assert transitions(jumped) == transitions(full)


def test_without_faults_nothing_happens() -> None:
    """One move inline, no flap, nothing to complain of in a week."""
    world = simulate(1, Plan(Setup(), (), 7 * 24 * 60 * MINUTE))
    assert world.violation is None
    assert [line.split()[-1] for line in world.lines if "relay: " in line] == ["inline"]


# -- what it finds


def test_it_finds_a_driven_relay_over_which_nothing_crosses() -> None:
    """Row 1: links lost, a silent port, a port set down, detached programs. Each alone leaves the relay driven."""
    found = find("link", frozenset({"1"}))
    assert len(found.plan.faults) == 1
    assert KINDS[found.plan.faults[0].kind].open == "1"


@pytest.mark.parametrize(
    "kind", ["both cables pulled", "port silent", "port set down by somebody", "programs detached", "attach refused"]
)
def test_each_of_them_alone_is_found(kind: str) -> None:
    world = simulate(1, Plan(Setup(), (burst((60, kind, 60 if KINDS[kind].least else 0)),), 100 * MINUTE))
    assert world.violation is not None
    assert world.violation.invariant in ("link", "recovery")


def test_it_finds_that_a_panic_forgets_the_back_off() -> None:
    """Row 4: a kernel that panics each time the relay goes inline is inline again and again."""
    found = find("flap", frozenset({"4"}))
    assert [fault.kind for fault in found.plan.faults] == ["panic when inline"]


def test_it_finds_a_number_that_the_keeper_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 6, its mend taken out: a grace that rounds to no millisecond passes the check, and costs the link."""

    def strict(packet: bytes) -> CheckIn:
        data = json.loads(packet)
        numbers = [data.get("watchdog_timeout_ms"), data.get("grace_ms")]
        if not all(number is None or (isinstance(number, int) and number > 0) for number in numbers):
            raise ValueError("times must be positive whole milliseconds")
        relays = {str(name): Ask(ask["want"], ask["cause"]) for name, ask in data["relays"].items()}
        assert all(ask.want in WANTS for ask in relays.values())
        return CheckIn(relays, numbers[0], None if numbers[1] is None else numbers[1] * MS)

    monkeypatch.setattr(protocol, "parse_packet", strict)
    found = find("packet")
    assert found.plan.setup.grace in ("0s", "1us")


def test_it_finds_that_a_flood_switches_inspection_off() -> None:
    """Row 12: a guest that works, and gets more traffic than it can carry, loses its heartbeats and is bypassed."""
    found = find("inspection", frozenset({"12"}))
    assert [fault.kind for fault in found.plan.faults] == ["flood"]


# -- that every other invariant can fail: something is broken on purpose, and that is found


def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evidence counts for longer than it holds."""
    monkeypatch.setattr(Limits, "window", property(lambda self: self.interval * (self.misses + 1)))


def _unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit is acknowledged before the disk has it."""
    stage = files._stage

    def lazy(disk: files.Disk, path: Path, data: bytes | str, mode: int, synced: bool) -> None:
        stage(disk, path, data, mode, False)

    monkeypatch.setattr(files, "_stage", lazy)
    monkeypatch.setattr(DiskModel, "sync_folder", lambda self, folder: None)


def _no_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A relay line that is missing once is not looked for again."""
    lost = KeeperCore._relay_lost

    def for_ever(core: KeeperCore, now: int, name: str, *what: Any) -> None:
        lost(core, now, name, *what)
        core._due.pop(f"relay {name}", None)

    monkeypatch.setattr(KeeperCore, "_relay_lost", for_ever)


def _rarely_fed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The watchdog is fed at its timeout, and not before."""

    def feed(core: KeeperCore, now: int, when: int) -> None:
        core._do(Feed())
        core._due["feed"] = now + core.watchdog_ms * MS + 1

    monkeypatch.setattr(KeeperCore, "_feed", feed)


def _nameless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of the datapath leads to bypass without a cause."""
    monkeypatch.setattr(policy, "PRECEDENCE", ())
    monkeypatch.setattr(manager, "hardware_faults", lambda *_: {Cause.NONE: "something"})


def _raises(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(self: Hop) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Hop, "measure", measure)


@pytest.mark.parametrize(
    ("invariant", "broken"),
    [
        ("lease", _wide),
        ("commit", _unsynced),
        ("recovery", _no_retry),
        ("watchdog", _rarely_fed),
        ("cause", _nameless),
        ("bug", _raises),
    ],
)
def test_every_invariant_can_fail(
    monkeypatch: pytest.MonkeyPatch, invariant: str, broken: Callable[[pytest.MonkeyPatch], None]
) -> None:
    broken(monkeypatch)
    assert find(invariant).invariant == invariant


def test_all_invariants_are_shown_to_fail() -> None:
    """What is not in the rows above has a test of its own."""
    rows = {"lease", "commit", "recovery", "watchdog", "cause", "bug"}
    assert rows | {"link", "flap", "packet", "inspection"} == INVARIANTS.keys()


# -- how it explains it


def test_the_explanation_is_short_and_can_be_repeated() -> None:
    """The text names seed, invariant, the faults that are needed, the trace, and the command."""
    job = Job(2, HOURS, frozenset({"1"}))
    assert runs.one(job).violation
    text = runs.explain(job)
    lines = text.splitlines()
    assert lines[0].startswith("seed 2: ")
    assert lines[0].endswith(INVARIANTS[runs.one(job).violation])
    needed = [line for line in lines if " s: " in line and "fault:" not in line]
    assert 1 <= len(needed) <= 2
    assert lines[-1] == "again, with all its faults: make simulate SEED=2 HOURS=10 ALSO=1"


def test_shrinking_keeps_what_is_needed() -> None:
    """Two faults among forty are both needed, and nothing else is left."""
    bursts = tuple(burst(*((60 + n * 1000 + m, "commit", 0) for m in range(4))) for n in range(10))
    plan = Plan(Setup(), bursts, 20000 * SECOND)
    needed = {plan.faults[5], plan.faults[30]}
    asked = []

    def fails(candidate: Plan) -> bool:
        asked.append(candidate)
        return needed <= set(candidate.faults) or {f.value for f in candidate.faults} == {1.0}

    found = shrink(plan, fails)
    assert set(found.faults) == needed
    assert len(asked) < 100
