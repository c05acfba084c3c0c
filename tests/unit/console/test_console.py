# SPDX-License-Identifier: GPL-2.0-only
"""The console in use: one-shot commands with their exit codes, scripts, and the shell on a real pty.

Every test uses a real ControlServer with fake handlers (fake_daemon.py); no part of the console is replaced.
"""

import io
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest

from appliance.api.rpc import Param
from appliance.api.schema.methods import Answers, Topic
from appliance.errors import FilterError, UnreachableError, cells
from console import client as client_module
from console.client import Client, RemoteError
from console.execute import run_line
from console.line import manual
from console.line.configure_commands import ROWS
from console.render import Style
from console.session import Context
from console.views import render
from console.views.common import caret
from tests.support.fake_daemon import FakeDaemon
from tests.support.terminal import ROOT, Terminal, bypass


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(tmp_path / "control.sock") as made:
        yield made


ONE_SHOT = [
    # (arguments, exit code, in standard output, in standard error)
    (["show", "status"], 0, "inline: main", ""),
    (["sh", "guests"], 0, "ips2     2  failed   image_unreadable  none", ""),
    (["show", "transitions", "2"], 0, "03:04:28.123Z  segment main", ""),
    (["-c", "show guests | count"], 0, "2\n", ""),
    (["show", "guests", "|", "match", "IPS1"], 0, "ips1     1  running", ""),
    (["segment", "main", "bypass"], 0, "segment main: bypass", ""),
    (["guest", "ips1", "command", "ping"], 0, "answer  pong", ""),
    (["api", "schema", "--json"], 0, '"segment.set"', ""),
    (["help"], 0, "segment NAME bypass", ""),
    (["--help"], 0, "Exit code 3: bypassd does not answer", ""),
    (["--version"], 0, "bypass ", ""),
    (["guest", "?"], 0, "ips1    running", ""),
    (["segment", "mian", "auto"], 1, "", 'error: no segment is named "mian"'),
    (["guest", "ips1", "start"], 1, "", "error: guest ips1 is draining"),
    (["show", "rules"], 1, "", "error: rules.show is currently not available"),
    (["show"], 2, "", 'usage: incomplete command after "show"'),
    (["show", "s"], 2, "", 'ambiguous command "show s"'),
    (["--bogus"], 2, "", "unknown option --bogus"),
    (["-c", "show 'x"], 2, "", "missing closing quote"),
    (["show", "guests", "|", "match", "("], 2, "", "is not a valid regular expression"),
    (["guest", "ips1", "stop"], 4, "", "error: internal error in guest.stop"),
]


@pytest.mark.parametrize(("args", "code", "out", "err"), ONE_SHOT, ids=[" ".join(case[0]) for case in ONE_SHOT])
def test_one_shot(daemon: FakeDaemon, args: list[str], code: int, out: str, err: str) -> None:
    """One command: its exit code, data on standard output, messages on standard error."""
    done = bypass(*args, sock=daemon.path)
    assert (done.returncode, out in done.stdout, err in done.stderr) == (code, True, True), done
    assert bool(done.stderr) == bool(err)
    assert "\x1b" not in done.stdout + done.stderr


def test_json_is_what_the_daemon_said(daemon: FakeDaemon) -> None:
    """--json and `| json` print the handler's data unchanged."""
    for args in (["show", "guests", "--json"], ["-c", "show guests | json"]):
        assert json.loads(bypass(*args, sock=daemon.path).stdout) == daemon.guests()


def test_what_is_asked_arrives(daemon: FakeDaemon) -> None:
    """The arguments of a command reach the daemon under the method's names."""
    assert bypass("segment", "main", "auto", sock=daemon.path).returncode == 0
    assert bypass("guest", "ips1", "command", "hang", "5", sock=daemon.path).returncode == 0
    assert daemon.calls == [
        ("segment.set", {"name": "main", "mode": "auto"}),
        ("guest.command", {"name": "ips1", "word": "hang", "value": 5}),
    ]


def test_without_a_daemon(tmp_path: Path) -> None:
    """Exit code 3, the cause and what to do, for each way in which bypassd may be unreachable."""
    gone = bypass("show", "status", sock=tmp_path / "none")
    assert gone.returncode == 3
    assert "bypassd is not running (" in gone.stderr
    assert "none does not exist)" in gone.stderr
    assert "try again" in gone.stderr
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "s"))  # its file stays
    refused = bypass("show", "status", sock=tmp_path / "s")
    assert (refused.returncode, "nothing listens" in refused.stderr) == (3, True)
    with pytest.raises(UnreachableError, match="did not answer"), FakeDaemon(tmp_path / "t") as made:
        Client(str(made.path)).call("guest.drain", {"name": "ips1"}, wait=0.1)


def test_a_request_is_repeated_while_its_part_is_starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a while; then it is said what it waited for."""
    asked: list[str] = []
    starting = {"code": -32601, "message": "x", "data": {"kind": "Starting", "hint": "try again"}}

    def daemon(listener: socket.socket, good_after: int) -> None:
        link, _ = listener.accept()
        with link, link.makefile("rw") as lines:
            for line in lines:
                asked.append(json.loads(line)["method"])
                good = len(asked) > good_after
                answer = {"id": 1, **({"result": "here"} if good else {"error": starting})}
                print(json.dumps(answer), file=lines, flush=True)

    def call(good_after: int) -> object:
        asked.clear()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / f"s{good_after}"))
            listener.listen()
            serving = threading.Thread(target=daemon, args=(listener, good_after))
            serving.start()
            try:
                return Client(str(tmp_path / f"s{good_after}")).call("system.show")
            finally:
                serving.join()

    assert call(2) == "here"
    assert asked == ["system.show"] * 3
    monkeypatch.setattr(client_module, "START_S", 0.0)
    with pytest.raises(RemoteError, match=r"system.show is currently not available: .* is still starting"):
        call(1)


def test_script_on_standard_input(daemon: FakeDaemon) -> None:
    """Commands in a pipe run one by one; comments are skipped; the exit code tells of the last failure."""
    done = bypass(
        sock=daemon.path, stdin="# a comment\nshow version\n\nbogus\nshow guests | count\nexit\nshow status\n"
    )
    assert done.returncode == 2
    assert "python" in done.stdout
    assert done.stdout.endswith("\n2\n")
    assert bypass(sock=daemon.path, stdin="show version").returncode == 0


def test_client_library(daemon: FakeDaemon) -> None:
    """Others may import the client: results, remote errors with kind and hint, events."""
    client = Client(str(daemon.path))
    assert client.call("segment.set", {"name": "main", "mode": "auto"}) == {"message": "segment main: auto"}
    with pytest.raises(RemoteError, match="no segment") as caught:
        client.call("segment.set", {"name": "x", "mode": "auto"})
    assert (caught.value.kind, caught.value.hint) == ("NotFoundError", "")
    events = client.events(["transition"])

    async def publish() -> None:
        daemon._server.publish(Topic("transition", object, ""), {"to": "bypass"})

    async def ticker() -> None:  # until the subscription has arrived
        import asyncio

        while True:
            await publish()
            await asyncio.sleep(0.01)

    import asyncio

    ticking = asyncio.run_coroutine_threadsafe(ticker(), daemon._loop)
    assert next(events) == ("transition", {"to": "bypass"})
    ticking.cancel()
    events.close()  # type: ignore[attr-defined]


def test_one_shot_imports_nothing_heavy() -> None:
    """Start-up counts on small boards: no line editor, no packet library, no asyncio for a single command."""
    code = (
        "import sys; from console.__main__ import main; main(['show', 'status']);"
        "print([m for m in ('prompt_toolkit', 'scapy', 'asyncio', 'msgspec', 'tomllib') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "BYPASS_SOCKET": "/nonexistent", "PYTHONPATH": str(ROOT)},
    )
    assert done.stdout == "[]\n"


GOOD = '[[segment]]\nname = "main"\nlan = "lan0"\nwan = "wan0"\n'


def test_check(tmp_path: Path) -> None:
    """`check` needs no daemon: one line an error as FILE: where: what and exit code 1, or what is there and 0.

    What a good one means for traffic is said in the words of `commit check`, and changes no exit code.
    """
    file = tmp_path / "c.toml"
    file.write_text(GOOD)
    good = bypass("check", str(file), sock="/nonexistent")
    first, *meaning = good.stdout.splitlines()
    assert (good.returncode, first) == (0, f"{file}: valid: 1 segment, 0 guests, 0 groups, 0 rules")
    uninspected = "no rule has a guest in its path: all traffic passes uninspected"
    assert meaning == [f"warning: segment main: {uninspected}"]
    as_json = json.loads(bypass("check", str(file), "--json", sock="/nonexistent").stdout)
    assert (as_json["valid"], as_json["lint"]) == (
        True,
        [{"severity": "warning", "where": "segment main", "what": uninspected}],
    )
    file.write_text(GOOD + '[[rule]]\nname = "web"\npath = ["x"]\n[[rule]]\nname = "web"\n')
    bad = bypass("check", str(file), sock="/nonexistent")
    assert bad.returncode == 1
    assert [line.split(" (line")[0] for line in bad.stdout.splitlines()] == [
        f'{file}: rule web: name: "web" is already the name of a rule',
        f'{file}: rule web: path: no guest, remote or group is named "x"',
    ]
    listed = json.loads(bypass("check", str(file), "--json", sock="/nonexistent").stdout)
    assert (listed["valid"], len(listed["errors"])) == (False, 2)
    missing = bypass("check", str(tmp_path / "none"), sock="/nonexistent")
    assert (missing.returncode, missing.stdout) == (
        1,
        f"{tmp_path}/none: file: cannot be read: No such file or directory\n",
    )


def test_check_points_at_the_place_for_a_person(tmp_path: Path) -> None:
    """On a terminal a bad filter is shown with a caret below the place; in a pipe it stays one line an error."""
    file = tmp_path / "c.toml"
    file.write_text('[[rule]]\nname = "web"\nmatch = "tcp prot 80"\n')
    assert len(bypass("check", str(file), sock="/nonexistent").stdout.splitlines()) == 1
    out = io.StringIO()
    assert run_line(f"check {file}", Context(Client("/nonexistent"), out, io.StringIO(), Style(width=80))) == 1
    assert out.getvalue().splitlines()[1] == "    tcp prot 80"
    assert out.getvalue().splitlines()[2] == "        ^"


LONG = " or ".join(f"host 10.0.0.{number}" for number in range(50))


@pytest.mark.parametrize(
    "text",
    [f"prot or {LONG}", f"{LONG} or prot or {LONG}", f"{LONG} or prot", f"{'（' * 50} prot", f"ip or prot {'（' * 50}"],
    ids=["begin", "middle", "end", "full width before", "full width behind"],
)
@pytest.mark.parametrize("width", [20, 40, 80])
def test_a_long_filter_is_cut_around_the_place(text: str, width: int) -> None:
    """Both lines fit the terminal, and the caret is still below the word."""
    pointer = FilterError("x", text=text, column=text.index("prot")).pointer
    shown, below = caret(pointer, Style(width=width))
    assert cells(shown) <= width
    assert cells(shown[: shown.index("prot")]) == below.index("^")
    assert caret(pointer, Style()) == []


def test_commit_check_points_at_the_place_too() -> None:
    error = {"where": "rule web: match", "what": "syntax error", "pointer": "tcp prot 80\n    ^"}
    data = {"good": False, "message": "Check failed: 1 error", "errors": [error]}
    assert render("config-check", data, Style(width=80)).splitlines()[-2:] == ["    tcp prot 80", "        ^"]


def test_a_terminal_is_not_flooded(daemon: FakeDaemon) -> None:
    """A terminal shows the newest 20 transitions by default; a pipe and a file get all."""
    cases = ((80, "show transitions", 20), (80, "show tr 25", 25), (80, "show tr | c", 30), (0, "show transitions", 30))
    for width, line, expected in cases:
        out = io.StringIO()
        assert run_line(line, Context(Client(str(daemon.path)), out, io.StringIO(), Style(width=width))) == 0
        rows = out.getvalue().count("segment main") or int(out.getvalue())
        assert (line, rows) == (line, expected)


@pytest.fixture(params=["dumb", "vt100", "linux"])
def terminal(request: pytest.FixtureRequest, daemon: FakeDaemon) -> Iterator[Terminal]:
    made = Terminal(daemon.path, request.param)
    yield made
    made.close()


def test_shell_session(terminal: Terminal, daemon: FakeDaemon) -> None:
    """Banner, command, `?`, Tab, a relay that opens and shows in the prompt, Ctrl-C, Ctrl-D, on every terminal."""
    terminal.until("wire1  Throughwire 0.1.0")
    terminal.until("inline: main")
    terminal.until("wire1 [inline]>")
    terminal.type("show version\r")
    terminal.until("python")
    terminal.until("wire1 [inline]>")
    terminal.type("sh\tgu?")
    terminal.until("guests: state, cause, lease")
    terminal.type("ests\r")
    terminal.until("image_unreadable")
    terminal.until("wire1 [inline]>")
    terminal.type("guest ip\t\t")
    terminal.until("ips2  failed")
    terminal.type("1 start\r")
    terminal.until("error: guest ips1 is draining")
    terminal.until("wire1 [inline]>")
    terminal.type("segment main bypass\r")
    terminal.until("segment main: bypass")
    terminal.until("wire1 [BYPASS]>")
    terminal.type("half a line\x03")
    terminal.until("wire1 [BYPASS]>")
    terminal.type("guest ips1 drain\r")
    assert daemon.draining.wait(30)
    terminal.type("\x03")
    terminal.until("interrupted; bypassd may still complete the request")
    terminal.until("wire1 [BYPASS]>")
    terminal.type("\x04")
    terminal.until("logout")
    terminal.child.expect(pexpect.EOF)
    terminal.child.close()
    assert terminal.child.exitstatus == 0
    assert "\x1b[6n" not in terminal.seen, "a cursor-position request hangs a serial terminal"


def test_dumb_terminal_gets_text_only(daemon: FakeDaemon) -> None:
    """TERM=dumb sees no escape sequence at all; backspace takes a character back, history rewrites the line."""
    terminal = Terminal(daemon.path, "dumb")
    terminal.until("]>")
    terminal.type("show verx\x7f\r")
    terminal.until("\b \b")
    terminal.until("python")
    terminal.until("]>")
    terminal.type("\x1b[A")
    terminal.until("show ver")
    terminal.type("\r")
    terminal.until("python")
    terminal.type("exit\r")
    terminal.until("logout")
    assert "\x1b" not in terminal.seen
    terminal.close()


@pytest.mark.parametrize("term", ["vt102", "dumb"])
def test_serial_line_of_unknown_size(daemon: FakeDaemon, term: str) -> None:
    """A size of 0x0, as a serial line has it, counts as 80x24; lines typed ahead are not lost."""
    terminal = Terminal(daemon.path, term, size=(0, 0))
    terminal.until("]>")
    terminal.type("".join(f"guest ips1 command c{n}\r" for n in range(5)) + "exit\r")
    terminal.until("logout")
    assert [params["word"] for _, params in daemon.calls] == ["c0", "c1", "c2", "c3", "c4"]
    terminal.close()


def test_a_paste_does_not_ask_for_the_state_at_each_line(daemon: FakeDaemon) -> None:
    """Prompts during a paste are not updated, because each would cost a request; the last one is current."""
    asked: list[str] = []

    async def status(_: dict[str, Any]) -> object:
        asked.append(daemon.relay)
        return {"hostname": "wire1", "segments": daemon.segments()}

    daemon.registry.add(Answers("status.show", object), status)
    terminal = Terminal(daemon.path, "vt102")
    terminal.until("[inline]>")
    terminal.type("".join(f"guest ips1 command c{n}\r" for n in range(20)) + "segment main bypass\r")
    terminal.until("[BYPASS]>")
    assert len(daemon.calls) == 21
    assert len(asked) < 10
    terminal.close()


def test_little_is_sent_per_key(daemon: FakeDaemon) -> None:
    """At 9600 baud a key must not repaint the screen: a typed line costs a few bytes a character."""
    terminal = Terminal(daemon.path, "vt102")
    terminal.until("[inline]>")
    line = "guest ips1 command ping"
    for key in line:
        terminal.type(key)
        if key != " ":  # which may be drawn as a step of the cursor
            terminal.until(key)
    terminal.type("\r")
    terminal.until("pong")
    came = terminal.seen.rsplit("[inline]>", 1)[1]
    assert len(came) < 25 * len(line), repr(came)
    terminal.close()


def test_ctrl_c_at_a_question_says_that_it_is_cancelled(daemon: FakeDaemon) -> None:
    """No request was sent to bypassd, so none can still be pending."""

    async def show(_: dict[str, Any]) -> object:
        return {"data": {"user": [{"name": "admin"}]}}

    params = {"of": Param(required=False), "format": Param(required=False)}
    daemon.registry.add(Answers("config.show", object), show, params=params)
    terminal = Terminal(daemon.path, "dumb")
    terminal.until("[inline]>")
    terminal.type("user admin password\r")
    terminal.until("New password: ")
    terminal.type("\x03")
    terminal.until("Cancelled.")
    terminal.until("[inline]>")
    terminal.close()


def test_bypass_in_the_banner(tmp_path: Path) -> None:
    """A login while the relay is closed shows that before anything else."""
    with FakeDaemon(tmp_path / "s", relay="bypass") as made:
        terminal = Terminal(made.path, "vt100")
        terminal.until("*** BYPASS *** segment main: operator (requested by an operator)")
        terminal.until("[BYPASS]>")
        terminal.close()


def test_shell_without_a_daemon(tmp_path: Path) -> None:
    """The shell works without bypassd, says what is wrong, and detects by itself when it is back."""
    sock = tmp_path / "control.sock"
    terminal = Terminal(sock, "vt100")
    terminal.until("*** STATE UNKNOWN *** bypassd is not running")
    terminal.until("[bypassd not reachable]>")
    terminal.type("show status\r")
    terminal.until("error: bypassd is not running")
    terminal.until("[bypassd not reachable]>")
    with FakeDaemon(sock):
        terminal.type("\r")
        terminal.until("wire1 [inline]>")
    terminal.close()


def test_a_prompt_of_a_busy_bypassd_says_so(daemon: FakeDaemon) -> None:
    """It is there and takes long to answer, which is no reason to look for it."""
    terminal = Terminal(daemon.path, "vt100", prompt_s=0.5)
    terminal.until("wire1 [inline]>")
    daemon.busy = True
    terminal.type("\r")
    terminal.until("[bypassd busy]>")
    daemon.busy = False
    terminal.type("\r")
    terminal.until("wire1 [inline]>")
    terminal.close()


def test_nobody_types(daemon: FakeDaemon) -> None:
    """An idle session ends, with the reason, and with exit code 0."""
    os.environ["BYPASS_IDLE_S"] = "0.5"
    try:
        terminal = Terminal(daemon.path, "xterm")
    finally:
        del os.environ["BYPASS_IDLE_S"]
    terminal.until("]>")
    terminal.until("session closed after 0 s without input")
    terminal.until("logout")
    terminal.close()


@pytest.mark.parametrize("term", ["dumb", "xterm"])
def test_a_long_text_stops_at_a_full_page(daemon: FakeDaemon, term: str) -> None:
    """Space: a page, Enter: a line, q: no more; not while commands wait, nor when paging is off."""
    terminal = Terminal(daemon.path, term, (12, 80))
    terminal.until("]>")
    terminal.type("help\r")
    assert terminal.until("-- more --").count("\n") <= 13
    terminal.type(" ")
    terminal.until("-- more --")
    terminal.type("\r")
    assert terminal.until("-- more --").count("\n") <= 2
    terminal.type("q")
    terminal.until("]>")
    terminal.type("help\r")
    terminal.until("-- more --")
    terminal.type("\x1c\x1a\x03")
    assert "interrupted" not in terminal.until("]>"), "Ctrl-C is enough of the text; Ctrl-\\ and Ctrl-Z are nothing"
    terminal.type("help\rguest ips1 command one\r")
    terminal.until("pong")
    terminal.type("help\r")
    terminal.until("-- more --")
    terminal.type("guest ips1 command one\r")
    terminal.until("pong")  # the first key of a command ends the text and is not lost
    terminal.type("terminal paging off\rhelp\r")
    terminal.until("Exit code 4")
    terminal.type("terminal height 40\rshow terminal\r")
    terminal.until("height")
    terminal.until("40")
    terminal.type("terminal length 12\rhelp\r")
    terminal.until("-- more --")
    terminal.type("q")
    terminal.until("]>")
    terminal.type("terminal length 0\rhelp\r")
    terminal.until("Exit code 4")
    terminal.type("terminal width 5\r")
    terminal.until("error: width must be 20 to 500, or 0")
    terminal.close()


@pytest.mark.parametrize("term", ["dumb", "xterm"])
def test_a_long_help_stops_at_a_full_page(daemon: FakeDaemon, term: str) -> None:
    """After ? the line is there again, with the key that ended the list if it belongs to the line; Ctrl-C is enough."""
    terminal = Terminal(daemon.path, term, (12, 80))
    terminal.until("]>")
    terminal.type("?")
    assert terminal.until("-- more --").count("\n") <= 12
    terminal.type(" ")
    assert terminal.until("-- more --").count("\n") <= 12
    terminal.type("q")
    terminal.until("]>")
    terminal.type("show ?")
    terminal.until("-- more --")
    terminal.type("\x03")
    terminal.until("]>")
    terminal.type("?")
    terminal.until("-- more --")
    terminal.type("version\r")
    terminal.until("python")
    terminal.until("]>")
    terminal.type("guest ips1 zzz ?")
    terminal.until("unknown argument")  # before it stands the line as it was drawn, with the terminal's sequences
    said = "unknown argument" + terminal.until("expected: show") + terminal.until("command")
    assert all(len(line) <= 80 for line in said.splitlines()), "and no word is cut at the edge"
    terminal.close()


@pytest.mark.parametrize("typed", ["help\r", "?"])
def test_nobody_types_below_a_page(daemon: FakeDaemon, typed: str) -> None:
    """A session left at a page ends as one left at the prompt does."""
    os.environ["BYPASS_IDLE_S"] = "1"
    try:
        terminal = Terminal(daemon.path, "xterm", (12, 80))
    finally:
        del os.environ["BYPASS_IDLE_S"]
    terminal.until("]>")
    terminal.type(typed)
    terminal.until("-- more --")
    terminal.until("session closed after 1 s without input")
    terminal.until("logout")
    terminal.close()


def test_terminal_said_to_be_dumb(daemon: FakeDaemon) -> None:
    """After the command only text is sent, and the command also undoes that."""
    terminal = Terminal(daemon.path, "xterm")
    terminal.until("]>")
    terminal.type("terminal dumb on\rshow version\r")
    terminal.until("python")
    terminal.until("[inline]>")
    before = len(terminal.seen)
    terminal.type("show versx\x7f\r")
    terminal.until("python")
    terminal.until("[inline]>")
    assert "\x1b" not in terminal.seen[before:].split("\n", 1)[1]
    terminal.type("terminal dumb off\rshow version\r")
    terminal.until("python")
    terminal.close()


def test_pipes(daemon: FakeDaemon, tmp_path: Path) -> None:
    """except, and save: whole or not at all, what was there is replaced; a place that cannot be written is said."""
    file = tmp_path / "out.txt"
    file.write_text("old")
    done = bypass("-c", f"show guests | except ips2 | save {file}", sock=daemon.path)
    assert (done.returncode, done.stdout) == (0, f"2 lines saved to {file}\n")
    assert "ips1" in file.read_text()
    assert "ips2" not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    for place in ("/etc/hostname", str(tmp_path)):
        kept = bypass("-c", f"show guests | save {place}", sock=daemon.path)
        assert (kept.returncode, f"{place} already exists, and is outside your home" in kept.stderr) == (1, True)
    bad = bypass("-c", "show guests | save /nonexistent/x", sock=daemon.path)
    assert (bad.returncode, "cannot be written: No such file" in bad.stderr) == (1, True)
    assert "put a value that contains | in quotes" in bypass("-c", "show guests | | x", sock=daemon.path).stderr


def test_terminal_is_asked_for_its_size_on_demand_only(daemon: FakeDaemon) -> None:
    """`terminal detect` asks where the cursor is; a terminal that does not answer is told of, in time."""
    terminal = Terminal(daemon.path, "xterm")
    terminal.until("]>")
    terminal.type("terminal detect\r")
    terminal.until("\x1b[6n")
    terminal.type("\x1b[50;132R")
    terminal.until("132 columns, 50 rows")
    terminal.until("]>")
    terminal.type("terminal detect\r")
    terminal.until("the terminal did not answer")
    terminal.close()


@pytest.mark.parametrize("columns", [30, 60, 80, 132])
def test_help_fits_the_terminal(columns: int) -> None:
    """What a command means is folded beside it, or stands below it; every word is there."""
    wide, narrow = manual.commands(), manual.commands(columns=columns)
    assert max(map(len, [*narrow, *manual.rows(ROWS, columns), *manual.around(columns)])) <= columns
    assert sorted(" ".join(wide).split()) == sorted(" ".join(narrow).split())
