# SPDX-License-Identifier: GPL-2.0-only
"""The simulator finds the bugs it is made for, explains them by few faults, and replays them exactly."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from appliance.causes import Cause
from appliance.hardware import crash_loop
from appliance.hardware.links import Links
from appliance.health import checks
from appliance.health.detector import Limits
from appliance.hop.hop import Hop
from appliance.keeper import protocol
from appliance.keeper.agenda import Agenda
from appliance.keeper.feeding import Feeding
from appliance.keeper.limits import MS
from appliance.keeper.messages import WANTS, Ask, CheckIn, Feed, Late
from appliance.keeper.relays import Relays
from appliance.segment import manager, policy
from appliance.segment.carrier import Carrier, Meaning
from appliance.segment.evidence import Evidence, Found
from appliance.steering.attachment_watch import AttachmentWatch
from appliance.steering.part import Retry
from appliance.supervisor.safe_mode import SafeMode
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
ALL: frozenset[str] = frozenset()

Break = Callable[[pytest.MonkeyPatch], None]


@dataclass
class Search:
    """What a search came to."""

    job: Job
    invariant: str
    plan: Plan
    world: World


def find(invariant: str, only: frozenset[str] = ALL) -> Search:
    """Search the first seeds for a violation of this invariant, and shrink it."""
    for seed in range(1, SEEDS + 1):
        job = Job(seed, HOURS, only)
        if runs.one(job).violation == invariant:
            break
    else:
        pytest.fail(f"no seed up to {SEEDS} violates: {INVARIANTS[invariant]}")

    def fails(candidate: Plan) -> bool:
        violation = simulate(seed, candidate).violation
        return violation is not None and violation.invariant == invariant

    plan = shrink(faults.plan(seed, HOURS, only=only), fails)
    return Search(job, invariant, plan, simulate(seed, plan))


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


class Mend(NamedTuple):
    """What was mended: the invariant that does not hold without it, the fault, and how to take the mend out."""

    invariant: str
    fault: str
    without: Break


def _lost_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """The links are not evaluated."""
    monkeypatch.setattr(Carrier, "look", lambda *_, **__: Meaning())


def _counters(monkeypatch: pytest.MonkeyPatch) -> None:
    """The frames that ports send are not evaluated."""
    monkeypatch.setattr(Evidence, "verdict", lambda self: Found())


async def _nothing(*_: object) -> bool:
    return False


def _ports(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port whose settings were changed is not restored."""
    monkeypatch.setattr(Links, "_set_right", _nothing)


def _attachments(monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes unnoticed that another program detached ours."""
    monkeypatch.setattr(AttachmentWatch, "judge", lambda *_: None)


def _next_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a refusal by the kernel there is no retry."""
    monkeypatch.setattr(Retry, "failed", lambda self, now: setattr(self, "due", 1 << 62))


def _crash_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Earlier crashes count for nothing."""
    monkeypatch.setattr(crash_loop, "hold", lambda history, limits: 0)
    monkeypatch.setattr(SafeMode, "active", False)


def _overload(monkeypatch: pytest.MonkeyPatch) -> None:
    """The traffic beside the heartbeats is not evaluated."""
    monkeypatch.setattr(checks, "one_ways", lambda streams, loads: [])


def _old_counters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counters that were not read count as read."""
    counted = property(lambda self: self._looked, lambda self, when: None)
    monkeypatch.setattr(Links, "counted", counted, raising=False)


MENDS = (
    Mend("cause", "links cannot be read", _old_counters),
    Mend("link", "both cables pulled", _lost_links),
    Mend("link", "port silent", _counters),
    Mend("recovery", "port set down by somebody", _ports),
    Mend("link", "programs detached", _attachments),
    Mend("recovery", "attach refused", _next_attempt),
    Mend("flap", "panic when inline", _crash_count),
    Mend("inspection", "flood", _overload),
)


@pytest.mark.parametrize("mend", MENDS, ids=[mend.fault for mend in MENDS])
def test_it_finds_a_fault_whose_mend_is_taken_out(monkeypatch: pytest.MonkeyPatch, mend: Mend) -> None:
    """One such fault is enough, and the explanation says so."""
    mend.without(monkeypatch)
    found = find(mend.invariant, frozenset({mend.fault}))
    assert [fault.kind for fault in found.plan.faults] == [mend.fault]


def test_with_all_mends_these_faults_cost_nothing() -> None:
    """Three hundred hours and more of nothing but these faults."""
    hours, struck, number = 0.0, Counter[str](), 0
    while hours < 300:
        number += 1
        job = Job(number, 60.0, frozenset(mend.fault for mend in MENDS))
        outcome = runs.one(job)
        assert not outcome.violation, runs.explain(job)
        hours, struck = hours + outcome.hours, struck + outcome.struck
    assert struck.keys() == {mend.fault for mend in MENDS}


def test_it_finds_a_number_that_the_keeper_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 6, its mend taken out: a grace that rounds to no millisecond passes the check, and costs the link."""

    def strict(packet: bytes) -> CheckIn | Late:
        data = json.loads(packet)
        if data["type"] == "late":
            return Late(data["parts"])
        numbers = [data.get("watchdog_timeout_ms"), data.get("grace_ms")]
        if not all(number is None or (isinstance(number, int) and number > 0) for number in numbers):
            raise ValueError("times must be positive whole milliseconds")
        relays = {str(name): Ask(ask["want"], ask["cause"]) for name, ask in data["relays"].items()}
        assert all(ask.want in WANTS for ask in relays.values())
        return CheckIn(relays, numbers[0], None if numbers[1] is None else numbers[1] * MS)

    monkeypatch.setattr(protocol, "parse_packet", strict)
    found = find("packet")
    assert found.plan.setup.grace in ("0s", "1us")


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
    lost = Relays._lost

    def for_ever(relays: Relays, agenda: Agenda, name: str, *what: Any) -> None:
        lost(relays, agenda, name, *what)
        agenda.due.pop(f"open {name}", None)

    monkeypatch.setattr(Relays, "_lost", for_ever)


def _rarely_fed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The watchdog is fed at its timeout, and not before."""

    def feed(watchdog: Feeding, agenda: Agenda, when: int) -> None:
        agenda.do(Feed())
        agenda.due["feed"] = agenda.now + watchdog.timeout_ms * MS + 1

    monkeypatch.setattr(Feeding, "feed", feed)


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
def test_every_invariant_can_fail(monkeypatch: pytest.MonkeyPatch, invariant: str, broken: Break) -> None:
    broken(monkeypatch)
    assert find(invariant).invariant == invariant


def test_all_invariants_are_shown_to_fail() -> None:
    """What is not in the rows above has a test of its own."""
    rows = {"lease", "commit", "recovery", "watchdog", "cause", "bug"}
    assert rows | {mend.invariant for mend in MENDS} | {"packet"} == INVARIANTS.keys()


# -- how it explains it


def test_the_explanation_is_short_and_can_be_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """The text names seed, invariant, the faults that are needed, the trace, and the command."""
    _attachments(monkeypatch)
    found = find("link", frozenset({"programs detached", "commit"}))
    lines = runs.explain(found.job).splitlines()
    assert lines[0] == f"seed {found.job.seed}: {INVARIANTS['link']}"
    needed = [line for line in lines if " s: " in line and "fault:" not in line]
    assert len(needed) == 1
    assert lines[-1] == (
        f'again, with all its faults: make simulate SEED={found.job.seed} HOURS=10 ONLY="commit,programs detached"'
    )


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
