# SPDX-License-Identifier: GPL-2.0-only
"""The management port: its address, its bridge, and what may cross it."""
