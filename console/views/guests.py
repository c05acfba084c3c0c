# SPDX-License-Identifier: GPL-2.0-only
"""Guests, and what is known of each. Pure."""

from __future__ import annotations

from typing import Any

from console.render import PLAIN, Style, cell
from console.views.common import columns_of


def log(data: Any, style: Style = PLAIN) -> str:
    """The last lines of a guest's serial line, with nothing in them that moves a cursor."""
    lines = data.get("lines", []) if isinstance(data, dict) else []
    return "\n".join(cell(line) for line in lines) or "the guest has printed nothing"


table_of_all = columns_of("guests", "no guests are configured", [
    ("name", "GUEST"), ("hop", "HOP"), ("state", "STATE"), ("cause", "CAUSE"), ("lease", "LEASE"),
    ("pid", "PID"), ("accel", "ACCEL"), ("restarts", "RESTARTS"), ("application", "APPLICATION"),
    ("warning", "WARNING"), ("detail", "DETAIL"),
])  # fmt: skip
