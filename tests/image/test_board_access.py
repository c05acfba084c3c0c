# SPDX-License-Identifier: GPL-2.0-only
"""Access to an appliance after its setup (which is in test_board_first_boot.py).

One boot serves all, in this order: what SSH refuses; roles, keys, passwords; limits; a long configuration pasted into a
plain-text serial line; metrics, syslog and the support bundle; DHCP; and what survives a restart of bypassd, an invalid
configuration, a reboot, and a forgotten password.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import socket
import ssl
import tarfile
import time
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pexpect
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus
from simulator import Board, netns

from appliance.system.password import hashed
from tests.support import board_appliance
from tests.support.aaa_servers import SECRET, RadiusServer, running
from tests.support.board_admin import ADDRESS, PASSWORD, READY_S, Admin, commit, log_in, new_board
from tests.support.board_appliance import wait_until
from tests.support.tls_pair import KEY, SERVER, STRANGER

pytestmark = pytest.mark.slow  # four minutes on a board of its own


@pytest.fixture(scope="module")
def fresh(artefacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    """A new board with a plain-text terminal on its serial line, with an administrator."""
    with new_board(artefacts, tmp_path_factory.mktemp("access"), append="BYPASS_TERM=dumb") as made:
        board_appliance.wait_healthy(made)
        commit(
            made,
            ("set", "system", "hostname", "wire1"),
            ("set", "management", "address", f"{ADDRESS}/24"),
            ("set", "management", "gateway", "10.88.0.1"),
            ("set", "user", "admin", "role", "admin"),
            ("set", "user", "admin", "password", hashed(PASSWORD)),
        )
        yield made


@pytest.fixture(scope="module")
def admin(fresh: Board, tmp_path_factory: pytest.TempPathFactory) -> Admin:
    return Admin(fresh, tmp_path_factory.mktemp("ssh"), {"admin": PASSWORD, "root": PASSWORD, "noc": PASSWORD})


@pytest.fixture(autouse=True)
def _no_panic(fresh: Board) -> Iterator[None]:
    fresh.events.check()
    yield
    fresh.events.check()


def management(board: Board) -> dict[str, Any]:
    return dict(board_appliance.show(board, "management") or {})


# -- SSH


def test_what_is_no_command_is_no_way_to_a_shell(admin: Admin) -> None:
    for trick in ("sh", "show version; id", "/bin/sh -c id", "$(id)"):
        reply = admin.pipe("admin", trick)
        assert reply.status == 2, trick
        assert b"uid=" not in reply.out


def test_no_root_no_forwarding_no_files(fresh: Board, admin: Admin) -> None:
    """root cannot log in; ports are not forwarded in either direction; there is no file transfer."""
    assert admin.run("root", "show", "version").status == 255
    refused = admin.run("admin", options=("-W", f"{ADDRESS}:22")).text
    assert "prohibited" in refused or "failed" in refused
    remote = admin.run(
        "admin", "show", "version", options=("-R", "2222:127.0.0.1:22", "-o", "ExitOnForwardFailure=yes")
    )
    assert remote.status == 255
    assert "forwarding failed" in remote.text
    assert admin.run("admin", "sftp", options=("-s",)).status != 0
    key, public = admin.make_key("socket")
    commit(fresh, ("set", "user", "ops", "role", "operator"), ("set", "user", "ops", "keys", public))
    near = admin.folder / "near.sock"
    words = admin.words("ops", "-i", str(key), "-o", "BatchMode=yes", "-N", "-L", f"{near}:/run/bypass/control.sock")
    client = fresh.mgmt.popen(words, stdout=-1, stderr=-2, text=True)
    deadline = time.monotonic() + fresh.pace.wait(READY_S)
    while not near.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(fresh.pace.wait(30))
        link.connect(str(near))
        with contextlib.suppress(ConnectionResetError):
            assert link.recv(1) == b"", "nobody borrows the server's rights at the control socket"
    fresh.mgmt.end(client)
    assert client.stdout is not None
    assert "prohibited" in client.stdout.read()


def test_roles(fresh: Board, admin: Admin) -> None:
    """A viewer looks, an operator acts, and neither changes the configuration; keys work, and only for their owner."""
    key, public = admin.make_key("noc")
    other, _ = admin.make_key("stranger")
    commit(
        fresh,
        ("set", "user", "noc", "role", "viewer"),
        ("set", "user", "noc", "keys", public),
        ("set", "user", "ops", "role", "operator"),
        ("set", "user", "ops", "keys", public),
    )
    assert admin.by_key("noc", key, "show", "guests").status == 0
    assert admin.by_key("noc", other, "show", "guests").status == 255
    refused = admin.by_key("noc", key, "segment", "main", "bypass")
    assert refused.status == 1
    assert "requires role operator; yours is viewer" in refused.text
    mark = fresh.events.mark()
    assert admin.by_key("ops", key, "segment", "main", "bypass").status == 0
    fresh.wait_event(event="relay", state="bypass", since=mark)
    assert admin.by_key("ops", key, "segment", "main", "auto").status == 0
    fresh.wait_event(event="relay", state="inline", since=mark)
    assert "requires role admin" in admin.by_key("ops", key, "management", "unblock", "10.88.0.7").text
    assert fresh.sh("stat -c %a /etc/shadow").output.strip() == "600"


def test_who_is_removed_is_out_at_once(fresh: Board, admin: Admin) -> None:
    """The session of a removed user ends with the commit; the user cannot log in again; its key file is removed."""
    key = admin.folder / "noc"
    words = [*admin.words("noc", "-i", str(key), "-tt")]
    child = pexpect.spawn(
        "ip", ["netns", "exec", fresh.mgmt.namespace, *words], timeout=fresh.pace.wait(60), encoding="utf-8"
    )
    child.expect(r"\[inline\]>")
    commit(fresh, ("delete", "user", "noc"))
    child.expect(pexpect.EOF)
    child.close()
    assert admin.by_key("noc", key, "show", "version").status == 255
    assert fresh.sh("ls /var/lib/bypass/home/noc/.ssh").output.strip() == ""


def test_password_by_command(fresh: Board, admin: Admin) -> None:
    """`user NAME password` over SSH, from a script too; the old one is dead, and the session that did it lives."""
    again = "another good phrase"
    child = admin.open("admin", "user", "admin", "password", options=("-tt",))
    child.expect("New password: ")
    child.sendline("short")
    child.expect("Invalid: a password needs at least 8")
    child.expect("New password: ")
    child.sendline(again)
    child.expect("Confirm password: ")
    child.sendline(again)
    child.expect("password of admin changed", timeout=fresh.pace.wait(120))
    child.expect(pexpect.EOF)
    assert admin.attempt("admin", PASSWORD)
    admin.passwords["admin"] = again
    assert admin.run("admin", "show", "version").status == 0


def test_a_viewer_changes_the_own_password(fresh: Board, admin: Admin) -> None:
    """The present one is asked for, and only one's own can be changed."""
    commit(fresh, ("set", "user", "noc", "password", hashed(PASSWORD)))
    lines = f"{PASSWORD}\nknown to nobody else\n".encode()
    assert "requires role admin" in admin.pipe("noc", "user", "admin", "password", stdin=lines).err
    wrong = admin.pipe("noc", "user", "noc", "password", stdin=b"a guess of it\nknown to nobody else\n")
    assert (wrong.status, "is wrong" in wrong.err) == (1, True)
    assert admin.pipe("noc", "user", "noc", "password", stdin=lines, timeout=120).status == 0
    admin.passwords["noc"] = "known to nobody else"
    assert admin.pipe("noc", "show", "version").status == 0


def test_failures_are_limited_and_an_operator_lifts_it(fresh: Board, admin: Admin) -> None:
    """Six wrong passwords block new connections from the address, not its open sessions, until `management unblock`."""
    colleague = admin.shell("admin")
    for _ in range(2):
        admin.attempt("admin", "wrong wrong", tries=3)
    wait_until(fresh, lambda: management(fresh)["ssh"]["shut_out"], "the address is shut out")
    assert management(fresh)["ssh"]["shut_out"][0]["network"] == "10.88.0.1/32"
    assert not admin.attempt("admin", "wrong wrong", timeout=10)
    colleague.sendline("show version")
    colleague.expect(r"version.*\[\w+\]> ")
    colleague.sendline("exit")
    colleague.expect(pexpect.EOF)
    assert fresh.sh("bypass management unblock 10.88.0.1").status == 0
    assert admin.run("admin", "show", "version").status == 0
    assert any("is blocked for 60 s after 6 failed logins" in text for text in board_appliance.events(fresh))


# -- the serial line


def test_two_hundred_rules_pasted_into_a_line_that_only_prints(fresh: Board, admin: Admin) -> None:
    """No character is lost at the speed the line takes them, none is an escape sequence, every rule is committed."""
    line = fresh.console
    line.expect("setup, no or Enter: ", since=0)
    line.sendline()  # this session is older than the password
    line.expect(r"\[inline\]> ")
    line.sendline("exit")
    line.expect("logout")
    mark = line.mark()
    log_in(fresh, "admin", admin.passwords["admin"])
    line.expect(r"wire1 \[inline\]> ")
    typed = [f"set rule r{n:03} match udp port {1000 + n}" for n in range(200)]
    line.send("configure\r" + "\r".join(typed) + "\rcommit\rexit\rexit\r")
    line.expect("committed as", timeout=300)
    line.expect("logout")
    line.expect("wire1 login: ")
    rules = tomllib.loads(fresh.sh("cat /etc/bypass/config.toml").output)["rule"][-200:]
    assert [rule["match"] for rule in rules] == [f"udp port {1000 + n}" for n in range(200)]
    assert admin.pipe("admin", "configure", stdin=b"rollback 1\n", timeout=120).status == 0
    assert "\x1b" not in line.text[mark:]


def test_servers_decide_about_logins(fresh: Board, admin: Admin) -> None:
    """A user of a RADIUS server over SSH and on the console: own id, role, session, event, commit; refused otherwise.

    The local users get in on the console without the server, and over SSH when it is dead.
    """
    server = RadiusServer({"remy": ("far far away", "admin"), "vera": ("far far away", "viewer")})

    def make(kind: socket.SocketKind) -> socket.socket:
        def bound() -> socket.socket:
            link = socket.socket(socket.AF_INET, kind)
            link.bind(("10.88.0.1", 0))
            return link

        return netns.enter(fresh.mgmt.namespace, bound)

    with running(server, make=make):
        commit(
            fresh,
            *(
                ("set", "radius", "r1", *words)
                for words in (
                    ("address", "10.88.0.1"),
                    ("secret", SECRET),
                    ("port", str(server.port)),
                    ("accounting_port", str(server.port)),
                    ("timeout", "5s"),
                )
            ),
            ("set", "aaa", "order", "radius", "local"),
            ("set", "aaa", "accounting", "sessions"),
        )
        assert SECRET not in fresh.sh("bypass show configuration").output
        wait_until(fresh, lambda: board_appliance.show(fresh, "aaa")["state"] == "on", "servers are asked")
        wait_until(fresh, lambda: management(fresh)["ssh"]["state"] == "listening", "SSH listens")
        admin.passwords |= {"remy": "far far away", "vera": "far far away"}
        reply = admin.pipe("remy", "configure", stdin=b"set system login_banner hello\n", timeout=120)
        assert reply.status == 0, reply.err
        assert json.loads(fresh.sh("bypass show commits --json").output)[0]["user"] == "remy"
        refused = admin.pipe("vera", "segment", "main", "bypass")
        assert "requires role operator; yours is viewer" in refused.err
        child = admin.open("vera", options=("-tt",))
        child.expect(r"wire1 \[inline\]>")
        sessions = json.loads(fresh.sh("bypass show sessions --json").output)
        assert [(s["user"], s["by"]) for s in sessions] == [("vera", "password, radius server r1, role viewer")]
        child.sendline("exit")
        child.expect(pexpect.EOF)
        assert admin.attempt("vera", "wrong wrong")
        assert admin.attempt("admin", admin.passwords["admin"]), (
            "the server answers, so the local password does not count"
        )
        tried = admin.pipe("remy", "test", "aaa", "vera", stdin=b"far far away\n")
        assert (tried.status, b"accepted, role viewer" in tried.out) == (0, True)
        wait_until(fresh, lambda: len(server.reports) >= 6, "sessions are reported")
        line, mark = fresh.console, fresh.console.mark()
        line.sendline()  # asks anew
        log_in(fresh, "vera", "far far away")
        line.expect(r"wire1 \[inline\]> ", since=mark)
        line.sendline("show sessions")
        line.expect("vera .*console", since=mark)
        line.sendline("exit")
        line.expect("logout", since=mark)
        asked, mark = len(server.asked), line.mark()
        log_in(fresh, "admin", admin.passwords["admin"])
        line.expect(r"wire1 \[inline\]> ", since=mark)
        line.sendline("exit")
        assert len(server.asked) == asked, "nobody is asked about a local user on the console"
    said = board_appliance.events(fresh)
    assert any("user vera: logged in from 10.88.0.1 by password, radius server r1, role viewer" in t for t in said)
    assert admin.run("admin", "show", "version").status == 0, "the server is gone: the local password counts"
    commit(fresh, ("delete", "aaa"), ("delete", "radius"), ("delete", "system", "login_banner"))
    assert "remy" not in fresh.sh("cat /etc/passwd").output


# -- what others read


def fetch(board: Board, accept: str = "") -> str:
    """The metrics page as a reader in the management network gets it; "" when nobody listens."""
    code = (
        "import sys, urllib.request as u; "
        f"r = u.Request('http://{ADDRESS}:9469/metrics', headers={{'Accept': sys.argv[1]}}); "
        "sys.stdout.write(u.urlopen(r, timeout=60).read().decode())"
    )
    done = board.mgmt.run(["python3", "-c", code, accept], check=False)
    return done.stdout if done.returncode == 0 else ""


def test_metrics(fresh: Board) -> None:
    """Off until it is asked for; then both formats are read by the reference parsers, and say what the console says."""
    assert fetch(fresh) == ""
    commit(fresh, ("set", "metrics", "enabled", "true"))
    page = fetch(fresh, "application/openmetrics-text; version=1.0.0")
    read = {family.name: family for family in openmetrics(page)}
    assert read["throughwire_segment_inline"].samples[0].value == 1
    assert read["throughwire_guest_available"].samples[0].value == 1
    counts = {s.name: s.value for s in read["throughwire_guest_latency_seconds"].samples if s.name.endswith("_count")}
    assert counts["throughwire_guest_latency_seconds_count"] > 0
    assert read["throughwire_hop_sent_frames"].samples[0].labels == {"hop": "ips1"}
    old = {family.name: family for family in prometheus(fetch(fresh))}
    assert old["throughwire_watchdog_armed"].samples[0].value == 1
    assert set(read) == {name.removesuffix("_info") for name in old}
    commit(fresh, ("set", "metrics", "enabled", "false"))
    assert fetch(fresh) == ""


def test_syslog(fresh: Board) -> None:
    """An event reaches a server in the management network, as RFC 5424 has it."""

    def listen() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind(("10.88.0.1", 5514))
        made.settimeout(fresh.pace.wait(60))
        return made

    with netns.enter(fresh.mgmt.namespace, listen) as server:
        commit(fresh, ("set", "syslog", "servers", "udp://10.88.0.1:5514"))
        fresh.sh("bypass segment main bypass")
        found = None
        while not found:
            text = server.recv(4096)
            found = re.fullmatch(
                rb"<132>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z wire1 bypassd \d+ segment "
                rb'\[bypass@32473 source="segment main" cause="operator"\] '
                rb"\xef\xbb\xbfsegment main: inline -> bypass.*",
                text,
            )
        fresh.sh("bypass segment main auto")
    fresh.wait_inline()


def test_syslog_over_tls(fresh: Board, tmp_path: Path) -> None:
    """Nothing is sent to a server with a wrong certificate, and the reason is shown; everything to the right one."""

    def listen() -> socket.socket:
        return socket.create_server(("10.88.0.1", 6514))

    (tmp_path / "pair.pem").write_text(KEY + SERVER)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pair.pem")
    with netns.enter(fresh.mgmt.namespace, listen) as server:
        server.settimeout(fresh.pace.wait(60))
        settings = (("set", "syslog", "servers", "tls://10.88.0.1"), ("set", "syslog", "server_name", "log.test"))
        commit(fresh, *settings, ("set", "syslog", "ca", STRANGER))
        refused, _ = server.accept()
        with refused, pytest.raises(ssl.SSLError, match=r"(?i)unknown.ca|EOF"):
            context.wrap_socket(refused, server_side=True)
        wait_until(fresh, lambda: "CERTIFICATE" in management(fresh)["syslog"][0]["detail"], "it is said why")
        commit(fresh, ("set", "syslog", "ca", SERVER))
        with tls_client(server, context) as link:
            fresh.sh("bypass segment main bypass")
            text = b""
            while b"inline -> bypass" not in text:
                text += link.recv(4096)
            assert re.match(rb"\d+ <\d+>1 ", text)
            fresh.sh("bypass segment main auto")
    commit(fresh, ("delete", "syslog", "servers"), ("delete", "syslog", "ca"), ("delete", "syslog", "server_name"))
    fresh.wait_inline()


def tls_client(server: socket.socket, context: ssl.SSLContext) -> ssl.SSLSocket:
    """The next client that is content; tries of the one before may wait still."""
    while True:
        link, _ = server.accept()
        with contextlib.suppress(OSError):
            return context.wrap_socket(link, server_side=True)
        link.close()


def test_support_bundle(fresh: Board, admin: Admin) -> None:
    """One file over SSH, without hashes, keys or passwords."""
    key = admin.folder / "noc"  # ops has the same
    child = fresh.mgmt.popen(
        [*admin.words("ops", "-i", str(key), "-o", "BatchMode=yes"), "support-bundle"], stdout=-1, stderr=-1
    )
    out, err = child.communicate(timeout=fresh.pace.wait(200))
    assert child.returncode == 0, err
    files: dict[str, str] = {}
    with tarfile.open(fileobj=io.BytesIO(out), mode="r:gz") as archive:
        for member in archive:
            file = archive.extractfile(member)
            assert file is not None
            files[member.name.partition("/")[2]] = file.read().decode()
    assert json.loads(files["api/status.show.json"])["hostname"] == "wire1"
    assert json.loads(files["api/guest.ips1.json"])["state"] in ("available", "overloaded")
    assert "Linux version" in files["kernel/dmesg.txt"]
    assert "-m appliance --root" in files["processes.txt"]
    assert "mgmt0" in files["network/management-links.txt"]
    everything = "\n".join(files.values())
    hashed = re.findall(r"\$y\$\S+", fresh.sh("cat /etc/shadow").output)
    assert hashed
    assert not any(secret in everything for secret in (*hashed, PASSWORD, "another good phrase", "PRIVATE KEY"))
    failed = {e["path"]: e["error"] for e in json.loads(files["manifest.json"])["entries"] if "error" in e}
    assert "kernel/dmesg.txt" not in failed


# -- the port


def test_the_data_path_and_the_port_do_not_know_each_other(fresh: Board) -> None:
    """No address and no listener outside the port's namespace, no data port in it; the LAN does not reach it."""
    inside = [row["ifname"] for row in json.loads(fresh.sh("ip -n mgmt -j link").output)]
    assert sorted(inside) == ["lo", "mgmt0", "mgmt0-hw"]
    outside = json.loads(fresh.sh("ip -j address").output)
    assert {a["local"] for row in outside for a in row["addr_info"]} <= {"127.0.0.1", "::1"}
    assert fresh.sh("ss -Hltun").output.strip() == ""
    fresh.lan.run(["ip", "address", "add", "10.88.0.99/24", "dev", "eth0"])
    try:
        assert not fresh.lan.ping(ADDRESS, timeout=1)
    finally:
        fresh.lan.run(["ip", "address", "del", "10.88.0.99/24", "dev", "eth0"])
    assert fresh.mgmt.ping(ADDRESS)


def test_dhcp(fresh: Board, admin: Admin, tmp_path: Path) -> None:
    """Address and gateway from a real DHCP server; the static address is gone, and comes back with the next commit."""
    settings = tmp_path / "udhcpd.conf"
    settings.write_text(
        f"start 10.88.0.50\nend 10.88.0.50\ninterface eth0\nlease_file {tmp_path}/leases\npidfile {tmp_path}/pid\n"
        "option subnet 255.255.255.0\noption router 10.88.0.1\noption lease 600\n"
    )
    (tmp_path / "leases").touch()
    server = fresh.mgmt.popen(["busybox", "udhcpd", "-f", str(settings)], stdout=-3, stderr=-3)
    try:
        commit(fresh, ("set", "management", "address", "dhcp"), ("delete", "management", "gateway"))
        wait_until(fresh, lambda: management(fresh)["addresses"] == ["10.88.0.50/24"], "an address from DHCP")
        state = management(fresh)
        assert state["gateways"] == ["10.88.0.1"]
        assert state["dhcp"]["state"] == "bound"
        leased = Admin(fresh, admin.folder, admin.passwords, "10.88.0.50")
        assert leased.run("admin", "show", "version").status == 0
    finally:
        fresh.mgmt.end(server)
        commit(fresh, ("set", "management", "address", f"{ADDRESS}/24"))
    wait_until(fresh, lambda: management(fresh)["addresses"] == [f"{ADDRESS}/24"], "the static address again")
    assert fresh.mgmt.ping(ADDRESS)


def test_ipv6(fresh: Board, admin: Admin) -> None:
    """Off until an address is asked for; then SSH answers on it, and off again."""
    assert "inet6" not in fresh.sh("ip -n mgmt address show dev mgmt0").output
    commit(fresh, ("set", "management", "address6", "fd88::2/64"))
    assert Admin(fresh, admin.folder, admin.passwords, "fd88::2").run("admin", "show", "version").status == 0
    assert any("logged in from fd88::1 by password" in text for text in board_appliance.events(fresh))
    commit(fresh, ("delete", "management", "address6"))
    assert "inet6" not in fresh.sh("ip -n mgmt address show dev mgmt0").output


BRIDGED, GUEST = "10.88.0.3", "fw"
BPDU = "0180c2000000 020000000001 0026424203 0000000000"
SEND = """
import socket, sys
link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
link.bind(("eth0", 0))
link.send(bytes.fromhex(sys.argv[1]).ljust(60, bytes(1)))
"""


def test_a_guest_on_the_management_lan(fresh: Board, admin: Admin) -> None:
    """It joins and leaves beside a session that goes on; both are reached. Spanning tree ends at its port."""
    session = admin.open("admin", options=("-tt",))
    session.expect(r"wire1 \[inline\]>")
    demo = "/usr/share/bypass/guest-demo"
    settings = (
        *(("kernel", f"{demo}/bzImage"), ("initrd", f"{demo}/initrd.gz"), ("memory", "64M")),
        *(("cmdline", f"console=ttyS0 quiet management={BRIDGED}/24"), ("management", "bridged")),
        *(("probes", "1", "kind", "ping"), ("probes", "1", "target", BRIDGED), ("probes", "1", "via", "management")),
        ("probes", "1", "interval", "1s"),
    )
    commit(fresh, *(("set", "guest", GUEST, *words) for words in settings))
    board_appliance.wait_serving(fresh, GUEST)
    assert fresh.mgmt.ping(BRIDGED)
    assert fresh.mgmt.ping(ADDRESS)
    session.sendline(f"show guest {GUEST}")
    session.expect("management LAN, as 02:")
    links = json.loads(fresh.sh("ip -n mgmt -j link").output)
    (tap,) = (row["ifname"] for row in links if row["ifname"].startswith("twm"))

    def dropped() -> int:
        rows = json.loads(fresh.sh(f"tc -n mgmt -s -j qdisc show dev {tap}").output)
        return sum(int(row["drops"]) for row in rows if row["kind"] == "clsact")

    before = dropped()
    fresh.mgmt.run(["python3", "-c", SEND, BPDU])
    wait_until(fresh, lambda: dropped() == before + 1, "a frame of spanning tree ends at the guest's port")
    commit(fresh, ("delete", "guest", GUEST))
    wait_until(fresh, lambda: not board_appliance.guest(fresh, GUEST), "the guest is gone")
    inside = [row["ifname"] for row in json.loads(fresh.sh("ip -n mgmt -j link").output)]
    assert sorted(inside) == ["lo", "mgmt0", "mgmt0-hw"]
    assert not fresh.mgmt.ping(BRIDGED, timeout=1)
    session.sendline("show version")
    session.expect("kernel")
    session.sendline("exit")
    session.expect(pexpect.EOF)


# -- what holds


def test_sessions_outlive_bypassd(fresh: Board, admin: Admin) -> None:
    """bypassd is killed: the server is not started again, a session goes on, and the new bypassd knows of it."""
    child = admin.open("admin", options=("-tt",))
    child.expect(r"wire1 \[inline\]>")
    before = fresh.sh("cat /run/bypass/access/ssh.pid").output.split()
    fresh.sh(f"kill -9 {fresh.pids(board_appliance.BYPASSD)[0]}")
    board_appliance.wait_serving(fresh)
    wait_until(fresh, lambda: board_appliance.show(fresh, "sessions"), "the new bypassd knows the session")
    assert fresh.sh("cat /run/bypass/access/ssh.pid").output.split() == before
    child.sendline("show version")
    child.expect("kernel")
    child.sendline("exit")
    child.expect(pexpect.EOF)
    assert admin.run("admin", "show", "version").status == 0


def test_a_broken_configuration_locks_nobody_out(fresh: Board, admin: Admin) -> None:
    """bypassd starts with an invalid file: everything is in bypass, and the administrator can still log in."""
    fresh.sh("cp -a /etc/bypass/config.toml /tmp/good.toml")
    with fresh_bypassd(fresh, "echo 'nonsense = 1' >>/etc/bypass/config.toml"):
        reply = admin.run("admin", "show", "status")
        assert reply.status == 0
        assert "CONFIGURATION INVALID" in reply.text
    board_appliance.wait_serving(fresh)
    fresh.wait_inline()


class fresh_bypassd:
    """A new bypassd after a change of the file, and again after the file was put back."""

    def __init__(self, board: Board, change: str) -> None:
        self._board, self._change = board, change

    def __enter__(self) -> None:
        self._restart(self._change)
        wait_until(
            self._board, lambda: management(self._board).get("ssh", {}).get("state") == "listening", "SSH listens"
        )

    def __exit__(self, *_: object) -> None:
        self._restart("cp -a /tmp/good.toml /etc/bypass/config.toml")

    def _restart(self, change: str) -> None:
        old = self._board.pids(board_appliance.BYPASSD)[0]
        self._board.sh(f"{change}; sync; kill -9 {old}")
        wait_until(self._board, lambda: set(self._board.pids(board_appliance.BYPASSD)) - {old}, "a new bypassd")


def test_everything_is_there_after_a_reboot(fresh: Board, admin: Admin) -> None:
    """Same host key (the client would refuse another), same password, same name, a login on the serial line."""
    key = admin.fingerprint()
    mark, said = fresh.events.mark(), fresh.console.mark()
    fresh.sh("reboot", check=False)
    fresh.wait_event(event="reset", since=mark)
    fresh.wait_event(event="relay", state="inline", since=mark, timeout=READY_S)
    deadline = time.monotonic() + fresh.pace.wait(READY_S)
    while not fresh.mgmt.ping(ADDRESS, timeout=1):
        assert time.monotonic() < deadline, "the management port does not come up"
    wait_until(fresh, lambda: management(fresh).get("ssh", {}).get("state") == "listening", "SSH listens")
    assert admin.fingerprint() == key
    assert admin.run("admin", "show", "version").status == 0
    fresh.console.expect("wire1 login: ", since=said)
    assert "setup, no or Enter" not in fresh.console.text[said:]


def test_a_forgotten_password(fresh: Board, admin: Admin) -> None:
    """With one word on the kernel command line the serial line requires no login: a new password is set there."""
    fresh.sh("sync")
    fresh.power_cut()
    fresh.payload = replace(fresh.payload, append=f"{fresh.payload.append} bypass.recovery")
    said = fresh.console.mark()
    fresh.power_on()
    fresh.sh("true", timeout=READY_S)
    line = fresh.console
    line.expect("No login required on this line: bypass.recovery", since=said, timeout=READY_S)
    line.expect(r"wire1 \[\w+\]> ", timeout=READY_S)
    board_appliance.wait_healthy(fresh)
    line.sendline("user admin password")
    for asked in ("New password: ", "Confirm password: "):
        line.expect(asked)
        line.sendline("remembered from now on")
    line.expect("password of admin changed", timeout=READY_S)
    admin.passwords["admin"] = "remembered from now on"
    wait_until(fresh, lambda: management(fresh).get("ssh", {}).get("state") == "listening", "SSH listens")
    assert admin.run("admin", "show", "version").status == 0
