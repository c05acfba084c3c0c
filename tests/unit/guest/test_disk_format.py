# SPDX-License-Identifier: GPL-2.0-only
"""The format of a guest's disk: as found at its import or first start, whatever the guest has written since."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from appliance.config.schema import model
from appliance.errors import RefusedError
from appliance.guest.image import disk_format, importer
from appliance.guest.image.disk_format import find
from appliance.guest.image.store import Images
from appliance.guest.qemu import resources
from appliance.paths import Paths
from tests.support.disk_image import MIB, qcow2_header

SECRET = b"/etc/shadow"


def qcow2(backing: bytes = b"", features: int = 0) -> bytes:
    """The beginning of a qcow2 image, as a guest could write it."""
    header = qcow2_header(backing=112 if backing else 0, named=len(backing), features=features)
    return (header + backing).ljust(4096, b"\0")


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    made = Paths(tmp_path)
    made.images.mkdir(parents=True)
    (tmp_path / "srv").mkdir()
    return made


def take(paths: Paths, content: bytes, name: str = "a", kind: str = "disk") -> Path:
    """Import it, without its helper process."""
    part = paths.images / f".{name}.part"
    part.write_bytes(content)
    record: dict[str, object] = {"format": kind if kind != "disk" else "qcow2" if content.startswith(b"QFI") else "raw"}
    importer.place(part, paths.images / name, paths.images / f".{name}.previous", record)
    return paths.images / name


def overwrite(path: Path, head: bytes) -> None:
    """What a guest does to its raw disk."""
    with path.open("r+b") as disk:
        disk.write(head)


@pytest.mark.parametrize("head", [qcow2(SECRET), qcow2()], ids=["backing file", "whole"])
def test_an_imported_raw_image_stays_raw(paths: Paths, head: bytes) -> None:
    """However the configuration writes its name; and `show guests` says that it looks odd."""
    image = take(paths, bytes(MIB))
    assert find(image, paths, written=True) == ("raw", "")
    overwrite(image, head)
    (paths.root / "srv/link").symlink_to(image)
    for name in ("a", "./a", "/var/lib/bypass/images/a", "/srv/link"):
        machine, notes = resources.machine_of(model.Guest(name="ips1", image=name), paths, 1, 1, "tcg")
        assert machine.drives[0].format == "raw"
        assert "begins like qcow2, but is used as raw, as at its import" in notes[0]


def test_an_imported_qcow2_image_is_whole_at_each_start(paths: Paths) -> None:
    image = take(paths, qcow2())
    assert find(image, paths, written=True) == ("qcow2", "")
    overwrite(image, qcow2(SECRET))
    guest = model.Guest(name="ips1", image="a")
    with pytest.raises(resources.NotReadyError, match=r'images/a: .*\("/etc/shadow"\).*`qemu-img convert') as caught:
        resources.machine_of(guest, paths, 1, 1, "tcg")
    assert caught.value.cause == "image_unreadable"
    overwrite(image, bytes(512))
    with pytest.raises(RefusedError, match="was qcow2 at its import, but no longer begins like qcow2"):
        find(image, paths, written=True)


@pytest.mark.parametrize(
    ("head", "why"),
    [
        (qcow2(SECRET), "needs a backing file"),
        (qcow2(features=4), "data is in another file.*qemu-img convert"),
        (qcow2(b"\x1b[2J"), r'backing file \("\?\[2J"\)'),
    ],
)
@pytest.mark.parametrize("use", [{}, {"storage": "snapshot"}, {"disk": True}])
def test_other_files_are_refused_at_the_first_start(
    paths: Paths, head: bytes, why: str, use: dict[str, object]
) -> None:
    """Of an image given by its path, whether it is written to or not; also of a second disk."""
    (paths.root / "srv/x").write_bytes(head)
    (paths.root / "srv/good").write_bytes(bytes(512))
    more: dict[str, object] = {"image": "/srv/x", **use}
    if more.pop("disk", False):
        more |= {"image": "/srv/good", "disks": (model.Disk("/srv/x", readonly=True),)}
    with pytest.raises(resources.NotReadyError, match=why):
        resources.machine_of(model.Guest(name="ips1", **more), paths, 1, 1, "tcg")  # type: ignore[arg-type]


def test_the_first_start_with_it_counts(paths: Paths) -> None:
    """Until another file takes its place; one that no guest wrote to yet is looked at each time."""
    disk = paths.root / "srv/x"
    disk.write_bytes(bytes(MIB))
    assert find(disk, paths, written=False).format == "raw"
    overwrite(disk, qcow2())
    assert find(disk, paths, written=False) == ("qcow2", "")
    overwrite(disk, bytes(4096))
    assert find(disk, paths, written=True) == ("raw", "")
    overwrite(disk, qcow2(SECRET))
    for written in (True, False):
        assert find(disk, paths, written=written).format == "raw"
    other = paths.root / "srv/y"
    other.write_bytes(qcow2())
    assert find(other, paths, written=True).format == "qcow2"
    assert find(disk, paths, written=True).format == "raw"
    other.replace(disk)
    assert find(disk, paths, written=True) == ("qcow2", "")


def test_what_was_kept_is_damaged_or_cannot_be_kept(paths: Paths) -> None:
    """The guest starts all the same, and the check of what it wrote holds."""
    disk = paths.root / "srv/x"
    disk.write_bytes(bytes(MIB))
    kept = paths.state / "disk-formats.json"
    kept.write_text('{"half')
    assert find(disk, paths, written=True).format == "raw"
    assert json.loads(kept.read_text())[str(disk)]["format"] == "raw"
    kept.unlink()
    kept.mkdir()
    overwrite(disk, qcow2())
    assert find(disk, paths, written=True).format == "qcow2"
    overwrite(disk, qcow2(SECRET))
    with pytest.raises(RefusedError, match="backing file"):
        find(disk, paths, written=True)


def test_what_is_no_disk(paths: Paths) -> None:
    """A file imported as an initrd was never looked into."""
    image = take(paths, qcow2(SECRET), kind="initrd")
    with pytest.raises(RefusedError, match="imported as initrd, not as a disk"):
        find(image, paths, written=True)


def test_an_image_that_was_taken_back_keeps_its_format(paths: Paths) -> None:
    """A raw one, its guest's work on it, replaced by a qcow2 one, and taken back; there is no further way back."""
    images = Images(paths.images, dict)
    raw = take(paths, bytes(MIB))
    overwrite(raw, qcow2(SECRET))
    assert find(take(paths, qcow2()), paths, written=True).format == "qcow2"
    assert "from before its last import is restored" in images.undo("a")
    assert find(raw, paths, written=True).format == "raw"
    assert [(row.format, row.undo) for row in images.rows()] == [("raw", "")]
    with pytest.raises(RefusedError, match="no import to undo"):
        images.undo("a")
    take(paths, qcow2())
    images.remove("a")
    assert list(paths.images.iterdir()) == []


def test_tidying_leaves_the_note_of_an_image_named_part(paths: Paths) -> None:
    image = take(paths, bytes(MIB), name="disk.part2")
    shutil.copy(image, paths.images / ".other.part")
    Images(paths.images, dict).tidy()
    assert sorted(path.name for path in paths.images.iterdir()) == [".disk.part2.json", "disk.part2"]


def test_disks_that_are_gone_are_forgotten_and_no_other(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two guests start at once, too: neither may lose the other's entry."""
    monkeypatch.setattr(disk_format, "MANY", 4)
    disks = [paths.root / f"disk{number}" for number in range(6)]
    for disk in disks:
        disk.write_bytes(bytes(512))
    with ThreadPoolExecutor() as threads:
        list(threads.map(lambda disk: find(disk, paths, written=True), disks))
    kept = paths.state / "disk-formats.json"
    assert json.loads(kept.read_text()).keys() == set(map(str, disks))
    for disk in disks[1:]:
        disk.unlink()
    fresh = paths.root / "fresh"
    fresh.write_bytes(bytes(512))
    find(fresh, paths, written=True)
    assert json.loads(kept.read_text()).keys() == {str(disks[0]), str(fresh)}
