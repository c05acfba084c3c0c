# SPDX-License-Identifier: GPL-2.0-only
"""The composition: one pulse, late parts, failing parts, bad configuration, missing ports, the keeper's end.

The keeper is a socket in the test's hand; links and control socket are real; no guest and no datapath is needed.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from appliance.causes import Cause
from appliance.config.schema.model import Config, Segment
from appliance.errors import ConfigError, DatapathError, NotFoundError, ProtocolError, RefusedError
from appliance.hardware.board import Board, parse
from appliance.hardware.links import Links, Port
from appliance.keeper.client import KeeperLink, KeeperState, RelayState, parse_state
from appliance.keeper.sequence import STEPS
from appliance.part import Alive, CheckIns, wait_alive
from appliance.paths import Paths
from appliance.segment.carrier import APPEAR_NS, LOSS_NS, SETTLE_NS
from appliance.segment.evidence import PortSample
from appliance.segment.machine import State
from appliance.segment.manager import Segments, hardware_faults
from appliance.supervisor import parts, pulse, supervisor
from appliance.supervisor.supervisor import Supervisor
from appliance.telemetry.transitions import Transitions
from tests.support.waiting import until

SECOND = 1_000_000_000
BOARD = """
name = "test"
[[port]]
name = "lan0"
mac = "02:ff:ff:ff:ff:01"
[[port]]
name = "wan0"
mac = "02:ff:ff:ff:ff:02"
[[relay]]
ports = ["lan0", "wan0"]
line = "relay-inline"
[watchdog]
driver = "x"
"""
SEGMENT = Segment(name="main", lan="lan0", wan="wan0")
CONFIG = Config(segment=(SEGMENT,))
GOOD = KeeperState({"relay-inline": RelayState("bypass", "starting", usable=True)}, True, 2000)


class Keeper:
    """The other end of the keeper link."""

    def __init__(self) -> None:
        self.end, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        self.link = KeeperLink(theirs)

    def say(self, relay: str = "bypass", usable: bool = True, error: str = "", watchdog_ms: int = 2000) -> None:
        state = {
            "type": "state",
            "relays": {"relay-inline": {"relay": relay, "cause": "x", "usable": usable, "error": error}},
            "bypassd_restarts": 3,
            "last_exit": "killed by signal 9",
            "watchdog": {"present": True, "timeout_ms": watchdog_ms, "error": "" if watchdog_ms else "busy"},
            "keeper_started_ns": 1,
        }
        self.end.send(json.dumps(state).encode())

    def heard(self) -> list[dict[str, Any]]:
        packets = []
        while True:
            try:
                packets.append(json.loads(self.end.recv(65536)))
            except BlockingIOError:
                return packets


def make(tmp_path: Path, keeper: Keeper, config: Config | None = CONFIG) -> Supervisor:
    return Supervisor(
        Paths(tmp_path),
        keeper.link,
        board=parse(BOARD),
        board_error="",
        config=config,
        config_errors=[] if config else [ConfigError("rule web: match", "no such thing", "config.toml")],
    )


async def ask(path: Path, method: str, **params: object) -> Any:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode() + b"\n")
    answer = json.loads(await reader.readline())
    writer.close()
    return answer


def run(made: Supervisor, body: Callable[[], Awaitable[None]]) -> int:
    """Run the supervisor beside a body of the test, which ends by closing the keeper's end."""

    async def both() -> int:
        task = asyncio.create_task(made.run())
        await body()
        return await asyncio.wait_for(task, 20)

    return asyncio.run(both())


# -- check-ins


def test_who_is_late() -> None:
    now = 0
    check_ins = CheckIns(lambda: now)
    a, _ = check_ins.watch("a", 100), check_ins.watch("b", 50)
    now = 51
    assert check_ins.late(now) == [("b", 51)]
    now = 101
    assert [name for name, _ in check_ins.late(now)] == ["a", "b"]
    a()
    check_ins.forget("b")
    assert check_ins.late(now) == []
    assert check_ins.ages(now + 5) == {"a": 5}


def test_waiting_parts_check_in() -> None:
    async def body() -> int:
        count = 0
        event = asyncio.Event()

        def alive() -> None:
            nonlocal count
            count += 1
            if count == 3:
                event.set()

        await wait_alive(event, alive, 0.001)
        return count

    assert asyncio.run(body()) == 4


# -- the pulse


def test_the_pulse_checks_in_and_renews_only_while_no_part_is_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = Keeper()
    made = make(tmp_path, keeper)
    renewed: list[int] = []
    monkeypatch.setattr(made.system.steering, "renew", renewed.append)
    clock = 10 * SECOND
    made.system.check_ins = CheckIns(lambda: clock)
    alive = made.system.check_ins.watch("guests", SECOND)
    made.pulse.beat(clock)
    assert len(keeper.heard()) == len(renewed) == 1
    assert renewed[0] == clock + pulse.LEASE_NS
    clock += SECOND + 1
    made.pulse.beat(clock)
    assert keeper.heard() == [{"type": "late", "parts": "part guests has been silent for more than 1000 ms"}]
    made.pulse.beat(clock + 1)
    assert keeper.heard() == [], "said once"
    assert len(renewed) == 1
    alive()
    made.pulse.beat(clock)
    assert len(keeper.heard()) == 1
    assert len(renewed) == 2


def test_a_starting_bypassd_says_hold_with_its_times(tmp_path: Path) -> None:
    keeper = Keeper()
    make(tmp_path, keeper).pulse.beat(1)
    (said,) = keeper.heard()
    assert said["relays"]["relay-inline"]["want"] == "hold"
    assert (said["watchdog_timeout_ms"], said["grace_ms"]) == (2000, 30000)
    assert said["sequence"] == {"number": 1, "at_ns": 1, "steps": list(STEPS)}


# -- the whole


def test_a_bad_configuration_is_bypass_with_a_working_control_socket(tmp_path: Path) -> None:
    keeper = Keeper()
    made = make(tmp_path, keeper, None)

    async def body() -> None:
        keeper.say()
        await until(lambda: made.system.segments.begun)
        # Registered by the part "access", which starts last: whoever asks now waits for it.
        assert isinstance((await ask(made.system.paths.control_socket, "events.show")).get("result"), list)
        refused = await ask(made.system.paths.control_socket, "guests.show")
        assert "guests.show: the part that offers it is not up" in refused["error"]["message"], "at once"
        status = (await ask(made.system.paths.control_socket, "status.show"))["result"]
        assert status["state"] == "bypass"
        assert status["segments"][0]["cause"] == "config_invalid"
        config = status["config"]
        assert (config["valid"], config["errors"]) == (False, ["config.toml: rule web: match: no such thing"])
        refused = await ask(made.system.paths.control_socket, "segment.set", name="main", mode="auto")
        assert "rule web: match" in refused["error"]["message"]
        heard = [packet["relays"]["relay-inline"] for packet in keeper.heard()]
        assert heard[-1] == {"want": "bypass", "cause": "config_invalid"}
        keeper.end.close()

    assert run(made, body) == 0


def test_missing_ports_and_a_refused_datapath_are_causes_and_all_else_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = Keeper()
    made = make(tmp_path, keeper)

    async def refuse() -> None:
        raise DatapathError("the kernel says no")

    monkeypatch.setattr(made.system.steering, "start", refuse)

    async def body() -> None:
        keeper.say()
        await until(lambda: made.system.segments.begun)
        (row,) = (await ask(made.system.paths.control_socket, "segments.show"))["result"]
        assert row["cause"] == "port_missing"
        assert "lan0 (MAC 02:ff:ff:ff:ff:01) was not found" in row["detail"]
        assert "datapath_fault: the kernel says no" in row["also"]
        await until(lambda: made.system.part_states.get("access") == "running")
        status = (await ask(made.system.paths.control_socket, "status.show"))["result"]
        assert {p["name"]: p["state"] for p in status["parts"]} == {
            "control": "running",
            "links": "running",
            "steering": "failed",
            "access": "running",
        }
        assert status["supervisor"]["restarts"] == 3
        assert status["watchdog"]["state"] == "armed"
        made.system.crash_log.mark_orderly()  # and the end of the keeper does not make it so
        done = await ask(made.system.paths.control_socket, "segment.set", name="main", mode="bypass")
        assert done["result"]["cause"] == "operator"
        entries = (await ask(made.system.paths.control_socket, "transitions.show"))["result"]
        assert [e["cause"] for e in entries if e["what"] == "segment main"] == ["port_missing", "operator"]
        keeper.end.close()

    assert run(made, body) == 0
    assert "port_missing" in made.system.paths.transitions.read_text()


class BrokenPart:
    """Fails as told: first `expected` times with a named error, then runs, or hits a bug."""

    name = "links"
    patience = SECOND
    ports: dict[str, Port]

    def __init__(self, expected: int, bug: bool) -> None:
        self.expected, self.bug, self.starts, self.stops = expected, bug, 0, 0
        self.ports = {}
        self.missing: dict[str, str] = {}
        self.downed: frozenset[str] = frozenset()

    async def start(self) -> None:
        self.starts += 1
        if self.starts <= self.expected:
            raise DatapathError("not yet")

    async def run(self, alive: Alive) -> None:
        if self.bug:
            raise ZeroDivisionError("bug")
        await wait_alive(asyncio.Event(), alive, 0.1)

    async def stop(self) -> None:
        self.stops += 1


def test_an_expected_failure_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "RETRY_FIRST_S", 0.01)
    keeper = Keeper()
    made = make(tmp_path, keeper, None)
    part = BrokenPart(3, bug=False)
    monkeypatch.setattr(made.system, "links", part)

    async def body() -> None:
        keeper.say()
        await until(lambda: part.starts == 4 and made.system.part_states.get("links") == "running")
        assert "links" not in made.system.part_faults
        keeper.end.close()

    assert run(made, body) == 0
    assert part.stops == 4


def test_a_bug_ends_bypassd_and_the_other_parts_are_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keeper = Keeper()
    made = make(tmp_path, keeper, None)
    part = BrokenPart(0, bug=True)
    monkeypatch.setattr(made.system, "links", part)
    keeper.say()
    assert supervisor.run(lambda: made, made.system.paths.last_words) == 1
    assert part.stops == 1
    assert not made.system.paths.control_socket.exists()
    assert '"orderly": false' in (made.system.paths.state / "last-run.json").read_text()


def test_the_next_bypassd_tells_how_the_last_one_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The keeper's report of its end and the bug's message, for the console; the message once."""
    keeper = Keeper()
    broken = make(tmp_path, keeper, None)
    monkeypatch.setattr(broken.system, "links", BrokenPart(0, bug=True))
    keeper.say()
    assert supervisor.run(lambda: broken, broken.system.paths.last_words) == 1
    for how in ("killed by signal 9: ZeroDivisionError: bug", "killed by signal 9"):
        keeper = Keeper()
        made = make(tmp_path, keeper)

        async def body(keeper: Keeper = keeper, made: Supervisor = made, how: str = how) -> None:
            keeper.say()
            await until(lambda: made.system.segments.begun)
            entries = (await ask(made.system.paths.control_socket, "transitions.show"))["result"]
            row = [entry for entry in entries if entry["what"] == "supervisor"][-1]
            assert (row["to"], row["cause"], row["detail"]) == ("running", "supervisor_restarted", how)
            keeper.end.close()

        assert run(made, body) == 0


# -- segments


def segments(tmp_path: Path | None = None, config: Segment = SEGMENT, board: Board | None = None) -> Segments:
    links = Links([], lambda: None)
    links.ports = {n: Port(n, n, i, "", up=True, link=True) for i, n in enumerate(("lan0", "wan0"), 1)}
    memory = tmp_path / "segments.json" if tmp_path else None
    return Segments((config,), board or parse(BOARD), links, Transitions(), memory)


def none(_: str) -> dict[Cause, str]:
    return {}


def inline(made: Segments) -> KeeperState:
    """Bring it inline as the keeper would; returns the keeper's last report."""
    made.begin(0, GOOD, none, intact=False, first=True)
    made.update(0, GOOD, none)
    assert made.wants() == {"relay-inline": ("inline", "healthy")}
    state = KeeperState({"relay-inline": RelayState("inline", "healthy", usable=True)}, True, 2000)
    made.update(1, state, none)
    assert made.units["main"].machine.state is State.INLINE
    return state


@pytest.mark.parametrize(
    ("keeper", "causes"),
    [
        (GOOD, []),
        (None, [Cause.RELAY_MISSING]),
        (KeeperState({}), [Cause.RELAY_MISSING]),
        (KeeperState({"relay-inline": RelayState("bypass", "relay_fault", False, "coil")}), [Cause.RELAY_FAULT]),
        (KeeperState({"relay-inline": RelayState("bypass", "relay_missing", False, "x")}), [Cause.RELAY_MISSING]),
        (
            KeeperState({"relay-inline": RelayState("bypass", "relay_unsupported", False, "k")}),
            [Cause.RELAY_UNSUPPORTED],
        ),
        (KeeperState(GOOD.relays, True, 0, "busy"), [Cause.WATCHDOG_MISSING]),
        (KeeperState(GOOD.relays, False, 0), []),
    ],
)
def test_faults_of_the_hardware(keeper: KeeperState | None, causes: list[Cause]) -> None:
    assert list(hardware_faults("relay-inline", ("lan0", "wan0"), keeper)) == causes
    assert list(hardware_faults("", ("lan0", "wan0"), keeper)) == [Cause.RELAY_MISSING]


def test_each_fault_takes_the_segment_out_and_back() -> None:
    for fault in (Cause.DATAPATH_FAULT, Cause.PORT_MISSING):
        made = segments()
        state = inline(made)
        made.update(2, state, lambda _, fault=fault: {fault: "x"})  # type: ignore[misc]
        assert made.wants() == {"relay-inline": ("bypass", str(fault))}
        back = GOOD
        made.update(3, back, none)
        made.update(3 + 5 * SECOND, back, none)
        assert made.wants()["relay-inline"][0] == "inline"


def test_the_operators_word_survives_a_restart_of_bypassd(tmp_path: Path) -> None:
    made = segments(tmp_path)
    inline(made)
    made.ask("main", "bypass")
    again = segments(tmp_path)
    again.begin(0, GOOD, none, intact=True, first=False)
    assert again.wants() == {"relay-inline": ("bypass", "operator")}
    (tmp_path / "segments.json").write_text('{"main": "bypass"}')  # as 0.1.0 wrote it
    assert segments(tmp_path).units["main"].asked == "bypass"


@pytest.mark.parametrize("after", [0, 3, 100])
def test_a_bypassd_that_crashes_does_not_begin_the_back_off_anew(tmp_path: Path, after: int) -> None:
    """Else one that crashes at each attempt would move the relay as often as it is started."""
    made = segments(tmp_path)
    inline(made)
    for wait in (4, 8, 16):
        machine = made.units["main"].machine
        lost = machine.since + SECOND
        made._note(made.units["main"], machine.trip(lost, Cause.LINKS_DOWN, "lan0 and wan0 have no link"))
        made = segments(tmp_path)
        began = lost + after * SECOND
        made.begin(began, GOOD, none, intact=True, first=False)
        machine = made.units["main"].machine
        assert machine.deadline() == max(began, lost + wait * SECOND)
        assert machine.cause is Cause.LINKS_DOWN
        now = max(began, lost + wait * SECOND)
        made.update(now, GOOD, none)
        made.update(now, KeeperState({"relay-inline": RelayState("inline", "", usable=True)}, True, 2000), none)
        assert machine.state is State.INLINE


@pytest.mark.parametrize(
    "text", ["", "[]", '{"main": 5}', '{"main": {"asked": 7, "delay": "x"}}', '{"main": {"delay": 1}}']
)
def test_a_damaged_memory_of_segments_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "segments.json").write_text(text)
    made = segments(tmp_path)
    inline(made)


def test_refusals() -> None:
    made = segments()
    with pytest.raises(NotFoundError, match='no segment "x"; there is: main'):
        made.ask("x", "bypass")
    with pytest.raises(RefusedError, match="no disconnect"):
        made.ask("main", "disconnect")


def test_a_lost_link_is_passed_on_and_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.system.netdev.set_up", lambda ifname, up: None)

    async def body() -> None:
        made = segments()
        links = made._links
        state = inline(made)
        made.update(SETTLE_NS + 2, state, none)
        links.ports["lan0"].link = False
        lost = SETTLE_NS + 3
        made.update(lost, state, none)
        assert not links.downed, "a blink is no loss"
        made.update(lost + LOSS_NS, state, none)
        assert links.downed == {"wan0"}
        assert made.units["main"].machine.cause is Cause.LINK_DOWN, "driven, and it is said why nothing crosses"
        links.ports["wan0"].link = False  # because we took it down
        back = lost + SECOND
        made.update(back, state, none)
        links.ports["lan0"].link = True
        made.update(back + 1, state, none)
        assert not links.downed
        made.update(back + 2, state, none)
        made.update(back + 1 + SETTLE_NS, state, none)
        assert not links.downed, "wan is still coming up: no loss to pass on"
        assert made.wants() == {"relay-inline": ("inline", "link_down")}
        links.ports["wan0"].link = True
        made.update(back + SETTLE_NS + 2, state, none)
        assert made.wants() == {"relay-inline": ("inline", "healthy")}

    asyncio.run(body())


def test_ports_that_are_open_in_bypass_have_time_to_find_their_links() -> None:
    """And so have those that come up again after a day in bypass."""
    made = segments()
    for port in made._links.ports.values():
        port.link = False
    hour = 3600 * SECOND
    made.begin(0, GOOD, none, intact=False, first=True)
    made.ask("main", "bypass")
    made.update(SECOND, GOOD, none)
    made.ask("main", "auto")
    made.update(hour, GOOD, none)
    state = KeeperState({"relay-inline": RelayState("inline", "healthy", usable=True)}, True, 2000)
    for after in (1, SECOND, APPEAR_NS - 1):
        made.update(hour + after, state, none)
        assert made.units["main"].machine.state is State.INLINE
    made.update(hour + APPEAR_NS + 1, state, none)
    assert made.wants() == {"relay-inline": ("bypass", "links_down")}


def test_link_loss_to_bypass() -> None:
    made = segments(config=Segment(name="main", lan="lan0", wan="wan0", on_link_loss="bypass"))
    state = inline(made)
    made._links.ports["wan0"].link = False
    made.update(APPEAR_NS, state, none)
    made.update(APPEAR_NS + LOSS_NS, state, none)
    assert made.wants() == {"relay-inline": ("bypass", "link_down")}


def test_a_kernel_that_tells_nothing_is_a_reason_for_bypass() -> None:
    made = segments()
    state = inline(made)
    made._links.unreadable = "no answer"
    made.update(2, state, none)
    assert made.wants() == {"relay-inline": ("bypass", "links_unreadable")}


def test_a_port_that_another_program_keeps_setting_down_is_a_reason_for_bypass() -> None:
    made = segments()
    state = inline(made)
    made._links.contested["wan0"] = "was restored 4 times in a minute"
    made.update(2, state, none)
    assert made.wants() == {"relay-inline": ("bypass", "port_set_down")}
    assert made.units["main"].machine.detail == "wan0 was restored 4 times in a minute"


def test_a_port_that_sends_nothing_is_tried_again_with_back_off() -> None:
    """The link is there and the programs are attached, but what they send out of the port does not leave it."""
    made = segments()
    state = inline(made)
    wait = 0
    for attempt in range(3):
        now = 100 * SECOND * (attempt + 1)
        made.update(now, state, none)
        assert made.units["main"].machine.state is State.INLINE
        for number in range(8):
            sample = PortSample("wan0", {0: 1000 * number}, 0, 0, (2, "tc"), surely=True)
            made.counted("main", {"wan": sample})
        made.update(now + 1, state, none)
        assert made.wants() == {"relay-inline": ("bypass", "not_sent")}
        made.update(now + 2, GOOD, none)
        machine = made.units["main"].machine
        due = machine.deadline()
        assert due is not None
        assert due - now > wait
        wait = due - now
        assert made.show(now)[0].next_attempt_ms == wait // 1_000_000
        made.update(due, GOOD, none)
        made.update(due, state, none)
    assert wait // SECOND == 16


def test_auto_by_an_operator_ends_a_long_wait() -> None:
    made = segments()
    inline(made)
    machine = made.units["main"].machine
    machine.trip(5 * SECOND, Cause.LINKS_DOWN, "")
    machine.delay = 1000 * SECOND
    made.update(6 * SECOND, GOOD, none)
    made.ask("main", "auto")
    made.update(7 * SECOND, GOOD, none)
    assert made.wants()["relay-inline"][0] == "inline"


# -- the link


def test_the_keepers_words() -> None:
    keeper = Keeper()
    keeper.say(usable=False)
    keeper.link.receive()
    assert keeper.link.state is not None
    assert not keeper.link.state.settled()
    keeper.say(usable=False, error="no line", watchdog_ms=0)
    keeper.link.receive()
    assert keeper.link.state.settled()
    assert keeper.link.state.watchdog_error == "busy"
    keeper.end.close()
    keeper.link.receive()
    assert keeper.link.lost


@pytest.mark.parametrize("packet", [b"", b"{}", b"[]", b"\xff", b'{"watchdog": {}, "relays": []}'])
def test_nonsense_of_the_keeper(packet: bytes) -> None:
    with pytest.raises(ProtocolError, match="malformed state"):
        parse_state(packet)
