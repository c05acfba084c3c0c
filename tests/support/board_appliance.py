# SPDX-License-Identifier: GPL-2.0-only
"""The appliance on a booted board for tests and the demo: its console's data, its health, its configuration.

Everything goes through the board's debug shell and the product's own console, independent of the supervisor's
implementation.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from imagecheck.__main__ import needed
from simulator import Board
from simulator.pace import Pace
from simulator.stream import Stream

from tests.support import board_console
from tests.support.board_admin import commit

GUEST, SEGMENT, RULE = "ips1", "main", "all"
KEEPER, BYPASSD = "bypass-keeper", "-m appliance"
"""Words of the command lines by which the two processes of the supervisor are found."""
CONFIG, BOARD_TOML = "/etc/bypass/config.toml", "/usr/share/bypass/board.toml"
PATIENCE_S = 180.0


def ask(board: Board, words: str) -> Any:
    """The answer of a console command, as data; None while the daemon does not answer."""
    result = board_console.command(board, [*shlex.split(words), "--json"])
    if result.status != 0:
        print(f"bypass {words}: {result.output.strip()}")  # shown if the test fails
        return None
    return json.loads(result.output)


def show(board: Board, what: str) -> Any:
    """The answer of `show`, as data; None while the daemon does not answer."""
    return ask(board, f"show {what}")


def part_runs(board: Board, name: str) -> bool:
    """Whether a part of bypassd is up."""
    status = show(board, "status") or {"parts": []}
    return any((part["name"], part["state"]) == (name, "running") for part in status["parts"])


def guest(board: Board, name: str = GUEST) -> dict[str, Any]:
    """One row of `show guests`; empty if there is none."""
    rows = show(board, "guests") or []
    return next((row for row in rows if row["name"] == name), {})


def segment(board: Board) -> dict[str, Any]:
    """The row of `show segments`; empty if there is none."""
    rows = show(board, "segments") or []
    return dict(rows[0]) if rows else {}


def events(board: Board) -> list[str]:
    """The events as text, oldest first."""
    return [f"{row['severity']} {row['source']}: {row['text']}" for row in show(board, "events 0") or []]


def wait_until(board: Board, found: Callable[[], Any], what: str, seconds: float = PATIENCE_S) -> Any:
    """Ask the console until `found` is true: each question takes the board long enough, so no sleep is needed."""
    patience = board.pace.wait(seconds)
    deadline = time.monotonic() + patience
    while not (answer := found()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {patience:g} s; status: {show(board, 'status')}")
    return answer


def wait_serving(board: Board, name: str = GUEST) -> dict[str, Any]:
    """Wait until the guest has its traffic; returns its row."""

    def serves() -> dict[str, Any]:
        row = guest(board, name)
        return row if row.get("state") == "available" else {}

    return dict(wait_until(board, serves, f"guest {name} available"))


def wait_healthy(board: Board) -> float:
    """Wait until the relay is inline and the guest has its traffic; returns the time (monotonic seconds)."""
    board.wait_relay("inline", timeout=PATIENCE_S)
    wait_serving(board)
    return time.monotonic()


TRIAL_S = 3.0


def offer(board: Board) -> Pace:
    """The traffic that can be offered to a board. Measures its speed once, sets the guest's limits accordingly and
    tries it with frames. Afterwards the board is healthy."""
    if not board.pace.tried:
        board.wait_relay("inline", timeout=PATIENCE_S)
        if board.pace.speed is None:
            board.measure()
        wait_until(board, lambda: part_runs(board, "guests"), "the guests part")
        commit(board, ("set", "guest", GUEST, "probes", "1", "misses", str(board.pace.misses)))
        wait_healthy(board)
        board.pace = board.pace.carried(lambda rate: _carries(board, rate))
        board.events.add("pace", text=str(board.pace))
    return board.pace


def _carries(board: Board, rate: int) -> bool:
    """Whether frames cross in both directions without loss, all of them through the guest."""
    wait_healthy(board)
    around, span = bypassed(board), round(board.pace.wait(TRIAL_S) * 1e9)
    both = [
        Stream(source, target, board.directory / f"trial-{name}.stream", rate)
        for name, source, target in (("up", board.lan, board.wan), ("down", board.wan, board.lan))
    ]
    try:
        for stream in both:
            stream.wait_arrival(stream.wait_arrival(0, board.pace.wait(30)) + span, board.pace.wait(30))
    finally:
        reports = [stream.stop() for stream in both]
    return all(report.whole for report in reports) and bypassed(board) == around


def bypassed(board: Board) -> int:
    """Frames that bypassed guests since the datapath was loaded, over all rules."""
    return sum(int(rule["bypassed"]) for rule in show(board, "counters")["rules"].values())


def wait_cause(board: Board, cause: str) -> dict[str, Any]:
    """Wait until the segment is in bypass for this cause; returns its row."""

    def there() -> dict[str, Any]:
        row = segment(board)
        return row if (row.get("cause"), row.get("relay")) == (cause, "bypass") else {}

    return dict(wait_until(board, there, f"segment in bypass because of {cause}"))


def restart_keeper(board: Board) -> None:
    """Stop the keeper in good order; init starts the next one, which rereads board.toml and the configuration."""
    old = board.pids(KEEPER)
    board.sh(f"kill -TERM {old[0]}")
    wait_until(board, lambda: [pid for pid in board.pids(KEEPER) if pid not in old], "a new keeper")


def restart_bypassd(board: Board) -> None:
    """Kill bypassd; the keeper starts the next one, which rereads the configuration."""
    old = board.pids(BYPASSD)
    board.sh(f"kill -KILL {old[0]}")
    wait_until(board, lambda: [pid for pid in board.pids(BYPASSD) if pid not in old], "a new bypassd")


@contextmanager
def replaced(board: Board, path: str, change: Callable[[str], str], apply: Callable[[Board], None]) -> Iterator[None]:
    """Replace the content of a file on the board and restart its reader; undo both afterwards."""
    before = board.sh(f"cat {path}").output
    write(board, path, change(before))
    try:
        apply(board)
        yield
    finally:
        write(board, path, before)
        apply(board)
        wait_healthy(board)


DEMO_GUEST = "/usr/share/bypass/guest-demo"


def like_demo_guest(board: Board, name: str, memory_mib: int) -> list[tuple[str, ...]]:
    """Changes that add a guest with the demo guest's kernel and application, which does not start by itself.

    How many heartbeats it may miss follows from the board's speed, as for the demo guest, once that is measured.
    """
    settings = [
        *(("kernel", f"{DEMO_GUEST}/bzImage"), ("initrd", f"{DEMO_GUEST}/initrd.gz")),
        *(("cmdline", "console=ttyS0 quiet"), ("memory", f"{memory_mib}M"), ("autostart", "false")),
        *(("probes", "1", "kind", "inband"), ("probes", "1", "interval", "100ms")),
    ]
    if board.pace.tried:
        settings.append(("probes", "1", "misses", str(board.pace.misses)))
    return [("set", "guest", name, *words) for words in settings]


def mirror_beside(board: Board, name: str) -> str:
    """The hop beside which a hop is a mirror; "" if it is none."""
    rows = show(board, "mirrors") or []
    return next((row["beside"][0] for row in rows if row["name"] == name), "")


def frames_to(board: Board, name: str) -> int:
    """Frames that a hop has got as an inline one, since the datapath was loaded."""
    return int(show(board, "counters")["hops"][name]["to_frames"])


def remove_guest(board: Board, name: str) -> None:
    """Remove a guest, and wait until it is gone."""
    commit(board, ("delete", "guest", name))
    wait_until(board, lambda: not guest(board, name), f"guest {name} is gone")


def write(board: Board, path: str, text: str) -> None:
    board.sh(f"printf %s {shlex.quote(text)} >{path}")


def missing_programs(board: Board) -> list[str]:
    """Programs and applets that the sources start and the running image does not have."""
    names = " ".join(sorted(needed(board.payload.board.name)))
    return board.sh(f"for name in {names}; do command -v $name >/dev/null || echo $name; done").output.split()


def knows_authorities(board: Board) -> bool:
    """Whether Python finds the certificates of the public authorities, as an https probe with `verify` must."""
    code = "import ssl; print(len(ssl.create_default_context().get_ca_certs()) > 50)"
    return board.sh(f"python3 -I -c '{code}'").output.strip() == "True"
