# SPDX-License-Identifier: GPL-2.0-only
"""The one exception of the image build: a clear line for the person who builds."""

from __future__ import annotations


class BuildError(Exception):
    """The image cannot be built; the text says what failed, why, and if possible what to do."""
