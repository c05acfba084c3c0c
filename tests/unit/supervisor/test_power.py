# SPDX-License-Identifier: GPL-2.0-only
"""Reboot and poweroff: when an order is due, what it means, and that the relays come first."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

import pytest

from appliance.api.schema.state import Segment
from appliance.causes import Cause
from appliance.config.schema.model import Rule
from appliance.errors import RefusedError
from appliance.hardware import buttons
from appliance.supervisor import keeper_watch, power, power_order, power_plan
from appliance.supervisor.power_button import PowerButton
from appliance.supervisor.power_order import Order
from appliance.supervisor.supervisor import Supervisor
from tests.support.waiting import until
from tests.unit.supervisor.test_supervisor import Keeper, ask, make, run


@pytest.fixture(autouse=True)
def berlin() -> Iterator[None]:
    """A zone with summer time."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = "CET-1CEST,M3.5.0,M10.5.0/3"
    time.tzset()
    yield
    os.environ.pop("TZ") if before is None else os.environ.update(TZ=before)
    time.tzset()


# -- when


@pytest.mark.parametrize(
    ("now", "text", "due"),
    [
        ("2026-11-29 13:00", "13:30", "2026-11-29 13:30 +0100"),
        ("2026-11-29 13:00", "13:00", "2026-11-30 13:00 +0100"),
        ("2026-11-29 13:00", "3:05", "2026-11-30 03:05 +0100"),
        ("2026-12-31 23:59", "00:00", "2027-01-01 00:00 +0100"),
        ("2026-11-29 13:00", "2026-12-24 03:30", "2026-12-24 03:30 +0100"),
        ("2026-10-24 12:00", "11:00", "2026-10-25 11:00 +0100"),  # the night of the change is 25 hours long
    ],
)
def test_a_time_of_day_is_the_next_one(now: str, text: str, due: str) -> None:
    found = power_order.at(text, datetime.fromisoformat(now).astimezone())
    assert datetime.fromtimestamp(found).astimezone().strftime("%Y-%m-%d %H:%M %z") == due


@pytest.mark.parametrize(
    ("now", "text", "why"),
    [
        ("2026-11-29 13:00", "soon", "is not a time"),
        ("2026-11-29 13:00", "24:00", "is not a time"),
        ("2026-11-29 13:00", "2026-02-30 10:00", "is not a time"),
        ("2026-11-29 13:00", "2026-11-28 10:00", "is over"),
        ("2026-11-29 13:00", "2027-11-29 13:00", "the next 30 days"),
        ("1970-01-01 01:00", "03:00", "clock of the appliance is not set"),
    ],
)
def test_what_is_no_time_is_refused(now: str, text: str, why: str) -> None:
    with pytest.raises(RefusedError, match=why):
        power_order.at(text, datetime.fromisoformat(now).astimezone())


def test_a_clock_that_is_set_moves_a_time_of_day_and_no_time_span() -> None:
    span, moment = Order("reboot", "anna", due_ns=100 * 10**9), Order("reboot", "anna", at=1000.0)
    assert (span.seconds_left(40 * 10**9, 500.0), span.seconds_left(40 * 10**9, 5000.0)) == (60, 60)
    assert (moment.seconds_left(40 * 10**9, 500.0), moment.seconds_left(40 * 10**9, 5000.0)) == (500, -4000)


# -- what it means


@pytest.mark.parametrize(
    ("relay", "trouble", "said"),
    [
        ("inline", "", "the relay closes first: traffic crosses it, uninspected, until the appliance has started"),
        ("bypass", "", "stays in bypass: traffic crosses the closed relay, uninspected"),
        ("disconnect", "", "the link that is cut now is joined by the relay"),
        ("unknown", "busy", "the relay may not close (busy): expect that the link is interrupted"),
    ],
)
def test_what_traffic_gets(relay: str, trouble: str, said: str) -> None:
    segment = Segment(name="main", relay=relay, state="x", want="x", cause="healthy", detail="", lan="lan0", wan="wan0")
    assert power_plan.link(segment, "reboot", trouble).traffic.startswith(said)
    assert power_plan.link(segment, "poweroff", trouble).traffic.endswith("until the appliance is powered on again")


def test_a_rule_that_blocks_is_named() -> None:
    rules = [Rule(name="web", on_unavailable="block"), Rule(name="rest")]
    (said,) = power_plan.blocked(rules)
    assert said.startswith("rule web blocks")
    assert power_plan.blocked(rules[1:]) == []


# -- carried out


class Machine:
    """A bypassd whose init is in the test's hand."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.keeper, self.asked = Keeper(), list[str]()
        monkeypatch.setattr(power, "ANSWER_S", 0.0)
        monkeypatch.setattr(power, "INIT_S", 0.05)
        self.bypassd: Supervisor = make(folder, self.keeper)
        self.bypassd.power._begin = self._init
        self.socket = self.bypassd.system.paths.control_socket
        self.file = folder / "run/bypass/power-order.json"

    async def _init(self, words: Sequence[str]) -> tuple[int, str]:
        self.asked += words
        return 0, ""

    async def up(self, relay: str = "inline") -> None:
        self.keeper.say(relay)
        await until(lambda: self.bypassd.system.segments.begun)

    def events(self) -> str:
        return "\n".join(event.text for event in self.bypassd.system.events.newest())


def test_the_relay_closes_before_anything_else_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(tmp_path, monkeypatch)

    async def body() -> None:
        await machine.up()
        machine.keeper.heard()
        assert "relays close now" in (await ask(machine.socket, "power.order", action="reboot"))["result"]["message"]

        def told() -> bool:
            relays = [packet["relays"]["relay-inline"] for packet in machine.keeper.heard()]
            return {"want": "bypass", "cause": "stopping"} in relays

        await until(told)
        assert machine.asked == []
        machine.keeper.say("bypass")
        await until(lambda: machine.asked == ["reboot"])
        machine.keeper.end.close()

    run(machine.bypassd, body)


def test_a_press_of_the_power_button_is_such_an_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It replaces an order that waits; a second press changes nothing. A pipe stands for the button's device."""
    device = tmp_path / "event0"
    os.mkfifo(device)
    monkeypatch.setattr(PowerButton, "_of_machine", lambda _: [device])
    machine = Machine(tmp_path, monkeypatch)

    async def body() -> None:
        await machine.up()
        await ask(machine.socket, "power.order", action="reboot", in_s=600)
        await asyncio.to_thread(device.write_bytes, buttons.EVENT.pack(0, 0, 1, buttons.KEY_POWER, 1))
        await until(lambda: machine.bypassd.system.ending == "poweroff by order of the power button")
        assert machine.asked == []
        await machine.bypassd.power.press()
        machine.keeper.say("bypass")
        await until(lambda: machine.asked == ["poweroff"])
        assert "poweroff by order of the power button: relays first" in machine.events()
        machine.keeper.end.close()

    run(machine.bypassd, body)


def test_a_relay_that_does_not_close_ends_the_order_unless_it_is_forced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper_watch, "RELAY_S", 0.05)
    machine = Machine(tmp_path, monkeypatch)

    async def body() -> None:
        await machine.up()
        await ask(machine.socket, "power.order", action="poweroff")
        given_up = "poweroff given up: relay relay-inline did not close within 0.05 s: nothing else was stopped"
        await until(lambda: given_up in machine.events())
        assert machine.asked == []
        assert (machine.bypassd.system.ending, machine.file.exists()) == ("", False)
        assert (await ask(machine.socket, "power.show"))["result"] == {"state": "none"}
        await ask(machine.socket, "power.order", action="poweroff", force=True)
        await until(lambda: machine.asked == ["poweroff"])
        machine.keeper.end.close()

    run(machine.bypassd, body)


def test_an_order_waits_is_shown_and_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(tmp_path, monkeypatch)

    async def body() -> None:
        await machine.up()
        said = (await ask(machine.socket, "power.order", action="reboot", in_s=600))["result"]["message"]
        assert "cancel it with `reboot cancel`" in said
        shown = (await ask(machine.socket, "status.show"))["result"]["power"]
        assert (shown["state"], shown["action"], 590 <= shown["seconds_left"] <= 600) == ("waiting", "reboot", True)
        assert machine.file.exists()
        later = (await ask(machine.socket, "power.order", action="poweroff", at="03:30"))["result"]["message"]
        assert "replaces the reboot that root ordered" in later
        assert (await ask(machine.socket, "power.cancel"))["result"] == {"message": "poweroff cancelled"}
        assert not machine.file.exists()
        assert (await ask(machine.socket, "power.cancel"))["error"]["message"] == "no reboot or poweroff is scheduled"
        assert "in_s" not in (await ask(machine.socket, "power.show"))["result"]
        wrong = await ask(machine.socket, "power.order", action="reboot", in_s=1, at="03:30")
        assert wrong["error"]["message"] == "either `in` or `at`, not both"
        assert machine.asked == []
        machine.keeper.end.close()

    run(machine.bypassd, body)


def test_a_factory_reset_is_the_last_word_before_the_reboot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And it is taken back when the machine does not go down: a later reboot must not erase anything."""
    machine = Machine(tmp_path, monkeypatch)
    word, seen = tmp_path / "var/lib/bypass/factory-reset", list[str]()

    async def init(words: Sequence[str]) -> tuple[int, str]:
        seen.append(word.read_text())
        return 1, "no such thing"

    async def body() -> None:
        await machine.up("bypass")
        machine.bypassd.power._begin = machine.bypassd.power._init
        await ask(machine.socket, "power.order", action="reboot")
        await until(lambda: "given up: the root of this bypassd is" in machine.events())
        machine.bypassd.power._begin = init
        await ask(machine.socket, "power.order", action="reboot", reset="keep-images", in_s=3600)
        assert not word.exists()
        await ask(machine.socket, "power.order", action="reboot", reset="keep-images")
        await until(lambda: "reboot given up: reboot: no such thing" in machine.events())
        assert (seen, word.exists()) == (["keep-images\n"], False)
        (machine.bypassd.system.paths.data_partition).write_text("read-only\nno\n")
        refused = await ask(machine.socket, "power.order", action="reboot", reset="all")
        assert "data partition is read-only" in refused["error"]["message"]
        refused = await ask(machine.socket, "power.order", action="poweroff", reset="all")
        assert "ends with a reboot" in refused["error"]["message"]
        machine.keeper.end.close()

    run(machine.bypassd, body)


@pytest.mark.parametrize("text", ["", "{", '{"action": "dance", "user": "anna"}'])
def test_the_next_bypassd_carries_an_order_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """One that it can read; what a crash left of another one orders nothing."""
    (tmp_path / "run/bypass").mkdir(parents=True)
    due = '{"action": "poweroff", "user": "anna", "due_ns": 1}'
    (tmp_path / "run/bypass/power-order.json").write_text(text or due)
    machine = Machine(tmp_path, monkeypatch)

    async def body() -> None:
        await machine.up("bypass")
        if text:
            assert (await ask(machine.socket, "power.show"))["result"] == {"state": "none"}
        else:
            await until(lambda: machine.asked == ["poweroff"])
        machine.keeper.end.close()

    run(machine.bypassd, body)
    assert bool(machine.asked) is not bool(text)


def test_a_machine_that_does_not_end_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(tmp_path, monkeypatch)

    async def body() -> None:
        await machine.up("bypass")
        await ask(machine.socket, "power.order", action="reboot")
        await until(lambda: "reboot given up: reboot: init did not end bypassd" in machine.events())
        assert machine.bypassd.system.faults("main").get(Cause.STOPPING) is None
        machine.keeper.end.close()

    run(machine.bypassd, body)


def test_who_decides_is_told_what_would_be_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(tmp_path, monkeypatch)

    async def body() -> None:
        await machine.up()
        (machine.bypassd.system.paths.data_partition).write_text("read-only\n/dev/vdc cannot be written\n")
        meaning = (await ask(machine.socket, "power.plan", action="reboot"))["result"]
        assert meaning["links"][0]["traffic"].startswith("the relay closes first")
        assert meaning["warnings"] == ["/dev/vdc cannot be written"]
        machine.keeper.end.close()

    run(machine.bypassd, body)


def test_a_relay_that_cannot_be_driven_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(tmp_path, monkeypatch)

    async def body() -> None:
        await machine.up()
        machine.keeper.say("unknown", usable=False, error="line busy")
        await until(lambda: not machine.bypassd.system.keeper.state.relays["relay-inline"].usable)  # type: ignore[union-attr]
        meaning = (await ask(machine.socket, "power.plan", action="reboot"))["result"]
        assert "the relay may not close (line busy)" in meaning["links"][0]["traffic"]
        machine.keeper.end.close()

    run(machine.bypassd, body)
