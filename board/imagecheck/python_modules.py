# SPDX-License-Identifier: GPL-2.0-only
"""Imports every module of the appliance while those that the image's Python lacks are missing.

What a library imports, and what it does without, shows only when it is tried. `python -m imagecheck.python_modules
NAME...` is the trial, in a process of its own; it prints what failed, exit code 1 if anything did.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from imagecheck import uses


class Missing(MetaPathFinder):
    """Makes these modules, and what is below them, not to be found."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = frozenset(names)

    def find_spec(self, name: str, path: object, target: ModuleType | None = None) -> ModuleSpec | None:
        if name in self._names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


def modules() -> list[str]:
    """The appliance's modules by their dotted names; those that run on being imported are left out."""
    found = []
    for path in uses.python_files():
        parts = path.relative_to(uses.REPO).with_suffix("").parts
        if parts[-1] != "__main__":
            found.append(".".join(parts).removesuffix(".__init__"))
    return found


def missing(blocked: Sequence[str], python: str = sys.executable) -> list[str]:
    """What cannot be imported without these modules, one line each."""
    done = subprocess.run([python, "-m", "imagecheck.python_modules", *blocked], stdout=subprocess.PIPE, text=True,
                          check=False, env={"PYTHONPATH": f"{uses.REPO / 'board'}:{uses.REPO}"})  # fmt: skip
    return done.stdout.splitlines() or (["the trial of the imports broke off"] if done.returncode else [])


def _main(blocked: Sequence[str]) -> int:
    for name in blocked:
        sys.modules.pop(name, None)
    sys.meta_path.insert(0, Missing(blocked))
    failed: dict[str, str] = {}
    for name in modules():
        try:
            importlib.import_module(name)
        except ImportError as error:
            failed.setdefault(str(error), name)
    for what, name in failed.items():
        print(f"{name} cannot be imported: {what}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
