# SPDX-License-Identifier: GPL-2.0-only
"""`make hardware-figures`: how soon the wire is there when the box fails, what is lost, and what the neighbours see.

Each fault is made on the simulated board, without a guest, with frames in both directions, as often as `--runs` says
(30; 5 for power cuts). Per fault the table has

- `bypass_*_ms`: from the fault until the contacts join the connectors; for "relay to ..." from the order on the relay's
  line until the contacts have moved. A fault begins when the board's shell says so, a kernel hangs when its own line
  about it leaves the serial port: typing a command and loading a module take the emulated board long;
- `first_frame_*_ms`: from the same moment to the arrival of the first frame that was sent after the contacts moved,
  the later direction of the two;
- `lost_frames`, `outage_ms`: both directions, the worst run, from the fault until frames cross again; `outage_ms` is
  the longest time between two frames that arrived, by the times when they were sent;
- `peer_down_*_ms`, `peer_up_*_ms`: from the order on the relay's line until the neighbours see their link go down, and
  come back, by their own carrier; for the relay that makes links renegotiate;
- `lacp_longest_gap_ms`: the longest time without a LACPDU at one of two neighbours with the fast timer (one a second,
  dead after three), until the appliance is inline again; `lacp_lost_ratio`: the share of the runs in which that was
  more than three seconds. The last LACPDU may have crossed a second before the fault, so the bundle is sure to survive
  only what is on the wire within two seconds; a fault with a higher limit ends it if it comes late in that second;
- `peers`: what others publish for the same.

Every run is kept as soon as it is made (build/figures/hardware.partial.json): a measurement that was interrupted goes
on where it was, unless the image, the appliance or the machine is another one. A run that fails is named and repeated.
Exits with 1 if a limit is exceeded, a run failed, or a fault has no run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from simulator import Board, Event, Timing
from simulator.lacp import INTERVAL_NS, TIMEOUT_MS, Lacp
from simulator.stream import Report, Stream
from simulator.wires import SIDES

from appliance import __version__
from tests.support import board_crashes, board_harness, figures
from tests.support.attempts import attempt
from tests.support.board_admin import commit
from tests.support.board_appliance import BYPASSD, GUEST, KEEPER, PATIENCE_S, SEGMENT
from tests.support.board_crashes import MODULE

RUNS, CUTS = 30, 5
TRIES = 3  # of a run that ends with an error
UNMOVED_S = 3.0  # a supervisor that hangs is replaced in this time
STEADY_S = 0.5  # watched before and after
MOST_FRAMES = 500  # a second and direction: the link is watched, not loaded
PARTIAL = figures.FIGURES / "hardware.partial.json"
WATCHDOG_MS, SLACK_MS = 2000.0, 500.0  # the image's timeout, and what the reset may take
PROCESSOR_MS = 2400.0  # until the other processor sees that one hangs with interrupts off (rootfs/etc/sysctl.bypass)
KEEP_ALIVE_MS = 150.0
RELAY_MS = 5.0  # of the board's contacts
SLOW = {"relay_ms": 15.0, "flap_ms": 2000.0}  # copper at 1000 Mb/s negotiates for seconds
HANGS = b"test_lockup: START"
BEGINS = b"fault-begins"  # said by the board's shell just before a fault


@dataclass(frozen=True)
class Measured:
    """One run. None: not measured by this fault."""

    bypass_ms: float | None
    first_frame_ms: float | None
    lost_frames: int
    outage_ms: float
    lacp_gap_ms: float
    inline_again_s: float
    peer_down_ms: float | None = None
    peer_up_ms: float | None = None


class Bench:
    """The board under measurement."""

    def __init__(self, board: Board, folder: Path) -> None:
        self.board, self._folder = board, folder
        self.rate = 0

    def ready(self) -> None:
        """Inline, no crash counted, no guest, and the module that hangs processors in memory."""
        board_crashes.ready(self.board)
        if not self.rate:
            # what a guest does is measured elsewhere; here it would only make each start last minutes
            commit(self.board, ("delete", "rule", "all"), ("delete", "guest", GUEST))
            self.board.pace = self.board.pace.carried(self._carries)
            self.rate = min(MOST_FRAMES, self.board.pace.frames)
        self.board.wait_inline(PATIENCE_S)

    def _carries(self, rate: int) -> bool:
        """Whether the board carries so many frames a second in each direction."""
        self.rate = rate
        with self.watched() as (streams, _):
            time.sleep(self.board.pace.wait(STEADY_S))
        return all(stream.report().whole for stream in streams)

    def restore(self) -> None:
        """After an error: off and on."""
        board = self.board
        for side in SIDES:
            board.plug(side)
            board.nic(side, "up")
        board.tune(relay_ms=RELAY_MS, flap_ms=0)
        if board.qemu_pid is not None:
            board.power_cut()
        self.ready()

    @contextlib.contextmanager
    def watched(self) -> Iterator[tuple[list[Stream], Lacp]]:
        """Frames in both directions, and LACPDUs, while the block runs; all senders end with it."""
        board = self.board
        with contextlib.ExitStack() as ends:
            lacp = Lacp(board.lan, board.wan)
            ends.callback(lacp.close)
            streams = []
            for name, source, target in (("up", board.lan, board.wan), ("down", board.wan, board.lan)):
                streams.append(Stream(source, target, self._folder / f"{name}.stream", self.rate))
                ends.callback(streams[-1].stop)
            for stream in streams:
                stream.wait_arrival(stream.wait_arrival(0, board.pace.wait(30)), board.pace.wait(30))
            time.sleep(STEADY_S)
            yield streams, lacp


@dataclass(frozen=True)
class Trial:
    """One kind of fault. `make` injects it; `undo` ends it once frames cross again; None: it ends by itself.

    `position`: where the relay goes; "": it must not move. `hangs`: the fault begins when the kernel says that it
    hangs. `line`: times count from the order on the relay's line. `limit_ms` is for the relay, never scaled.
    """

    name: str
    make: Callable[[Board], Any]
    undo: Callable[[Board], Any] | None = None
    position: str = "bypass"
    panics: bool = False
    hangs: bool = False
    line: bool = False
    peer_links: bool = False
    before: Callable[[Board], Any] | None = None
    runs: int | None = None
    limit_ms: float | None = None
    lossless: bool = False
    wiring: str = ""
    peers: str = "-"


def told(command: str) -> Callable[[Board], Any]:
    """A command after which the board may not answer. Its shell says when it begins, so typing it does not count."""
    return lambda board: board.debug.send(f"printf 'fault-%s\\n' begins; {command}\n")


def ordered(words: str) -> Callable[[Board], Any]:
    """A command of the console. Its effect is waited for; on a slow board its answer may come too late."""
    return told(f"bypass {words}")


def noted(words: str) -> Callable[[Board], Any]:
    """Find a process by the words in its command line, for STOP: looking for it takes the board longer than a fault."""
    return lambda board: board.sh(f"echo {board.pids(words)[0]} >/run/to-stop")


STOP = told("kill -STOP $(cat /run/to-stop)")


def link_back(board: Board) -> None:
    """Give the port its link back, and have the segment try at once: run after run its wait would double."""
    board.nic("wan", "up")
    board.sh(f"bypass segment {SEGMENT} auto")


def quick_again(board: Board) -> None:
    """The relay is as quick as it was, and the segment goes inline."""
    board.tune(relay_ms=RELAY_MS, flap_ms=0)
    board.sh(f"bypass segment {SEGMENT} auto")


def hang(how: str) -> Callable[[Board], Any]:
    """Processors hang with interrupts off; the kernel's line about it goes to the serial port."""
    return told(f"echo 6 >/proc/sys/kernel/printk; {how}")


MODULE_HANGS = f"insmod {MODULE} time_secs=60 disable_irq=1"
HARDWARE = "Silicom from 100 ms; Riverbed 7 s; Fortinet 10 s; Stormshield minutes"
TRIALS = (
    Trial("supervisor hung (bypassd stopped)", STOP, before=noted(BYPASSD), position="", lossless=True,
          peers="NFQUEUE bypass, OVS standalone: no figure"),
    Trial("keeper hung (stopped)", STOP, before=noted(KEEPER), panics=True, limit_ms=WATCHDOG_MS + SLACK_MS,
          peers=HARDWARE),
    Trial("kernel hung (all processors)", hang(f"{MODULE_HANGS} all_cpus=1 &"), panics=True, hangs=True,
          limit_ms=WATCHDOG_MS + SLACK_MS, peers=f"{HARDWARE}; hung kernel to restart 60 s, tuned 3 s"),
    Trial("kernel hung, keep-alive relay", hang(f"{MODULE_HANGS} all_cpus=1 &"), panics=True, hangs=True,
          limit_ms=KEEP_ALIVE_MS, wiring="keep-alive", peers=HARDWARE),
    Trial("one processor hung", hang(f"taskset 1 {MODULE_HANGS} &"), panics=True, hangs=True,
          before=lambda board: board_crashes.keeper_beside(board, 0), limit_ms=PROCESSOR_MS + SLACK_MS, peers=HARDWARE),
    Trial("kernel panic", told("echo c >/proc/sysrq-trigger"), panics=True, peers=HARDWARE),
    Trial("power cut", lambda board: board.power_cut(), lambda board: board.power_on(), runs=CUTS,
          peers="cards that claim to bypass without power and do not"),
    Trial("orderly reboot", told("bypass reboot now"), peers="fail-open that leaves out soft reboots"),
    Trial("own port without link", lambda board: board.nic("wan", "down"), link_back,
          peers="CARP 1 to 3 s, reported up to 120 s"),
    Trial("relay to bypass", ordered(f"segment {SEGMENT} bypass"), ordered(f"segment {SEGMENT} auto"), line=True,
          peers="several seconds"),
    Trial("relay to inline", ordered(f"segment {SEGMENT} auto"), position="inline", line=True,
          before=lambda board: (board.sh(f"bypass segment {SEGMENT} bypass"), board.wait_bypass()),
          peers="several seconds"),
    Trial("slow relay to bypass, links renegotiate", ordered(f"segment {SEGMENT} bypass"),
          quick_again,
          line=True, peer_links=True, before=lambda board: board.tune(**SLOW), peers="several seconds"),
)  # fmt: skip


class Marks:
    """When the board's shell said that a fault begins, and when the kernel's line about its hang left its port."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self.begins_ns: int | None = None
        self.hangs_ns: int | None = None
        self._heard = {BEGINS: b"", HANGS: b""}

    def __enter__(self) -> Marks:
        self._board.debug.sinks.append(self._debug)
        self._board.console.sinks.append(self._console)
        return self

    def __exit__(self, *_: object) -> None:
        self._board.debug.sinks.remove(self._debug)
        self._board.console.sinks.remove(self._console)

    def _debug(self, data: bytes) -> None:
        if self.begins_ns is None and self._hear(BEGINS, data):
            self.begins_ns = time.monotonic_ns()

    def _console(self, data: bytes) -> None:
        if self.hangs_ns is None and self._hear(HANGS, data):
            self.hangs_ns = time.monotonic_ns()

    def _hear(self, words: bytes, data: bytes) -> bool:
        self._heard[words] = (self._heard[words] + data)[-4096:]
        return words in self._heard[words]


def carrier_ns(board: Board, state: str, since: int) -> int:
    """When the later one of both neighbours saw this state of its link."""
    seen = [
        board.wait_event(event="link", part="peer", port=side, state=state, since=since, timeout=30) for side in SIDES
    ]
    return int(max(event["mono_ns"] for event in seen))


def suffer(bench: Bench, trial: Trial) -> Measured:
    """Make the fault once under traffic, let the appliance recover, and measure."""
    board = bench.board
    bench.ready()
    if trial.before:
        trial.before(board)
    patience = board.pace.wait(PATIENCE_S)
    peer_down = peer_up = None
    allowed = board.panic_ordered() if trial.panics else contextlib.nullcontext()
    with bench.watched() as (streams, lacp), Marks(board) as marks, allowed:
        fault = board.fault(trial.name)
        trial.make(board)
        moved = None
        began = fault["mono_ns"]
        if trial.position:
            moved = board.wait_event(event="relay", state=trial.position, since=fault["n"], timeout=PATIENCE_S)
            began = start_of(trial, fault, moved, marks)
        else:
            # it must not move: watched for as long as the keeper takes to replace it
            time.sleep(board.pace.wait(UNMOVED_S))
            if board.events.since(fault["n"], event="relay"):
                raise AssertionError("the relay moved")
        if trial.peer_links:
            peer_down = carrier_ns(board, "down", fault["n"]) - began
            peer_up = carrier_ns(board, "up", fault["n"]) - began
        since = moved["mono_ns"] if moved else began
        first = max(stream.wait_arrival(since, patience) for stream in streams)
        time.sleep(STEADY_S)
        seen = time.monotonic_ns() - round(STEADY_S * 1e9 / 2)
        healed = time.monotonic()
        if trial.undo:
            trial.undo(board)
        again = healed
        if moved and trial.position != "inline":
            back = board.wait_event(event="relay", state="inline", since=moved["n"], timeout=PATIENCE_S)
            again = back["mono_ns"] / 1e9
        gap = lacp.longest_gap_ms(began, time.monotonic_ns())
    return judged(
        [stream.report(began - 50_000_000, seen) for stream in streams],
        bypass=(moved["mono_ns"] - began) / 1e6 if moved else None,
        first=(first - began) / 1e6 if moved else None,
        gap=gap,
        again=again - (healed if trial.undo else began / 1e9),
        links=(peer_down, peer_up),
    )


def start_of(trial: Trial, fault: Event, moved: Event, marks: Marks) -> int:
    """The moment from which a run's times count. AssertionError: the kernel did not say that it hangs."""
    if trial.line:
        return int(moved["line_ns"])
    if trial.hangs:
        assert marks.hangs_ns is not None, "the kernel did not say when it began to hang"
        return marks.hangs_ns
    return int(fault["mono_ns"]) if marks.begins_ns is None else marks.begins_ns


def judged(
    reports: list[Report],
    *,
    bypass: float | None,
    first: float | None,
    gap: float,
    again: float,
    links: tuple[int | None, int | None],
) -> Measured:
    """The measurement of one run (pure)."""
    down, up = (None if each is None else each / 1e6 for each in links)
    return Measured(
        bypass_ms=bypass,
        first_frame_ms=first,
        lost_frames=sum(report.lost for report in reports),
        outage_ms=max(report.longest_outage_ms for report in reports),
        lacp_gap_ms=gap,
        inline_again_s=again,
        peer_down_ms=down,
        peer_up_ms=up,
    )


# what was measured, kept run by run


def subject(artefacts: Path) -> dict[str, str]:
    """What the runs were made of: another image, appliance or machine begins anew."""
    files = {name: (artefacts / name).stat() for name in ("vmlinux", "appliance.squashfs", "rootfs.squashfs")}
    return {
        "version": __version__,
        "machine": figures.machine(),
        **{name: f"{status.st_size} {status.st_mtime_ns}" for name, status in files.items()},
    }


class Kept:
    """The runs so far, on the disk after each one."""

    def __init__(self, path: Path, of: dict[str, str], fresh: bool = False) -> None:
        self._path, self._of = path, of
        self.runs: dict[str, list[Measured]] = {}
        self.failed: list[str] = []
        self.pace: dict[str, float] = {}
        if fresh or not path.is_file():
            return
        try:
            data = json.loads(path.read_text())
            if data["of"] != of:
                say(f"{path}: of another image, appliance or machine: begins anew")
                return
            self.runs = {name: [Measured(**run) for run in runs] for name, runs in data["runs"].items()}
            self.failed, self.pace = list(data["failed"]), dict(data["pace"])
        except (ValueError, KeyError, TypeError) as error:
            say(f"{path} is damaged and not used: {error}")
            self.runs, self.failed, self.pace = {}, [], {}

    def add(self, name: str, measured: Measured | None, errors: list[str]) -> None:
        """Keep one more run, and the errors before it."""
        self.failed += errors
        if measured is not None:
            self.runs.setdefault(name, []).append(measured)
        data = {
            "of": self._of,
            "pace": self.pace,
            "failed": self.failed,
            "runs": {key: [asdict(run) for run in runs] for key, runs in self.runs.items()},
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps(data, indent=1) + "\n")
        new.replace(self._path)

    def done(self) -> None:
        """All runs are in the figures."""
        self._path.unlink(missing_ok=True)


def wanted(trial: Trial, runs: int) -> int:
    """How many runs of a fault are to be made."""
    return runs if trial.runs is None else min(trial.runs, runs)


def row(trial: Trial, runs: list[Measured]) -> figures.Row:
    """The runs of one fault as one row of the figures (pure)."""
    made: figures.Row = {"fault": trial.name, "runs": len(runs)}
    for name in ("bypass", "first_frame", "peer_down", "peer_up"):
        values = [value for run in runs if (value := getattr(run, f"{name}_ms")) is not None]
        if values:
            made.update(figures.spread(name, values))
    return {
        **made,
        "limit_ms": trial.limit_ms,
        "lost_frames": max(run.lost_frames for run in runs),
        "outage_ms": round(max(run.outage_ms for run in runs), 3),
        "lacp_longest_gap_ms": round(max(run.lacp_gap_ms for run in runs), 3),
        "lacp_lost_ratio": round(sum(run.lacp_gap_ms > TIMEOUT_MS for run in runs) / len(runs), 3),
        "inline_again_s": round(max(run.inline_again_s for run in runs), 2),
        "peers": trial.peers,
    }


def lacp_limit_ms(trial: Trial) -> float:
    """The longest time without a LACPDU that the trial's own limit allows; the neighbours' if that is longer."""
    return max(TIMEOUT_MS, (trial.limit_ms or 0.0) + INTERVAL_NS / 1e6)


def missed(table: list[figures.Row]) -> list[str]:
    """The guarantees that were broken (pure)."""
    trials = {trial.name: trial for trial in TRIALS}
    broken = []
    for found in table:
        trial = trials[found["fault"]]
        if trial.limit_ms is not None and found["bypass_max_ms"] > trial.limit_ms:
            broken.append(f"{trial.name}: {found['bypass_max_ms']:g} ms to bypass, and not {trial.limit_ms:g} ms")
        if trial.lossless and found["lost_frames"]:
            broken.append(f"{trial.name}: {found['lost_frames']} frames lost")
        if found["lacp_longest_gap_ms"] > lacp_limit_ms(trial) and not trial.peer_links:
            broken.append(f"{trial.name}: LACP timed out: {found['lacp_longest_gap_ms']:.0f} ms without a LACPDU")
    return broken


def plot(table: list[figures.Row]) -> Callable[[Any], None]:
    """A bar per fault on a logarithmic axis, with its limit."""

    def draw(axes: Any) -> None:
        rows = [found for found in table if "bypass_max_ms" in found]
        axes.barh([found["fault"] for found in rows], [max(found["bypass_max_ms"], 0.1) for found in rows])
        for found in rows:
            if found["limit_ms"]:
                axes.plot([found["limit_ms"]] * 2, [found["fault"]] * 2, "r|", markersize=20)
        axes.set_xscale("log")
        axes.invert_yaxis()
        axes.set_xlabel("ms to the moved relay, largest of the runs (red: the limit)")

    return draw


def say(text: str) -> None:
    """Progress, for display."""
    figures.say(f"hardware-figures: {text}")


def measure(trials: list[Trial], runs: int, kept: Kept, artefacts: Path, folder: Path) -> None:
    """All trials on boards of one wiring, fault by fault in turn, so that each has some runs if it is interrupted."""
    with board_crashes.board_that_hangs(artefacts, folder, trials[0].wiring, Timing(relay_ms=RELAY_MS)) as board:
        bench = Bench(board, folder)
        say(f"booting the board ({board.accelerator.name}{', ' + trials[0].wiring if trials[0].wiring else ''})")
        _, errors = attempt("boot", bench.ready, bench.restore, say, TRIES)
        kept.add("boot", None, errors)
        kept.pace = board.pace.figures()
        say(f"{board.pace}; {bench.rate} frames/s are offered")
        for number in range(max(wanted(trial, runs) for trial in trials)):
            for trial in trials:
                if len(kept.runs.get(trial.name, ())) > number or number >= wanted(trial, runs):
                    continue
                found, errors = attempt(trial.name, partial(suffer, bench, trial), bench.restore, say, TRIES)
                kept.add(trial.name, found, errors)
                say(f"{trial.name}, run {number + 1} of {wanted(trial, runs)}: {found}")


def main() -> int:
    """Exit status 0, or 1 when a limit is exceeded or a run failed."""
    parser = argparse.ArgumentParser(prog="hardware-figures", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=RUNS, help="of each fault; at most 5 are power cuts")
    parser.add_argument("--only", action="append", default=[], help="a part of a fault's name; may be repeated")
    parser.add_argument("--fresh", action="store_true", help="do not go on with an interrupted measurement")
    options = parser.parse_args()
    chosen = [trial for trial in TRIALS if not options.only or any(word in trial.name for word in options.only)]
    if not chosen or options.runs < 1:
        parser.error(f"nothing to measure; there are: {', '.join(trial.name for trial in TRIALS)}")
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    artefacts = board_harness.artefacts()
    kept = Kept(PARTIAL, subject(artefacts), options.fresh)
    root = Path(tempfile.mkdtemp(prefix="tw-hardware-"))
    try:
        for wiring in dict.fromkeys(trial.wiring for trial in chosen):
            same = [trial for trial in chosen if trial.wiring == wiring]
            if all(len(kept.runs.get(trial.name, ())) >= wanted(trial, options.runs) for trial in same):
                continue
            try:
                measure(same, options.runs, kept, artefacts, root / (wiring or "board"))
            except Exception as error:  # the board does not come back: what there is, is written
                kept.add("", None, [f"the board is not in service again: {type(error).__name__}: {error}"])
                say(f"failed: {kept.failed[-1]}")
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return written(chosen, options.runs, kept)


def written(chosen: list[Trial], runs: int, kept: Kept) -> int:
    """Write what there is; the exit status."""
    table = [row(trial, made) for trial in chosen if (made := kept.runs.get(trial.name))]
    short = [
        f"{trial.name}: {len(kept.runs.get(trial.name, ()))} of {wanted(trial, runs)} runs"
        for trial in chosen
        if len(kept.runs.get(trial.name, ())) < wanted(trial, runs)
    ]
    broken = missed(table)
    if table:
        more = {**kept.pace, "relay_contacts_ms": RELAY_MS, **{f"slow_{key}": value for key, value in SLOW.items()},
                "failed": kept.failed, "missing": short}  # fmt: skip
        print(figures.table(table))
        print(f"figures: {figures.write('hardware', table, plot(table), **more)}")
        if not short:
            kept.done()
    for line in (*broken, *short):
        say(f"missed: {line}")
    for line in kept.failed:
        say(f"failed run: {line}")
    return 1 if broken or short or kept.failed else 0


if __name__ == "__main__":
    sys.exit(main())
