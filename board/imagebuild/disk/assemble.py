# SPDX-License-Identifier: GPL-2.0-only
"""The disk image: file systems of the partitions, boot loader, partition table. Takes seconds and needs no root."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

from imagebuild.disk import grub, layout
from imagebuild.disk.layout import SLOTS, Layout, Partition
from imagebuild.errors import BuildError
from imagebuild.progress import run

BOARD = Path(__file__).resolve().parents[2]
EPOCH = 1577836800  # 2020-01-01: the time of every file on the disk; FAT knows none before 1980
ENVIRONMENT_BLOCK = 1024
SLOT_LIMIT = 48 << 20
"""Bytes of a slot's kernel, initramfs and squashfs in a release."""


@dataclass(frozen=True)
class Slot:
    """What boots: the content of one slot. Both slots of a new disk have the same."""

    kernel: Path
    initrd: Path
    root: Path
    command_line: str

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(path.stat().st_size for path in (self.kernel, self.initrd, self.root))


@dataclass(frozen=True)
class Tools:
    """Where the tools are found: GRUB, and the search path of the others."""

    grub: grub.Grub = field(default_factory=grub.Grub)
    path: str = "/usr/sbin:/sbin:/usr/bin:/bin"

    @property
    def environment(self) -> dict[str, str]:
        """For tools that write file systems: no clock, no time zone, no locale."""
        return {"PATH": self.path, "LC_ALL": "C", "TZ": "UTC", "SOURCE_DATE_EPOCH": str(EPOCH),
                "E2FSPROGS_FAKE_TIME": str(EPOCH), "MTOOLS_SKIP_CHECK": "1"}  # fmt: skip


def environment_block() -> bytes:
    """A new grubenv: both slots are good and untried (pure)."""
    text = b"# GRUB Environment Block\nORDER=A B\nA_OK=1\nA_TRY=0\nB_OK=1\nB_TRY=0\n"
    return text.ljust(ENVIRONMENT_BLOCK, b"#")


def slot_config(command_line: str) -> bytes:
    """What the boot loader reads of a slot. BuildError: the command line would end the quotes (pure)."""
    if set(command_line) & set("\"'$\\\n"):
        raise BuildError(f"the kernel command line has quotes or other signs of the boot loader: {command_line}")
    return f'set cmdline="{command_line}"\n'.encode()


def checksums(files: dict[str, bytes]) -> bytes:
    """As sha256sum writes it and GRUB's hashsum reads it (pure)."""
    return "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(files.items())).encode()


def assemble(slot: Slot, target: Path, work: Path, tools: Tools | None = None, board: Path = BOARD) -> Layout:
    """Write the image of a whole disk to `target`, in one step; `work` is an empty folder. Raises BuildError."""
    tools = tools or Tools()
    plan = layout.read(board / "disk/layout.toml")
    log = work / "log"
    _check(slot, plan)

    config = board / "disk/grub.cfg"
    core = grub.image(tools.grub, "i386-pc", config, work / "core.img", log).read_bytes()
    efi = grub.image(tools.grub, "x86_64-efi", config, work / "bootx64.efi", log)
    first, rest = grub.for_bios((tools.grub.folder("i386-pc") / "boot.img").read_bytes(), core, plan["bios"].offset)
    if len(rest) > plan["bios"].size:
        raise BuildError(f"the boot loader for BIOS has {len(rest)} bytes, its partition {plan['bios'].size}")

    inside = {"kernel": slot.kernel.read_bytes(), "initrd.gz": slot.initrd.read_bytes(),
              "slot.cfg": slot_config(slot.command_line)}  # fmt: skip
    inside["SHA256SUMS"] = checksums(inside)
    files = {"bios": work / "bios.img", "efi": _fat(plan["efi"], efi, work, tools)}
    files["bios"].write_bytes(rest)
    files["boot"] = _ext(plan["boot"], {"grubenv": environment_block()}, work, tools)
    for name in SLOTS:
        files[f"kernel-{name}"] = _ext(plan[f"kernel-{name}"], inside, work, tools)
        files[f"root-{name}"] = slot.root.resolve()
    files["data"] = _ext(plan["data"], {}, work, tools)
    _table(plan, files, first, target, work=work, tools=tools)
    return plan


def _check(slot: Slot, plan: Layout) -> None:
    for name in SLOTS:
        for partition, needed in (
            (plan[f"root-{name}"], slot.root.stat().st_size),
            (plan[f"kernel-{name}"], slot.kernel.stat().st_size + slot.initrd.stat().st_size),
        ):
            if needed > partition.size:  # fmt: skip
                raise BuildError(
                    f"partition {partition.name} has {partition.size >> 20} MiB, needed are {needed} bytes"
                )


def _ext(partition: Partition, files: dict[str, bytes], work: Path, tools: Tools) -> Path:
    """A file system with these files, written without a mount."""
    image = work / f"{partition.name}.img"
    image.write_bytes(b"")
    os.truncate(image, partition.size)
    run(
        [
            *("mke2fs", "-q", "-F", "-t", partition.filesystem, "-L", partition.label, "-U", partition.uuid),
            *("-m", "0", "-b", "4096" if partition.size >= 64 << 20 else "1024"),
            *("-E", f"hash_seed={partition.uuid},nodiscard,root_owner=0:0,lazy_itable_init=0", image),
        ],
        what=f"file system of partition {partition.name}",
        log=work / "log",
        env=tools.environment,
    )
    # Not by mke2fs -d, which takes over the time at which the files here were changed
    for name, data in sorted(files.items()):
        (work / name).write_bytes(data)
        run(["debugfs", "-w", "-R", f"write {work / name} {name}", image], what=f"file {name} of partition "
            f"{partition.name}", log=work / "log", env=tools.environment)  # fmt: skip
        (work / name).unlink()
    return image


def _fat(partition: Partition, loader: Path, work: Path, tools: Tools) -> Path:
    """The partition that UEFI looks for, with the loader where it looks on a disk that it does not know."""
    image, log = work / f"{partition.name}.img", work / "log"
    image.write_bytes(b"")
    os.truncate(image, partition.size)
    serial = partition.uuid.replace("-", "")[-8:]
    os.utime(loader, (EPOCH, EPOCH))
    steps: tuple[list[str | Path], ...] = (
        ["mkfs.fat", "-F", "32", "-s", "1", "-n", partition.label, "-i", serial, "--invariant", image],
        ["mmd", "-i", image, "::EFI", "::EFI/BOOT"],
        ["mcopy", "-m", "-i", image, loader, "::EFI/BOOT/BOOTX64.EFI"],
    )
    for words in steps:
        run(words, what=f"file system of partition {partition.name}", log=log, env=tools.environment)
    return image


def _table(plan: Layout, files: dict[str, Path], first: bytes, target: Path, *, work: Path, tools: Tools) -> None:
    """The partition table and all partitions, by genimage, and the boot loader's code in the first sector."""
    config, out = work / "genimage.cfg", work / "out"
    config.write_text(layout.genimage(plan, target.name, files))
    (work / "none").mkdir()
    run(
        [
            *(
                "genimage",
                "--loglevel",
                "1",
                "--config",
                config,
                "--rootpath",
                work / "none",
                "--tmppath",
                work / "tmp",
            ),
            *("--inputpath", work, "--outputpath", out),
        ],
        what="disk image: genimage",
        log=work / "log",
        env=tools.environment,
    )
    made = out / target.name
    with made.open("r+b") as file:
        file.write(first)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}")
    run(["cp", "--sparse=always", made, part], what="disk image", log=work / "log")
    part.rename(target)
