# SPDX-License-Identifier: GPL-2.0-only
"""Resources that an image can make qemu-img use: processor time, time, memory, output. Each limit ends it by name.

The exhausting image is for the real qemu-img; a program of the same name does what no small file can make it do.
"""

from __future__ import annotations

import os
import resource
import struct
import sys
from pathlib import Path

import pytest

from appliance.errors import RefusedError
from appliance.guest.image import qemu_img

CLUSTER = 1 << 16


def exhausting(path: Path, tables: int = 131_072) -> Path:
    """A megabyte that describes a billion compressed clusters, all of them wrong."""
    fields = (b"QFI\xfb", 3, 0, 0, 16, tables * 8192 * CLUSTER, 0, tables, 5 * CLUSTER, CLUSTER, 1, 0, 0)
    with path.open("wb") as file:
        file.write(struct.pack(">4sIQIIQIIQQIIQ", *fields) + struct.pack(">QQQII", 0, 0, 0, 4, 104))
        for at, content in (
            (CLUSTER, struct.pack(">Q", 2 * CLUSTER)),
            (2 * CLUSTER, struct.pack(">H", 1) * 32_768),
            (4 * CLUSTER, b"".join(struct.pack(">Q", 0x7F << 48 | at * 512 + 7 | 1 << 63) for at in range(8192))),
            (5 * CLUSTER, struct.pack(">Q", 4 * CLUSTER | 1 << 63) * tables),
        ):
            file.seek(at)
            file.write(content)
    return path


def test_an_image_that_exhausts(tmp_path: Path) -> None:
    """It complains of each cluster: the first complaints are enough, and none is kept beyond them."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(RefusedError, match=r"damaged, or made to exhaust.*check: its output exceeds the limit \(ERROR"):
        qemu_img.run(["check"], exhausting(tmp_path / "evil"))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10  # KiB


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program in the place of qemu-img, to be written; it runs as this user, who can read our interpreter."""
    made = tmp_path / "qemu-img"
    made.touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(qemu_img, "NOBODY", os.geteuid())
    return made


@pytest.mark.parametrize(
    ("program", "limit", "why"),
    [
        ("while True: pass", ("PROCESSOR_S", 1), "it used 1 s of processor time"),
        ("import time; time.sleep(600)", ("TIME_S", 0.5), "it did not end within 0.5 s"),
        ("import os; os.abort()", ("TIME_S", 60), "it crashed, perhaps for lack of memory"),
        ("while True: print('{}' * 9999)", ("TIME_S", 60), "its output exceeds the limit"),
        ("import sys\nwhile True: sys.stderr.write('x' * 9999)", ("TIME_S", 60), r"its output exceeds the limit \(xxx"),
    ],
    ids=["processor", "time", "crash", "answer", "complaints"],
)
def test_every_limit_ends_it(
    fake: Path, monkeypatch: pytest.MonkeyPatch, program: str, limit: tuple[str, float], why: str
) -> None:
    fake.write_text(f"#!{sys.executable} -I\n{program}\n")
    monkeypatch.setattr(qemu_img, *limit)
    with pytest.raises(RefusedError, match=why):
        qemu_img.run(["check"], fake)


def test_its_memory_is_limited(fake: Path) -> None:
    fake.write_text(f"#!{sys.executable} -I\nbytearray({qemu_img.MEMORY})\n")
    assert "MemoryError" in qemu_img.run(["check"], fake).words


def test_status_answer_and_words(fake: Path) -> None:
    """They come as they are, but for the image's name: a person knows no descriptor."""
    fake.write_text(f"#!{sys.executable} -I\nimport sys\nprint('{{\"x\": 1}}')\nsys.exit(sys.argv[-1] + ' is odd')\n")
    assert qemu_img.run(["info"], fake) == qemu_img.Ran(1, {"x": 1}, "the image is odd")
