# SPDX-License-Identifier: GPL-2.0-only
"""Frames as bytes: capture files, flow keys, and frames made for `explain`."""
