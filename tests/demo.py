# SPDX-License-Identifier: GPL-2.0-only
"""`make demo`: every failure in turn, on a booted board with a live link.

A client behind `lan` downloads from an HTTP server behind `wan`, and a numbered stream crosses in each direction. Their
frames and bytes a second, and all timeouts, follow from the speed of the emulation, which is measured first and
recorded with the figures. For each fault the table has

- `bypass_*_ms`: rings 1 and 2: the longest time without a frame arriving, the worse direction, until the fault is
  undone (a hung guest gives back late what it held, so lost frames alone do not tell); a steady stream alone shows a
  few milliseconds here; ring 3: from the fault to the closed relay; link-down: until both ports are found set down;
- `lost_frames`, `longest_gap_ms`: both directions, from the fault until all is as before, the way back included;
- `inline_again_s`: until the relay is open and the guest has its traffic again, from the fault, or from the remedy for
  a fault that does not heal by itself;
- `download_whole`: the checksum of what was downloaded meanwhile, over one TCP connection;
- `link_carries_after`: frames cross in both directions afterwards;
- `lacp_longest_gap_ms`: the longest time, from the fault until all is as before, that one of two neighbours that bundle
  the link by LACP (fast timer: a LACPDU a second) heard nothing of the other. After 3 s it would take the link down;
- `told`: what the console said before the fault, of a canary: how it compares with the guest beside it.

A run that fails with an error is reported, the board is switched off and on, its speed is measured again, and the run
is repeated once; the other faults are injected in any case. Exits with 1 if a guarantee of the appliance was broken, or
a run had an error.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import boardspec
from simulator import Board, Event
from simulator.download import Download
from simulator.lacp import TIMEOUT_MS, Lacp
from simulator.pace import Pace
from simulator.payload import image
from simulator.simulator import ERST
from simulator.stream import Report, Stream

from tests.faults import FAULTS, Fault, ports_up
from tests.support import board_harness, figures
from tests.support.attempts import attempt
from tests.support.board_appliance import PATIENCE_S, offer, wait_healthy, wait_until

STEADY_S = 1.0  # watched before and after a fault
DOWNLOAD_S = {1: 12, 2: 15, 3: 30}  # by ring: long enough to live through the fault


@dataclass
class Measure:
    """The result of one run of one fault."""

    bypass_ms: float
    lost_frames: int
    longest_gap_ms: float
    inline_again_s: float
    relay_moves: int
    download_whole: bool | None
    carries: bool
    lacp_gap_ms: float
    told: str = ""
    broken: list[str] = field(default_factory=list)


class Streams:
    """The numbered frames in both directions."""

    def __init__(self, board: Board) -> None:
        folder, rate = board.directory, board.pace.frames
        self.both: list[Stream] = []
        try:
            for name, source, target in (("lan-wan", board.lan, board.wan), ("wan-lan", board.wan, board.lan)):
                self.both.append(Stream(source, target, folder / f"{name}.stream", rate))
        except BaseException:
            self.stop()
            raise

    def reports(self, start_ns: int, end_ns: int | None = None) -> list[Report]:
        """One report per direction for the frames sent in the span."""
        return [stream.report(start_ns, end_ns) for stream in self.both]

    def stop(self) -> None:
        """End both."""
        for stream in self.both:
            stream.stop()


def new_appliance(directory: Path) -> None:
    """Remove the disk of an earlier demo, and the crashes that are counted there: they would add up to safe mode."""
    for name in (boardspec.load().data_disk.file, ERST):
        (directory / name).unlink(missing_ok=True)


def suffer(board: Board, fault: Fault) -> Measure:
    """Inject one fault under traffic, let the appliance recover, and judge.

    What earlier faults left in the crash count is cleared first: so many within an hour are safe mode.
    """
    board.sh("bypass crash-count clear")
    steady_s, rate = board.pace.wait(STEADY_S), board.pace.bytes
    with contextlib.ExitStack() as ends:
        size = round(rate * board.pace.wait(DOWNLOAD_S[fault.ring]))
        download = Download(board.lan, board.wan, size, rate=rate)
        ends.callback(download.close)
        streams = Streams(board)
        ends.callback(streams.stop)
        lacp = Lacp(board.lan, board.wan)
        ends.callback(lacp.close)
        if fault.prepare:
            ends.callback(fault.after or (lambda _: None), board)
            fault.prepare(board)
        told = fault.told(board) if fault.told else ""
        time.sleep(steady_s)
        mark = board.events.mark()
        hit: Event = board.fault(fault.name)
        with fault.allow(board):
            fault.make(board)
            if fault.relay:
                closed = board.wait_event(event="relay", state="bypass", since=mark, timeout=PATIENCE_S)
            if fault.links:
                wait_until(board, lambda: ports_up(board) == 0, "both ports set down")
                down_ns = time.monotonic_ns()
            time.sleep(steady_s)
            seen_ns = time.monotonic_ns()
            origin = hit["mono_ns"] / 1e9
            if fault.undo:
                origin = time.monotonic()
                fault.undo(board)
            if fault.relay:
                board.wait_event(event="relay", state="inline", since=closed["n"], timeout=PATIENCE_S)
            if fault.links:
                wait_until(board, lambda: ports_up(board) == 2, "both ports set up again")
            again = wait_healthy(board)
        time.sleep(steady_s)
        result = download.wait(board.pace.wait(PATIENCE_S)) if fault.download else None
        healed_ns = time.monotonic_ns()
        time.sleep(steady_s)
        end_ns = time.monotonic_ns()  # what `after` does is no part of it
        lacp_gap_ms = lacp.longest_gap_ms(hit["mono_ns"], end_ns)
    after = streams.reports(healed_ns, end_ns)
    whole = streams.reports(hit["mono_ns"], end_ns)
    if fault.links:
        bypass_ms = (down_ns - hit["mono_ns"]) / 1e6
        crossed = sum(stream.arrivals(down_ns, seen_ns) for stream in streams.both)
    elif fault.relay:
        bypass_ms = (closed["mono_ns"] - hit["mono_ns"]) / 1e6
    else:
        bypass_ms = max(stream.longest_silence_ms(hit["mono_ns"], seen_ns) for stream in streams.both)
    measure = Measure(
        bypass_ms=bypass_ms,
        lost_frames=sum(report.lost for report in whole),
        longest_gap_ms=max(report.longest_gap_ms for report in whole),
        inline_again_s=again - origin,
        relay_moves=len(board.events.since(mark, event="relay")),
        download_whole=result.whole if result else None,
        carries=all(report.sent > 0 and report.lost == 0 for report in after),
        lacp_gap_ms=lacp_gap_ms,
        told=told,
    )
    if not measure.carries:
        measure.broken.append("the link does not carry every frame afterwards")
    if fault.links and crossed:
        measure.broken.append(f"{crossed} frames crossed while both ports were set down")
    if lacp_gap_ms > TIMEOUT_MS and not fault.links:
        measure.broken.append(f"the neighbours' LACP timed out: {lacp_gap_ms:.0f} ms without a LACPDU")
    if measure.download_whole is False and result:
        measure.broken.append(f"the download broke: {result.error}")
    if fault.ring < 3 and measure.relay_moves:
        measure.broken.append(f"the relay moved {measure.relay_moves} times")
    if (fault.ring == 2 or fault.lossless) and measure.lost_frames:
        measure.broken.append(f"{measure.lost_frames} frames were lost")
    if fault.lossless and (twice := sum(report.duplicates for report in whole)):
        measure.broken.append(f"{twice} frames arrived twice")
    return measure


def restore(board: Board) -> None:
    """Bring a board back into service, whatever state an error left it in.

    Its speed is measured again, and the traffic follows: the machine may be busier now than it was at the first boot.
    """
    if board.qemu_pid is not None:
        board.power_cut()
    board.pace = Pace()
    board.power_on()
    figures.say(f"demo: {offer(board)}")


def row(fault: Fault, runs: list[Measure]) -> figures.Row:
    """The runs of one fault as one row of the figures."""
    known = [run.download_whole for run in runs if run.download_whole is not None]
    return {
        "fault": fault.name,
        "ring": fault.ring,
        "runs": len(runs),
        **figures.spread("bypass", [run.bypass_ms for run in runs]),
        "lost_frames": max(run.lost_frames for run in runs),
        "longest_gap_ms": round(max(run.longest_gap_ms for run in runs), 3),
        "inline_again_s": round(max(run.inline_again_s for run in runs), 2),
        "download_whole": all(known) if known else None,
        "link_carries_after": all(run.carries for run in runs),
        "lacp_longest_gap_ms": round(max(run.lacp_gap_ms for run in runs), 3),
        "told": "; ".join(dict.fromkeys(run.told for run in runs if run.told)) or None,
    }


def plot(rows: list[figures.Row]) -> Any:
    """Bars: time to bypass of each fault, on a logarithmic axis."""

    def draw(axes: Any) -> None:
        names = [entry["fault"] for entry in rows]
        axes.barh(names, [max(entry["bypass_max_ms"], 0.1) for entry in rows])
        axes.set_xscale("log")
        axes.invert_yaxis()
        axes.set_xlabel("time to bypass, ms (largest of the runs)")

    return draw


def main() -> int:
    """Boot, inject every fault, print and write the table."""
    parser = argparse.ArgumentParser(prog="tests.demo", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=1, help="how often each fault is made")
    parser.add_argument("--only", action="append", default=[], help="a fault's name; may be repeated")
    parser.add_argument("--dir", type=Path, default=boardspec.load().build / "demo")
    options = parser.parse_args()
    chosen = [fault for fault in FAULTS if not options.only or fault.name in options.only]
    if not chosen:
        parser.error(f"no such fault; there are: {', '.join(fault.name for fault in FAULTS)}")
    rows: list[figures.Row] = []
    broken: list[str] = []
    failed: list[str] = []
    artefacts = board_harness.artefacts()
    new_appliance(options.dir)
    load = image(artefacts, options.dir, debug=True)
    with Board(options.dir, load, accelerator=board_harness.accelerator(artefacts)) as board:
        figures.say(f"demo: booting the board ({board.accelerator.name})")
        board.power_on()
        inline = board.wait_relay("inline", timeout=PATIENCE_S)
        started = board.events.last(event="power", state="on")
        start_s = round((inline["mono_ns"] - started["mono_ns"]) / 1e9, 2) if started else None
        figures.say(f"demo: inline {start_s} s after the kernel's start")
        figures.say(f"demo: {offer(board)}")
        try:
            for number, fault in enumerate(chosen, 1):
                runs = []
                for run in range(options.runs):
                    figures.say(f"demo: {number}/{len(chosen)} {fault.name}, run {run + 1}/{options.runs}")
                    measure, errors = attempt(
                        fault.name,
                        partial(suffer, board, fault),
                        partial(restore, board),
                        lambda text: figures.say(f"demo:   {text}"),
                    )
                    failed += errors
                    if measure is not None:
                        runs.append(measure)
                        broken += [f"{fault.name}: {what}" for what in measure.broken]
                        figures.say(f"demo:   {measure}")
                if runs:
                    rows.append(row(fault, runs))
        except Exception as error:  # the board does not come back: what there is, is written
            failed.append(f"{fault.name}: the board is not in service again: {type(error).__name__}: {error}")
    pace = board.pace
    print(f"{pace}; from the kernel's start to inline: {start_s} s\n")
    if rows:
        more = {"kernel_start_to_inline_s": start_s, **pace.figures(), "failed": failed}
        print(figures.table(rows))
        print(f"written: {figures.write('demo', rows, plot(rows), **more)}")
    for line in broken:
        print(f"broken promise: {line}")
    for line in failed:
        print(f"failed run: {line}")
    return 1 if broken or failed else 0


if __name__ == "__main__":
    sys.exit(main())
