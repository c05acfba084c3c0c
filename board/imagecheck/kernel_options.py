# SPDX-License-Identifier: GPL-2.0-only
"""A stack of kernel fragments against the kernel that is to be built of it: does each line name an option, and survive?

With a kernel's source tree this needs no compiler run: kconfig resolves the stack in seconds, in a folder outside.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from imagebuild import fragments

_DECLARED = re.compile(r"^\s*(?:menu)?config\s+(\w+)", re.MULTILINE)


def symbols(source: Path) -> set[str]:
    """The options that the Kconfig files of a source tree declare."""
    return {name for path in source.rglob("Kconfig*") if path.is_file()
            for name in _DECLARED.findall(path.read_text(errors="replace"))}  # fmt: skip


def against_config(stack: Sequence[Path], config: Path) -> list[str]:
    """What of the stack is not in a kernel's `.config`."""
    asked = fragments.settings(path.read_text() for path in stack)
    return [f"kernel: {line}: lost; it is in {_where(line, stack)}" for line in
            fragments.lost(asked, config.read_text())]  # fmt: skip


def against_source(stack: Sequence[Path], source: Path, arch: str) -> list[str]:
    """What of the stack the kernel in `source` does not know, or drops. OSError or CalledProcessError: no kconfig."""
    asked = fragments.settings(path.read_text() for path in stack)
    found = [f"kernel: {name}: no such option; it is in {_where(name, stack)}"
             for name in fragments.unknown(asked, symbols(source))]  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="check-image-") as place:
        whole = Path(place, "stack")
        whole.write_text("".join(path.read_text() for path in stack))
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
        words = ["make", "-s", "-C", str(source), f"O={place}", f"ARCH={arch}", f"KCONFIG_ALLCONFIG={whole}"]
        subprocess.run([*words, "allnoconfig"], check=True, capture_output=True, text=True, env=environment)
        return found + [line for line in against_config(stack, Path(place, ".config")) if _name(line) not in
                        {_name(text) for text in found}]  # fmt: skip


def _name(complaint: str) -> str:
    found = re.search(r"CONFIG_\w+", complaint)
    return found[0] if found else complaint


def _where(line: str, stack: Sequence[Path]) -> str:
    name = _name(line)
    return next((str(path) for path in reversed(stack) if re.search(rf"\b{name}\b", path.read_text())), "the stack")
