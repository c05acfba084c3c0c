# SPDX-License-Identifier: GPL-2.0-only
"""A root file system that lacks a library is found, and one that has a library for nothing.

Plan: a program that needs a library that needs another one, made by the compiler; each is taken away, or left over.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from imagecheck import libraries


def compile_to(out: Path, *words: str | Path, code: str = "int f(void) { return 1; }") -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        ["gcc", "-nostdlib", "-x", "c", "-", "-o", out, "-x", "none", *words], input=code, text=True, check=True
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """usr/bin/program needs libone.so.1, which needs libtwo.so.2; both are in usr/lib, and lib is a link to it."""
    root = tmp_path_factory.mktemp("root")
    library = root / "usr/lib"
    for name, needs in (("libtwo.so.2", []), ("libone.so.1", [library / "libtwo.so.2"])):
        compile_to(library / name, "-shared", "-fPIC", f"-Wl,-soname,{name}", "-Wl,--no-as-needed", *needs)
    compile_to(root / "usr/bin/program", "-shared", "-fPIC", "-Wl,--no-as-needed", library / "libone.so.1")
    (root / "lib").symlink_to("usr/lib")
    (library / "script.so").write_text("GROUP ( libtwo.so.2 )\n")  # no ELF
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    subprocess.run(["cp", "-a", f"{made}/.", tmp_path], check=True)
    return tmp_path


def test_what_is_needed_is_there_and_nothing_else(root: Path) -> None:
    assert libraries.missing(root) + libraries.unneeded(root, {}) == []


@pytest.mark.parametrize(("name", "user"), [("libone.so.1", "usr/bin/program"), ("libtwo.so.2", "usr/lib/libone.so.1")])
def test_a_lost_library_is_named_with_who_needs_it(root: Path, name: str, user: str) -> None:
    (root / "usr/lib" / name).unlink()
    assert libraries.missing(root) == [f"{user} needs {name}: not in the image"]


def test_what_nothing_needs_is_named(root: Path) -> None:
    """Without the program nothing needs either library; a library that only another unneeded one needs is none too."""
    (root / "usr/bin/program").unlink()
    assert libraries.unneeded(root, {}) == [
        "usr/lib/libone.so.1: nothing needs this library",
        "usr/lib/libtwo.so.2: nothing needs this library",
    ]


def test_what_code_opens_by_its_name_is_needed(root: Path) -> None:
    (root / "usr/bin/program").unlink()
    assert libraries.unneeded(root, {"libone.so.1": "x.py:1"}) == []


def test_a_plugin_in_a_folder_of_its_own_is_no_library(root: Path) -> None:
    """Python opens its modules itself; what they need is needed."""
    (root / "usr/lib/python3").mkdir()
    (root / "usr/bin/program").rename(root / "usr/lib/python3/module.so")
    assert libraries.unneeded(root, {}) == []


def test_a_damaged_file_is_no_program(root: Path) -> None:
    data = (root / "usr/bin/program").read_bytes()
    assert libraries.dynamic(data) is not None
    assert [libraries.dynamic(data[:length]) for length in (0, 5, 40, 70, 200)] == [None] * 5
    assert libraries.dynamic(b"#!/bin/sh\n") is None


def test_libraries_that_the_code_opens() -> None:
    found = libraries.loaded()
    assert {"libbpf.so.1", "libpcap.so.1", "libcrypt.so.1"} <= set(found)
    assert found["libbpf.so.1"].startswith("libbpf.py:")
    assert libraries.names_in('"lib/x.so", "libx.so.1", "a libx.so"\nf("liby.so")') == {"libx.so.1": 1, "liby.so": 2}
