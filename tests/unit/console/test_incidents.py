# SPDX-License-Identifier: GPL-2.0-only
"""Incidents and quarantine as a person sees them, and frames as a file."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import pytest

from console.client import Client
from console.execute import run_line
from console.line.outcome import GOOD, REFUSED
from console.render import Style
from console.session import Context
from console.views import render

ROW = {
    "number": 7, "when": "2026-05-04T03:02:01.123+00:00", "guest": "ips1", "kind": "died", "cause": "guest_exited",
    "frames": 64, "flows": 2, "bypass_at_most_ms": 21.5, "quarantined": ["quarantine-1"], "detail": "killed by SIGSEGV",
}  # fmt: skip
FLOW = "tcp 10.0.0.1:4000 <> 10.0.0.2:80"


def test_tables_say_what_matters() -> None:
    told = render("incidents", [ROW])
    for word in ("2026-05-04 03:02:01.123", "guest_exited", "21.5 ms", "quarantine-1", "killed by SIGSEGV"):
        assert word in told
    assert render("incidents", []) == "no incidents: no guest has crashed or failed"
    row = {
        "name": "quarantine-1",
        "flow": FLOW,
        "guests": ["ips1", "ips2"],
        "left_s": 90,
        "rules": 1,
        "why": "two deaths",
    }
    told = render("quarantine", [row])
    for word in (FLOW, "ips1, ips2", "two deaths"):
        assert word in told
    assert render("quarantine", []) == "no flow is in quarantine"


def test_a_guest_is_shown_with_its_evidence() -> None:
    """Which check failed, when, the last good value, the flips, and how quickly it was bypassed."""
    check = {"check": "in-band lan to wan", "state": "failing", "why": "nothing for 65.0 ms", "last_good_ms": 70.0,
             "latency_ms": 1.25, "changed_ms": 20_000, "falls": 2}  # fmt: skip
    flips = [{"ago_ms": 1000.0 * n, "check": f"check {n}", "to": "failing", "why": ""} for n in range(20)]
    bypass = {"cause": "heartbeat_lost", "runs": 3, "at_most_p50_ms": 31.0, "at_most_p99_ms": 48.0}
    agent = {"name": "\x1b[2Jagent", "malformed": 3}
    ways = [{"way": "lan to wan", "limit_frames_per_s": 1800, "carries_frames_per_s": 2100},
            {"way": "wan to lan", "limit_frames_per_s": 0, "carries_frames_per_s": 0}]  # fmt: skip
    told = render("guest", {"name": "ips1", "state": "suspect", "lease": "none", "lease_ms": 0.0, "checks": [check],
                            "flips": flips, "bypass": [bypass], "heartbeats": [], "agent": agent, "overload": ways,
                            "qmp_events": ["RESET guest True"]})  # fmt: skip
    for word in ("suspect", "nothing for 65.0 ms", "70 ms ago", "20 s ago", "1.25 ms", "check 19", "48", "RESET guest",
                 "1800", "2100"):  # fmt: skip
        assert word in told
    assert "check 9 " not in told
    assert "19 s ago" in told
    assert told.count("lease") == 1
    assert "\x1b" not in told
    told = render("guest", {"name": "ips1", "state": "failed", "ended_ms": 65_000.0, "checks": [check], "flips": flips,
                            "agent": agent, "lease_renewals": 9})  # fmt: skip
    assert "checks when the guest ended, 1 min 5 s ago" in told
    for word in ("failed", "nothing for 65.0 ms", "check 19"):
        assert word in told
    assert "malformed" not in told, "nothing is there that could talk"
    assert "no checks while the guest is not running" in render("guest", {"name": "ips1", "state": "stopped"})


def test_one_incident_with_its_last_words() -> None:
    """What came from a guest cannot steer the terminal."""
    told = render("incident", {**ROW, "flows": [FLOW], "console": "Oops: 0002\n\x1b[2Jend", "verdict": "", "at": 1.0})
    assert FLOW in told
    assert "Oops: 0002" in told
    assert "\x1b" not in told
    assert "verdict" not in told


class Daemon(Client):
    """Answers without a socket."""

    def call(self, method: str, params: object = None, wait: float = 5.0) -> object:
        assert (method, params) == ("incident.export", {"number": 7})
        return {"number": 7, "pcapng": base64.b64encode(b"\x0a\x0d\x0d\x0aframes").decode()}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def out() -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO())


def run(line: str, out: io.TextIOBase) -> tuple[int, str]:
    said = io.StringIO()
    context = Context(Daemon(Path("/nowhere")), out, said, Style())  # type: ignore[arg-type]
    return run_line(line, context), said.getvalue()


def test_frames_go_to_standard_output_or_to_a_new_file(out: io.TextIOWrapper, tmp_path: Path) -> None:
    assert run("incident 7 export", out) == (GOOD, "")
    assert out.buffer.getvalue() == b"\x0a\x0d\x0d\x0aframes"  # type: ignore[attr-defined]
    path = tmp_path / "last.pcapng"
    assert run(f"incident 7 export {path}", out)[0] == GOOD
    assert path.read_bytes() == b"\x0a\x0d\x0d\x0aframes"
    code, said = run(f"incident 7 export {path}", out)
    assert code == REFUSED
    assert "already exists" in said
    code, said = run(f"incident 7 export {tmp_path}/none/x", out)
    assert code == REFUSED
    assert "No such file" in said


def test_frames_are_not_for_a_terminal() -> None:
    code, said = run("incident 7 export", Terminal())
    assert code == REFUSED
    assert "export writes binary data" in said
    assert run("incident seven export", Terminal())[0] == 2


def test_counters_since_they_were_cleared_say_so() -> None:
    when = "2026-11-29T13:30:00+00:00"
    counters = {"ports": {"main/lan": {"frames": 3}}, "cleared": when}
    assert render("counters", counters).startswith("since 2026-11-29 13:30:00 UTC, when they were cleared\n\nPORT")
    rules = {"rules": [{"name": "web", "frames": 3}], "filters": [], "cleared": when}
    assert render("rules", rules).startswith("since 2026-11-29 13:30:00 UTC, when they were cleared\nRULE")
    assert not render("counters", {"ports": counters["ports"]}).startswith("since")
