# SPDX-License-Identifier: GPL-2.0-only
"""One contract for every kind of relay: what it does when its owner fails, and what is said when its bus does.

The keeper's rules and threads are the real ones; lines and registers are emulated (support/relay_models.py). What a
relay does when its owner fails is a property of its kind, stated in `KINDS`: the table below has it per kind, and the
contacts must agree.
"""

from __future__ import annotations

import threading
from typing import NamedTuple

import pytest

from appliance.hardware.relay import factory, kinds, table
from appliance.keeper.messages import Log
from tests.support.relay_box import Box
from tests.support.relay_models import RIGS, PlainRig, Rig, WeldedRig

LONG_MS = 6000  # more than any monostable or controller here waits


class Stated(NamedTuple):
    """Where a relay that was inline is in the end when its owner dies, hangs or is stopped, or closes it; and after a
    reset of its driver or chip."""

    dies: str
    hangs: str
    closes: str
    reset: str


STATED = {
    "level": Stated("bypass", "inline", "bypass", "bypass"),
    "level that keeps": Stated("inline", "inline", "inline", "bypass"),
    "latching": Stated("inline", "inline", "inline", "inline"),
    "latching with read-back": Stated("inline", "inline", "inline", "inline"),
    "keep-alive": Stated("bypass", "bypass", "bypass", "bypass"),
    "expander": Stated("inline", "inline", "inline", "bypass"),
    "bypass-controller": Stated("bypass", "bypass", "bypass", "bypass"),
    "bypass-controller without watchdog": Stated("inline", "inline", "inline", "bypass"),
    "block": Stated("inline", "inline", "inline", "bypass"),
    "attribute": Stated("inline", "inline", "inline", "bypass"),
    "port": Stated("inline", "inline", "inline", "bypass"),
}


@pytest.fixture(params=RIGS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def rig(name: str, monkeypatch: pytest.MonkeyPatch) -> Rig:
    return RIGS[name](monkeypatch)


@pytest.fixture
def box(rig: Rig) -> Box:
    made = Box([rig])
    made.inline()
    assert rig.contacts == "inline"
    return made


def test_every_kind_is_here() -> None:
    assert set(STATED) == set(RIGS)
    assert {rig.kind for rig in RIGS.values()} | {"gpio"} == set(kinds.KINDS)


def test_what_a_kind_says_about_its_release_is_what_its_contacts_do(name: str, rig: Rig) -> None:
    kind = kinds.KINDS[rig.kind]
    assert table.keeps(kind, rig.spec.options) == rig.spec.keeps == (STATED[name].dies != "bypass")


def test_it_moves_both_ways_and_stays(box: Box, rig: Rig) -> None:
    box.run(LONG_MS)
    assert (rig.contacts, box.state()) == ("inline", ("inline", "healthy", True))
    box.wants = dict.fromkeys(box.names, "bypass")
    box.run(LONG_MS)
    assert rig.contacts == "bypass"
    assert box.state()[0::2] == ("bypass", True)


def test_its_owner_dies(name: str, box: Box, rig: Rig) -> None:
    box.runs = False
    rig.owner_dies()
    box.run(LONG_MS)
    assert rig.contacts == STATED[name].dies


def test_its_owner_hangs_or_is_stopped(name: str, box: Box, rig: Rig) -> None:
    """Nothing is called any more, and nothing is closed."""
    box.runs = False
    box.run(LONG_MS)
    assert rig.contacts == STATED[name].hangs


def test_its_owner_closes_it(name: str, box: Box, rig: Rig) -> None:
    box.runs = False
    rig.relay.close()
    box.run(LONG_MS)
    assert rig.contacts == STATED[name].closes


def test_its_driver_is_reset(name: str, box: Box, rig: Rig) -> None:
    """Seen at once, before the keeper repairs or reports it."""
    box.runs = False
    rig.driver_resets()
    box.run(LONG_MS)
    assert rig.contacts == STATED[name].reset


def test_a_new_owner_takes_it_over_or_bypasses_it(
    name: str, box: Box, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is known to be inline is not moved; the rest goes to bypass. Never anything else."""
    rig.owner_dies()
    before = rig.contacts
    position = factory.make(rig.spec).open()
    assert position in ("bypass", before)
    rig.elapse(LONG_MS)
    if position == "bypass":
        assert rig.contacts == "bypass"


def test_its_bus_reports_an_error(name: str, box: Box, rig: Rig) -> None:
    """The relay is unusable by name, in bypass or unknown, and comes back when the bus does, through bypass."""
    rig.faults.error = True
    box.until_unusable(1500)
    assert box.state() == ("unknown" if rig.spec.keeps else "bypass", "relay_bus_error", False)
    box.wants = dict.fromkeys(box.names, "bypass")
    rig.faults.error = False
    box.run(LONG_MS)
    assert (rig.contacts, box.state()[0::2]) == ("bypass", ("bypass", True))


def test_it_is_stuck(name: str, box: Box, rig: Rig) -> None:
    """It does not follow an order to bypass: a fault, and the position is where it was found, or unknown. A keep-alive
    line that is stuck opens the relay anyway."""
    rig.faults.stuck = True
    box.wants = dict.fromkeys(box.names, "bypass")
    box.until_unusable(1500)
    position, cause, usable = box.state()
    if usable:
        assert (position, rig.contacts) == ("bypass", "bypass")
    else:
        assert (position in ("inline", "unknown"), cause) == (True, "relay_fault")


def test_contacts_that_stay_are_one_fault_until_they_move(monkeypatch: pytest.MonkeyPatch) -> None:
    """The coil is released and the contacts stay inline: said once, as long as it lasts, with the true position."""
    rig = WeldedRig(monkeypatch)
    box = Box([rig])
    box.inline()
    rig.welded = True
    box.wants = dict.fromkeys(box.names, "bypass")
    seen: list[tuple[str, str, bool]] = []
    for _ in range(100):
        box.run(50)
        if box.state() not in seen[-1:]:
            seen.append(box.state())
    assert seen == [("inline", "relay_fault", False)]
    assert len([said for said in box.log if isinstance(said, Log) and "reads inline" in said.text]) == 1
    rig.welded = False
    box.run(LONG_MS)
    assert box.state() == ("bypass", "healthy", True)


def test_its_read_back_is_wrong(name: str, box: Box, rig: Rig) -> None:
    rig.faults.wrong_read = True
    box.until_unusable(1500)
    assert box.state()[1:] == ("relay_fault", False)


def test_its_bus_is_slow(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given up by name; the watchdog is fed and another bus goes on meanwhile; later it comes back, in bypass."""
    other = PlainRig(monkeypatch)
    box = Box([rig, other], ["slow", "other"])
    box.inline()
    rig.faults.slow = threading.Event()
    box.wants = {"slow": "bypass", "other": "inline"}
    box.run(1000)
    assert box.state()[2], "it has 2 s"
    fed = box.fed
    box.run(2500)
    assert box.state() == ("unknown" if rig.spec.keeps else "bypass", "relay_no_answer", False)
    assert box.fed > fed
    box.wants["other"] = "bypass"
    box.run(500)
    assert (other.contacts, box.state(1)) == ("bypass", ("bypass", "healthy", True))
    slow, rig.faults.slow = rig.faults.slow, None
    slow.set()
    box.run(LONG_MS)
    assert (rig.contacts, box.state()) == ("bypass", ("bypass", "healthy", True))


def test_the_loop_never_waits_for_a_bus(rig: Rig) -> None:
    """Every call of the relay is made on another thread, and orders return while it hangs."""
    calls = set()
    inner = rig.faults.transfer

    def transfer() -> None:
        calls.add(threading.get_ident())
        inner()

    rig.faults.transfer = transfer  # type: ignore[method-assign]
    Box([rig]).inline()
    assert calls
    assert threading.get_ident() not in calls
