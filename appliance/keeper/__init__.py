# SPDX-License-Identifier: GPL-2.0-only
"""The keeper: the small process that owns the relays and the watchdog."""
