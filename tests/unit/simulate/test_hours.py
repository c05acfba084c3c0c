# SPDX-License-Identifier: GPL-2.0-only
"""Ten thousand simulated hours, as `make simulate` runs them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

HOURS = 10_000


def test_ten_thousand_hours() -> None:
    """Every invariant holds over all of them. A failure prints its seed, the faults that it needs, and its trace."""
    root = Path(__file__).resolve().parents[3]
    command = [sys.executable, "-m", "tests.simulate", "--hours", str(HOURS)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout[-20_000:]}\n{done.stderr[-5_000:]}"
    ran = re.match(r"(\d+) simulated hours, (\d+) faults", done.stdout)
    assert ran is not None
    assert int(ran[1]) >= HOURS
    assert int(ran[2]) > HOURS / 4, "hours without faults show nothing"
