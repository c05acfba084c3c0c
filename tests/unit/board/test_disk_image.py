# SPDX-License-Identifier: GPL-2.0-only
"""The disk image, without booting it: layout, boot loader, file systems, reproducibility; and writing it to a disk.

Plan: the image is made of small stand-ins for kernel, initramfs and squashfs; other tools than those that wrote it
read it back (debugfs, mdir). That it boots is tests/image/test_board_disk.py's.
"""

from __future__ import annotations

import hashlib
import io
import struct
import subprocess
from pathlib import Path

import boardspec
import pytest
from imagebuild.disk import flash, grub, layout
from imagebuild.disk.assemble import Slot, assemble, checksums, environment_block, slot_config
from imagebuild.errors import BuildError

DISK = boardspec.REPO / "board/disk"
LAYOUT = layout.read(DISK / "layout.toml")


def test_layout() -> None:
    """Partitions follow each other on their alignment, and the data partition is the last one."""
    end = 0
    for partition in LAYOUT.partitions:
        assert partition.offset >= end
        assert partition.offset % LAYOUT.align == 0
        end = partition.offset + partition.size
    assert LAYOUT.partitions[-1].name == "data"
    assert len({partition.uuid for partition in LAYOUT.partitions}) == len(LAYOUT.partitions)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [('name = "root-b"', 'name = "other"', "one partition 'root-b'"), ("size_mib", "size_gib", "size_gib"),
     ('name = "data" ', 'name = "boot" ', "one partition 'boot'"), ("[[partition]]", "[[partition", "layout.toml")],
)  # fmt: skip
def test_a_mistake_in_the_layout_is_named(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    text = (DISK / "layout.toml").read_text()
    assert old in text
    (tmp_path / "layout.toml").write_text(text.replace(old, new))
    with pytest.raises(BuildError, match=complaint):
        layout.read(tmp_path / "layout.toml")


def test_the_boot_loader_counts_the_partitions_of_the_layout() -> None:
    """grub.cfg knows them by number."""
    text = (DISK / "grub.cfg").read_text()
    wanted = f'set env="($disk,gpt{LAYOUT["boot"].number})/grubenv"'
    assert wanted in text
    for slot in layout.SLOTS:
        assert f'set part="($disk,gpt{LAYOUT[f"kernel-{slot}"].number})"; set slot={slot}' in text


def test_grub_cfg_is_valid(tmp_path: Path) -> None:
    """GRUB's own parser reads it."""
    subprocess.run(["grub-script-check", DISK / "grub.cfg"], check=True)


def test_boot_sector() -> None:
    """The first sector loads the rest from its partition, and the rest knows where its own rest is."""
    first, rest = grub.for_bios(bytes(512), bytes(2048), 1 << 20)
    assert len(first) == 440
    assert struct.unpack_from("<Q", first, 0x5C) == (2048,)
    assert first[0x66:0x68] == b"\x90\x90"
    assert struct.unpack_from("<Q", rest, 0x1F4) == (2049,)


def test_environment_block() -> None:
    """Exactly the size that GRUB demands; grub-editenv reads it."""
    assert len(environment_block()) == 1024


def test_slot_config_refuses_what_would_end_its_quotes() -> None:
    assert slot_config("console=ttyS0 quiet") == b'set cmdline="console=ttyS0 quiet"\n'
    for word in ('"', "'", "$x", "a\\b", "a\nb"):
        with pytest.raises(BuildError):
            slot_config(word)


@pytest.fixture(scope="module")
def slot(tmp_path_factory: pytest.TempPathFactory) -> Slot:
    folder = tmp_path_factory.mktemp("parts")
    for name in ("kernel", "initrd", "root"):
        (folder / name).write_bytes(name.encode() * 1000)
    return Slot(folder / "kernel", folder / "initrd", folder / "root", "console=ttyS0")


@pytest.fixture(scope="module")
def image(slot: Slot, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("disk")
    (folder / "work").mkdir()
    assemble(slot, folder / "disk.img", folder / "work")
    return folder / "disk.img"


def partition(image: Path, name: str, folder: Path) -> Path:
    with image.open("rb") as file:
        file.seek(LAYOUT[name].offset)
        (folder / name).write_bytes(file.read(LAYOUT[name].size))
    return folder / name


class TestImage:
    """A disk image of stand-ins."""

    def test_table(self, image: Path) -> None:
        """The table is whole, at both ends; names and places are those of the layout."""
        text = subprocess.run(["sgdisk", "-v", "-p", image], check=True, capture_output=True, text=True).stdout
        assert "No problems found" in text
        for part in LAYOUT.partitions:
            assert any(line.split()[:2] == [str(part.number), str(part.offset // 512)] and line.endswith(part.name)
                       for line in text.splitlines() if line.strip()), part  # fmt: skip

    @pytest.mark.parametrize("name", ["kernel-a", "kernel-b"])
    def test_slot(self, image: Path, slot: Slot, tmp_path: Path, name: str) -> None:
        """Kernel, initramfs and command line, with checksums that sha256sum confirms."""
        files = partition(image, name, tmp_path)
        out = tmp_path / "out"
        out.mkdir()
        subprocess.run(["debugfs", "-R", f"rdump / {out}", files], check=True, capture_output=True)
        subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=out, check=True, capture_output=True)
        assert (out / "kernel").read_bytes() == slot.kernel.read_bytes()
        assert (out / "slot.cfg").read_text() == 'set cmdline="console=ttyS0"\n'
        assert partition(image, f"root-{name[-1]}", tmp_path).read_bytes().startswith(slot.root.read_bytes())

    @pytest.mark.parametrize("name", ["boot", "kernel-a", "data"])
    def test_file_systems_are_clean(self, image: Path, tmp_path: Path, name: str) -> None:
        subprocess.run(["e2fsck", "-f", "-n", partition(image, name, tmp_path)], check=True, capture_output=True)

    def test_loader_for_uefi(self, image: Path, tmp_path: Path) -> None:
        """Where UEFI looks on a disk that it does not know."""
        files = partition(image, "efi", tmp_path)
        subprocess.run(["mcopy", "-i", files, "::EFI/BOOT/BOOTX64.EFI", tmp_path / "efi.exe"], check=True)
        assert (tmp_path / "efi.exe").read_bytes()[:2] == b"MZ"

    def test_loader_for_bios(self, image: Path) -> None:
        """The first sector holds its code beside the table, and is marked as one that boots."""
        first = image.read_bytes()[:512]
        assert any(first[:440])
        assert first[510:] == b"\x55\xaa"

    def test_the_same_inputs_give_the_same_bytes(self, image: Path, slot: Slot, tmp_path: Path) -> None:
        """In another folder, at another time."""
        (tmp_path / "elsewhere").mkdir()
        assemble(slot, tmp_path / "disk.img", tmp_path / "elsewhere")
        sums = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (image, tmp_path / "disk.img")]
        assert sums[0] == sums[1]

    def test_a_root_that_does_not_fit_is_refused(self, slot: Slot, tmp_path: Path) -> None:
        large = tmp_path / "large"
        large.touch()
        with large.open("wb") as file:
            file.truncate(LAYOUT["root-a"].size + 1)
        with pytest.raises(BuildError, match="partition root-a has 128 MiB"):
            assemble(Slot(slot.kernel, slot.initrd, large, ""), tmp_path / "disk.img", tmp_path)


def test_checksums() -> None:
    assert checksums({"b": b"", "a": b"x"}).decode().splitlines()[1].endswith("  b")


STATE = boardspec.REPO / "rootfs/usr/libexec/bypass/slot-state"


class TestSlotState:
    """The appliance's side of the boot loader's variables."""

    def run(self, file: Path, *words: str) -> int:
        return subprocess.run(["busybox", "sh", STATE, *words, file], check=False, capture_output=True).returncode

    def lines(self, file: Path) -> list[str]:
        data = file.read_bytes()
        assert len(data) == 1024
        assert data.startswith(b"# GRUB Environment Block\n")
        return [line for line in data.decode().splitlines()[1:] if not line.startswith("#")]

    def test_good_and_given_up(self, tmp_path: Path) -> None:
        """What does not concern the slot stays."""
        file = tmp_path / "grubenv"
        file.write_bytes(environment_block().replace(b"A_TRY=0", b"A_TRY=2").replace(b"ORDER=A B", b"ORDER=B A"))
        assert self.run(file, "give-up", "b") == 0
        assert self.lines(file) == ["ORDER=B A", "A_OK=1", "A_TRY=2", "B_OK=1", "B_TRY=3"]
        assert self.run(file, "good", "a") == 0
        assert self.lines(file) == ["ORDER=B A", "A_OK=1", "A_TRY=0", "B_OK=1", "B_TRY=3"]
        subprocess.run(["grub-editenv", file, "list"], check=True, capture_output=True)

    @pytest.mark.parametrize("data", [b"", bytes(1024), b"A_OK=7\nORDER=C D\n$(reboot)\n", bytes(range(256)) * 4])
    def test_garbage_becomes_what_the_boot_loader_takes_by_itself(self, tmp_path: Path, data: bytes) -> None:
        file = tmp_path / "grubenv"
        file.write_bytes(data)
        assert self.run(file, "good", "a") == 0
        assert self.lines(file) == ["ORDER=A B", "A_OK=1", "A_TRY=0", "B_OK=1", "B_TRY=0"]

    def test_the_file_keeps_its_place(self, tmp_path: Path) -> None:
        """The boot loader writes into the blocks that it found."""
        file = tmp_path / "grubenv"
        file.write_bytes(environment_block())
        before = file.stat().st_ino
        assert self.run(file, "give-up", "a") == 0
        assert file.stat().st_ino == before

    @pytest.mark.parametrize("words", [(), ("good",), ("good", "c"), ("bad", "a")])
    def test_nonsense_is_refused(self, tmp_path: Path, words: tuple[str, ...]) -> None:
        file = tmp_path / "grubenv"
        file.write_bytes(environment_block())
        assert self.run(file, *words) == 2
        assert file.read_bytes() == environment_block()


class TestFlash:
    """Writing an image to a disk."""

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        """A machine with the disk sdx, 8 MiB, with one partition."""
        block = tmp_path / "sys/class/block/sdx"
        (block / "sdx1").mkdir(parents=True)
        (block / "device").mkdir()
        for name, text in (("dev", "8:16"), ("size", "16384"), ("ro", "0"), ("removable", "1"), ("sdx1/dev", "8:17"),
                           ("sdx1/partition", "1"), ("device/model", "Stick")):  # fmt: skip
            (block / name).write_text(text + "\n")
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/mountinfo").write_text("22 1 8:1 / / rw - ext4 /dev/sda1 rw\n")
        (tmp_path / "proc/swaps").write_text("Filename Type Size Used Priority\n")
        return tmp_path

    def test_a_free_disk_may_be_written(self, root: Path) -> None:
        found = flash.examine(Path("/dev/sdx"), root)
        assert (found.size, found.model, found.removable) == (8 << 20, "Stick", True)
        assert found.refused(8 << 20) == ""

    def test_too_small(self, root: Path) -> None:
        assert flash.examine(Path("/dev/sdx"), root).refused(9 << 20) == "/dev/sdx has 8 MiB, the image 9 MiB"

    def test_mounted(self, root: Path) -> None:
        (root / "proc/self/mountinfo").write_text("30 22 8:17 / /media/stick rw - vfat /dev/sdx1 rw\n")
        assert "sdx1 is mounted at /media/stick" in flash.examine(Path("/dev/sdx"), root).refused(1)

    def test_swap_and_holders(self, root: Path) -> None:
        (root / "proc/swaps").write_text("Filename Type Size Used Priority\n/dev/sdx1 partition 1 0 -2\n")
        (root / "sys/class/block/sdx/holders/dm-0").mkdir(parents=True)
        reason = flash.examine(Path("/dev/sdx"), root).refused(1)
        assert "/dev/sdx1 is swap" in reason
        assert "sdx is part of dm-0" in reason

    def test_partition_and_readonly(self, root: Path) -> None:
        (root / "sys/class/block/sdx/partition").write_text("1\n")
        assert "give the whole disk" in flash.examine(Path("/dev/sdx"), root).refused(1)
        (root / "sys/class/block/sdx/partition").unlink()
        (root / "sys/class/block/sdx/ro").write_text("1\n")
        assert "is read-only" in flash.examine(Path("/dev/sdx"), root).refused(1)

    def test_no_disk(self, root: Path) -> None:
        with pytest.raises(BuildError, match="is no disk"):
            flash.examine(Path("/dev/none"), root)

    def test_written_and_read_back(self, tmp_path: Path) -> None:
        """The sum is that of the image; a disk that keeps something else has another one."""
        data = bytes(range(256)) * 40000
        reports: list[int] = []
        with (tmp_path / "disk").open("w+b", buffering=0) as device:
            written = flash.copy(io.BytesIO(data), device, len(data), lambda done, _: reports.append(done))
            assert written == hashlib.sha256(data).hexdigest()
            assert flash.read_back(device, len(data), lambda *_: None) == written
            device.seek(5000)
            device.write(b"x")
            assert flash.read_back(device, len(data), lambda *_: None) != written
        assert reports[-1] == len(data)
        assert len(reports) == 3

    def test_nothing_is_written_without_the_name_typed_again(
        self, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        image, device = tmp_path / "image", tmp_path / "device"
        image.write_bytes(b"image" * 100)
        device.write_bytes(bytes(1000))
        monkeypatch.setattr(flash, "examine", lambda _: flash.Disk(device, 1000))
        with pytest.raises(BuildError, match="nothing was written"):
            flash.flash(image, device, lambda _: "yes")
        assert device.read_bytes() == bytes(1000)
        assert "verified" in flash.flash(image, device, lambda _: str(device))
        assert device.read_bytes() == b"image" * 100 + bytes(500)
