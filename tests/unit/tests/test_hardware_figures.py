# SPDX-License-Identifier: GPL-2.0-only
"""The hardware figures: rows, limits, and runs that are kept when the measurement is interrupted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from simulator.stream import Report

from tests import hardware_figures as measured
from tests.hardware_figures import TRIALS, Kept, Marks, Measured, judged, missed, row, start_of, wanted
from tests.support import figures

RUN = Measured(bypass_ms=100.0, first_frame_ms=101.0, lost_frames=3, outage_ms=7.0, lacp_gap_ms=1000.0,
               inline_again_s=9.0)  # fmt: skip
TRIAL = {trial.name: trial for trial in TRIALS}
HUNG, CUT, SLOW = (TRIAL[name] for name in ("kernel hung (all processors)", "power cut",
                                            "slow relay to bypass, links renegotiate"))  # fmt: skip


def test_a_row_has_the_worst_of_all_runs() -> None:
    made = row(HUNG, [RUN, replace(RUN, bypass_ms=300.0, lost_frames=9, lacp_gap_ms=1500.5)])
    assert (made["runs"], made["bypass_p50_ms"], made["bypass_max_ms"]) == (2, 200.0, 300.0)
    assert (made["lost_frames"], made["lacp_longest_gap_ms"], made["limit_ms"]) == (9, 1500.5, 2500.0)
    assert "Riverbed 7 s" in made["peers"]
    assert "peer_down_p50_ms" not in made


def test_what_the_neighbours_saw_is_in_its_row() -> None:
    made = row(SLOW, [replace(RUN, peer_down_ms=16.0, peer_up_ms=2016.0)])
    assert (made["peer_down_max_ms"], made["peer_up_max_ms"]) == (16.0, 2016.0)


def test_limits_are_told() -> None:
    assert missed([row(HUNG, [RUN])]) == []
    assert "2501 ms" in missed([row(HUNG, [replace(RUN, bypass_ms=2501.0)])])[0]
    assert "LACP" in missed([row(CUT, [replace(RUN, lacp_gap_ms=3500.0)])])[0]
    lossless = TRIAL["supervisor hung (bypassd stopped)"]
    still = replace(RUN, bypass_ms=None, first_frame_ms=None)
    assert "3 frames lost" in missed([row(lossless, [still])])[0]
    assert missed([row(lossless, [replace(still, lost_frames=0)])]) == []


def test_lacp_may_end_only_where_the_faults_own_limit_allows_it() -> None:
    """A processor that hangs just after it was checked, just before a LACPDU: 2.4 s until the other one sees it, up to
    0.5 s to the wire, a second since the last LACPDU."""
    one, alive = TRIAL["one processor hung"], TRIAL["kernel hung, keep-alive relay"]
    for trial, gap_ms, said in ((one, 3474.0, 0), (one, 3901.0, 1), (alive, 2900.0, 0), (alive, 3001.0, 1)):
        assert len(missed([row(trial, [replace(RUN, lacp_gap_ms=gap_ms)])])) == said
    runs = [replace(RUN, lacp_gap_ms=gap_ms) for gap_ms in (900.0, 3001.0, 2999.0, 3474.0)]
    assert row(one, runs)["lacp_lost_ratio"] == 0.5


def test_power_cuts_are_few() -> None:
    assert [wanted(CUT, runs) for runs in (2, 30)] == [2, 5]
    assert wanted(HUNG, 30) == 30


def test_all_that_is_promised_is_measured() -> None:
    """Each limit of the watchdog and of the keep-alive relay, and what the other rings promise."""
    limits = {name: trial.limit_ms for name, trial in TRIAL.items() if trial.limit_ms}
    assert limits["kernel hung (all processors)"] == 2500.0
    assert limits["kernel hung, keep-alive relay"] == 150.0
    assert limits["one processor hung"] == 2900.0
    assert TRIAL["kernel hung, keep-alive relay"].wiring == "keep-alive"
    assert {"one processor hung", "kernel panic", "orderly reboot", "relay to bypass", "relay to inline"} <= set(TRIAL)


def test_times_count_from_the_right_moment() -> None:
    fault, moved = {"mono_ns": 10}, {"line_ns": 20, "mono_ns": 30}
    board: Any = SimpleNamespace(console=SimpleNamespace(sinks=[]), debug=SimpleNamespace(sinks=[]))
    with Marks(board) as marks:
        (take,), (hear,) = board.console.sinks, board.debug.sinks
        take(b"[ 9.1] test_lock")
        assert marks.hangs_ns is None
        with pytest.raises(AssertionError, match="did not say"):
            start_of(HUNG, fault, moved, marks)
        take(b"up: START pid = 7")
        assert start_of(HUNG, fault, moved, marks) == marks.hangs_ns
        assert start_of(CUT, fault, moved, marks) == 10
        hear(b"printf 'fault-%s\\n' begins; echo c >/proc")
        assert marks.begins_ns is None, "the terminal's echo of the command is not the command"
        hear(b"\r\nfault-begins\r\n")
        assert start_of(TRIAL["kernel panic"], fault, moved, marks) == marks.begins_ns
    assert board.console.sinks == board.debug.sinks == []
    assert start_of(SLOW, fault, moved, marks) == 20


def test_both_directions_count() -> None:
    report = Report(sent=100, received=95, lost=5, duplicates=0, reordered=0, longest_gap_ms=1.0,
                    longest_outage_ms=12.0, first_lost_ns=None, back_ns=None)  # fmt: skip
    both = [report, replace(report, lost=2, longest_outage_ms=3.0)]
    made = judged(both, bypass=1.0, first=2.0, gap=3.0, again=4.0, links=(5_000_000, None))
    assert (made.lost_frames, made.outage_ms, made.peer_down_ms, made.peer_up_ms) == (7, 12.0, 5.0, None)


def test_an_interrupted_measurement_goes_on(tmp_path: Path) -> None:
    path, of = tmp_path / "partial.json", {"version": "1"}
    kept = Kept(path, of)
    kept.add("power cut", None, ["power cut: WaitTimeout: no event"])
    kept.add("power cut", RUN, [])
    again = Kept(path, of)
    assert again.runs == {"power cut": [RUN]}
    assert again.failed == ["power cut: WaitTimeout: no event"]
    assert Kept(path, {"version": "2"}).runs == {}, "of another appliance"
    assert Kept(path, of, fresh=True).runs == {}
    again.done()
    assert not path.exists()
    again.done()


@pytest.mark.parametrize("text", ["", "{}", '{"of": {}, "runs": {"a": [{"no": 1}]}, "failed": [], "pace": {}}'])
def test_damaged_runs_are_not_used(tmp_path: Path, text: str) -> None:
    path = tmp_path / "partial.json"
    path.write_text(text)
    assert Kept(path, {}).runs == {}


def test_what_was_not_measured_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is written with its gaps named, and the runs stay for the next time."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "partial.json"
    kept = Kept(path, {})
    kept.add(HUNG.name, RUN, [])
    monkeypatch.setattr(figures, "write", lambda name, table, draw, **more: more["missing"])
    assert measured.written([HUNG, CUT], 1, kept) == 1
    assert path.exists()
    kept.add(CUT.name, RUN, [])
    assert measured.written([HUNG, CUT], 1, kept) == 0
    assert not path.exists()
