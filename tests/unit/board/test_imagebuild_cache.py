# SPDX-License-Identifier: GPL-2.0-only
"""The image build's cache: a key says all that an artefact was made from; an entry is whole or not there."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from imagebuild.cache import IN_USE_S, KEEP, Cache, Input, key_of, publish
from imagebuild.errors import BuildError


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Input]:
    """One input of each kind."""
    tree = tmp_path / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/inittab").write_text("one")
    (tree / "link").symlink_to("etc")
    file = tmp_path / "file"
    file.write_text("file")
    return {"text": "text", "bytes": b"bytes", "file": file, "tree": tree, "absent": tmp_path / "absent"}


def test_same_inputs_same_key(inputs: dict[str, Input]) -> None:
    """The order in which inputs are given, and byte code beside sources, do not matter."""
    key = key_of(inputs)
    tree = inputs["tree"]
    assert isinstance(tree, Path)
    (tree / "__pycache__").mkdir()
    (tree / "__pycache__/x.pyc").write_bytes(b"x")
    assert key_of(dict(reversed(inputs.items()))) == key


@pytest.mark.parametrize("change", ["value", "name", "content", "executable", "new file", "renamed", "link", "appears"])
def test_each_change_changes_the_key(inputs: dict[str, Input], tmp_path: Path, change: str) -> None:
    """Whatever an artefact could have been made from differently makes another key."""
    key = key_of(inputs)
    tree, file = tmp_path / "tree", tmp_path / "file"
    match change:
        case "value":
            inputs["text"] = "other"
        case "name":
            inputs["other"] = inputs.pop("text")
        case "content":
            (tree / "etc/inittab").write_text("two")
        case "executable":
            file.chmod(0o755)
        case "new file":
            (tree / "etc/new").write_text("")
        case "renamed":
            (tree / "etc/inittab").rename(tree / "etc/inittab2")
        case "link":
            (tree / "link").unlink()
            (tree / "link").symlink_to("elsewhere")
        case "appears":
            (tmp_path / "absent").write_text("")
    assert key_of(inputs) != key


def test_an_entry_is_made_once(tmp_path: Path) -> None:
    """The second asker gets what the first one made."""
    made: list[Path] = []

    def make(folder: Path) -> None:
        made.append(folder)
        (folder / "result").write_text("whole")

    cache = Cache(tmp_path)
    entry = cache.get("kernel", "k1", make)
    assert cache.get("kernel", "k1", make) == entry
    assert (entry / "result").read_text() == "whole"
    assert len(made) == 1


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    """Neither an entry nor a work folder stays behind; the next try starts afresh."""
    cache = Cache(tmp_path)

    def fail(folder: Path) -> None:
        (folder / "half").write_text("")
        raise BuildError("no")

    with pytest.raises(BuildError):
        cache.get("kernel", "k1", fail)
    assert [path.name for path in tmp_path.iterdir()] == [".kernel.lock"]


def test_what_an_interrupted_build_left_is_swept(tmp_path: Path) -> None:
    """A killed build cannot tidy up; the next one of its stage does, and leaves other stages' work alone."""
    (tmp_path / ".kernel-left").mkdir()
    (tmp_path / ".rootfs-running").mkdir()
    Cache(tmp_path).get("kernel", "k1", lambda _: None)
    assert not (tmp_path / ".kernel-left").exists()
    assert (tmp_path / ".rootfs-running").exists()


def test_the_cache_does_not_grow_for_ever(tmp_path: Path) -> None:
    """The newest entries of a stage stay; one used lately stays as well, another build may be about to use it."""
    cache = Cache(tmp_path)
    old = time.time() - 2 * IN_USE_S
    for number in range(KEEP + 3):
        made = cache.get("appliance", f"key{number:02}", lambda _: None)
        if number:
            os.utime(made, (old + number, old + number))
    cache.get("appliance", "key99", lambda _: None)
    kept = sorted(path.name for path in tmp_path.glob("appliance-*"))
    newest = [f"appliance-key{number:02}" for number in range(KEEP + 3 - (KEEP - 2), KEEP + 3)]
    assert kept == ["appliance-key00", *newest, "appliance-key99"]


def test_publish_replaces(tmp_path: Path) -> None:
    """The published name is the new file after a change, and the same file when nothing changed."""
    one, two, target = tmp_path / "one", tmp_path / "two", tmp_path / "build/vmlinux"
    one.write_text("1")
    two.write_text("2")
    publish(one, target)
    publish(one, target)
    assert target.samefile(one)
    publish(two, target)
    assert target.read_text() == "2"
    assert one.read_text() == "1"
