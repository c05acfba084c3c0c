# SPDX-License-Identifier: GPL-2.0-only
"""The supervisor of a Throughwire bypass appliance."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("throughwire")
except PackageNotFoundError:  # running from a tree that was never installed
    __version__ = "0+unknown"
