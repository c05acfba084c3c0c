# SPDX-License-Identifier: GPL-2.0-only
"""`guest import -`: an image that a client sends. The real console, control socket, helper and qemu-img."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pexpect
import pytest

from appliance.guest.image import api
from appliance.guest.image.store import Images
from console.client import Client
from tests.support.disk_image import MIB, mbr, raw_disk
from tests.support.fake_daemon import FakeDaemon

IMPORT = ("guest", "import", "-", "--name", "a")
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


class Store:
    """A daemon that takes images."""

    def __init__(self, folder: Path, control: Path) -> None:
        self.images, self.folder, self.control = Images(folder, dict), folder, control
        self.daemon = FakeDaemon(control)
        api.register(self.daemon.registry, self.images)

    @property
    def left(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())

    def words(self, *args: str) -> list[str]:
        return [sys.executable, "-m", "console", "--socket", str(self.control), *args]

    def run(self, source: IO[bytes], *more: str) -> tuple[int, str]:
        """The command to its end: exit code, and all that it said."""
        ran = subprocess.run(
            self.words(*IMPORT, *more), stdin=source, stdout=-1, stderr=subprocess.STDOUT, text=True, check=False
        )
        return ran.returncode, ran.stdout

    def start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self.words(*IMPORT), stdin=-1, stdout=-1, stderr=subprocess.STDOUT)

    def part(self, least: int) -> None:
        """Wait until so much of the image is there."""
        deadline, part = time.monotonic() + 60, self.folder / ".a.part"
        while not (part.exists() and part.stat().st_size >= least):
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def job(self, number: int = 1) -> dict[str, Any]:
        """How an import ended."""
        client = Client(str(self.control))
        while (row := client.call("image.job", {"job": number}))["stage"] not in ("done", "failed"):
            pass  # the daemon takes its time to answer
        return dict(row)


def served(folder: Path, control: Path) -> Iterator[Store]:
    made = Store(folder, control)
    with made.daemon:
        yield made
        while made.images._tasks:
            time.sleep(0.01)  # the helper has said its last word, and is ending


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    yield from served(tmp_path / "images", tmp_path / "control.sock")


def qcow2(path: Path) -> Path:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), "8M"], check=True)
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write 0 6M", str(path)], check=True, capture_output=True)
    return path


def test_a_good_image_and_back(store: Store, tmp_path: Path) -> None:
    """From a file and through a pipe, byte for byte; the second takes the place of the first, until `undo`."""
    source = qcow2(tmp_path / "source")
    told = hashlib.sha256(source.read_bytes()).hexdigest()
    with source.open("rb") as file:
        code, said = store.run(file, "--sha256", told)
    assert (code, "image a imported: qcow2" in said) == (0, True), said
    assert (store.folder / "a").read_bytes() == source.read_bytes()
    (row,) = store.images.rows()
    assert (row.verified, row.source) == (True, "standard input")
    with subprocess.Popen(["cat", str(source)], stdout=-1) as cat:
        assert cat.stdout is not None
        code, said = store.run(cat.stdout, "--replace")
    assert (code, f"SHA-256 {told}" in said) == (0, True), said
    store.images.undo("a")
    assert (store.folder / "a").read_bytes() == source.read_bytes()


@pytest.mark.parametrize(
    ("data", "more", "why"),
    [
        (b"", (), "standard input: it is empty"),
        (b"KDMV" + bytes(508), (), "a VMDK image"),
        (bytes(700), ("--kind", "raw"), "not whole sectors"),
        (bytes(700), (), "not recognized as a disk image"),
        (raw_disk(b"x", MIB), ("--sha256", "0" * 64), "its SHA-256 is"),
        (b"x" * MIB, ("--kind", "kernel"), "not a Linux kernel"),
        (b"QFI\xfb" + bytes(100), (), "its qcow2 version is 0"),
        (b"x" * MIB, ("--sha256", "abc"), "64 hex digits"),
    ],
)
def test_refused_and_nothing_left(store: Store, tmp_path: Path, data: bytes, more: tuple[str, ...], why: str) -> None:
    (tmp_path / "source").write_bytes(data)
    with (tmp_path / "source").open("rb") as file:
        code, said = store.run(file, *more)
    assert (code, why in said) == (1, True), said
    assert not store.folder.exists() or store.left == []


def test_what_is_wrong_at_sight_is_told_before_all_of_it_came(store: Store) -> None:
    with store.start() as command:
        assert command.stdin is not None
        assert command.stdout is not None
        command.stdin.write(b"KDMV".ljust(64 << 10))
        command.stdin.flush()
        assert b"a VMDK image" in command.stdout.read()  # its end; standard input is still open
        assert command.wait(30) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "killed"])
def test_cut_off_half_way(store: Store, number: signal.Signals) -> None:
    """The sender is stopped or killed: the received part is not an image, however complete it looks."""
    with store.start() as command:
        assert command.stdin is not None
        command.stdin.write(raw_disk(b"x", 4 * MIB))
        command.stdin.flush()
        store.part(4 * MIB)
        command.send_signal(number)
        command.wait(30)
    why = "it was stopped" if number is signal.SIGINT else "it was cut off after 4 MiB: the sender disconnected"
    assert why in store.job()["why"]
    assert store.left == []


def test_a_client_that_leaves_at_once(store: Store, tmp_path: Path) -> None:
    """Its name and its place are free again."""
    (tmp_path / "source").write_bytes(mbr())
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(str(store.control))
        link.sendall(b'{"jsonrpc":"2.0","id":1,"method":"image.receive","params":{"name":"a"}}\n')
    deadline = time.monotonic() + 30
    while True:
        with (tmp_path / "source").open("rb") as file:
            code, said = store.run(file)
        if "is already being imported" not in said:
            break
        assert time.monotonic() < deadline
    assert code == 0, said


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Store]:
    """64 MiB for the images."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(folder)], check=True)
    try:
        yield from served(folder, tmp_path / "control.sock")
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@ROOT
def test_more_than_fits(small: Store) -> None:
    """How much comes nobody knows before: it ends when only the reserve is left, and nothing of it stays."""
    with subprocess.Popen(["head", "-c", str(100 * MIB), "/dev/zero"], stdout=-1) as source:
        assert source.stdout is not None
        code, said = small.run(source.stdout, "--kind", "raw")
        source.stdout.close()
    assert (code, "it is too large: the disk is full after 32 MiB" in said) == (1, True), said
    assert small.left == []


@pytest.mark.parametrize(("term", "shown"), [("xterm", "copying 3 MiB"), ("dumb", "copying 0 MiB\r\n")])
def test_progress_where_somebody_looks(store: Store, tmp_path: Path, term: str, shown: str) -> None:
    (tmp_path / "source").write_bytes(raw_disk(b"x", 4 * MIB))
    shell = f"exec {' '.join(store.words(*IMPORT))} < {tmp_path / 'source'}"
    child = pexpect.spawn("sh", ["-c", shell], env={**os.environ, "TERM": term}, timeout=60, encoding="utf-8")
    child.logfile_read = log = io.StringIO()
    child.expect("image a imported")
    child.expect(pexpect.EOF)
    assert shown in log.getvalue()


def test_a_terminal_is_no_image(store: Store) -> None:
    child = pexpect.spawn(store.words(*IMPORT)[0], store.words(*IMPORT)[1:], timeout=60, encoding="utf-8")
    child.expect("standard input is a terminal; redirect it: `guest import - --name a <")
    child.expect(pexpect.EOF)
