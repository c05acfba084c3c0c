# SPDX-License-Identifier: GPL-2.0-only
"""DESIGN.md's table of what grows says what the code does, and leaves nothing out."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
TITLE = "## What grows, and its bound"
UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "s": 1}


def table() -> list[list[str]]:
    _, _, after = (TOP / "DESIGN.md").read_text().partition(TITLE)
    lines = [line for line in after.partition("\n## ")[0].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


ROWS = table()


def figures(text: str) -> list[float]:
    """The numbers of a cell with their units; of a fraction, the number below the line."""
    found = re.findall(r"(?:1/)?(\d+)(?: (KiB|MiB|GiB|s)\b)?", text)
    return [float(number) * UNITS[unit] for number, unit in found]


@pytest.mark.parametrize("row", [row for row in ROWS if row[3]], ids=lambda row: row[0])
def test_the_figures_are_those_of_the_code(row: list[str]) -> None:
    """In this order; a cell may have more figures than constants."""
    said = figures(row[2].replace("one every", "every"))
    names = re.findall(r"`([\w.]+)`", row[3])
    values = []
    for name in names:
        module, _, constant = name.rpartition(".")
        values.append(float(getattr(importlib.import_module(module), constant)))
    assert values
    left = iter(said)
    assert all(value in left for value in values), f"{names}: {values}, and the table says {said}"


# Who appends to files, by what the table calls them
APPENDS = {
    "appliance/telemetry/transitions.py": "ledger",
    "appliance/access/serial_login.py": "logs of logins",
    "appliance/system/process.py": "output of QEMU",
    "appliance/guest/console.py": "output of a guest's serial line",
    "console/terminal/serial_output.py": "history of the shell",
    "rootfs/etc/init.d/data-partition": "logs of bypassd, DHCP and others",
    "rootfs/usr/libexec/bypass/keeper": "logs of bypassd, DHCP and others",
}


def appends(path: Path) -> bool:
    """Whether a program of ours opens a file to append to it."""
    text = path.read_text(encoding="utf-8", errors="replace")
    if path.suffix != ".py":
        return bool(re.search(r">>\s*[\"$/]", text))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            modes = [value.value for value in (*node.args, *(word.value for word in node.keywords))
                     if isinstance(value, ast.Constant) and isinstance(value.value, str)]  # fmt: skip
            if name == "open" and any(re.fullmatch(r"a\+?b?\+?", mode) for mode in modes):
                return True
        if getattr(node, "attr", "") == "O_APPEND" or getattr(node, "id", "") == "FileHistory":
            return True
    return False


def programs() -> Iterator[Path]:
    for folder in ("appliance", "console"):
        yield from (TOP / folder).rglob("*.py")
    for path in (TOP / "rootfs").rglob("*"):
        if path.is_file() and path.read_bytes().startswith(b"#!"):
            yield path


def test_whatever_appends_to_a_file_is_in_the_table() -> None:
    found = {str(path.relative_to(TOP)) for path in programs() if appends(path)}
    found.discard("appliance/guest-agent/throughwire_agent.py")  # runs inside of guests
    assert found == APPENDS.keys()
    assert set(APPENDS.values()) <= {row[0] for row in ROWS}


def test_whatever_lies_on_the_data_partition_is_in_the_table() -> None:
    names = set()
    for path in (TOP / "appliance").rglob("*.py"):
        names |= set(re.findall(r"\bstate / f?\"([\w.-]+)", path.read_text()))
    names |= {Path(path).name for path in ("/var/lib/bypass/home",)}
    assert {"crash", "images", "transitions.jsonl", "access.json"} <= names
    places = " ".join(row[1] for row in ROWS)
    assert {name for name in names if f"`{name}" not in places} == set()
