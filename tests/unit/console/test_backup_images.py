# SPDX-License-Identifier: GPL-2.0-only
"""Images in a backup: there and back whole, all or nothing, and only where there is room.

The console runs as a process of its own, with another folder of images; control socket, configuration, import helper
and qemu-img are real.
"""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from appliance.api.schema.methods import Answers
from appliance.api.server import Param
from appliance.errors import RefusedError
from appliance.guest import disk_space
from appliance.guest.image import api, importer
from appliance.guest.image.store import Images
from console.commands import backup, backup_file, restore
from console.commands.backup_file import Image
from tests.support.config_daemon import ConfigDaemon
from tests.support.terminal import ROOT, bypass

PHRASE = b"the phrase of a test\n"
NAME = "ips1.qcow2"
RUN = (
    "import pathlib, sys; from console.commands import backup_file;"
    " backup_file.FOLDER = pathlib.Path(sys.argv.pop(1)); from console.__main__ import main; sys.exit(main())"
)


class Box(ConfigDaemon):
    """With a folder of images, and a host key."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.images = folder / "images"
        self.images.mkdir()
        self.store = Images(self.images, lambda: {NAME: ["ips1"]})
        api.register(self.registry, self.store)

        async def read(_: dict[str, Any]) -> object:
            return {"keys": [f"host_ed25519 {base64.b64encode(b'a key').decode()}"]}

        async def replace(_: dict[str, Any]) -> object:
            return {"message": "1 SSH host key restored"}

        self.registry.add(Answers("host-keys.read", object), read, role="admin")
        self.registry.add(Answers("host-keys.replace", object), replace, role="admin", params={"keys": Param("array")})

    def run(self, *words: str, stdin: bytes = PHRASE) -> subprocess.CompletedProcess[bytes]:
        environ = {**os.environ, "BYPASS_SOCKET": str(self.path), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", RUN, str(self.images), *words]
        return subprocess.run(command, input=stdin, capture_output=True, env=environ, timeout=60, check=False)

    def shown(self) -> list[str]:
        """The names in the folder; helpers that end remove what they left."""
        while self.store._tasks:
            time.sleep(0.01)
        return sorted(path.name for path in self.images.iterdir() if not path.name.startswith("."))


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    (tmp_path / "box").mkdir()
    with Box(tmp_path / "box") as made:
        assert isinstance(made, Box)
        image(made.images / NAME, "one")
        yield made
        made.shown()


def image(path: Path, text: str) -> None:
    """A disk of a guest, too large for one chunk, that does not compress."""
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), "8M"], check=True)
    source = path.with_name("noise")
    source.write_bytes(text.encode() + os.urandom(3 << 20))
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", "-f", "raw", str(source), str(path)], check=True)
    source.unlink()


@pytest.mark.parametrize("streamed", [False, True])
def test_an_image_is_there_again(box: Box, tmp_path: Path, streamed: bool) -> None:
    """Where it is missing, and where it has other content, which can be undone; the same is not copied again."""
    before, file = (box.images / NAME).read_bytes(), tmp_path / "one.backup"
    made = box.run("backup", "-" if streamed else str(file), "--images")
    assert made.returncode == 0, made.stderr
    if streamed:
        file.write_bytes(made.stdout)
    assert file.stat().st_size > 3 << 20, "noise does not compress"
    assert b"1 image" in (made.stderr if streamed else made.stdout)
    words, stdin = ("restore", "-" if streamed else str(file), "--json"), PHRASE + file.read_bytes() * streamed
    for there in (None, b"other content"):
        (box.images / NAME).unlink() if there is None else (box.images / NAME).write_bytes(there)
        assert bypass("configure", sock=box.path, stdin="set system hostname changed\n").returncode == 0
        done = box.run(*words, stdin=stdin)
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        assert (answer["images"], answer["missing_images"]) == ([NAME], [])
        assert (box.images / NAME).read_bytes() == before
        assert 'hostname = "wire1"' in box.startup.read_text()
    assert bypass("image", NAME, "undo", sock=box.path).returncode == 0
    assert (box.images / NAME).read_bytes() == b"other content"
    (box.images / NAME).write_bytes(before)
    assert json.loads(box.run(*words, stdin=stdin).stdout)["images"] == []


def test_the_usual_tools_read_it(box: Box, tmp_path: Path) -> None:
    made = box.run("backup", "-", "--images")
    words = ["gpg", "--homedir", str(tmp_path), "--batch", "--pinentry-mode", "loopback", "--passphrase"]
    words += [PHRASE.decode().strip(), "-d"]
    plain = subprocess.run(words, input=made.stdout, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(plain)) as archive:
        assert archive.getnames() == ["about.json", "config.toml", "ssh/host_ed25519", f"images/{NAME}"]
        content = archive.extractfile(f"images/{NAME}")
        assert content is not None
        assert content.read() == (box.images / NAME).read_bytes()


def test_a_damaged_one_changes_nothing(box: Box) -> None:
    """Its image is undone: it was imported before the end was read, where the damage shows."""
    made, before = box.run("backup", "-", "--images").stdout, (box.images / NAME).read_bytes()
    (box.images / NAME).write_bytes(b"other content")
    text = box.startup.read_text()
    for data in (made[:-9], made[:-40] + bytes([made[-40] ^ 1]) + made[-39:], made[: len(made) // 2]):
        done = box.run("restore", "-", stdin=PHRASE + data)
        assert (done.returncode, b"cannot be decrypted" in done.stderr) == (1, True), done.stderr
        assert box.shown() == [NAME]
        assert ((box.images / NAME).read_bytes(), box.startup.read_text()) == (b"other content", text)
    assert box.run("restore", "-", stdin=PHRASE + made).returncode == 0
    assert (box.images / NAME).read_bytes() == before


def test_images_of_a_configuration_that_is_refused_are_undone(box: Box) -> None:
    third = "set rule third match tcp port 81\nset rule third path ips1\n"
    assert bypass("configure", sock=box.path, stdin=third).returncode == 0
    made = box.run("backup", "-", "--images").stdout
    (box.images / NAME).write_bytes(b"other content")
    assert bypass("configure", sock=box.path, stdin="delete rule third\n").returncode == 0
    box.refuse = "the kernel says no"  # to any other number of rules than two
    done = box.run("restore", "-", stdin=PHRASE + made)
    assert (done.returncode, b"the kernel says no" in done.stderr) == (1, True), done.stderr
    assert (box.images / NAME).read_bytes() == b"other content"


def test_the_configuration_alone_leaves_images(box: Box) -> None:
    made = box.run("backup", "-", "--images").stdout
    (box.images / NAME).write_bytes(b"other content")
    assert bypass("configure", sock=box.path, stdin="set system hostname changed\n").returncode == 0
    assert box.run("restore", "-", "--configuration-only", stdin=PHRASE + made).returncode == 0
    assert 'hostname = "wire1"' in box.startup.read_text()
    assert (box.images / NAME).read_bytes() == b"other content"


def test_an_image_that_changes_meanwhile_is_refused(tmp_path: Path) -> None:
    """A guest that writes to its disk: no backup that is half one disk and half another."""
    (tmp_path / "a").write_bytes(b"x" * 5000)
    size, sha256 = backup_file.digest(tmp_path / "a", lambda *_: None)
    about = Image("a", size, sha256, "raw")
    for content in (b"x" * 4999 + b"y", b"x" * 10):
        (tmp_path / "a").write_bytes(content)
        with pytest.raises(RefusedError, match="image a changed while it was copied: stop the guests"):
            backup_file.write(io.BytesIO(), {}, [about], tmp_path, lambda *_: None)


def test_room_is_checked_before_anything_is_written(box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backup leaves guests the room without which they are paused; a restore, that of an import."""
    full = SimpleNamespace(f_blocks=4000, f_frsize=1 << 20, f_bavail=201, f_bsize=1 << 20)
    monkeypatch.setattr(os, "statvfs", lambda _: full)
    images = [Image(NAME, (box.images / NAME).stat().st_size, "", "disk")]
    with pytest.raises(RefusedError, match=r"3 MiB, but only 1 MiB may be used there; `ssh USER@BOX backup -"):
        backup._check_room(tmp_path / "one.backup", images, box.images)
    full.f_bavail = 300
    backup._check_room(tmp_path / "one.backup", images, box.images)
    assert (backup.LOW_BYTES, backup.LOW_SHARE) == (disk_space.LOW_BYTES, disk_space.LOW_SHARE)
    assert restore.RESERVE == importer.RESERVE
    monkeypatch.setattr(backup_file, "FOLDER", box.images)
    full.f_bavail = 33
    context: Any = SimpleNamespace(client=SimpleNamespace(call=lambda _: []), err=io.StringIO())
    with pytest.raises(RefusedError, match="only 1 MiB are free: `show images`"):
        restore._wanted(context, images)
