# SPDX-License-Identifier: GPL-2.0-only
"""The simulator's pure parts: contacts and links, streams judged, keys, event log, initramfs, command line, shell."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boardspec
import pytest
from imagebuild import emulator
from simulator import accel, control, initramfs, payload
from simulator.control import ControlServer
from simulator.download import BLOCK, blocks, checksum
from simulator.events import BoardPanic, EmulatorFailed, EventLog, WaitTimeout
from simulator.machine import CHANNELS, Accelerator, Drive, Payload, command_line
from simulator.netlink import attribute, attributes
from simulator.serial import SerialPort
from simulator.shell import CommandFailed, DebugShell, ShellLost
from simulator.stream import Record, analyse, longest_silence_ms
from simulator.terminal import Keys, raw
from simulator.wires import Panel, connector_up, parse_traffic, port_link, routes

MS = 1_000_000
LAN, WAN, NONE = frozenset({"lan"}), frozenset({"wan"}), frozenset[str]()


def test_bypass_joins_the_hosts_and_leaves_the_ports_out() -> None:
    assert routes(Panel()) == {"lan": "wan", "wan": "lan", "lan0": None, "wan0": None}


def test_inline_joins_each_connector_with_its_port() -> None:
    assert routes(Panel(relay="inline")) == {"lan": "lan0", "lan0": "lan", "wan": "wan0", "wan0": "wan"}


def test_contacts_in_flight_touch_nothing() -> None:
    assert set(routes(Panel(relay="moving")).values()) == {None}


@pytest.mark.parametrize(
    ("what", "panel", "lan", "wan"),
    [
        ("bypass: each host is the other's partner", Panel(), True, True),
        ("bypass, lan cable out: neither has one", Panel(plugged=WAN), False, False),  # type: ignore[arg-type]
        ("bypass, wan host down: lan has no partner", Panel(hosts_up=LAN), False, True),  # type: ignore[arg-type]
        ("inline, lan cable out: wan has the port", Panel(relay="inline", plugged=WAN), False, True),  # type: ignore[arg-type]
        ("inline, wan host down: lan has the port", Panel(relay="inline", hosts_up=LAN), True, True),  # type: ignore[arg-type]
        ("links negotiate", Panel(relay="inline", negotiating=True), False, False),
        ("both ports separated", Panel(relay="disconnect"), False, False),
    ],
)
def test_carrier_of_the_hosts(what: str, panel: Panel, lan: bool, wan: bool) -> None:
    assert (connector_up(panel, "lan"), connector_up(panel, "wan")) == (lan, wan), what


def test_link_of_the_ports_follows_cable_and_host() -> None:
    assert port_link(Panel(), "lan")
    assert not port_link(Panel(plugged=WAN), "lan")  # type: ignore[arg-type]
    assert not port_link(Panel(hosts_up=WAN), "lan")  # type: ignore[arg-type]
    assert not port_link(Panel(negotiating=True), "lan")
    assert not port_link(Panel(relay="disconnect"), "lan")
    assert not port_link(Panel(nics_down=LAN), "lan")  # type: ignore[arg-type]
    assert connector_up(Panel(relay="inline", nics_down=LAN), "lan")  # type: ignore[arg-type]


def test_frames_are_counted_as_the_kernel_counts_them() -> None:
    text = """Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier
   lan: 5 7 0 0 0 0 0 0 9 11 0 0 0 0 0 0
  lan0:1000 2 0 0 0 0 0 0 3000 4 0 0 0 0 0 0
"""
    assert parse_traffic(text) == {"lan": (7, 11), "lan0": (2, 4)}


# stream


def frames(numbers: list[int], delay: int = 100) -> list[Record]:
    return [Record(number, number * MS, number * MS + delay) for number in numbers]


SENT = {number: number * MS for number in range(100)}


def test_whole_stream() -> None:
    report = analyse(SENT, frames(list(range(100))))
    assert (report.sent, report.received, report.lost, report.duplicates, report.reordered) == (100, 100, 0, 0, 0)
    assert report.whole
    assert report.longest_gap_ms == 1.0
    assert report.back_ns is None


def test_lost_run_is_measured() -> None:
    report = analyse(SENT, frames([*range(40), *range(60, 100)]))
    assert report.lost == 20
    assert report.first_lost_ns == 40 * MS
    assert report.back_ns == 60 * MS + 100
    assert report.longest_gap_ms == 21.0
    assert report.longest_outage_ms == 21.0


def test_stream_that_never_comes_back() -> None:
    report = analyse(SENT, frames(list(range(40))))
    assert (report.lost, report.back_ns) == (60, None)
    assert report.longest_outage_ms == 60.0


def test_nothing_arrives() -> None:
    report = analyse(SENT, [])
    assert (report.lost, report.received, report.longest_outage_ms) == (100, 0, 99.0)
    assert analyse({}, []).sent == 0


def test_doubled_and_swapped_frames_are_told() -> None:
    report = analyse(SENT, frames([*range(10), 11, 10, 10, *range(12, 100)]))
    assert (report.lost, report.duplicates, report.reordered) == (0, 1, 1)


def test_the_senders_own_pause_is_no_gap_of_the_link() -> None:
    """The sending process was not scheduled for 50 ms: no frame was lost and the link did nothing wrong."""
    sent = {number: number * MS + (50 * MS if number >= 50 else 0) for number in range(100)}
    report = analyse(sent, [Record(number, stamp, stamp + 100) for number, stamp in sent.items()])
    assert report.longest_gap_ms == 1.0


def test_frames_held_up_by_the_link_are_a_gap() -> None:
    late = [Record(number, number * MS, max(number, 50) * MS) for number in range(30, 100)]
    assert analyse(SENT, [*frames(list(range(30))), *late]).longest_gap_ms > 20


def test_silence_counts_neither_what_comes_late_nor_what_never_comes() -> None:
    """Frames 30 to 59 are held back until 80 ms, the rest comes in time or not at all."""
    held = [Record(number, number * MS, 80 * MS) for number in range(30, 60)]
    assert longest_silence_ms(SENT, [*frames([*range(30), *range(60, 100)]), *held], 0, 70 * MS) == 31.0
    assert longest_silence_ms(SENT, [*frames(list(range(30))), *held], 0, 70 * MS) > 40
    assert longest_silence_ms(SENT, [], 10 * MS, 70 * MS) == 60.0


def test_span_of_a_report() -> None:
    report = analyse(SENT, frames([*range(40), *range(60, 100)]), start_ns=60 * MS, end_ns=70 * MS)
    assert (report.sent, report.lost) == (10, 0)


def test_download_body_is_checked_to_the_byte() -> None:
    body = b"".join(blocks(3, 2 * BLOCK + 5))
    assert len(body) == 2 * BLOCK + 5
    assert body[:BLOCK] != body[BLOCK : 2 * BLOCK]
    assert checksum(3, 100) != checksum(4, 100)


# event log


def test_wait_finds_old_and_new_events() -> None:
    log = EventLog()
    log.add("relay", state="bypass")
    mark = log.mark()
    assert log.wait(event="relay", timeout=0)["state"] == "bypass"
    threading.Timer(0.01, lambda: log.add("relay", state="inline")).start()
    assert log.wait(lambda event: event["state"] == "inline", since=mark, timeout=5)["n"] == 1


def test_wait_tells_what_it_saw() -> None:
    log = EventLog()
    log.add("led", state="on")
    with pytest.raises(WaitTimeout, match="led"):
        log.wait(event="relay", timeout=0)


def test_unordered_panic_ends_every_wait() -> None:
    log = EventLog()
    with log.panic_ordered():
        log.add("panic", source="pvpanic")
    log.check()
    threading.Timer(0.01, lambda: log.add("panic", source="pvpanic")).start()
    with pytest.raises(BoardPanic):
        log.wait(event="relay", timeout=5)
    log.forgive()
    log.check()


def test_failed_emulator_ends_every_wait() -> None:
    log = EventLog()
    threading.Timer(0.01, lambda: log.add("emulator failed", status=-6, text="an assertion")).start()
    with pytest.raises(EmulatorFailed, match="an assertion"):
        log.wait(event="relay", timeout=5)
    log.forgive()
    log.check()


def test_event_log_is_json_lines(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.add("relay", mono_ns=7, state="inline", cause="line driven")
    log.close()
    entry = json.loads((tmp_path / "events.jsonl").read_text())
    assert (entry["n"], entry["mono_ns"], entry["event"], entry["state"]) == (0, 7, "relay", "inline")
    assert entry["wall"].endswith("+00:00")


# terminal


def test_keys_pass_but_for_the_escapes() -> None:
    keys = Keys()
    assert keys.feed(b"show\r\x03\x04\x1b[A") == (b"show\r\x03\x04\x1b[A", [])
    assert keys.feed(b"\x01") == (b"", [])
    assert keys.feed(b"xyz") == (b"yz", ["leave"])
    assert keys.feed(b"\x01\x01a\x01e\x01?") == (b"\x01a", ["events", "help"])
    assert keys.feed(b"ab\x1d") == (b"ab\x1d", []), "the appliance's own: it leaves a guest's console"


# machine


def test_command_line_has_what_the_board_has() -> None:
    load = Payload(Path("/k"), Path("/i"), (Drive("root", Path("/r")), Drive("data", Path("/d"), readonly=False)))
    fds = {name: 3 + number for number, name in enumerate(CHANNELS)}
    line = command_line(load, Accelerator(), Path("/e"), fds)
    text = " ".join(line)
    for words in ("addr=0x10", "addr=0x11", "addr=0x12", "vhost-user-gpio-pci",
                  "vhost-user-i2c-pci", "i6300esb", "acpi-erst", "pvpanic-pci",
                  "watchdog=inject-nmi", "panic=none", "file=/r,format=raw,readonly=on",
                  "file=/d,format=raw,readonly=off", "serial=root", "EPYC,+svm", "unknown_nmi_panic=1"):  # fmt: skip
        assert words in text
    kvm = command_line(load, Accelerator("kvm", ""), Path("/e"), fds)
    assert kvm[kvm.index("-cpu") + 1] == "host"


def test_a_disk_whose_writes_are_logged() -> None:
    drive = Drive("data", Path("/d"), readonly=False, log=Path("/l"))
    text = " ".join(
        command_line(Payload(Path("/k"), None, (drive,)), Accelerator(), Path("/e"), dict.fromkeys(CHANNELS, 3))
    )
    assert "if=none,id=data,driver=blklogwrites," in text
    assert "file.file.filename=/d,log.filename=/l," in text


def test_image_payload_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"rootfs\.squashfs.*make"):
        payload.image(tmp_path, tmp_path / "run")


def test_image_payload_keeps_the_data_disk(tmp_path: Path) -> None:
    for name in payload.files(boardspec.load()):
        (tmp_path / name).write_bytes(b"new")
    directory = tmp_path / "run"
    first = payload.image(tmp_path, directory, debug=True)
    assert "bypass.debug=ttyS1" in first.append
    (directory / "data.img").write_bytes(b"written by the appliance")
    again = payload.image(tmp_path, directory)
    assert "bypass.debug" not in again.append
    assert (directory / "data.img").read_bytes() == b"written by the appliance"
    assert [drive.readonly for drive in again.drives] == [True, True, False]


def test_cpio_is_a_cpio(tmp_path: Path) -> None:
    if not shutil.which("busybox"):
        pytest.skip("busybox-static is not installed")
    made = initramfs.build(tmp_path / "small", "#!/bin/sh\n")
    listed = subprocess.run(["busybox", "cpio", "-t"], input=made.read_bytes(), capture_output=True, check=True)
    names = listed.stdout.decode().split()
    assert {"init", "bin/busybox", "bin/sh", "dev/console"} <= set(names)


def test_netlink_attributes_are_padded() -> None:
    data = attribute(1, b"abc") + attribute(2, b"")
    assert len(data) % 4 == 0
    assert list(attributes(data)) == [(1, b"abc"), (2, b"")]


# which emulator


def test_emulator_built_with_the_image_is_used(tmp_path: Path) -> None:
    """Beside the kernel lies the QEMU that it was tried with; without one, the machine's own has to do."""
    arch = boardspec.load().arch
    assert accel.program(arch, tmp_path) == arch.qemu.program
    emulator.publish(arch, tmp_path / "tree", tmp_path / "qemu")
    assert accel.program(arch, tmp_path) == str(tmp_path / "qemu")
    assert os.access(tmp_path / "qemu", os.X_OK)
    assert str(tmp_path / "tree/usr/bin" / arch.qemu.program) in (tmp_path / "qemu").read_text()
    line = command_line(
        Payload(tmp_path / "kernel"), Accelerator("tcg", "", "/built/qemu"), tmp_path, dict.fromkeys(CHANNELS, 3)
    )
    assert line[0] == "/built/qemu"


# debug shell


@pytest.fixture
def lost() -> list[str]:
    """Reports of shells that ended."""
    return []


@pytest.fixture
def shell(tmp_path: Path, lost: list[str]) -> Iterator[DebugShell]:
    """A DebugShell whose serial port leads to a shell of this machine, started again whenever it ends."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    ours, theirs = socket.socketpair()
    port = SerialPort("ttyS1", loop, tmp_path / "log", lambda: None)
    fd = theirs.fileno()
    respawn = (
        "import subprocess\nwhile True: subprocess.run(['sh', '-i'], env={'PS1': 'debug# '}, start_new_session=True)"
    )
    with subprocess.Popen([sys.executable, "-c", respawn], stdin=fd, stdout=fd, stderr=fd) as process:
        theirs.close()
        asyncio.run_coroutine_threadsafe(port.connect(ours), loop).result(5)
        yield DebugShell(port, lost.append)
        process.kill()
    loop.call_soon_threadsafe(port.close)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_shell_gives_output_and_status(shell: DebugShell) -> None:
    assert shell.run("echo 'a b' \"$((1+1))\"; printf 'no newline'").output == "a b 2\nno newline"
    assert shell.run("exit 7", check=False).status == 7
    with pytest.raises(CommandFailed, match="status 3"):
        shell.run("echo why >&2; exit 3")


def test_shell_takes_long_and_odd_commands(shell: DebugShell) -> None:
    long = "x" * 5000
    assert shell.run(f"echo {long} | wc -c").output.strip() == "5001"
    assert shell.run("cat <<'END'\nline 'one'\n$two `three`\nEND").output == "line 'one'\n$two `three`\n"
    assert shell.run("true").output == ""


def test_background_command_does_not_hold_the_shell(shell: DebugShell) -> None:
    assert shell.run("sleep 30 & echo $!", timeout=10).output.strip().isdigit()


def test_a_command_that_had_not_begun_is_given_to_the_next_shell(shell: DebugShell, lost: list[str]) -> None:
    """The shell ends while nothing runs in it, as when the kernel kills it."""
    first = int(shell.run("echo $PPID").output)
    os.kill(first, signal.SIGKILL)
    assert shell.run("echo here").output == "here\n"
    assert int(shell.run("echo $PPID").output) != first
    assert [
        text.startswith("the board's shell ended before 'echo here'; the kernel's last lines:") for text in lost
    ] == [True]


def test_a_command_whose_shell_ends_is_not_repeated(shell: DebugShell, lost: list[str], tmp_path: Path) -> None:
    with pytest.raises(ShellLost, match="ended in"):
        shell.run(f"echo once >>{tmp_path}/ran; kill -KILL $PPID; sleep 30", timeout=20)
    assert (tmp_path / "ran").read_text() == "once\n"
    assert len(lost) == 1
    assert shell.run("echo here").output == "here\n"


def test_shell_timeout_is_told(shell: DebugShell) -> None:
    with pytest.raises(WaitTimeout, match="still running"):
        shell.run("sleep 30", timeout=0.5)


def test_console_finds_a_panic_across_pieces(tmp_path: Path) -> None:
    found: list[str] = []
    port = SerialPort("ttyS0", asyncio.new_event_loop(), tmp_path / "log", lambda: None, found.append)
    for piece in (b"[ 1.0] Kernel pa", b"nic - not sync", b"ing: sysrq triggered", b" crash\r\nmore", b"\r\n"):
        port._received(piece)
    assert found == ["Kernel panic - not syncing: sysrq triggered crash"]
    assert port.expect("crash", timeout=0)
    with pytest.raises(WaitTimeout, match="more"):
        port.expect("never", timeout=0)
    port.close()


def test_terminal_is_put_back_whatever_happens() -> None:
    leader, follower = os.openpty()
    before = termios.tcgetattr(follower)
    with contextlib.suppress(ZeroDivisionError), raw(follower):
        assert not termios.tcgetattr(follower)[3] & termios.ICANON
        raise ZeroDivisionError
    assert termios.tcgetattr(follower) == before
    os.close(leader)
    os.close(follower)


def test_clients_are_let_go_when_the_board_ends(tmp_path: Path) -> None:
    """Somebody who is attached in a second terminal sees the end; nothing of the connection outlives the loop."""

    async def body() -> None:
        port = SimpleNamespace(sinks=[], send=lambda data: None)
        simulator: Any = SimpleNamespace(console=port, debug=port)
        unused: Any = None
        server = ControlServer(tmp_path, simulator, unused, unused, unused)
        await server.start()
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / control.NAME))
        writer.write(b'{"do": "attach", "port": "debug"}\n')
        async with asyncio.timeout(10):
            while not port.sinks:
                await asyncio.sleep(0)
            await server.stop()
            assert port.sinks == []
            assert await reader.read() == b""
        writer.close()

    asyncio.run(body())
