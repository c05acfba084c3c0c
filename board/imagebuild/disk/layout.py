# SPDX-License-Identifier: GPL-2.0-only
"""The partitions of the disk: board/disk/layout.toml as data, and what genimage reads."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from imagebuild.errors import BuildError

SECTOR = 512
MIB = 1 << 20
SLOTS = ("a", "b")


@dataclass(frozen=True)
class Partition:
    """One partition. `offset` is in bytes from the start of the disk; `number` counts from 1."""

    number: int
    offset: int
    name: str
    type: str
    uuid: str
    size_mib: int
    filesystem: str = ""
    label: str = ""

    @property
    def size(self) -> int:
        """Bytes."""
        return self.size_mib * MIB


@dataclass(frozen=True)
class Layout:
    """The whole disk."""

    uuid: str
    align: int
    partitions: tuple[Partition, ...]

    def __getitem__(self, name: str) -> Partition:
        return next(partition for partition in self.partitions if partition.name == name)

    @property
    def size(self) -> int:
        """Bytes of the whole image; behind the last partition is room for the second copy of the table."""
        last = self.partitions[-1]
        return last.offset + last.size + self.align


def read(path: Path) -> Layout:
    """The layout in a file. BuildError: it cannot be read, or a partition that the boot needs is missing."""
    try:
        data = tomllib.loads(path.read_text())
        align = data["align_kib"] * 1024
        partitions, offset = [], align
        for number, table in enumerate(data["partition"], 1):
            partitions.append(Partition(number=number, offset=offset, **table))
            offset += -(-partitions[-1].size // align) * align
        found = Layout(data["uuid"], align, tuple(partitions))
    except (OSError, KeyError, TypeError, tomllib.TOMLDecodeError) as error:
        raise BuildError(f"{path}: {error}") from error
    names = [partition.name for partition in partitions]
    for name in ("bios", "efi", "boot", *(f"{kind}-{slot}" for slot in SLOTS for kind in ("kernel", "root")), "data"):
        if names.count(name) != 1:
            raise BuildError(f"{path}: there must be one partition {name!r}")
    if names[-1] != "data":
        raise BuildError(f"{path}: the data partition must be the last one: it grows")
    return found


def genimage(layout: Layout, name: str, files: dict[str, Path]) -> str:
    """The configuration for genimage: an image `name` with this file in each partition that has one (pure)."""
    rows = [
        f"image {name} {{",
        "\thdimage {",
        '\t\tpartition-table-type = "gpt"',
        f'\t\tdisk-uuid = "{layout.uuid}"',
        f"\t\talign = {layout.align}",
        "\t}",
        f"\tsize = {layout.size}",
    ]
    for partition in layout.partitions:
        rows += [
            f"\tpartition {partition.name} {{",
            f'\t\tpartition-type-uuid = "{partition.type}"',
            f'\t\tpartition-uuid = "{partition.uuid}"',
            f"\t\toffset = {partition.offset}",
            f"\t\tsize = {partition.size}",
            *([f'\t\timage = "{files[partition.name]}"'] if partition.name in files else []),
            "\t}",
        ]
    return "\n".join([*rows, "}", ""])
