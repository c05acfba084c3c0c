# SPDX-License-Identifier: GPL-2.0-only
"""The shared libraries of a root file system in a folder: which are lacking, and which nothing needs.

What a program needs stands in its dynamic section (ELF, gABI chapter 5: DT_NEEDED), and a library's own name there too
(DT_SONAME). What is opened at run time by its name stands nowhere: `loaded` says what the appliance's code opens.
Nothing of the root file system is run.
"""

from __future__ import annotations

import ast
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from imagecheck import uses

FOLDERS = ("lib64", "lib", "usr/lib64", "usr/lib")
"""Where the loader looks for libraries, from the root of the file system."""
OF_TOOLCHAIN = (
    *("libanl.", "libatomic.", "libdl.", "libgcc_s.", "libgomp.", "libmvec.", "libnsl.", "libnss_"),
    *("libpthread.", "libresolv.", "librt.", "libutil."),
)
"""Beginnings of names of what the toolchain puts there whole: some are opened by glibc itself, most are a few KB."""

_PROGRAM_HEADER, _DYNAMIC, _LOAD = "<IIQQQQQQ", 2, 1
_DT_NEEDED, _DT_STRTAB, _DT_SONAME = 1, 5, 14


@dataclass(frozen=True)
class Dynamic:
    """What the dynamic section of a program or library says."""

    needed: tuple[str, ...]
    name: str
    """DT_SONAME; empty if there is none."""


def dynamic(data: bytes) -> Dynamic | None:
    """The dynamic section of a 64 bit little-endian ELF file; None: it is no such file, or has none (pure)."""
    if data[:6] != b"\x7fELF\x02\x01":
        return None
    try:
        start, size, count = struct.unpack_from("<Q", data, 32)[0], *struct.unpack_from("<HH", data, 54)
        segments = [struct.unpack_from(_PROGRAM_HEADER, data, start + size * number) for number in range(count)]
        section = next((segment for segment in segments if segment[0] == _DYNAMIC), None)
        if section is None:
            return None
        pairs = list(struct.iter_unpack("<QQ", data[section[2] : section[2] + section[5] // 16 * 16]))
        address = next(value for tag, value in pairs if tag == _DT_STRTAB)
        strings = next(offset + address - where for kind, _, offset, where, _, length, _, _ in segments
                       if kind == _LOAD and where <= address < where + length)  # fmt: skip
    except (struct.error, StopIteration):
        return None

    def text(offset: int) -> str:
        begin = strings + offset
        return data[begin : data.index(b"\0", begin)].decode(errors="replace")

    names = [text(value) for tag, value in pairs if tag == _DT_SONAME]
    return Dynamic(tuple(text(value) for tag, value in pairs if tag == _DT_NEEDED), names[0] if names else "")


def elf_files(root: Path) -> Iterator[tuple[Path, Dynamic]]:
    """All files with a dynamic section, without symbolic links."""
    for path in sorted(root.rglob("*")):
        if path.is_symlink() or not path.is_file():
            continue
        with path.open("rb") as file:
            if file.read(4) != b"\x7fELF":
                continue
        found = dynamic(path.read_bytes())
        if found is not None:
            yield path, found


def missing(root: Path) -> list[str]:
    """Libraries that a program or library needs and the root file system lacks."""
    present = {path.name for folder in FOLDERS if (root / folder).is_dir() for path in (root / folder).iterdir()}
    return [
        f"{path.relative_to(root)} needs {name}: not in the image"
        for path, found in elf_files(root)
        for name in found.needed
        if name not in present
    ]


def unneeded(root: Path, loaded: Mapping[str, str]) -> list[str]:
    """Libraries where the loader looks that no program needs, directly or by another library.

    Whatever is not there counts as a program: also what a program opens from a folder of its own (modules of Python).
    """
    places = {(root / folder).resolve() for folder in FOLDERS}
    libraries, wanted = dict[str, tuple[Path, Dynamic]](), set(loaded)
    for path, found in elf_files(root):
        if path.parent.resolve() in places and ".so" in path.name:
            libraries[found.name or path.name] = (path, found)
        else:
            wanted |= set(found.needed)
    left = list(wanted)
    while left:
        _, found = libraries.get(left.pop(), (root, Dynamic((), "")))
        left += set(found.needed) - wanted
        wanted |= set(found.needed)
    return [
        f"{path.relative_to(root)}: nothing needs this library"
        for name, (path, _) in sorted(libraries.items())
        if name not in wanted and not name.startswith(OF_TOOLCHAIN) and not name.startswith("ld-")
    ]


def names_in(source: str) -> dict[str, int]:
    """Libraries that Python code names: name -> line (pure)."""
    return {
        node.value: node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        and node.value.startswith("lib") and ".so" in node.value and not set(node.value) & set(" /\n")
    }  # fmt: skip


def loaded(files: Iterable[Path] | None = None) -> dict[str, str]:
    """The libraries that the appliance's Python code opens by their name: name -> where."""
    found: dict[str, str] = {}
    for path in uses.python_files() if files is None else files:
        for name, line in names_in(path.read_text()).items():
            found.setdefault(name, f"{path.name}:{line}")
    return found
