# SPDX-License-Identifier: GPL-2.0-only
"""How data looks: aligned, folded, coloured only on top, and nothing in it can drive the terminal."""

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from console.line.outcome import Outcome
from console.line.pipes import pipe
from console.render import Style, duration, table, to_json
from console.views import render
from console.views.state import banner

SEGMENT = {"name": "main", "relay": "inline", "mode": "auto", "lan": "lan0", "wan": "wan0", "cause": "healthy"}
STATUS: dict[str, Any] = {"hostname": "wire1", "version": "0.1.0", "uptime_s": 75, "segments": [SEGMENT]}


def with_relay(relay: str, cause: str, detail: str = "") -> dict[str, Any]:
    return {**STATUS, "segments": [{**SEGMENT, "relay": relay, "cause": cause, "detail": detail}]}


def test_status_inline() -> None:
    """The quiet case, whole."""
    assert render("status", STATUS) == (
        "wire1  Throughwire 0.1.0  up 1 min 15 s\n"
        "inline: main\n"
        "\n"
        "SEGMENT  RELAY   MODE  LAN   WAN   CAUSE\n"
        "main     inline  auto  lan0  wan0  healthy"
    )


def test_status_bypass_cannot_be_missed() -> None:
    """A relay that is not inline is prominent at the top, with cause and meaning, with and without colour."""
    text = render("status", with_relay("bypass", "relay_missing"))
    assert text.splitlines()[1] == (
        "*** BYPASS *** segment main: relay_missing "
        "(the relay line cannot be opened: check board.toml and the GPIO driver)"
    )
    assert "main     BYPASS" in text
    assert "inline: " not in text
    coloured = render("status", with_relay("bypass", "operator"), Style(colour=True))
    assert "\x1b[1;31m*** BYPASS ***" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == render("status", with_relay("bypass", "operator"))


def test_a_relay_that_stays_inline_cannot_be_missed() -> None:
    """It was told to go to bypass and does not: the page says so, with the fault."""
    status = with_relay("inline", "operator")
    status["segments"][0] |= {"want": "bypass", "also": ["relay_fault: relay lan0-wan0: set to bypass, reads inline"]}
    lines = render("status", status).splitlines()
    assert lines[1].startswith("*** STILL INLINE *** segment main: operator (")
    assert lines[1].endswith("): its relay should be in bypass")
    assert lines[2].strip() == "segment main: relay_fault: relay lan0-wan0: set to bypass, reads inline"
    status["segments"][0]["want"] = "hold"
    assert "STILL INLINE" not in render("status", status)


def test_status_without_segments_and_with_bad_configuration() -> None:
    """Nothing in service is an alarm too; configuration errors stand above the tables."""
    status = {**STATUS, "segments": [], "config": {"valid": False, "errors": ["F: rule web: match: syntax error"]}}
    text = render("status", status)
    assert "*** BYPASS *** no segment is in service" in text
    assert "*** CONFIGURATION INVALID *** F: rule web: match: syntax error" in text


def test_detail_of_a_cause_wins_over_its_general_text() -> None:
    """A known cause is explained; an unknown one is shown unchanged."""
    assert "relay_missing (no line x)" in banner(with_relay("bypass", "relay_missing", "no line x"))
    assert "segment main: gremlins" in banner(with_relay("bypass", "gremlins"))


def test_status_says_the_rest_in_lines() -> None:
    """What has no table is one line each, with units; lists inside are left to --json."""
    watchdog = {"state": "armed", "timeout_ms": 2000, "detail": "", "relays": [{"line": "x"}]}
    text = render("status", {**STATUS, "board": "qemu", "watchdog": watchdog, "keeper": {"uptime_s": 61}})
    assert text.splitlines()[-3:] == ["board: qemu", "watchdog: armed, timeout 2000 ms", "keeper: uptime 1 min 1 s"]


def test_everything_that_keeps_a_segment_from_being_inline_is_told() -> None:
    """A second fault is not hidden behind the first; a fault that a part has told is not told again below."""
    status = with_relay("bypass", "relay_missing", "no line x")
    status["segments"][0]["also"] = ["port_missing: lan0 is not there"]
    status |= {"parts": [{"name": "steering", "state": "failed", "detail": "no bpf"}], "datapath": {"detail": "no bpf"}}
    text = render("status", status)
    assert text.splitlines()[1:3] == [
        "*** BYPASS *** segment main: relay_missing (no line x)",
        "               segment main: port_missing: lan0 is not there",
    ]
    assert text.count("no bpf") == 1
    assert render("segments", status["segments"]).splitlines()[3:] == [
        "main: relay_missing (no line x)",
        "main: port_missing: lan0 is not there",
    ]


def test_an_inline_segment_that_cannot_carry_everything_says_so() -> None:
    """The relay is inline, and the cause that frames do not cross is outside: it is shown."""
    row = {**SEGMENT, "relay": "inline", "attach": "xdp", "attach_why": "both ports have native XDP"}
    lost = {**row, "cause": "link_down", "detail": "lan0 has no link"}
    assert render("segments", [lost]).splitlines()[-1] == "main: link_down (lan0 has no link)"
    assert render("segments", [{**row, "cause": "healthy"}]).splitlines()[-1].startswith("main: attached by xdp")
    uncounted = {**row, "cause": "healthy", "sent_detail": "the driver of wan0 does not count what XDP sends"}
    assert render("segments", [uncounted]).splitlines()[-1] == "main: the driver of wan0 does not count what XDP sends"
    partly = {
        **row,
        "cause": "partly_sent",
        "detail": "wan0 sent 5 of 9 frames",
        "sent_detail": "wan0 sent 5 of 9 frames",
    }
    text = render("segments", [partly])
    assert text.count("wan0 sent 5 of 9 frames") == 1


def test_table() -> None:
    """Columns are aligned, numbers to the right, the last column is folded to the terminal's width."""
    rows = [{"a": "x", "n": 5, "text": "one two three four five six"}, {"a": "longer", "n": 1000, "text": None}]
    columns = [("a", "A"), ("n", "N"), ("text", "TEXT")]
    assert table(rows, columns).splitlines() == [
        "A          N  TEXT",
        "x          5  one two three four five six",
        "longer  1000  -",
    ]
    assert table(rows, columns, Style(width=39)).splitlines() == [
        "A          N  TEXT",
        "x          5  one two three four five",
        "              six",
        "longer  1000  -",
    ]


def test_table_on_a_narrow_terminal() -> None:
    """Columns that do not fit are printed below their row as text, and nothing is cut off or lost."""
    row = {"when": "2026-01-02 03:04:05.678", "what": "guest ips1", "from": "available", "to": "stopped",
           "cause": "operator", "detail": "stopped by admin at 192.0.2.7 over SSH"}  # fmt: skip
    quiet = {**row, "to": "starting", "cause": "starting", "detail": None}
    data = {"transitions": [row, quiet]}
    assert render("transitions", data, Style(width=60)).splitlines() == [
        "WHEN                     WHAT        FROM       TO",
        "2026-01-02 03:04:05.678  guest ips1  available  stopped",
        "    cause operator, stopped by admin at 192.0.2.7 over SSH",
        "2026-01-02 03:04:05.678  guest ips1  available  starting",
        "    cause starting",
    ]
    wide = render("transitions", data, Style(width=200))
    assert wide == render("transitions", data), "where there is room it is a table"
    for width in range(24, 200):
        text = render("transitions", data, Style(width=width))
        assert max(map(len, text.splitlines())) <= width
        words = text.replace(",", " ").split()
        assert set(wide.lower().split()) - {"-", "detail", "what"} <= {word.lower() for word in words}


@pytest.mark.parametrize("colour", [True, False])
def test_how_filters_were_compiled_fits_the_terminal(colour: bool) -> None:
    """Folded, each fact with what belongs to it further in; colour changes no width."""
    row = {"by": "xdp", "segments": ["main"], "method": "chain", "instructions": 90, "programs": 2, "generate_ms": 1.5}
    text = render("rules-detail", {"rules": [], "filters": [{**row, "load_ms": 2}]}, Style(colour, 44))
    assert re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()[2:] == [
        "filters of segment main by xdp: rule by",
        "    rule, 90 instructions, 2 programs",
        "  generated in 1.5 ms, loaded in 2 ms",
    ]


def test_what_a_guest_printed() -> None:
    """Nothing that moves a cursor, and no marks in its place; empty lines stay empty, one at a time."""
    lines = ["", "", "up", "", "", "~ # \x1b[6nhello\x1b[2J \ufffd[0m\x07", ""]
    assert render("guest-log", {"lines": lines}) == "up\n\n~ # hello ?"
    assert render("incident", {"number": 1, "console": lines}).splitlines()[2:] == [
        "console output before the failure", "  up", "", "  ~ # hello ?",
    ]  # fmt: skip


def test_units_and_times_are_everywhere_the_same() -> None:
    """A unit stands behind its value, not in its name."""
    incident = {"number": 1, "when": "2026-01-02T03:04:05.678901+00:00", "last_proof_ms": 19.023}
    assert render("incident", incident).splitlines() == [
        "number      1", "when        2026-01-02 03:04:05.678Z", "last proof  19.023 ms",
    ]  # fmt: skip
    guest = {"name": "ips1", "uptime_s": 61.2, "latency_p50_ms": 5.5, "checks": []}
    assert "uptime       1 min 1 s\nlatency p50  5.5 ms" in render("guest", guest)


def test_long_values_are_folded_beside_their_keys() -> None:
    """In pairs and in the lines of `show status`; a file or a pipe gets whole lines."""
    data = {"cause": "healthy", "last_words": "one two three four five six seven"}
    assert render("generic", data, Style(width=34)).splitlines() == [
        "cause       healthy",
        "last words  one two three four",
        "            five six seven",
    ]
    assert len(render("generic", data).splitlines()) == 2
    status = {"keeper": {"state": "running", "detail": "it was started again after it had ended unasked"}}
    assert render("status", {**STATUS, **status}, Style(width=40)).splitlines()[-2:] == [
        "keeper: running, it was started again",
        "    after it had ended unasked",
    ]
    long = {"supervisor": {"uptime_s": 5, "last_exit": "word " * 60, "longest_stall": "task pulse"}}
    shown = render("status", {**STATUS, **long}, Style(width=40))
    assert max(map(len, shown.splitlines())) <= 40, "continuation lines are indented, and fit all the same"
    assert "task pulse" not in shown


def test_long_values_of_a_change_end_between_words() -> None:
    """Unless there is one long word; short ones are whole."""
    values = ("{ name = web, match = tcp port 80 }", "a-filter-without-any-space-in-it", "short")
    for value, expected in zip(
        values, ("{ name = web, match = tcp ...", "a-filter-without-any-space-...", "short"), strict=True
    ):
        data = {"message": "Check passed", "good": True, "changes": [{"where": "rule web", "new": value}]}
        row = render("config-check", data).splitlines()[-1]
        assert row.split("  ")[-2].strip() == expected, row


def test_lines_below_the_status_hang() -> None:
    relay = {"name": "relay-inline", "unpowered": "claimed", "hang_ms": 2000.0}
    assert render("status", {**STATUS, "relays": [relay]}, Style(width=50)).splitlines()[-2:] == [
        "relay relay-inline: link dead if the computer",
        "    hangs: 2000 ms; joined without power: claimed",
    ]


VIEWS = [
    ("segments", [], "no segments are configured"),
    ("segments", [{"name": "main", "relay": "inline", "attach": "xdp", "attach_why": "ok", "link_local": "rules"}],
     ("SEGMENT  RELAY   ATTACH\nmain     inline  xdp\n\nmain: attached by xdp: ok\n"
      "main: link-local control frames follow the rules")),
    ("segments", [{"name": "main", "relay": "inline", "attach": "tc", "attach_why": "lan0 (e1000e): no native XDP"}],
     ("SEGMENT  RELAY   ATTACH\nmain     inline  tc\n\n"
      "main: attached by tc: lan0 (e1000e): no native XDP")),
    ("segments", [{"name": "main", "relay": "inline", "attach": "xdp", "attach_why": "both ports",
                   "longest_bytes": 1518, "unsent": {"down": 7, "no_reader": 1}}],
     ("SEGMENT  RELAY   ATTACH\nmain     inline  xdp\n\nmain: attached by xdp: both ports\n"
      "main: frames of up to 1518 bytes pass\nmain: frames that its ports did not send: 7 (down), 1 (no reader)")),
    ("guests", [], "no guests are configured"),
    ("guests", [{"name": "ips1", "state": "available", "unsent": {"full": 12}}],
     "GUEST  STATE      FRAMES NOT TAKEN\nips1   available  12 (full)"),
    ("guests", [{"name": "ips1", "state": "available", "unsent": {}}], "GUEST  STATE\nips1   available"),
    ("rules", [], "no rules: every frame passes straight to the other port"),
    ("rules", [{"name": "web", "match": "", "path": ["ips", "dpi"], "segment": ""}],
     "RULE  SEGMENT  PATH       MATCH\nweb   every    ips > dpi  every frame"),
    ("transitions", [], "no transitions yet"),
    ("transitions", [{"when": "2026-01-02T03:04:05.678901+00:00", "what": "guest ips1", "from": "a", "to": "b"}],
     "WHEN                      WHAT        FROM  TO\n2026-01-02 03:04:05.678Z  guest ips1  a     b"),
    ("crash", [], "no crash reports: the machine has not crashed"),
    ("crash", [{"number": 1, "text": "Kernel panic\n\x1b[2Jtrace"}], "Kernel panic\n?[2Jtrace"),
    ("crash", [{"number": 1, "when": "", "kind": "panic", "cause": "kernel panic: x", "version": "1.0", "ran_s": 99},
               {"number": 2, "when": "2026-01-02T03:04:05Z", "kind": "watchdog", "cause": "hung", "ran_s": None}],
     ("REPORT  FOUND                 KIND      VERSION  RAN FOR     CAUSE\n"
      "     1  clock not set         panic     1.0      1 min 39 s  kernel panic: x\n"
      "     2  2026-01-02 03:04:05Z  watchdog  -        -           hung")),
    ("boots", {"count": 9, "by_kind": {"power": 8, "reboot": 1}, "boots": [
        {"number": 9, "when": "2026-01-02T03:04:05Z", "kind": "reboot", "cause": "reboot by order of anna",
         "version": "1.0", "ran_s": 60, "report": None}]},
     ("boots: 9 (power 8, reboot 1)\n\n"
      "BOOT  WHEN                  RESET   VERSION  AFTER      CAUSE\n"
      "   9  2026-01-02 03:04:05Z  reboot  1.0      1 min 0 s  reboot by order of anna")),
    ("done", {"message": "guest ips1: starting"}, "guest ips1: starting"),
    ("done", None, "done"),
    ("generic", {"in": 1, "rules": [{"name": "web", "frames": 3}]}, "in  1\n\nrules:\nNAME  FRAMES\nweb        3"),
    ("generic", {"a": True, "b": [1, 2], "c": {"x": 1}}, "a  yes\nb  1, 2\nc  x=1"),
    ("counters", {"ports": {"main/lan": {"frames": 5, "outcomes": {"to_port": {"frames": 4, "bytes": 9}},
                                         "lost": {"full": 2}, "refused": {"too_long": 1}},
                            "main/wan": {"frames": 0, "outcomes": {}}},
                  "hops": {"ips1": {"to_frames": 1, "skipped": {"lease": 2}, "taps": {"x": {}}}},
                  "unknown": {"frames": 3}},
     ("PORT      FRAMES  TO PORT  LOST FULL  REFUSED TOO LONG\n"
      "main/lan       5        4          2                 1\n"
      "main/wan       0        0          0                 0\n\n"
     "HOP   TO FRAMES  SKIPPED LEASE\nips1          1              2\n\nframes from unknown devices: 3")),
    ("generic", {}, "no data"),
    ("rules", {"rules": [], "filters": []}, "no rules: every frame passes straight to the other port"),
    ("rules", {"rules": [{"name": "web", "match": "tcp", "path": []}],
               "filters": [{"by": "xdp", "instructions": 90, "hidden": []}]},
     "RULE  SEGMENT  PATH      MATCH\nweb   every    straight  tcp"),
    ("rules", {"rules": [{"name": "web", "match": "tcp", "path": []}], "filters": [{"by": "xdp", "hidden": ["c"]}]},
     ("RULE  SEGMENT  PATH      MATCH\nweb   every    straight  tcp\n\n"
      "never reached, because an earlier rule matches their frames: c")),
    ("rules-detail", {"rules": [{"name": "web", "match": "tcp", "path": []}],
               "filters": [{"by": "xdp", "segments": ["main"], "method": "several graphs", "why": "too many edges",
                            "instructions": 90, "programs": 2, "table_bytes": 8, "generate_ms": 1.5, "load_ms": 2,
                            "flow_cache": True, "why_flow_cache": "it pays", "cache_hits": 5, "cache_misses": 1,
                            "straight": {"a": "odd", "b": "odd"}, "hidden": ["c"]}]},
     ("RULE  SEGMENT  PATH      MATCH\nweb   every    straight  tcp\n\n"
     "filters of segment main by xdp: merged into several graphs, 90 instructions, 2 programs, 8 bytes of tables\n"
     "  generated in 1.5 ms, loaded in 2 ms\n  reason: too many edges\n  flow cache: yes, it pays\n"
     "  flow cache: 5 hits, 1 misses\n  compiled separately (odd): a, b\n"
     "  never reached, because an earlier rule matches their frames: c")),
    ("explain", [{"frame": 1, "rule": None, "hops": [], "verdict": "port:wan", "why": ["rule web: no"]}],
     "frame 1: port:wan  no rule: straight\n    rule web: no"),
]  # fmt: skip


@pytest.mark.parametrize(("view", "data", "expected"), VIEWS)
def test_views(view: str, data: Any, expected: str) -> None:
    """Each view's text, small."""
    assert render(view, data) == expected


def test_durations() -> None:
    """Times in readable form."""
    assert [duration(s) for s in (0, 59.9, 60, 3599, 3600, 90061, None)] == [
        "0 s", "59 s", "1 min 0 s", "59 min 59 s", "1 h 0 min", "1 d 1 h", "-",
    ]  # fmt: skip


_DATA = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "segments", "guests", "relay", "cause", "text", "x"]), inner)
    ),
    max_leaves=15,
)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["status", "segments", "guests", "rules", "transitions", "crash", "boots", "done", "generic"]),
    _DATA,
)
def test_any_data_is_shown(view: str, data: Any) -> None:
    """Whatever a handler returns, it is shown without control characters that could drive the terminal."""
    text = render(view, data, Style(width=40))
    assert all(char.isprintable() or char == "\n" for char in text)
    assert json.loads(to_json(data)) == data
    assert all(char.isprintable() or char == "\n" for char in to_json(data))


def test_control_characters_do_not_reach_the_terminal_as_json() -> None:
    """C1 controls (U+009B is CSI), DEL and bidirectional overrides are escaped; what can be read stays as it is."""
    data = [{"name": "a\x9b2J\x7f\u202e\U000e0001\U0001f600\u00fc", "x": "\x1b[2J"}]
    text = pipe(Outcome(data), (), True, Style(width=80))
    assert r"a\u009b2J\u007f\u202e\udb40\udc01" in text
    assert "\U0001f600\u00fc" in text
    assert json.loads(text) == data
    lines = pipe(Outcome(data, json_lines=True), (), True, Style())
    assert json.loads(lines) == data[0]
    assert all(char.isprintable() for char in lines)


def test_text_with_control_characters_is_harmless_on_a_terminal() -> None:
    """TOML allows C1 controls in comments: a terminal gets none of them, a file all of the text."""
    line = "# note\x9b2J"
    assert render("lines", [line], Style(width=80)) == "# note?2J"
    assert render("lines", [line]) == line
