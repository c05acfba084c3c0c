# SPDX-License-Identifier: GPL-2.0-only
"""Guests, and what is known of each. Pure."""

from __future__ import annotations

from typing import Any

from console.render import PLAIN, Row, Style, cell
from console.views.common import columns_of


def _image(row: Row) -> Row:
    """Sizes in MiB; a checksum that was not asked for proves nothing, and says so."""
    used = row.get("used_by")
    return {
        **row,
        "size": f"{int(row.get('size_bytes') or 0) / (1 << 20):.1f} MiB",
        "disk": f"{int(row.get('virtual_bytes') or 0) >> 20} MiB" if row.get("virtual_bytes") else "",
        "used": ", ".join(cell(name) for name in used) if isinstance(used, list) else "",
        "sum": f"{str(row.get('sha256'))[:12]}{'' if row.get('verified') else ' (not verified)'}"
        if row.get("sha256")
        else "",
        "undo": {"previous": "the one before", "remove": "removes it"}.get(str(row.get("undo")), ""),
    }


images = columns_of("images", "no images: `guest import FILE --name NAME` brings one", [
    ("name", "IMAGE"), ("format", "FORMAT"), ("size", "SIZE"), ("disk", "DISK"), ("sum", "SHA-256"),
    ("used", "USED BY"), ("undo", "UNDO"),
], _image)  # fmt: skip


def log(data: Any, style: Style = PLAIN) -> str:
    """The last lines of a guest's serial line, with nothing in them that moves a cursor."""
    lines = data.get("lines", []) if isinstance(data, dict) else []
    return "\n".join(cell(line) for line in lines) or "the guest has printed nothing"


table_of_all = columns_of("guests", "no guests are configured", [
    ("name", "GUEST"), ("hop", "HOP"), ("state", "STATE"), ("cause", "CAUSE"), ("lease", "LEASE"),
    ("pid", "PID"), ("accel", "ACCEL"), ("restarts", "RESTARTS"), ("application", "APPLICATION"),
    ("warning", "WARNING"), ("detail", "DETAIL"),
])  # fmt: skip
