# SPDX-License-Identifier: GPL-2.0-only
"""A broken pipe ends a command quietly only if it is that of its output."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

BREAKS = """
import console.execute
from console.__main__ import main
def breaks(parsed, context):
    raise BrokenPipeError
console.execute._perform = breaks
raise SystemExit(main(["show", "status"]))
"""


@pytest.mark.parametrize("read", [True, False])
def test_only_who_does_not_read_the_output_is_no_failure(read: bool) -> None:
    """Any other connection that breaks, as one to bypassd or gpg, means that the command did not get to its end."""
    reader, writer = os.pipe()
    try:
        if not read:
            os.close(reader)
        done = subprocess.run(
            [sys.executable, "-c", BREAKS], stdout=writer, stderr=subprocess.PIPE, text=True, check=False, timeout=60
        )
    finally:
        os.close(writer)
        if read:
            os.close(reader)
    told = "error: a connection broke before the command had ended; check what was done before you repeat it\n"
    assert (done.returncode, done.stderr) == ((3, told) if read else (0, ""))
