# SPDX-License-Identifier: GPL-2.0-only
"""Images: which are accepted or refused and why, that an incomplete import leaves nothing, and undo.

The real helper process and the real qemu-img; disks that are full are small tmpfs.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance.access.groups import GROUPS
from appliance.config.schema import model
from appliance.errors import BypassError, NotFoundError, RefusedError
from appliance.guest.image import importer
from appliance.guest.image.inspect import About, check_name, check_sum, examine
from appliance.guest.image.store import STOPPED, Images, Job, images_used
from tests.support.disk_image import MIB, gpt, mbr, qcow2_header, raw_disk

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def qcow2(path: Path, *more: str, size: str = "8M") -> Path:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *more, str(path), size], check=True)
    return path


@pytest.mark.parametrize(
    ("head", "size", "kind", "why"),
    [
        (b"", 0, "disk", "it is empty"),
        (b"\0" * 513, 513, "raw", "not whole sectors"),
        (b"\0" * 600, 1024, "kernel", "not a Linux kernel"),
        (qcow2_header(backing=88), MIB, "disk", "it needs a backing file"),
        (qcow2_header(crypt=2), MIB, "disk", "it is encrypted"),
        (qcow2_header(version=9), MIB, "disk", "its qcow2 version is 9"),
        (qcow2_header(version=1), MIB, "disk", "its qcow2 version is 1"),
        (qcow2_header(bits=60), MIB, "disk", "header is damaged"),
        (qcow2_header(length=7), MIB, "disk", "header is damaged"),
        (qcow2_header(entries=1 << 23), MIB, "disk", "more than QEMU reads"),
        (qcow2_header()[:40], 40, "disk", "header is truncated"),
        (qcow2_header()[:90], 90, "disk", "header is truncated"),
    ],
)
def test_refused_at_sight(head: bytes, size: int, kind: str, why: str) -> None:
    with pytest.raises(RefusedError, match=why):
        examine(head, size, kind)


def test_taken() -> None:
    assert examine(qcow2_header(), MIB, "disk") == About("qcow2", 8 * MIB)
    assert examine(qcow2_header(version=2), MIB, "disk") == About("qcow2", 8 * MIB)
    assert examine(b"\0" * 512, 2 * MIB, "raw") == About("raw", 2 * MIB)
    assert examine(b"\0" * 0x202 + b"HdrS", 5 * MIB, "kernel").format == "kernel"
    assert examine(b"\x1f\x8b", 5, "initrd").format == "initrd"


@pytest.mark.parametrize("bit", range(64))
def test_every_incompatible_feature_is_judged(bit: int) -> None:
    """Those that QEMU reads are accepted; a bit that nobody here knows is not."""
    head = qcow2_header(features=1 << bit, compression=int(bit == 3))
    if bit in (0, 3, 4):
        assert examine(head, MIB, "disk").format == "qcow2"
        return
    why = {1: "marked as damaged", 2: "data is in another file.*qemu-img convert"}.get(
        bit, f"unknown qcow2 feature .bit {bit}.*conv"
    )
    with pytest.raises(RefusedError, match=why):
        examine(head, MIB, "disk")


@pytest.mark.parametrize(("features", "compression"), [(8, 2), (0, 1), (8, 0)])
def test_a_compression_that_qemu_does_not_read(features: int, compression: int) -> None:
    with pytest.raises(RefusedError, match=f"its compression .type {compression}"):
        examine(qcow2_header(features=features, compression=compression), MIB, "disk")


NO_DISKS = [
    (b"KDMV", "a VMDK image: convert it first"),
    (b"COWD", "a VMDK image"),
    (b"# Disk DescriptorFile\nversion=1", "the description of a VMDK image"),
    (b"vhdxfile", "a VHDX image"),
    (b"conectix", "a VHD image"),
    (b"\0" * 64 + b"\x7f\x10\xda\xbe", "a VDI image"),
    (b"WithoutFreeSpace", "a Parallels image"),
    (b"LUKS\xba\xbe\0\x01", "a LUKS volume.*no key"),
    (b"\x3a\xff\x26\xed\x01", "an Android sparse image: .*simg2img"),
    (b"a.ovf".ljust(257, b"\0") + b"ustar  ", "a tar archive, such as an OVA: unpack it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b\x08", r"compressed \(gzip\): decompress it first"),
    (b"\x04\x22\x4d\x18", r"compressed \(lz4\)"),
    (b"hsqs", "a squashfs file system: --kind raw"),
    (b"\0" * 0x202 + b"HdrS", "a Linux kernel: use --kind kernel"),
    (b"\xd4\xc3\xb2\xa1", "a capture file"),
    (b"\x0a\x0d\x0d\x0a", "a capture file"),
    (b"\0" * 32_769 + b"CD001", "an ISO 9660 image"),
    (b"<html>404 Not Found</html>".ljust(512), r'it is text \("<html>404 Not Found</html>"\)'),
    ("<p>größer".encode() * 100, "it is text"),
    (bytes(512), "not recognized as a disk image.*--kind raw"),
    (bytes(range(256)) * 4, "not recognized as a disk image"),
    (b"\xff" * 100, "it has 100 bytes: too small"),
]


@pytest.mark.parametrize(("head", "why"), NO_DISKS)
def test_what_is_no_disk_is_refused_by_name(head: bytes, why: str) -> None:
    """Also while it is still being received, and whatever its length; as raw it is imported when that is asked for."""
    head = head if len(head) < 512 else head.ljust(1024, b"\0")
    size = len(head)
    with pytest.raises(RefusedError, match=why):
        examine(head, size, "disk")
    if size >= 512:
        with pytest.raises(RefusedError, match=why):
            examine(head, None, "disk")
    if size % 512 == 0:
        assert examine(head, size, "raw") == About("raw", size)


def fat(sectors: int) -> bytes:
    """The boot sector of a FAT file system over the whole disk."""
    fields = struct.pack("<HBHBHH", 512, 4, 1, 2, 512, sectors)
    return (b"\xeb\x3c\x90mkfs.fat" + fields).ljust(510, b"\0") + b"\x55\xaa"


def ext(blocks: int) -> bytes:
    """The beginning of an ext4 file system with blocks of 4 KiB."""
    block = struct.pack("<II", 0, blocks).ljust(24, b"\0") + struct.pack("<I", 2)
    return bytes(1024) + block.ljust(56, b"\0") + b"\x53\xef" + bytes(1024)


DISKS = {
    "MBR": mbr((0x83, 1, 2047)),
    "active": mbr((0x0C, 8, 100), (0x83, 108, 1940)),
    "extended": mbr((0x05, 8, 1 << 31)),
    "boot sector": mbr(),
    "GPT": gpt(2048),
    "FAT": fat(2048),
    "ext4": ext(256),
    "XFS": b"XFSB" + struct.pack(">IQ", 4096, 256) + bytes(1024),
    "hybrid CD": mbr((0x17, 64, 100)).ljust(32_769, b"\0") + b"CD001",
}


@pytest.mark.parametrize("head", DISKS.values(), ids=DISKS)
def test_what_begins_like_a_disk_is_one(head: bytes) -> None:
    assert examine(head, MIB, "disk") == About("raw", MIB)
    assert examine(head, None, "disk").format == "raw"


@pytest.mark.parametrize(
    ("head", "size", "why"),
    [
        (DISKS["MBR"], MIB // 2, "truncated: a partition ends at byte 1048576, and the file at 524288"),
        (DISKS["GPT"], MIB // 2, "truncated: its partition table"),
        (DISKS["FAT"], MIB // 2, "truncated: its file system"),
        (DISKS["ext4"], MIB // 2, "truncated: its file system"),
        (DISKS["GPT"][:512] + bytes(512), MIB, "is missing, or made for sectors of more"),
        (DISKS["GPT"][:560] + b"x" + DISKS["GPT"][561:], MIB, "partition table .GPT. is damaged"),
        (mbr((0x83, 0, 2047)), MIB, "not recognized as a disk image"),
        (b"\x7f" * 510 + b"\x55\xaa", MIB, "not recognized as a disk image"),
    ],
)
def test_a_disk_that_makes_no_sense(head: bytes, size: int, why: str) -> None:
    with pytest.raises(RefusedError, match=why):
        examine(head, size, "disk")


@pytest.mark.parametrize("name", ["", ".x", "../x", "a/b", "a b", "x" * 65, "a\n"])
def test_names(name: str) -> None:
    with pytest.raises(RefusedError, match="an image's name"):
        check_name(name)
    check_name("fw-1.2_x+y.qcow2")


def test_sums() -> None:
    assert check_sum("AB" * 32) == "ab" * 32
    with pytest.raises(RefusedError, match="64 hex digits"):
        check_sum("abc")


@pytest.fixture
def images(tmp_path: Path) -> Images:
    return Images(tmp_path / "images", lambda: {"used": ["ips1"]})


def do(images: Images, source: Path, name: str = "a", **more: object) -> Job:
    """An import, to its end."""

    async def body() -> Job:
        job = await images.start(str(source), name, os.geteuid(), **more)  # type: ignore[arg-type]
        while not job.over:
            job.changed.clear()
            await asyncio.wait_for(job.changed.wait(), 60)
        while images._tasks:
            await asyncio.gather(*images._tasks)
        return job

    return asyncio.run(body())


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_good_image(images: Images, tmp_path: Path) -> None:
    """Byte for byte, with its checksum, its format, and a way back to nothing."""
    source = qcow2(tmp_path / "source")
    told = hashlib.sha256(source.read_bytes()).hexdigest()
    job = do(images, source, sha256=told.upper())
    assert (job.stage, job.why) == ("done", "")
    assert (tmp_path / "images/a").read_bytes() == source.read_bytes()
    (row,) = images.rows()
    shown = {key: getattr(row, key) for key in ("name", "format", "virtual_bytes", "sha256", "verified", "undo")}
    assert shown == {
        "name": "a", "format": "qcow2", "virtual_bytes": 8 * MIB, "sha256": told, "verified": True, "undo": "remove",
    }  # fmt: skip
    assert "removed" in images.undo("a")
    assert left(tmp_path / "images") == []


def test_replaced_and_taken_back(images: Images, tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    first.write_bytes(raw_disk(b"1", MIB))
    second.write_bytes(raw_disk(b"2", MIB))
    do(images, first)
    with pytest.raises(RefusedError, match="already exists: --replace"):
        do(images, second)
    do(images, second, replace=True)
    assert (tmp_path / "images/a").read_bytes() == second.read_bytes()
    assert images.rows()[0].undo == "previous"
    images.undo("a")
    assert (tmp_path / "images/a").read_bytes() == first.read_bytes()
    with pytest.raises(RefusedError, match="no import to undo"):
        images.undo("a")


def corrupt(path: Path) -> None:
    qcow2(path)
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write 0 1M", str(path)], check=True, capture_output=True)
    with path.open("r+b") as file:
        file.seek(48)  # the refcount table goes astray
        file.write(struct.pack(">Q", 5 << 16))


def backed(path: Path) -> None:
    base = path.with_name("base")
    qcow2(base)
    qcow2(path, "-b", str(base), "-F", "qcow2")


@pytest.mark.parametrize(
    ("make", "more", "why"),
    [
        (lambda path: None, {}, "No such file or directory"),
        (lambda path: path.mkdir(), {}, "not a regular file"),
        (os.mkfifo, {}, "not a regular file"),
        (lambda path: path.write_bytes(raw_disk(b"x", MIB)), {"sha256": "0" * 64}, "its SHA-256 is .*, not 0000"),
        (corrupt, {}, "qemu-img"),
        (backed, {}, "it needs a backing file"),
        (lambda path: os.truncate(_made(path), 70_000), {}, "qemu-img|damaged"),
    ],
    ids=["missing", "folder", "pipe", "wrong checksum", "corrupt", "backing file", "cut off"],
)
def test_refused_and_nothing_left(
    images: Images, tmp_path: Path, make: Callable[[Path], object], more: dict[str, str], why: str
) -> None:
    source = tmp_path / "source"
    make(source)
    job = do(images, source, **more)
    assert job.stage == "failed"
    assert str(source) in job.why
    assert re.search(why, job.why), job.why
    assert left(tmp_path / "images") == []


def _made(path: Path) -> Path:
    corruptible = qcow2(path)
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write 0 4M", str(path)], check=True, capture_output=True)
    return corruptible


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """64 MiB for the images."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@ROOT
def test_too_large_is_told_before_it_is_copied(small_disk: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(raw_disk(b"", 100 * MIB))
    os.truncate(source, 100 * MIB)
    job = do(Images(small_disk, dict), source)
    assert "too large: it has 100 MiB, but only 32 MiB are free" in job.why
    assert left(small_disk) == []


@ROOT
def test_a_disk_that_fills_up_meanwhile(small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It fitted at first: the old image stays what it was, and nothing half done stays."""
    source = tmp_path / "source"
    source.write_bytes(raw_disk(b"1", MIB))
    images = Images(small_disk, dict)
    do(images, source)
    before = left(small_disk)
    source.write_bytes(raw_disk(b"2", 80 * MIB))
    monkeypatch.setattr(importer, "check_room", lambda size, folder: None)
    asked = {"source": str(source), "uid": 0, "images": str(small_disk), "name": "a", "kind": "disk", "sha256": ""}
    with pytest.raises(OSError, match="No space left"):
        importer.run(asked)
    assert left(small_disk) == before
    assert (small_disk / "a").read_bytes() == raw_disk(b"1", MIB)


@ROOT
def test_what_the_caller_cannot_read_is_not_imported(images: Images, tmp_path: Path) -> None:
    """The daemon is root; the caller is not."""
    secret = Path("/tmp") / f"tw-secret-{os.getpid()}"
    secret.write_bytes(b"s" * 512)
    secret.chmod(0o600)
    try:
        asked = {"source": str(secret), "uid": 65534, "images": str(tmp_path), "name": "a", "kind": "disk"}
        with pytest.raises(BypassError, match="Permission denied"):
            importer.run({**asked, "sha256": ""})
        assert os.geteuid() == 0
    finally:
        secret.unlink()


def test_stopped_half_way(images: Images, tmp_path: Path) -> None:
    """Ctrl-C: the helper ends, the partial file goes."""
    source = tmp_path / "source"
    source.write_bytes(raw_disk(b"", 4096 * MIB))
    os.truncate(source, 4096 * MIB)

    async def body() -> Job:
        job = await images.start(str(source), "a", os.geteuid())
        while job.stage != "copy":
            job.changed.clear()
            await asyncio.wait_for(job.changed.wait(), 60)
        with pytest.raises(RefusedError, match="is already being imported"):
            await images.start(str(source), "a", os.geteuid())
        await images.cancel(job)
        await asyncio.gather(*images._tasks)
        return job

    job = asyncio.run(body())
    assert (job.stage, job.why) == ("failed", STOPPED)
    assert left(tmp_path / "images") == []


def test_an_image_in_use_stays(images: Images, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/used").write_bytes(b"")
    with pytest.raises(RefusedError, match="is used by guest ips1"):
        images.remove("used")
    with pytest.raises(NotFoundError, match='no image "b"; there is: used'):
        images.remove("b")
    with pytest.raises(NotFoundError):
        images.remove("../images/used")


def test_jobs_are_the_callers_own(images: Images, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(mbr())
    job = do(images, source)
    assert images.job(job.number, 0) is job
    with pytest.raises(NotFoundError, match="there is no import"):
        images.job(job.number, os.geteuid() + 1)


def test_who_uses_what() -> None:
    disk = model.Disk("data")
    config = model.Config(guest=(model.Guest(name="a", image="x", disks=(disk,)), model.Guest(name="b", kernel="/x")))
    assert images_used(config) == {"x": ["a"], "data": ["a"]}
    whole = model.Config(guest=(model.Guest(name="a", image="/var/lib/bypass/images/x"), model.Guest("b", image="./x")))
    assert images_used(whole) == {"x": ["a", "b"]}


@ROOT
def test_the_folder_is_closed_to_all_but_administrators_and_users(tmp_path: Path) -> None:
    """A guest's process is neither, whatever mode its or another's image has."""
    folder = tmp_path / "images"
    folder.mkdir(mode=0o755)
    (folder / "other.img").write_bytes(bytes(512))
    (folder / "other.img").chmod(0o644)
    Images(folder, dict).tidy()
    assert (folder.stat().st_mode & 0o777, folder.stat().st_gid) == (0o750, GROUPS["bypass"])
    for above in (tmp_path, *tmp_path.parents):
        if above != Path("/"):
            above.chmod(above.stat().st_mode | 0o011)
    words = ["cat", str(folder / "other.img")]
    done = subprocess.run(words, user=200_001, group=200_001, extra_groups=[], capture_output=True, check=False)
    assert b"Permission denied" in done.stderr
    Images(tmp_path / "none", dict).tidy()
