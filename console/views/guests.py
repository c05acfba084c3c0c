# SPDX-License-Identifier: GPL-2.0-only
"""Guests, and what is known of each. Pure."""

from __future__ import annotations

from console.views.common import columns_of

table_of_all = columns_of("guests", "no guests are configured", [
    ("name", "GUEST"), ("hop", "HOP"), ("state", "STATE"), ("cause", "CAUSE"), ("lease", "LEASE"),
    ("pid", "PID"), ("accel", "ACCEL"), ("restarts", "RESTARTS"), ("application", "APPLICATION"), ("detail", "DETAIL"),
])  # fmt: skip
