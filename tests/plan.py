# SPDX-License-Identifier: GPL-2.0-only
"""`make test-plan`: what the tests show, as Markdown, from their docstrings and names; nothing is run or imported.

An area is a folder with tests. A test is listed by its name in words and the first paragraph of its docstring.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).parent


@dataclass(frozen=True)
class Entry:
    """One test: its name in words, its docstring if any, whether it runs for rows of a table or in test-all only."""

    name: str
    says: str
    rows: bool
    slow: bool


@dataclass(frozen=True)
class Module:
    """One file of tests, with the first paragraph of its docstring."""

    path: Path
    about: str
    entries: tuple[Entry, ...]


def sentence(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """The first paragraph of a docstring, on one line; empty if there is none."""
    return " ".join((ast.get_docstring(node) or "").partition("\n\n")[0].split())


def words(name: str) -> str:
    """A test's or class's name as a phrase (pure): test_any_line_is_survived -> "Any line is survived"."""
    text = "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in name.removeprefix("Test"))
    text = text.strip().removeprefix("test_").replace("_", " ")
    return text[:1].upper() + text[1:]


def _marks(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    """Names of the pytest marks on a test or class."""
    found = (ast.unparse(decorator).partition("(")[0] for decorator in node.decorator_list)
    return {name.rpartition(".")[2] if name.startswith("pytest.mark.") else name for name in found}


def _tests(body: list[ast.stmt], group: str = "", marks: frozenset[str] = frozenset()) -> Iterator[Entry]:
    for node in body:
        if isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            yield from _tests(node.body, f"{words(node.name)}: ", marks | _marks(node))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test"):
            own = marks | _marks(node)
            yield Entry(group + words(node.name), sentence(node), "parametrize" in own, "slow" in own)


def read(path: Path, text: str) -> Module:
    """The tests of one file (pure). Raises SyntaxError when it is no Python."""
    tree = ast.parse(text)
    assigned = (node for node in tree.body if isinstance(node, ast.Assign))
    slow = any("pytestmark" in ast.unparse(node.targets[0]) and "slow" in ast.unparse(node.value) for node in assigned)
    return Module(path, sentence(tree), tuple(_tests(tree.body, marks=frozenset({"slow"} if slow else ()))))


def plan(modules: list[Module]) -> str:
    """The whole plan (pure)."""
    count = sum(len(module.entries) for module in modules)
    lines = [
        "# Test plan",
        "",
        f"{count} tests in {len(modules)} files, made by `make test-plan`. *Rows*: the test runs",
    ]
    lines += ["for each row of a table. *Long*: only `make test-all` runs it.", ""]
    area = None
    for module in modules:
        if module.path.parent != area:
            area = module.path.parent
            lines += [f"## {area}", ""]
        lines += [f"### {module.path.name}", "", *([module.about, ""] if module.about else [])]
        for entry in module.entries:
            notes = ", ".join(note for note, set_ in (("rows", entry.rows), ("long", entry.slow)) if set_)
            says = f": {entry.says}" if entry.says else ""
            lines.append(f"- **{entry.name}**{f' *({notes})*' if notes else ''}{says}")
        lines.append("")
    return "\n".join(lines)


def main() -> int:
    """Print the plan of all tests."""
    files = sorted(TESTS.rglob("test_*.py"), key=lambda path: (path.parent, path.name))
    print(plan([read(path.relative_to(TESTS), path.read_text()) for path in files]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
