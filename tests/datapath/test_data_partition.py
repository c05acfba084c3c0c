# SPDX-License-Identifier: GPL-2.0-only
"""The boot's handling of the data partition: the real script under busybox, a real ext4 disk, and failing commands.

The script runs in a root of its own (a chroot in a mount namespace): its /sys shows one disk, a loop device. Shell
functions wrap the commands, count their calls and let one of them fail like the real one.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "rootfs/etc/init.d/data-partition"
MIB = 1 << 20
KEPT = {"etc/config.toml": "mine = true\n", "images/ips.qcow2": "QFI" * 1000, "access.json": "{}"}

# One call of one command fails: $FAIL is its name, $NTH which call of it, $CODE its exit status.
FAULTS = """
failing() {
	name=$1
	shift
	if [ "$name" = "$FAIL" ]; then
		echo x >>/run/calls
		if [ "$(command wc -l </run/calls)" -eq "$NTH" ]; then
			return "$CODE"
		fi
	fi
	command "$name" "$@"
}
"""
COMMANDS = (
    "cat",
    "dd",
    "tr",
    "od",
    "wc",
    "e2fsck",
    "resize2fs",
    "mount",
    "mkdir",
    "cp",
    "mv",
    "sync",
    "tune2fs",
)


@dataclass
class Boot:
    """A root with one disk in it, and the script run in it."""

    root: Path
    disk: Path
    loop: str

    def run(self, fail: str = "", nth: int = 0, code: int = 1, cmdline: str = "") -> list[str]:
        """Boot once; return the two lines of the record."""
        (self.root / "proc/cmdline").write_text(f"console=ttyS0 {cmdline}\n")
        for name in ("run/bypass", "run/log"):  # rcS has made them
            (self.root / name).mkdir(exist_ok=True)
        (self.root / "run/calls").write_text("")
        functions = FAULTS + "".join(f'{name}() {{ failing {name} "$@"; }}\n' for name in COMMANDS)
        (self.root / "run/boot").write_text(f"{functions}\n{SCRIPT.read_text()}")
        inside = f"FAIL={fail} NTH={nth} CODE={code} exec chroot {self.root} /usr/bin/busybox sh /run/boot"
        binds = "".join(
            f"mount --rbind -o ro /{name} {self.root}/{name}; " for name in ("usr", "lib", "lib64", "sbin", "bin")
        )
        done = subprocess.run(
            ["unshare", "-m", "sh", "-ec", binds + inside], check=False, capture_output=True, text=True, timeout=60
        )
        record = self.root / "run/bypass/data-partition"
        assert record.is_file(), done.stderr
        lines = record.read_text().splitlines()
        record.unlink()
        return lines

    def files(self) -> dict[str, str]:
        """What is on the disk now, of what was put there."""
        with self.mounted() as place:
            return {name: (place / name).read_text() for name in KEPT if (place / name).exists()}

    @contextmanager
    def mounted(self, how: str = "ro") -> Iterator[Path]:
        """The disk, mounted here. The kernel releases earlier mounts some time after their end."""
        place = self.root / "look"
        place.mkdir(exist_ok=True)
        words = ["mount", "-o", how, self.loop, str(place)]
        wait_until(lambda: subprocess.run(words, capture_output=True, check=False).returncode == 0, "the disk is free")
        try:
            yield place
        finally:
            subprocess.run(["umount", place], check=True)

    def put(self, name: str, text: str) -> None:
        """Write a file on the disk."""
        with self.mounted("rw") as place:
            (place / name).write_text(text)

    def fill(self) -> None:
        """A file system of ours, smaller than its disk, with what a user has on it."""
        subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-L", "bypass-data", self.disk, "24M"], check=True)
        with self.mounted("rw") as place:
            for name, text in KEPT.items():
                (place / name).parent.mkdir(exist_ok=True)
                (place / name).write_text(text)


@pytest.fixture
def boot(tmp_path: Path) -> Iterator[Boot]:
    root = tmp_path / "root"
    for name in (
        "usr",
        "lib",
        "lib64",
        "sbin",
        "bin",
        "dev",
        "proc/self",
        "run",
        "etc/bypass",
        "var",
        "sys/class/block/vdb",
    ):
        (root / name).mkdir(parents=True)
    (root / "etc/bypass/config.toml").write_text("default = true\n")
    (root / "dev/kmsg").write_text("")
    (root / "proc/self/exe").symlink_to("/usr/bin/busybox")  # so the shell finds its applets, as on the appliance
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(32 * MIB)
    loop = subprocess.run(["losetup", "-f", "--show", disk], check=True, capture_output=True, text=True).stdout.strip()
    try:
        for name in ("null", "zero"):
            device = Path("/dev", name).stat().st_rdev
            os.mknod(root / "dev" / name, stat.S_IFCHR | 0o666, device)
        os.mknod(root / "dev/vdb", stat.S_IFBLK | 0o600, Path(loop).stat().st_rdev)
        block = root / "sys/class/block/vdb"
        (block / "ro").write_text("0\n")
        (block / "serial").write_text("data")
        (block / "size").write_text(f"{32 * MIB // 512}\n")
        yield Boot(root, disk, loop)
    finally:
        subprocess.run(["losetup", "-d", loop], check=True)
        shutil.rmtree(root)


def test_a_blank_disk_becomes_the_data_partition(boot: Boot) -> None:
    state, detail = boot.run()
    assert state == "kept"
    assert "blank" in detail
    assert boot.files()["etc/config.toml"] == "default = true\n"


def test_each_box_has_an_identity_of_its_own(boot: Boot) -> None:
    """Made at the first boot, kept from then on; another one's is another."""
    random = boot.root / "proc/sys/kernel/random"
    random.mkdir(parents=True)
    (random / "uuid").write_text("5ad6c0de-0000-4000-8000-00000000beef\n")
    boot.run()
    (random / "uuid").write_text("00000000-0000-4000-8000-000000000000\n")
    (boot.root / "etc/machine-id").unlink()
    boot.run()
    assert (boot.root / "etc/machine-id").read_text() == "5ad6c0de00004000800000000000beef"


def test_what_is_on_it_is_used(boot: Boot) -> None:
    boot.fill()
    assert boot.run() == ["kept", ""]
    assert boot.files() == KEPT


@pytest.mark.parametrize(
    ("fail", "code", "calls"),
    [
        ("cat", 1, 8), ("dd", 1, 13), ("tr", 1, 8), ("od", 1, 5), ("wc", 1, 4), ("e2fsck", 8, 3), ("e2fsck", 4, 3),
        ("e2fsck", 128, 3), ("resize2fs", 1, 1), ("mount", 32, 3), ("mount", 255, 3), ("mkdir", 1, 3), ("cp", 1, 1),
        ("mv", 1, 1), ("sync", 1, 1), ("tune2fs", 1, 1),
    ],
)  # fmt: skip
def test_no_command_that_fails_once_costs_a_file(boot: Boot, fail: str, code: int, calls: int) -> None:
    """Each call of each command in turn: the files stay, and the partition is used."""
    boot.fill()
    for nth in range(1, calls + 1):
        state, detail = boot.run(fail, nth, code)
        assert boot.files() == KEPT, f"{fail}, call {nth}: {detail}"
        assert state == "kept", f"{fail}, call {nth}: {detail}"


@pytest.mark.parametrize(("fail", "code"), [("e2fsck", 8), ("resize2fs", 1), ("mount", 32), ("dd", 1), ("mkdir", 1)])
def test_a_command_that_always_fails_costs_no_file(boot: Boot, fail: str, code: int) -> None:
    """Then the partition may be out of use, which is recorded; it is never formatted."""
    boot.fill()
    always = FAULTS.replace('"$(command wc -l </run/calls)" -eq "$NTH"', "true")
    assert always != FAULTS
    before, globals()["FAULTS"] = FAULTS, always
    try:
        state, detail = boot.run(fail, 1, code)
    finally:
        globals()["FAULTS"] = before
    assert boot.files() == KEPT
    assert state == "kept" or detail
    if fail == "mount":
        assert state == "unusable"
        assert "bypass.format-data" in detail


def test_a_destroyed_superblock_is_repaired_from_its_copy(boot: Boot) -> None:
    """The first MiB is erased, including the label: the copy of the superblock shows that the disk is not blank."""
    boot.fill()
    with boot.disk.open("r+b") as file:
        file.write(bytes(4096))
    state, _ = boot.run()
    assert state == "kept"
    assert boot.files() == KEPT


GUEST_UID = 200_001


@pytest.mark.parametrize("blank", [True, False], ids=["blank disk", "disk of an earlier version"])
def test_a_guest_that_fills_the_disk_leaves_room_for_the_appliance(boot: Boot, blank: bool) -> None:
    """A guest's QEMU, with an open descriptor of a sparse disk made by root, runs out of space before root does."""
    if not blank:
        boot.fill()
    assert boot.run()[0] == "kept"
    place = boot.root / "look"
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", boot.loop, place], check=True)
    try:
        with (place / "thin.img").open("wb") as thin:
            words = ["dd", "if=/dev/zero", "bs=64k", "conv=fsync"]
            done = subprocess.run(
                words, stdout=thin, user=GUEST_UID, group=GUEST_UID, extra_groups=[],
                stderr=subprocess.PIPE, check=False,
            )  # fmt: skip
        assert b"No space left" in done.stderr
        left = os.statvfs(place)
        assert left.f_bavail * left.f_frsize < 65536
        with (place / "ledger").open("wb") as ledger:  # root's
            ledger.write(bytes(MIB))
            ledger.flush()
            os.fsync(ledger.fileno())
    finally:
        subprocess.run(["umount", place], check=True)


def test_the_reserve_is_set_once(boot: Boot) -> None:
    """Each boot but the first is spared the command."""
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-L", "bypass-data", boot.disk], check=True)
    log = boot.root / "run/log/data-partition.log"
    assert boot.run() == ["kept", ""]
    assert "Setting reserved blocks count to" in log.read_text()
    log.unlink()
    assert boot.run() == ["kept", ""]
    assert "reserved" not in (log.read_text() if log.exists() else "")


@pytest.mark.parametrize("junk", [b"XFSB", b"\x00" * 512 + b"EFI PART"])
def test_a_foreign_disk_is_left_alone_unless_ordered(boot: Boot, junk: bytes) -> None:
    with boot.disk.open("r+b") as file:
        file.write(junk)
    state, detail = boot.run()
    assert state == "unusable"
    assert "bypass.format-data" in detail
    assert boot.disk.read_bytes()[: len(junk)] == junk
    state, detail = boot.run(cmdline="bypass.format-data")
    assert state == "kept"
    assert "by order" in detail
    assert boot.files()["etc/config.toml"] == "default = true\n"


def test_the_order_formats_no_disk_that_can_be_used(boot: Boot) -> None:
    boot.fill()
    assert boot.run(cmdline="bypass.format-data")[0] == "kept"
    assert boot.files() == KEPT


def test_no_disk_at_all(boot: Boot) -> None:
    shutil.rmtree(boot.root / "sys/class/block/vdb")
    state, detail = boot.run()
    assert state == "absent"
    assert detail


@pytest.mark.parametrize("by", ["order", "cmdline"])
@pytest.mark.parametrize("what", ["all", "keep-images"])
def test_a_factory_reset_erases_what_it_names(boot: Boot, by: str, what: str) -> None:
    """Once: the boot after it keeps what was made since."""
    boot.fill()
    if by == "order":
        boot.put("factory-reset", f"{what}\n")
    cmdline = {"all": "bypass.factory-reset", "keep-images": "bypass.factory-reset=keep-images"}[what]
    assert boot.run(cmdline=cmdline if by == "cmdline" else "")[0] == "kept"
    kept = {"images/ips.qcow2": KEPT["images/ips.qcow2"]} if what == "keep-images" else {}
    config = {"etc/config.toml": (boot.root / "etc/bypass/config.toml").read_text()}
    left = boot.files()
    assert {**left, "etc/config.toml": ""} == {**kept, "etc/config.toml": ""}
    assert left["etc/config.toml"] != KEPT["etc/config.toml"], config
    boot.put("access.json", KEPT["access.json"])
    assert boot.run()[0] == "kept"
    assert boot.files() == {**left, "access.json": KEPT["access.json"]}


@pytest.mark.parametrize("word", ["", "everything", "all of it"])
def test_another_word_erases_nothing(boot: Boot, word: str) -> None:
    boot.fill()
    boot.put("factory-reset", word)
    assert boot.run(cmdline="bypass.factory-reset=images xbypass.factory-reset")[0] == "kept"
    assert boot.files() == KEPT
