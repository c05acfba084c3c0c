# SPDX-License-Identifier: GPL-2.0-only
"""Operating the box over SSH: ports, programs, licences, files, the clock, a reboot, a factory reset, poweroff.

One boot serves all, in this order. A time server and a name server are not needed by the board, so one small NTP server
stands in the management host's namespace; everything else is the appliance's own.
"""

from __future__ import annotations

import json
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest
from simulator import Board, netns

from appliance.system.password import hashed
from tests.support import board_appliance
from tests.support.board_admin import ADDRESS, PASSWORD, READY_S, Admin, commit, new_board
from tests.support.board_appliance import show, wait_until
from tests.support.snmp_manager import AUTH, PRIV, Manager, Receiver

pytestmark = pytest.mark.slow  # three boots on a board of its own

HOST = "10.88.0.1"
AHEAD_S = 7200
_SINCE_1900 = 2208988800
PROMPT = r"wire1 \[[^]\n]+\]> ?"  # also of a bypassd that is too busy to say its state
SHOWN = (
    *("show status", "show segments", "show guests", "show guest ips1", "show rules", "show rules detail"),
    *("show counters", "show transitions", "show events", "show management", "show sessions", "show version"),
    *("show system", "show ports", "show port lan0", "show clock", "show boots", "show drills", "show aaa"),
    *(
        "show commits",
        "show images",
        "show incidents",
        "show reboot",
        "show lldp",
        "show snmp",
        "show licences",
        "show terminal",
    ),
    *("show terminal", "show log lines 20", "help"),
)  # a configuration is not among them: it is shown as it was written


@pytest.fixture(scope="module")
def fresh(artefacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    with new_board(artefacts, tmp_path_factory.mktemp("operate")) as made:
        board_appliance.wait_healthy(made)
        commit(
            made,
            ("set", "system", "hostname", "wire1"),
            ("set", "management", "address", f"{ADDRESS}/24"),
            ("set", "management", "gateway", HOST),
            ("set", "user", "admin", "role", "admin"),
            ("set", "user", "admin", "password", hashed(PASSWORD)),
        )
        yield made


@pytest.fixture(scope="module")
def admin(fresh: Board, tmp_path_factory: pytest.TempPathFactory) -> Admin:
    return Admin(fresh, tmp_path_factory.mktemp("ssh"), {"admin": PASSWORD})


@pytest.fixture(autouse=True)
def _no_panic(fresh: Board) -> Iterator[None]:
    fresh.events.check()
    yield
    fresh.events.check()


def typed(admin: Admin, words: str) -> str:
    """What a command prints that succeeds over SSH."""
    reply = admin.pipe("admin", words)
    assert reply.status == 0, f"{words}: {reply.err}"
    return reply.out.decode()


def data(admin: Admin, words: str) -> Any:
    return json.loads(typed(admin, f"{words} --json"))


class TimeServer:
    """NTP at the management host, ahead of this computer."""

    def __init__(self, namespace: str) -> None:
        def listen() -> socket.socket:
            made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            made.bind((HOST, 123))
            return made

        self._socket = netns.enter(namespace, listen)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                asked, whom = self._socket.recvfrom(512)
            except OSError:
                return
            now = time.time() + AHEAD_S + _SINCE_1900
            stamp = struct.pack(">II", int(now), int(now % 1 * 2**32))
            head = struct.pack(">BBbbII4s", 0x24, 1, 4, -20, 0, 0, b"TEST")
            try:
                self._socket.sendto(head + stamp + asked[40:48] + stamp + stamp, whom)
            except OSError:
                return

    def close(self) -> None:
        self._socket.close()


class Lldp:
    """A station that hears and sends LLDP frames by hand."""

    def __init__(self, namespace: str) -> None:
        def listen() -> socket.socket:
            made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88CC))
            made.setblocking(False)
            names = [name for _, name in socket.if_nameindex() if name != "lo"]
            made.bind((names[0], 0x88CC))
            all_multicast = struct.pack("iHH8s", socket.if_nametoindex(names[0]), 2, 0, bytes(8))
            made.setsockopt(263, 1, all_multicast)  # SOL_PACKET, PACKET_ADD_MEMBERSHIP
            return made

        self._socket, self._heard = netns.enter(namespace, listen), list[bytes]()

    def frames(self) -> list[bytes]:
        """Everything heard so far."""
        while True:
            try:
                self._heard.append(self._socket.recv(2048))
            except BlockingIOError:
                return self._heard

    def send(self, name: str, port: str) -> None:
        """Be a neighbour of this name, for two minutes."""
        fields = (
            (1, b"\x04\x02\x88\x00\x00\x00\x07"),
            (2, b"\x05" + port.encode()),
            (3, b"\x00\x78"),
            (5, name.encode()),
        )
        body = b"".join(struct.pack(">H", kind << 9 | len(value)) + value for kind, value in fields) + b"\0\0"
        self._socket.send(bytes.fromhex("0180c200000e") + b"\x02\x88\0\0\0\x07" + b"\x88\xcc" + body)

    def close(self) -> None:
        self._socket.close()


def test_ports_system_logs_and_reachability(fresh: Board, admin: Admin) -> None:
    rows = {row["name"]: row for row in data(admin, "show ports")}
    assert {name: row["link"] for name, row in rows.items()} == {"lan0": "up", "wan0": "up", "mgmt0": "up"}
    assert rows["lan0"]["segment"] == "main/lan"
    assert (rows["lan0"]["driver"], rows["mgmt0"]["device"]) == ("virtio_net", "mgmt0-hw")
    assert data(admin, "show port lan0")["counters"]
    machine = data(admin, "show system")
    assert machine["memory"]["total"] > 1 << 30
    assert {disk["place"] for disk in machine["disks"]} == {"data", "run", "tmp"}
    assert "throughwire-init" in typed(admin, "show log kernel lines 5000 match throughwire-init")
    assert data(admin, f"ping {HOST} count 1")["received"] == 1
    assert data(admin, f"traceroute {HOST}")[-1]["address"] == HOST
    assert admin.pipe("admin", f"tcp {HOST} 9").status == 1


def test_programs_ask_over_ssh(admin: Admin) -> None:
    """`ssh admin@box api < request.json` prints one JSON object; the exit code says whether it has an error."""
    asked = {"method": "segments.show", "params": {}}
    good = admin.pipe("admin", "api", stdin=json.dumps(asked).encode())
    answer = json.loads(good.out)
    assert (good.status, answer["id"], answer["result"][0]["name"]) == (0, 1, "main")
    refused = admin.pipe("admin", "api", stdin=b'{"method": "segment.set", "params": {"name": "x", "mode": "auto"}}')
    assert (refused.status, json.loads(refused.out)["error"]["data"]["kind"]) == (1, "NotFoundError")
    assert admin.pipe("admin", "api", stdin=b"segments.show").status == 2
    assert "segments.show" in {method["name"] for method in data(admin, "api schema")["methods"]}


def test_licences_of_the_image(fresh: Board, admin: Admin) -> None:
    """The packages that dpkg has installed are all listed, with their licences; each has its text."""
    rows = {row["name"]: row for row in data(admin, "show licences")}
    assert {rows[name]["licence"].partition(" ")[0] for name in ("throughwire", "linux")} == {"GPL-2.0-only"}
    assert all(row["version"] for row in rows.values())
    installed = fresh.sh("sed -n 's/^Package: //p' /var/lib/dpkg/status").output.split()
    assert {row["name"] for row in rows.values() if row["source"] == "Debian"} == set(installed)
    assert "GPL" in rows["iproute2"]["licence"]
    assert "GNU" in typed(admin, "show licence iproute2")
    assert "Redistribution" in typed(admin, "show licence msgspec")


def test_the_banner_and_the_end_of_somebody_elses_session(fresh: Board, admin: Admin) -> None:
    """The text stands before every password; a session ends by its id, and the others go on."""
    commit(fresh, ("set", "system", "login_banner", "Authorized users only"))
    children = []
    for _ in range(2):
        children.append(admin.open("admin", options=("-tt",)))
        children[-1].expect(PROMPT)
    first, other = children
    pids = sorted(row["pid"] for row in data(admin, "show sessions") if row["user"] == "admin")
    assert len(pids) >= 2
    assert f"session {pids[0]} of admin from {HOST} ended" in typed(admin, f"session {pids[0]} end")
    first.expect(pexpect.EOF)
    other.sendline("show version")
    other.expect(PROMPT)
    other.sendline("exit")
    other.expect(pexpect.EOF)
    assert admin.pipe("admin", f"session {pids[0]} end").status == 1
    assert "Authorized users only" in admin.pipe("admin", "show version").err


def test_a_restore_to_be_confirmed_is_rolled_back_unless_it_is(fresh: Board, admin: Admin) -> None:
    """`restore -` with a limit, over SSH: what was committed after the backup is back when the time is over."""
    phrase = b"the phrase of a backup\n"
    saved = admin.pipe("admin", "backup", "-", stdin=phrase)
    assert saved.status == 0, saved.err

    def banner() -> str:
        return admin.pipe("admin", "show version").err

    def restored(limit: str) -> None:
        done = admin.pipe("admin", "restore", "-", "--confirmed", limit, stdin=phrase + saved.out)
        assert done.status == 0, done.err
        assert b"confirm within" in done.out
        assert "Authorized users only" in banner()

    commit(fresh, ("set", "system", "login_banner", "Changed later"))
    assert "Changed later" in banner()
    restored("5s")
    wait_until(fresh, lambda: show(fresh, "commits")[0]["how"] == "rolled back", "it is rolled back")
    assert "Changed later" in banner()
    restored("10min")
    assert "confirmed" in typed(admin, "configuration confirm")
    assert show(fresh, "commits")[0]["how"] == "confirmed"
    assert "Authorized users only" in banner()


@pytest.mark.parametrize(("term", "size"), [("xterm", (20, 60)), ("dumb", (24, 80))])
def test_everything_fits_the_terminal(admin: Admin, term: str, size: tuple[int, int]) -> None:
    """What `show` prints of a real appliance, in the shell on a small terminal: no line is longer, none is empty."""
    child = admin.shell("admin", term, size)
    child.sendline("terminal paging off")
    child.expect("\n")
    child.expect(PROMPT)
    for words in SHOWN:
        child.sendline(words)
        child.expect("\n")  # the end of what is typed, which an xterm may show several times
        child.expect(PROMPT)
        lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line).rstrip() for line in child.before.split("\n")]
        assert any(lines), words
        assert not [line for line in lines if len(line) > size[1]], words
    child.sendline("exit")
    child.expect(pexpect.EOF)


def test_scp_and_sftp_say_how_files_come_and_go(fresh: Board, admin: Admin, tmp_path: Path) -> None:
    """OpenSSH's clients, with the present protocol and the old one: no file is written, and the line helps."""
    (tmp_path / "image").write_bytes(b"image")
    where = f"admin@{ADDRESS}"
    for program, *arguments in (
        ("scp", str(tmp_path / "image"), f"{where}:image"),
        ("scp", "-O", str(tmp_path / "image"), f"{where}:image"),
        ("scp", "-O", f"{where}:.console_history", str(tmp_path / "history")),
        ("sftp", where),
    ):
        reply = admin.copy("admin", program, *arguments)
        assert reply.status != 0
        assert "`ssh USER@BOX guest import - --name NAME < FILE`" in reply.err, (program, arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["image"]
    assert fresh.sh("ls /var/lib/bypass/home/admin/image", check=False).status != 0


def test_a_clock_two_hours_off_is_set_by_ntp_and_costs_no_lease(fresh: Board, admin: Admin) -> None:
    """The guest serves and the relay stays inline while the clock jumps; time stamps and `show clock` follow."""
    server = TimeServer(fresh.mgmt.namespace)
    try:
        count, mark = len(show(fresh, "transitions 0")), fresh.events.mark()
        commit(
            fresh,
            ("set", "time", "servers", HOST),
            ("set", "time", "zone", "Europe/Berlin"),
        )
        wait_until(fresh, lambda: show(fresh, "clock")["state"] == "synchronized", "the clock is synchronized")
        clock = data(admin, "show clock")
        assert clock["source"] == HOST
        assert clock["zone"] == "Europe/Berlin"
        ahead = int(fresh.sh("date +%s").output) - time.time()
        assert abs(ahead - AHEAD_S) < 60
        refused = admin.pipe("admin", "clock set 2026-12-24 03:30")
        assert (refused.status, "NTP keeps the clock" in refused.err) == (1, True)
        commit(fresh, ("delete", "time", "servers"))
        typed(admin, "clock set 2031-12-24 03:30")
        assert fresh.sh("date +%Y").output.strip() == "2031"
        board_appliance.wait_serving(fresh)
        moved = [row for row in show(fresh, "transitions 0")[count:] if row["what"] != "configuration"]
        assert moved == []
        assert not [event for event in fresh.events.since(mark) if event["event"] == "relay"]
    finally:
        server.close()


def test_lldp_names_both_ends_of_the_management_cable(fresh: Board, admin: Admin) -> None:
    """The board hears a neighbour, and says its name on the management port and on no data port."""
    assert data(admin, "show lldp")["state"] == "off"
    heard = {host.namespace: Lldp(host.namespace) for host in (fresh.mgmt, fresh.lan, fresh.wan)}
    try:
        commit(fresh, ("set", "management", "lldp", "on"))
        cable = heard[fresh.mgmt.namespace]
        wait_until(fresh, lambda: any(b"wire1" in frame for frame in cable.frames()), "the board says its name")
        cable.send("switch7", "Gi1/0/12")
        wait_until(fresh, lambda: bool(data(admin, "show lldp")["neighbours"]), "the board knows its neighbour")
        (seen,) = data(admin, "show lldp")["neighbours"]
        assert (seen["name"], seen["port"]) == ("switch7", "Gi1/0/12")
        for host in (fresh.lan, fresh.wan):
            assert heard[host.namespace].frames() == []
        commit(fresh, ("set", "management", "lldp", "off"))
        assert fresh.sh("pidof lldpd", check=False).status != 0
    finally:
        for one in heard.values():
            one.close()


def test_snmp_tells_ports_and_relay_and_a_receiver_hears_of_an_order(
    fresh: Board, admin: Admin, tmp_path: Path
) -> None:
    """A manager at the management port walks as a user with a passphrase; a wrong one is refused and counted."""
    ports, oper, wrong = ".1.3.6.1.2.1.31.1.1.1", ".1.3.6.1.2.1.131.1.1.1.3.101", ".1.3.6.1.6.3.15.1.1.5.0"
    manager = Manager(fresh.mgmt.namespace, ADDRESS, patience_s=10)
    commit(
        fresh,
        ("set", "snmp", "user", "monitor", "auth_passphrase", AUTH),
        ("set", "snmp", "user", "monitor", "priv_passphrase", PRIV),
        ("set", "snmp", "receiver", "nms", "address", HOST, "user", "monitor"),
        ("set", "snmp", "location", "rack 7"),
        ("set", "snmp", "enabled", "true"),
    )
    said = wait_until(fresh, lambda: (row := data(admin, "show snmp"))["state"] == "listening" and row, "SNMP listens")
    for shown, instead in (
        ("show configuration", 'auth_passphrase = "<hidden>"'),
        ("show configuration as set", "# snmp user monitor auth_passphrase is not shown"),
    ):
        text = typed(admin, shown)
        assert AUTH not in text
        assert "0x" not in text, "nor its key"
        assert instead in text
    receiver = Receiver(fresh.mgmt.namespace, tmp_path / "trapd", "monitor", engine=said["engine"])
    try:
        status, text = manager.ask("snmpbulkwalk", ports)
        assert status == 0, text
        for index, port in enumerate(("lan0", "wan0", "mgmt0"), 1):
            assert f'{ports}.1.{index} = STRING: "{port}"' in text
            assert f"{ports}.10.{index} = Counter64: " in text, f"octets sent by {port}"
        assert re.search(rf"{re.escape(ports)}\.10\.3 = Counter64: [1-9]", text), "the answers left by mgmt0"
        assert f'{ports}.18.1 = STRING: "main/lan"' in text
        wait_until(fresh, lambda: manager.ask("snmpget", oper)[1].strip().endswith("INTEGER: 3"), "it is inline")
        status, text = manager.ask("snmpget", oper, auth="wrong horse")
        assert (status, "Authentication failure" in text) == (1, True)
        assert re.search(r"Counter32: [1-9]", manager.ask("snmpget", wrong)[1])
        wait_until(fresh, lambda: data(admin, "show snmp")["users"][0]["refused"] >= 1, "it is counted")
        typed(admin, "segment main bypass")
        line = receiver.says(".1.3.6.1.2.1.131.0.2", "bypass: operator")
        assert ".1.3.6.1.2.1.131.1.1.1.2.101 = INTEGER: 2" in line, "locked by an order"
        typed(admin, "segment main auto")
        receiver.says(".1.3.6.1.2.1.131.0.1", "inline")
        assert data(admin, "show snmp")["sent"]["entStateOperDisabled"] == 1
        uids = fresh.sh("grep ^Uid: /proc/$(pidof snmpd)/status").output.split()[1:]
        assert uids
        assert "0" not in uids
        commit(fresh, ("set", "snmp", "enabled", "false"))
        assert fresh.sh("pidof snmpd", check=False).status != 0
    finally:
        receiver.close()


def test_a_reboot_over_ssh_closes_the_relay_first(fresh: Board, admin: Admin) -> None:
    """It is asked for with what it means; the relay moves before the guest and the machine end."""
    child = admin.shell("admin")
    child.sendline("reboot")
    child.expect("the relay closes first")
    child.expect(r"Reboot\? \(yes/no\) \[no\]: ")
    child.sendline("no")
    child.expect("reboot cancelled")
    child.sendline("exit")
    typed(admin, "reboot in 1h")
    assert data(admin, "show reboot")["action"] == "reboot"
    typed(admin, "reboot cancel")
    mark = fresh.events.mark()
    typed(admin, "reboot now")
    closed = fresh.wait_event(event="relay", state="bypass", since=mark, timeout=READY_S)
    reset = fresh.wait_event(event="reset", since=mark, timeout=READY_S)
    assert closed["n"] < reset["n"]
    fresh.wait_event(event="relay", state="inline", since=mark, timeout=READY_S)
    assert wait_until(fresh, lambda: show(fresh, "status"), "bypassd answers")["last_reset"]["kind"] == "reboot"
    wait_until(  # the ledger of earlier runs is read once all parts have started
        fresh,
        lambda: any(
            row["cause"] == "stopping" for row in show(fresh, "transitions 0") if row["what"] == "segment main"
        ),
        "the ledger has the reboot",
    )


def test_a_factory_reset_keeps_the_images_it_is_told_to_keep(fresh: Board, admin: Admin) -> None:
    wait_until(fresh, lambda: (show(fresh, "management") or {}).get("ssh", {}).get("state") == "listening", "SSH")
    fresh.sh("echo image >/var/lib/bypass/images/kept.img")
    fresh.sh("echo mine >/var/lib/bypass/home/admin/file")
    mark, said = fresh.events.mark(), fresh.console.mark()
    typed(admin, "factory-reset keep-images now")
    fresh.wait_event(event="reset", since=mark, timeout=READY_S)
    fresh.console.expect("setup, no or Enter", since=said, timeout=READY_S)
    fresh.sh("true", timeout=READY_S)
    assert fresh.sh("cat /var/lib/bypass/images/kept.img").output.strip() == "image"
    assert fresh.sh("hostname").output.strip() == "bypass"
    assert fresh.sh("ls /var/lib/bypass/home/admin/file /var/lib/bypass/factory-reset", check=False).status != 0
    assert wait_until(fresh, lambda: show(fresh, "management"), "access is up")["users"] == []


def test_the_power_button_is_ignored_or_powers_off_in_order(fresh: Board) -> None:
    """A press of the ACPI button, as a virtual machine's host sends it too: the relay moves before the machine ends."""
    board_appliance.wait_healthy(fresh)
    commit(fresh, ("set", "system", "power_button", "ignore"))
    fresh.power_button()
    wait_until(
        fresh,
        lambda: any("power button was pressed, and ignored" in text for text in board_appliance.events(fresh)),
        "the press is an event",
    )
    assert show(fresh, "reboot")["state"] == "none"
    commit(fresh, ("set", "system", "power_button", "poweroff"))
    mark = fresh.events.mark()
    fresh.power_button()
    closed = fresh.wait_event(event="relay", state="bypass", since=mark, timeout=READY_S)
    ended = fresh.wait_event(event="power", state="off", since=mark, timeout=READY_S)
    assert closed["n"] < ended["n"]
    fresh.power_on()


def test_poweroff_ends_the_machine_with_the_link_joined(fresh: Board) -> None:
    board_appliance.wait_healthy(fresh)
    mark = fresh.events.mark()
    fresh.sh("bypass poweroff now", check=False)
    fresh.wait_event(event="relay", state="bypass", since=mark, timeout=READY_S)
    fresh.wait_event(event="power", state="off", since=mark, timeout=READY_S)
