# SPDX-License-Identifier: GPL-2.0-only
"""The test plan is made from docstrings, or names where there is none, without importing a test."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.plan import TESTS, plan, read

FILE = '''"""What the file is about,
in two lines.

And more.
"""
import nothing_of_the_kind

@pytest.mark.parametrize("a", [1, 2])
def test_one(a):
    """It is shown
    over two lines.

    With details."""

class TestGroup:
    """Of the group."""

    @pytest.mark.slow
    async def test_any_line_is_survived(self):
        pass

def helper():
    """Not a test."""
'''


def test_a_file_is_read_without_running_it() -> None:
    """Names in words and first paragraphs only; a class's name stands before its tests'; marks are noted."""
    assert plan([read(Path("unit/x/test_y.py"), FILE)]).splitlines()[5:] == [
        "## unit/x",
        "",
        "### test_y.py",
        "",
        "What the file is about, in two lines.",
        "",
        "- **One** *(rows)*: It is shown over two lines.",
        "- **Group: Any line is survived** *(long)*",
    ]


def test_a_mark_of_the_whole_file_counts() -> None:
    """`pytestmark` with slow makes every test of the file a long one."""
    text = "pytestmark = [pytest.mark.root, pytest.mark.slow]\ndef test_it(): pass\n"
    assert read(Path("test_z.py"), text).entries[0].slow


def test_every_file_is_in_the_plan() -> None:
    """The command that `make test-plan` runs prints all areas, this test among them."""
    rule = ["make", "--no-print-directory", "-n", "test-plan"]
    command = subprocess.run(rule, cwd=TESTS.parent, capture_output=True, text=True, check=True).stdout.split()
    made = subprocess.run(command, cwd=TESTS.parent, capture_output=True, text=True, check=True).stdout
    assert "\n## image\n" in made
    assert "- **Every file is in the plan**: The command that `make test-plan` runs prints all areas" in made
    assert all(f"### {path.name}\n" in made for path in TESTS.rglob("test_*.py"))
