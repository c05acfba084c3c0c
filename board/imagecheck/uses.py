# SPDX-License-Identifier: GPL-2.0-only
"""What the sources use of the image around them, read from the sources. Pure but for reading files.

Each answer is name -> where it was found first, so that a complaint can say who needs the thing.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
PACKAGES = ("appliance", "console")
FOREIGN = ("appliance/guest-agent", "appliance/bpf", "console/fleet")
"""Runs elsewhere: in a guest, in the kernel, on the computer from which a fleet is configured."""

_STARTERS = {"run", "_run", "Popen", "create_subprocess_exec", "check_output", "command", "Item"}
_OWNERS = {"", "self", "asyncio", "command", "subprocess", "space"}  # of a starter that is an attribute
_NAME = re.compile(r"[a-z][a-z0-9_.+-]*$")

_SHELL = (
    ": . [ [[ ]] alias break case cd command continue do done echo elif else esac eval exec exit export false fi for "
    "function getopts hash if in kill let local printf pwd read readonly return set shift source test then times trap "
    "true type ulimit umask unset until wait while { }"
)
_BUILTINS = frozenset(_SHELL.split())
_START = r"(?:^|[;&|(`!]|\{\s|\b(?:then|do|else|elif|if|while|until)\b)"
_ASSIGNED = r"(?:[A-Za-z_]\w*=(?:\"[^\"]*\"|\$\w+|[^\s\"$;&|()])*\s+)*"
_WORD = r"(/?[a-z][\w/.-]*)"
# Words are looked ahead at: "do" begins a command, and so does what comes after it
_COMMAND = re.compile(rf"{_START}(?=[ \t]*{_ASSIGNED}{_WORD})", re.MULTILINE)
_QUOTED = re.compile(r'"((?:[^"$]|\$\((?:[^()"]|"[^"]*")*\)|\$)*)"')
_SUBSTITUTED = re.compile(r"\$\((?:[^()\"]|\"[^\"]*\")*\)")
_WRAPPED = re.compile(rf"\b(?:exec|persist|nice -n \d+|busybox)(?=[ \t]+{_WORD})")  # these run another one


def python_files(repo: Path = REPO) -> Iterator[Path]:
    """The Python files that run on the appliance."""
    for package in PACKAGES:
        for path in sorted((repo / package).rglob("*.py")):
            if not path.relative_to(repo).as_posix().startswith(FOREIGN):
                yield path


def python_programs(source: str, known: Iterable[str]) -> dict[str, int]:
    """Programs that Python code starts: name -> line (pure).

    A program is the first item of a list or tuple of words that goes to what starts programs, and of any other one
    where it is the name of a `known` program; an applet named after "busybox" is one too.
    """
    names: set[str] = set(known)
    found: dict[str, int] = {}

    def words(node: ast.AST, surely: bool) -> None:
        if not isinstance(node, ast.List | ast.Tuple) or not node.elts:
            return
        first = node.elts[0]
        if not isinstance(first, ast.Constant) or not isinstance(first.value, str) or not _NAME.match(first.value):
            return
        if surely or first.value in names:
            found.setdefault(first.value, node.lineno)
            if first.value in ("busybox", "nsenter"):  # they run another one
                rest = [getattr(item, "value", None) for item in node.elts[1:] if not isinstance(item, ast.JoinedStr)]
                inner = next((word for word in rest if isinstance(word, str) and not word.startswith("-")), "")
                if inner:
                    found.setdefault(inner, node.lineno)

    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            owner = getattr(node.func, "value", None)
            name *= getattr(owner, "attr", getattr(owner, "id", "")) in _OWNERS
            given = [*node.args, *(key.value for key in node.keywords if key.arg in ("args", "command", "argv", None))]
            for argument in given if name in _STARTERS else ():
                words(argument, surely=True)
            first = node.args[0] if node.args and name == "create_subprocess_exec" else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                found.setdefault(first.value, node.lineno)
        words(node, surely=False)
    return found


def imports(source: str) -> set[str]:
    """The top-level modules that Python code imports anywhere in it (pure)."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def script_programs(text: str, *, by_path: bool = True) -> dict[str, int]:
    """Programs and applets that a shell script runs: name -> line, roughly (pure). Its own functions are none.

    `by_path`: also those that it runs by their whole path.
    """
    bare = _without_comments(text)
    own = set(re.findall(r"^\s*([A-Za-z_]\w*)\(\)", bare, re.MULTILINE))
    labels = set(re.findall(r"^\s*(?:[\w-]+ \| )*([\w-]+)\)", bare, re.MULTILINE))  # of `case`
    labels |= {
        word for line in re.findall(r"^\s*([\w-]+(?: \| [\w-]+)+)\)", bare, re.MULTILINE) for word in line.split()
    }
    found: dict[str, int] = {}
    for match in (*_COMMAND.finditer(bare), *_WRAPPED.finditer(bare)):
        name = match[1]
        if name.startswith("/") and not (by_path and re.match(r"/(?:usr/)?s?bin/", name)):
            continue
        name = name.rpartition("/")[2]
        if name in own or name in labels or name in _BUILTINS or re.match(r"\s*\+?=|\S*\)", bare[match.end(1) :]):
            continue
        found.setdefault(name, bare.count("\n", 0, match.start(1)) + 1)
    return found


def _without_comments(text: str) -> str:
    """The script without comments and quoted text but what "$(...)" in quotes runs; continued lines are one."""
    return "\n".join(map(_bare, re.sub(r"\\\n\s*", " ", text).splitlines()))


def _bare(line: str) -> str:
    line = re.sub(r"\$\(\([^()]*(?:\([^()]*\)[^()]*)*\)\)", "0", line)
    line = re.sub(r"(^|\s)#.*$", r"\1", line)
    line = re.sub(r"'[^']*'", "''", line)
    return _QUOTED.sub(lambda found: "".join(_SUBSTITUTED.findall(found[1])) or '""', line)


def inittab_programs(text: str) -> dict[str, int]:
    """Programs that busybox's init starts: path -> line (pure)."""
    found: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if line and not line.startswith("#"):
            found.setdefault(line.split(":")[3].split()[0].lstrip("-"), number)
    return found


def scripts(folders: Iterable[Path]) -> Iterator[Path]:
    """The shell scripts below these folders."""
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.read_bytes()[:40].startswith((b"#!/bin/sh", b"#!/bin/busybox sh")):
                yield path


def programs(known: Iterable[str], folders: Iterable[Path], repo: Path = REPO) -> dict[str, str]:
    """All programs and applets by name: those of the Python code, of the scripts in `folders` and of guests.

    `known` are programs to look for in lists of words that do not go straight to what starts programs.
    """
    from appliance.guest.qemu.command import Machine

    found: dict[str, str] = {Machine("", 0, 0, 0, "kvm").program: "appliance/guest/qemu/command.py"}
    listed = [*known, "nsenter"]
    for path in python_files(repo):
        for name, line in python_programs(path.read_text(), listed).items():
            found.setdefault(name, f"{path.relative_to(repo)}:{line}")
    for path in scripts(folders):
        for name, line in script_programs(path.read_text()).items():
            found.setdefault(name, f"{path.relative_to(repo) if path.is_relative_to(repo) else path}:{line}")
    return found


def configuration_files(text: str) -> dict[str, str]:
    """Files that a configuration names by their whole path: path -> table and key (pure)."""
    found: dict[str, str] = {}

    def look(value: object, where: str) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                look(item, f"{where}.{key}" if where else key)
        elif isinstance(value, list):
            for number, item in enumerate(value, 1):
                look(item, f"{where} {number}")
        elif isinstance(value, str) and value.startswith("/"):
            found.setdefault(value, where)

    look(tomllib.loads(text), "")
    return found
