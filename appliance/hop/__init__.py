# SPDX-License-Identifier: GPL-2.0-only
"""A hop of a path: what a guest and a remote have in common."""
