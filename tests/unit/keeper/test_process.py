# SPDX-License-Identifier: GPL-2.0-only
"""The keeper as a real process with a real child: killed, stopped, silent and misbehaving children; an orderly stop.

The coil and the watchdog are files (keeper_on_files.py); everything else is what runs on the appliance. Tests wait for
lines in those files, never for a time.
"""

from __future__ import annotations

import fcntl
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance.config.check.load import loads
from appliance.errors import ConfigError
from appliance.hardware.relay.line import LineSpec
from appliance.hardware.relay.protocol import RelaySpec
from appliance.keeper.board import Board
from appliance.keeper.bypassd import look_at
from appliance.keeper.client import KeeperLink
from appliance.keeper.limits import MS
from appliance.keeper.messages import Ask, CheckIn
from appliance.keeper.protocol import PACKET_BYTES, parse_packet
from appliance.keeper.sequence import STEPS
from tests.support.keeper_limits import LIMITS
from tests.support.waiting import wait_until

TESTS = Path(__file__).parents[2]
PATIENCE_S = 30.0
LEFT_COUNTING = ["timeout 60000", "feed", "closed"]
BOARD = """
[[relay]]
ports = ["lan0", "wan0"]
line = "relay-inline"
[watchdog]
driver = "file"
[[led]]
name = "status"
line = "no-such-line"
"""
CHILD = """
import os, sys, time
from appliance import progress
from appliance.keeper.client import KeeperLink
from appliance.keeper.sequence import STEPS
folder = sys.argv[1]
link = KeeperLink.from_environment()
for _ in range(3):
    link.hold()
print("born", os.getpid(), file=open(folder + "/children", "a"), flush=True)
mode = open(folder + "/mode").read()
while mode == "loop":
    link.check_in({"relay-inline": ("inline", "healthy")}, 2000, 20000, at=time.monotonic_ns(), steps=STEPS)
    while os.path.exists(folder + "/looping"):
        pass
    time.sleep(0.05)
while mode == "starting":  # for as long as it is told, by work, then by waiting
    while os.path.exists(folder + "/works"):
        progress.step() if os.path.exists(folder + "/steps") else None
        link.check_in({"relay-inline": ("hold", "starting")}, 2000, 20000, at=time.monotonic_ns(), steps=STEPS)
        for _ in range(100_000):
            pass
    if os.path.exists(folder + "/sleeps"):
        time.sleep(0.05)
    else:
        mode = "good"
while mode != "mute":
    link.receive()
    if link.lost:
        sys.exit(7)
    if mode == "rude":
        link._send({"type": "nonsense"})
    link.check_in({"relay-inline": ("inline", "healthy")}, 2000, 20000, at=time.monotonic_ns(), steps=STEPS)
    print(os.getpid(), file=open(folder + "/serving", "a"), flush=True)
    time.sleep(0.05)
time.sleep(3600)
"""


class Process:
    """A running keeper and what it wrote."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "board.toml").write_text(BOARD)
        (folder / "mode").write_text("good")
        for name in ("relay", "watchdog", "children", "serving"):
            (folder / name).touch()
        self.program = folder / "child"
        self.interpreter = folder / "interpreter"
        self.interpreter.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        self.program.write_text(f"#!{self.interpreter}\n{CHILD}")
        for script in (self.interpreter, self.program):
            script.chmod(0o755)
        command = [str(self.program), str(folder)]
        path = os.pathsep.join([str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [sys.executable, str(TESTS / "support/keeper_on_files.py"), str(folder), *command],
            env={**os.environ, "PYTHONPATH": path},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log: list[str] = []
        assert self.process.stderr
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr
        self.log.extend(self.process.stderr)

    def lines(self, name: str) -> list[str]:
        return (self.folder / name).read_text().split("\n")[:-1]

    def until(self, true: Callable[[], bool], what: str) -> None:
        def runs() -> None:
            assert self.process.poll() is None, self.log

        wait_until(true, what, PATIENCE_S, runs, lambda: f"{self.log} {self.lines('relay')}")

    def children(self) -> list[int]:
        return [int(line.split()[1]) for line in self.lines("children")]

    def wait_children(self, count: int) -> int:
        """Wait until that many children have started; the pid of the newest."""
        self.until(lambda: len(self.children()) >= count, f"child {count}")
        return self.children()[-1]

    def wait_fed(self) -> None:
        """Wait for two more feeds: the loop runs."""
        count = self.lines("watchdog").count("feed")
        self.until(lambda: self.lines("watchdog").count("feed") >= count + 2, "feeding")


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Process]:
    made = Process(tmp_path)
    try:
        made.until(lambda: "inline" in made.lines("relay"), "inline")
        yield made
    finally:
        made.process.kill()
        made.process.wait()
        for pid in made.children():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass


def test_a_killed_child_is_started_again_and_the_relay_does_not_move(running: Process) -> None:
    os.kill(running.wait_children(1), signal.SIGKILL)
    running.wait_children(2)
    running.wait_fed()
    assert running.lines("relay") == ["open", "inline"]


def test_a_stopped_child_is_killed_and_replaced_and_the_relay_does_not_move(running: Process) -> None:
    first = running.wait_children(1)
    os.kill(first, signal.SIGSTOP)
    running.wait_children(2)
    running.wait_fed()
    assert running.lines("relay") == ["open", "inline"]
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)


def test_a_child_that_loops_is_ended_by_the_processor_time_that_it_used(running: Process) -> None:
    """It serves, then runs without end: killed, and the keeper says how much it ran."""
    (running.folder / "mode").write_text("loop")
    os.kill(running.wait_children(1), signal.SIGKILL)
    looping = running.wait_children(2)
    (running.folder / "looping").touch()
    running.wait_children(3)
    assert any("and runs (ran " in line for line in running.log), running.log
    assert running.lines("relay") == ["open", "inline"]
    with pytest.raises(ProcessLookupError):
        os.kill(looping, 0)


def start_slowly(running: Process, *how: str) -> int:
    """Have the next child start in this way (see CHILD), and wait until it does; its pid."""
    for name in ("mode", *how):
        (running.folder / name).write_text("starting")
    os.kill(running.wait_children(1), signal.SIGKILL)
    return running.wait_children(2)


def test_a_start_that_makes_progress_is_not_ended_however_much_it_works(running: Process) -> None:
    """Three times the processor time that a start may use without progress; then it serves."""
    child = start_slowly(running, "works", "steps")
    least = 3 * LIMITS.starting
    running.until(lambda: sum(ran for ran, _ in look_at(child).threads.values()) > least, "work")
    (running.folder / "works").unlink()
    running.until(lambda: str(child) in running.lines("serving"), "serving")
    assert running.lines("relay") == ["open", "inline"]


@pytest.mark.parametrize(
    ("how", "says", "counts"),
    [("works", "and runs (ran ", r"ran (\d+) ms"), ("sleeps", "and sleeps", r"for (\d+) ms")],
)
def test_a_start_that_makes_no_progress_is_ended_and_the_next_has_twice_the_time(
    running: Process, how: str, says: str, counts: str
) -> None:
    """It loops or sleeps, and says so again and again: ended, with the reason in the log, while the watchdog is fed.

    What doubles is the processor time of one that loops, and the time of one that sleeps.
    """
    start_slowly(running, how)
    running.wait_children(4)
    ended = [line for line in running.log if "is starting and has made no progress for" in line]
    assert len(ended) >= 2
    assert any(says in line for line in ended), ended  # one that sleeps is now and then caught between two sleeps
    first, second = (int(re.search(counts, line)[1]) for line in ended[:2])  # type: ignore[index]
    limit = LIMITS.starting // 10**6  # of a busy machine each may be a good deal longer
    assert (first >= limit, second >= 2 * limit) == (True, True), ended
    running.wait_fed()


def test_the_kernels_account_of_a_process_and_of_none() -> None:
    """Every thread's times and the process's state; nothing of a process that is not there."""
    found = look_at(os.getpid())
    assert found.state == "R"
    assert found.threads[threading.get_native_id()][0] > 0
    assert look_at(1 << 30) == ({}, "")


def test_a_rude_child_is_given_up_and_the_keeper_lives(running: Process) -> None:
    (running.folder / "mode").write_text("rude")
    os.kill(running.wait_children(1), signal.SIGKILL)
    running.wait_children(3)
    running.until(lambda: any("malformed check-in" in line for line in running.log), "a line about it")
    assert running.lines("relay") == ["open", "inline"]


@pytest.fixture
def stalled(running: Process) -> Iterator[Callable[[], None]]:
    """A keeper that restarts bypassd; its exec waits until the function that this yields is called.

    The program's file has a write lease: the kernel lets nobody open it, for an exec either, before the holder of the
    lease gives it up, and tells the holder by SIGIO that somebody waits (fcntl(2)). A stalled disk looks the same.
    """
    waits: list[int] = []
    before = signal.signal(signal.SIGIO, lambda number, _frame: waits.append(number))
    held = os.open(running.program, os.O_RDONLY)
    try:
        child = running.wait_children(1)
        fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        os.kill(child, signal.SIGKILL)
        running.until(lambda: bool(waits), "the exec that waits")

        def answer() -> None:
            fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_UNLCK)

        yield answer
    finally:
        os.close(held)
        signal.signal(signal.SIGIO, before)


def test_a_disk_that_stalls_while_bypassd_is_loaded_costs_no_feed(
    running: Process, stalled: Callable[[], None]
) -> None:
    """The watchdog is fed and the relay held while the exec waits; when the disk answers, bypassd serves."""
    for _ in range(3):
        running.wait_fed()
    assert len(running.children()) == 1
    stalled()
    running.wait_children(2)
    running.wait_fed()
    assert running.lines("relay") == ["open", "inline"]


def test_a_start_that_is_given_up_and_then_fails_costs_the_next_one_nothing(
    running: Process, stalled: Callable[[], None]
) -> None:
    """The exec waits too long, the kill is kept for what is loaded, and then there is nothing to load."""
    running.until(lambda: any("made no progress" in line for line in running.log), "given up")
    running.interpreter.rename(running.folder / "gone")
    stalled()
    running.until(lambda: any("cannot be started" in line for line in running.log), "a refusal")
    (running.folder / "gone").rename(running.interpreter)
    second = running.wait_children(2)
    running.until(lambda: str(second) in running.lines("serving"), "serving")
    assert sum("killed by signal 9" in line for line in running.log) == 1, "the one that the test killed"
    assert running.lines("relay") == ["open", "inline"]


def test_an_orderly_stop_does_not_wait_for_a_stalled_disk(running: Process, stalled: Callable[[], None]) -> None:
    running.wait_fed()
    running.process.terminate()
    assert running.process.wait(PATIENCE_S) == 0
    assert running.lines("relay")[:3] == ["open", "inline", "bypass"]
    assert running.lines("watchdog")[-3:] == LEFT_COUNTING


def test_a_start_without_descriptors_is_tried_again(running: Process) -> None:
    """EMFILE where the keeper makes its link costs no feed and no relay move, and it says what is wrong."""
    pid = running.process.pid
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (5, limits[1]))
    os.kill(running.wait_children(1), signal.SIGKILL)
    running.until(lambda: any("Too many open files: restarting it" in line for line in running.log), "a refusal")
    running.wait_fed()
    resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    running.wait_children(2)
    running.wait_fed()
    assert running.lines("relay") == ["open", "inline"]


def test_a_bypassd_without_a_pidfd_is_watched_all_the_same(running: Process) -> None:
    (running.folder / "no-pidfd").touch()
    os.kill(running.wait_children(1), signal.SIGKILL)
    second = running.wait_children(2)
    running.until(lambda: str(second) in running.lines("serving"), "serving")
    os.kill(second, signal.SIGSTOP)
    os.kill(running.wait_children(3), signal.SIGKILL)
    running.wait_children(4)
    assert any("no pidfd of bypassd" in line for line in running.log)
    assert running.lines("relay") == ["open", "inline"]


def test_a_program_that_is_not_there_is_a_named_end(running: Process) -> None:
    running.program.rename(running.folder / "gone")
    os.kill(running.wait_children(1), signal.SIGKILL)
    running.until(lambda: any("child: No such file" in line for line in running.log), "a refusal")
    (running.folder / "gone").rename(running.program)
    running.wait_children(2)
    assert running.lines("relay") == ["open", "inline"]


def test_sigterm_is_an_orderly_stop(running: Process) -> None:
    """Relay first, then the child; the watchdog is left counting, with time for the machine to go down; status 0."""
    child = running.wait_children(1)
    running.process.terminate()
    assert running.process.wait(PATIENCE_S) == 0
    assert running.lines("relay")[:3] == ["open", "inline", "bypass"]
    assert running.lines("watchdog")[-3:] == LEFT_COUNTING
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_the_timeout_of_the_check_in_reaches_the_device(running: Process) -> None:
    running.until(lambda: "timeout 2000" in running.lines("watchdog"), "timeout")
    assert running.lines("watchdog")[0] == "timeout 10000"


def test_a_child_sees_the_end_of_its_keeper(running: Process) -> None:
    child = running.wait_children(1)
    pidfd = os.pidfd_open(child)
    running.process.kill()
    running.process.wait()
    import select

    assert select.select([pidfd], [], [], PATIENCE_S)[0]
    os.close(pidfd)


# -- what the keeper reads


@pytest.mark.parametrize(
    ("packet", "said"),
    [
        (b"", "Expecting value"),
        (b"[]", "not a check-in"),
        (b'{"type": "state"}', "not a check-in"),
        (b'{"type": "checkin", "relays": {"a": {"want": "up"}}}', "unknown want"),
        (b'{"type": "checkin", "relays": {"a": 1}}', "unknown want"),
        (b"\xff\xfe\x00", "decode"),
    ],
)
def test_bad_packets_are_refused(packet: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_packet(packet)


def test_a_good_packet() -> None:
    packet = b'{"type":"checkin","relays":{"a":{"want":"inline","cause":"x"}},"watchdog_timeout_ms":2000,"grace_ms":5}'
    assert parse_packet(packet) == CheckIn({"a": Ask("inline", "x")}, 2000, 5_000_000)


@pytest.mark.parametrize(
    ("grace", "watchdog", "found", "notes"),
    [
        ("0", "1000", (1000, 0), 0),
        ("0.0", "86400000", (86_400_000, 0), 0),
        ("-1", "0", (1000, 0), 2),
        ("1e400", "-Infinity", (1000, 86_400_000 * 10**6), 2),
        ("12345678901234567890", "2500", (2500, 86_400_000 * 10**6), 1),
        ("NaN", '"2s"', (None, None), 2),
        ("true", "[]", (None, None), 2),
    ],
)
def test_a_number_out_of_range_is_clamped_and_the_packet_counts(
    grace: str, watchdog: str, found: tuple[int | None, int | None], notes: int
) -> None:
    """No number makes the keeper refuse a check-in: it uses the nearest one, or keeps what it has, and says so."""
    relays = '{"a": {"want": "inline", "cause": "healthy"}}'
    text = f'{{"type": "checkin", "relays": {relays}, "grace_ms": {grace}, "watchdog_timeout_ms": {watchdog}}}'
    made = parse_packet(text.encode())
    assert isinstance(made, CheckIn)
    assert (made.watchdog_ms, made.grace_ns) == found
    assert made.relays == {"a": Ask("inline", "healthy")}
    assert len(made.notes) == notes


@pytest.mark.parametrize("grace", ["0s", "1ns", "999us", "1ms", "24h"])
def test_what_the_configuration_allows_the_keeper_takes_as_it_is(grace: str) -> None:
    """From the text of a configuration to the keeper: no valid value is refused or changed."""
    for timeout in ("1s", "24h"):
        config = loads(f'[system]\nsupervisor_grace = "{grace}"\n[watchdog]\ntimeout = "{timeout}"\n', "config.toml")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            times = (int(config.watchdog.timeout) // MS, int(config.system.supervisor_grace) // MS)
            KeeperLink(ours).check_in({"a": ("inline", "healthy")}, *times, at=1, steps=STEPS)
            made = parse_packet(theirs.recv(PACKET_BYTES))
            assert isinstance(made, CheckIn)
        assert (made.watchdog_ms, made.grace_ns, made.notes) == (times[0], times[1] * MS, ())


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        ("system", "supervisor_grace", "86400001ms"),
        ("watchdog", "timeout", "86400001ms"),
        ("watchdog", "timeout", "999999us"),
    ],
)
def test_the_configuration_refuses_what_the_keeper_would_clamp(table: str, key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=key):
        loads(f'[{table}]\n{key} = "{value}"\n', "config.toml")


def test_the_keepers_reading_of_the_board(tmp_path: Path) -> None:
    path = tmp_path / "board.toml"
    path.write_text(BOARD.replace('"relay-inline"', '"r"\nactive = "low"\non_release = "keeps"\ndisconnect = "d"'))
    board = Board(str(path))
    options = {"line": "r", "disconnect": "d", "active": "low", "on_release": "keeps"}
    assert board.relays == [RelaySpec("r", "level", options, keeps=True)]
    assert (board.watchdogs, board.pretimeout_ms, board.leds) == (("file",), 0, {"status": LineSpec("no-such-line")})


@pytest.mark.parametrize("text", ["[[relay]]\nports = []", "relay = 3", "x = ", '[[led]]\nname = "status"'])
def test_a_bad_board_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "board.toml"
    path.write_text(text)
    board = Board(str(path))
    assert str(path) in board.error
    assert "\n" not in board.error


def test_the_keeper_imports_little() -> None:
    """Under emulation each module costs: relay and watchdog wait for them at every boot."""
    heavy = [
        "asyncio",
        "msgspec",
        "dataclasses",
        "importlib.metadata",
        "subprocess",
        "logging",
        "periphery",
    ]
    code = f"import sys, appliance.keeper.__main__; print([m for m in {heavy} if m in sys.modules])"
    said = subprocess.run([sys.executable, "-I", "-c", code], check=True, capture_output=True, text=True)
    assert said.stdout.strip() == "[]"
