# SPDX-License-Identifier: GPL-2.0-only
"""The order of files in the firmware's squashfs: those that the start reads come first, in the order of reading.

`python -m imagebuild.start_order --target DIR OUT` writes the list that mksquashfs takes with `-sort`. Small files
share compressed blocks (fragments), and the kernel keeps only a few of them unpacked. A start whose files are spread
over the image would unpack the same blocks again and again while the link waits; in this order it unpacks each once.

What the start reads is derived: the programs below, the modules that their Python code imports (in functions not, as
these come later), and the libraries of all these. Nothing of the image is run. It runs in Buildroot's hooks, by the
Python that Buildroot has built, because it reads byte code: standard library and readelf.
"""

from __future__ import annotations

import argparse
import importlib.util
import inspect
import marshal
import sys
from collections.abc import Iterable, Iterator
from modulefinder import ModuleFinder
from pathlib import Path
from types import CodeType

from imagebuild.errors import BuildError
from imagebuild.target_initramfs import libraries

PROGRAMS = ("bin/busybox", "usr/bin/python3", "sbin/ip", "usr/sbin/ip")
"""What runs by its own code before the link is inline; a name that is not there is another name's link."""
SCRIPTS = ("etc/inittab", "etc/init.d", "etc/sysctl.bypass", "usr/libexec/bypass", "usr/bin/bypass-keeper",
           "usr/share/bypass")  # fmt: skip
MODULES = ("encodings", "encodings.utf_8", "appliance.keeper.__main__", "appliance.__main__",
           "appliance.supervisor.supervisor", "_blake2")  # fmt: skip
"""The interpreter's own, the keeper, then bypassd; _blake2 is what hashlib imports by a name in a variable."""
FIRST = 32767  # the highest priority that mksquashfs takes
_HEADER = 16  # bytes before the code of a .pyc
_SOURCES = ("{}/__init__.pyc", "{}/__init__.py", "{}.pyc", "{}.py")


class Modules:
    """Finds modules of a target's Python, and what they import when they are imported themselves."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self._folders = tuple(folders)
        self._finder = ModuleFinder(path=[])
        self._found: dict[str, Path | None] = {}

    def files(self, names: Iterable[str]) -> list[Path]:
        """The files of these modules and of all that they import, in the order in which Python opens them."""
        for name in names:
            self._visit(name)
        return [path for path in self._found.values() if path is not None]

    def _locate(self, name: str) -> Path | None:
        inner = name.replace(".", "/")
        for folder in self._folders:
            for form in _SOURCES:
                if (path := folder / form.format(inner)).is_file():
                    return path
            built = sorted((folder / inner).parent.glob(f"{inner.rpartition('/')[2]}.*so"))
            if built:
                return built[0]
        return None  # built into the interpreter, a name in a package, or not in this image

    def _visit(self, name: str) -> bool:
        """False: there is no file of such a module."""
        if name in self._found:
            return self._found[name] is not None
        parent = name.rpartition(".")[0]
        if parent:
            self._visit(parent)
        path = self._found[name] = self._locate(name)
        if path is not None and path.suffix != ".so":
            package = name if path.stem == "__init__" else parent
            for code in _module_level(_code(path)):
                for kind, what in self._finder.scan_opcodes(code):
                    if kind == "absolute_import":
                        self._imported(what[1], what[0])
                    elif kind == "relative_import":
                        level, members, below = what
                        base = package.split(".")[: len(package.split(".")) - level + 1]
                        self._imported(".".join([*base, *([below] if below else [])]), members)
        return path is not None

    def _imported(self, name: str, members: Iterable[str] | None) -> None:
        """`import name`, or `from name import members`, where a member may be a module too."""
        self._visit(name)
        for member in members or ():
            if member != "*":
                self._visit(f"{name}.{member}")


def _code(path: Path) -> CodeType:
    data = path.read_bytes()
    if path.suffix != ".pyc":
        return compile(data, str(path), "exec", dont_inherit=True)
    if data[:4] != importlib.util.MAGIC_NUMBER:
        raise BuildError(f"{path} is byte code of another Python than {sys.version.split()[0]}")
    code: CodeType = marshal.loads(data[_HEADER:])
    return code


def _module_level(code: CodeType) -> Iterator[CodeType]:
    """The module's own code and that of its classes, which run when it is imported; not that of functions."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType) and not constant.co_flags & inspect.CO_OPTIMIZED:
            yield from _module_level(constant)


def python_folders(target: Path) -> list[Path]:
    """Where the target's Python looks for modules. BuildError: it has none."""
    for standard in sorted((target / "usr/lib").glob("python3.*")):
        if (standard / "os.pyc").is_file() or (standard / "os.py").is_file():
            return [standard, standard / "lib-dynload", standard / "site-packages"]
    raise BuildError(f"{target} holds no Python")


def order(target: Path) -> list[str]:
    """The files that the start reads, first to last, as paths below the target's root. BuildError: one is missing."""
    target = target.resolve()
    wanted: list[Path] = []
    for name in PROGRAMS:
        if (target / name).is_file():
            wanted.append(target / name)
    for name in SCRIPTS:
        path = target / name
        wanted += sorted(below for below in path.rglob("*") if below.is_file()) if path.is_dir() else [path]
    modules = Modules(python_folders(target)).files(MODULES)
    if not any(path.match("appliance/keeper/*") for path in modules):
        raise BuildError(f"{target} holds no appliance.keeper: is the package throughwire installed?")
    wanted += modules
    ordered: dict[str, None] = {}
    for path in wanted:
        if not path.is_file():
            continue
        for each in (path, *(libraries(target, path).values() if _is_program(path) else ())):
            real = each.resolve()
            if real.is_relative_to(target):
                ordered[str(real.relative_to(target))] = None
    return list(ordered)


def _is_program(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def sort_list(names: Iterable[str]) -> str:
    """What mksquashfs reads: a name and its priority a line, the highest first (pure)."""
    rows = []
    for number, name in enumerate(names):
        escaped = name.replace("\\", "\\\\").replace(" ", "\\ ")
        rows.append(f"{escaped} {FIRST - number}\n")
    return "".join(rows)


def main() -> int:
    """Exit code 0, or 1 with one clear line on standard error."""
    parser = argparse.ArgumentParser(prog="imagebuild.start_order", description="What the start reads, in order.")
    parser.add_argument("--target", type=Path, required=True, help="the root file system in a folder")
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    try:
        options.out.write_text(sort_list(order(options.target)))
    except (BuildError, OSError) as error:
        print(f"image: the order of the start: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
