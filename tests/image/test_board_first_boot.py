# SPDX-License-Identifier: GPL-2.0-only
"""The first hour of an appliance: a new board, its serial line, then OpenSSH over the real port.

One boot serves all, in this order: nothing is open before the setup; the setup, and from then on a login, on the serial
line; a wrong password; commands, commits and frames over SSH; a commit that locks its administrator out and is rolled
back; two administrators at once; a window that changes its size. Tests that take longer are in test_board_access.py.
How long the shell takes to start is written to build/figures/console.json.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pytest
from simulator import Board
from simulator.stream import Stream

from tests.support import board_appliance, figures
from tests.support.board_admin import ADDRESS, PASSWORD, Admin, log_in, new_board
from tests.support.board_appliance import wait_until

PROMPT = r"wire1 \[inline\]> ?"
Took = Callable[[str], Callable[[], None]]


@pytest.fixture(scope="module")
def fresh(artefacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    with new_board(artefacts, tmp_path_factory.mktemp("first-boot")) as made:
        yield made


@pytest.fixture(scope="module")
def closed(fresh: Board) -> str:
    """What is open before the setup, observed from inside and from the management host."""
    wait_until(fresh, lambda: board_appliance.show(fresh, "management"), "access is up")
    listening = fresh.sh("ss -Hltun; ip netns list").output
    answers = fresh.mgmt.ping(ADDRESS, timeout=1)
    return f"{listening.strip()}{' answers' if answers else ''}"


@pytest.fixture(scope="module")
def said(fresh: Board, closed: str) -> str:
    """The setup on the serial line, answered by a user with typing errors; returns its output."""
    line = fresh.console
    board_appliance.wait_serving(fresh)
    mark = line.mark()
    line.expect("setup, no or Enter: ", since=0)
    line.sendline("setup")
    line.expect(r"Host name \[bypass\]: ")
    line.sendline("wire1")
    line.expect(r"Management address \[dhcp\]: ")
    line.sendline("10.88.0.2")
    line.expect("Invalid: .*prefix length")
    line.sendline(f"{ADDRESS}/24")
    line.expect(r"Gateway, or none \[none\]: ")
    line.sendline("10.88.0.1")
    line.expect(r"Name servers \(DNS\), or none \[none\]: ")
    line.sendline()
    line.expect(r"Time zone \[UTC\]: ")
    line.sendline()
    line.expect(r"Time servers \(NTP\), or none \[none\]: ")
    line.sendline()
    line.expect(r"The clock shows 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC")
    line.expect(r"Time, or keep \[keep\]: ")
    line.sendline()
    line.expect(r"Set a password for admin\? \(yes/no\) \[yes\]: ")
    line.sendline()
    for asked, text in (
        ("Password: ", PASSWORD),
        ("Confirm password: ", "a typing error"),
        ("Passwords do not match.*\\s+Password: ", PASSWORD),
        ("Confirm password: ", PASSWORD),
    ):
        line.expect(asked)
        line.sendline(text)
    line.expect(r"segment main: lan0 link up, wan0 link up; relay inline")
    line.expect(r"Apply these changes\? \(yes/no\) \[yes\]: ")
    line.sendline()
    line.expect("Done", timeout=120)
    line.expect(PROMPT, timeout=90)
    return line.text[mark:]


@pytest.fixture(scope="module")
def admin(fresh: Board, said: str, tmp_path_factory: pytest.TempPathFactory) -> Admin:
    """The administrator, once the setup is done."""
    return Admin(fresh, tmp_path_factory.mktemp("ssh"), {"admin": PASSWORD})


@pytest.fixture(scope="module")
def took(fresh: Board) -> Iterator[Took]:
    """`end = took(what)` ... `end()`: a figure. No test depends on one: the machine may be busy."""
    rows: list[figures.Row] = []

    def begin(what: str) -> Callable[[], None]:
        began = time.monotonic()
        return lambda: rows.append({"event": what, "took_ms": round(1000 * (time.monotonic() - began))})

    yield begin
    if rows:
        figures.write("console", rows, accelerator=fresh.accelerator.name)
        print(figures.table(rows))


@pytest.fixture(autouse=True)
def _no_panic(fresh: Board) -> Iterator[None]:
    fresh.events.check()
    yield
    fresh.events.check()


def leave(child: pexpect.spawn) -> None:
    child.sendline("exit")
    child.expect(pexpect.EOF)


# -- the serial line


def test_nothing_is_open_before_the_setup(closed: str) -> None:
    """No listener, no namespace for the port, no answer on it; there is no default password anywhere to try."""
    assert closed == ""


def test_setup_on_the_serial_line(fresh: Board, said: str, admin: Admin) -> None:
    """It shows no password, commits all of it, and names the key that a client then really sees."""
    assert PASSWORD not in said
    assert f"Log in with: ssh admin@{ADDRESS}" in said
    assert f"ed25519 {admin.fingerprint()}" in said
    assert fresh.sh("hostname").output.strip() == "wire1"
    assert "$y$" not in fresh.sh("bypass show management --json").output
    code = 'import json; from console.client import Client; print(json.dumps(Client().call("config.history")))'
    (newest, *_) = json.loads(fresh.sh(f"python3 -I -c '{code}'").output)
    assert newest["comment"] == "setup"


def test_the_serial_line_asks_for_a_login_now(fresh: Board, said: str, took: Took) -> None:
    """The state stands above it. A wrong password does not get in; the right one has the rights of its user."""
    line = fresh.console
    mark = line.mark()
    line.sendline("exit")
    shown = took("serial line: from logout to the login")
    line.expect("logout", since=mark)
    line.expect(r"inline\S*: main\s+wire1 login: ", timeout=90)
    shown()
    assert "setup, no or Enter" not in line.text[mark:]
    mark = line.mark()
    line.sendline("admin")
    line.expect("Password: ")
    line.sendline("not the password")
    line.expect("Login incorrect")
    log_in(fresh, "admin", PASSWORD)
    started = took("serial line: from the password to the prompt")
    line.expect(PROMPT, timeout=90)
    started()
    assert "password" not in line.text[mark:].replace("Password: ", "").lower()
    line.sendline("show sessions")
    line.expect("admin +console +password")
    line.expect(PROMPT)
    find = "for p in /proc/[0-9]*; do read -r name <$p/comm && [ $name = bypass ] && stat -c %U $p; done 2>/dev/null"
    assert fresh.sh(find, check=False).output.split() == ["admin"]
    log = wait_until(
        fresh,
        lambda: [text for text in board_appliance.events(fresh) if " from console " in text][:2],
        "logins are events",
    )
    assert log == [
        "warning user admin: login from console failed: password",
        "notice user admin: logged in from console by password",
    ]


def test_nobody_types_on_the_serial_line(fresh: Board, said: str) -> None:
    """The idle time-out of a session leads to the login; `setup` is not offered again, and is a command."""
    line = fresh.console
    line.sendline("setup")
    line.expect(r"Host name \[wire1\]: ")
    line.send("\x03")
    line.expect("nothing was changed")
    line.expect(PROMPT)
    line.sendline("configure")
    line.sendline("set system idle_timeout 1s")
    line.sendline("commit")
    line.expect("committed as")
    line.expect("session closed after 1 s without input")
    line.expect("wire1 login: ", timeout=90)


# -- SSH


def test_wrong_password_is_refused_and_told(fresh: Board, admin: Admin) -> None:
    assert admin.attempt("admin", "not the password")
    wait_until(
        fresh,
        lambda: any("10.88.0.1 failed: password" in text for text in board_appliance.events(fresh)),
        "the failure is an event",
    )


def test_commands_over_ssh_are_the_consoles(fresh: Board, admin: Admin, took: Took) -> None:
    """One-shot with its exit code; what is no command is no way to a shell."""
    done = took("SSH: login and `show status --json`")
    good = admin.pipe("admin", "show", "status", "--json")
    done()
    assert (good.status, json.loads(good.out)["state"]) == (0, "inline")
    trick = admin.pipe("admin", "show version; id")
    assert trick.status == 2
    assert b"uid=" not in trick.out
    assert any("logged in from 10.88.0.1 by password" in text for text in board_appliance.events(fresh))


def test_a_commit_over_ssh(fresh: Board, admin: Admin) -> None:
    """Changes on standard input are committed, all of them or none; the author is known."""
    bad = admin.pipe("admin", "configure", stdin=b"set system idle_timeout 10min\nset rule web path nobody\n")
    assert bad.status == 1
    assert "nobody" in bad.err
    assert "1s" in fresh.sh("grep idle_timeout /etc/bypass/config.toml").output
    good = admin.pipe("admin", "configure", stdin=b"set system idle_timeout 10min\n")
    assert good.status == 0, good.err
    assert "10min" in fresh.sh("grep idle_timeout /etc/bypass/config.toml").output
    assert board_appliance.show(fresh, "commits")[0]["user"] == "admin"


def test_an_image_over_ssh(admin: Admin, tmp_path: Path) -> None:
    """`ssh admin@box guest import - < FILE`: whole and verified, or refused with nothing left."""
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(tmp_path / "image"), "64M"], check=True)
    data = (tmp_path / "image").read_bytes()
    words = ("guest", "import", "-", "--name", "sent", "--sha256", hashlib.sha256(data).hexdigest())
    cut = admin.pipe("admin", *words, stdin=data[:100_000])
    assert (cut.status, "its SHA-256 is" in cut.err) == (1, True), cut.err
    good = admin.pipe("admin", *words, stdin=data)
    assert (good.status, b"image sent imported: qcow2" in good.out) == (0, True), good.err
    assert admin.pipe("admin", "image", "sent", "undo").status == 0
    assert json.loads(admin.pipe("admin", "show", "images", "--json").out) == []


def test_frames_over_ssh(fresh: Board, admin: Admin, tmp_path: Path) -> None:
    """`ssh admin@box capture ... | tshark -r -`: live frames of a guest's port, and of every point of the way."""
    stream = Stream(fresh.lan, fresh.wan, tmp_path / "stream", rate=min(200, fresh.pace.frames))
    try:
        stream.wait_arrival(0, fresh.pace.wait(30))
        assert captured(admin, 20, "guest", "ips1", "lan") == {"ips1.lan"}
        whole = {"lan0", "ips1.lan", "ips1.wan", "wan0"}
        # on a busy machine the guest may be late just now, and is gone around
        wait_until(fresh, lambda: captured(admin, 80, "segment", "main") == whole, "frames at every point of the way")
    finally:
        lost = stream.stop().lost
    assert lost == 0, "a capture costs no frame"


def captured(admin: Admin, count: int, *point: str) -> set[str]:
    """Where so many live frames were seen, as tshark reads it."""
    reply = admin.pipe("admin", "capture", *point, "udp", "count", str(count))
    assert reply.status == 0, reply.err
    places = read_frames(reply.out)
    assert len(places) == count
    return set(places)


def read_frames(data: bytes) -> list[str]:
    """Where tshark says each frame was seen; CalledProcessError when it finds the file damaged."""
    words = ["tshark", "-r", "-", "-T", "fields", "-e", "frame.interface_name", "-e", "udp.length"]
    said = subprocess.run(words, input=data, check=True, capture_output=True).stdout.decode()
    rows = [line.split("\t") for line in said.splitlines()]
    assert all(length.isdigit() for _, length in rows), "each is a whole UDP frame"
    return [place for place, _ in rows]


def test_a_window_that_changes_its_size(fresh: Board, admin: Admin, took: Took) -> None:
    """The shell and `monitor` follow it."""
    started = took("SSH: from the connection to the prompt")
    child = admin.shell("admin")
    started()
    child.sendline("show sessions")
    child.expect("admin +10.88.0.1 +password")
    child.sendline("show terminal")
    child.expect(r"width[^\n]+ 100")
    child.setwinsize(40, 132)
    child.sendline("monitor")
    child.expect_exact("\x1b[?1049h")
    child.expect_exact("\x1b[40;1H")  # its last line
    child.setwinsize(30, 60)
    child.expect_exact("\x1b[2J")
    child.expect_exact("\x1b[30;1H")
    child.send("q")
    child.expect(PROMPT)
    child.sendline("show terminal")
    child.expect(r"width[^\n]+ 60")
    leave(child)


def test_a_terminal_that_only_prints(fresh: Board, admin: Admin) -> None:
    """TERM=dumb, 80 columns: not one escape sequence, in the shell as in `monitor`; nobody asks for the cursor ever."""
    child = admin.open("admin", options=("-tt",), term="dumb", size=(0, 0))
    said = []
    for typed, expected in (("", PROMPT), ("show guests", PROMPT), ("monitor count 2 every 1", PROMPT)):
        if typed:
            child.sendline(typed)
        child.expect(expected)
        said.append(child.before)
    leave(child)
    said.append(child.before)
    assert "ips1" in said[1]
    assert said[2].count("PORT ") == 2
    assert "\x1b" not in "".join(said)
    assert "\x1b[6n" not in fresh.console.text


def test_two_administrators_and_a_commit_that_locks_out(fresh: Board, admin: Admin) -> None:
    """The holder of the candidate is shown. A commit that removes the address is rolled back."""
    child = admin.shell("admin")
    child.sendline("configure")
    child.expect("configure# ?")
    other = admin.pipe("admin", "configure", stdin=b"set system idle_timeout 5min\n")
    assert other.status == 1
    assert "the candidate is being edited by admin on pts/" in other.err
    child.sendline("set management address 10.88.0.77/24")
    child.expect(r"configure\*# ?")
    child.sendline("commit confirmed 10")
    wait_until(fresh, lambda: not fresh.mgmt.ping(ADDRESS, timeout=1), "locked out")
    assert fresh.mgmt.ping("10.88.0.77")
    wait_until(fresh, lambda: fresh.mgmt.ping(ADDRESS, timeout=1), "let in again")
    assert not fresh.mgmt.ping("10.88.0.77", timeout=1)
    child.expect("committed provisionally; confirm within 10 s")  # the session was never cut
    child.sendline("exit")
    child.expect(PROMPT)
    leave(child)
    assert f'"{ADDRESS}/24"' in fresh.sh("grep address /etc/bypass/config.toml").output
    assert any("not confirmed in time" in text for text in board_appliance.events(fresh))
