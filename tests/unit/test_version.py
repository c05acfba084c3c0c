# SPDX-License-Identifier: GPL-2.0-only
"""The version is found without importlib.metadata, and is the same."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import appliance


def test_the_version_is_that_of_the_installed_distribution() -> None:
    assert appliance.__version__ == importlib.metadata.version("throughwire")


def test_bypassd_starts_without_importlib_metadata() -> None:
    """It cost 30 of 340 ms before the relay could be driven."""
    code = "import sys, appliance.supervisor.supervisor; sys.exit('importlib.metadata' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
