# SPDX-License-Identifier: GPL-2.0-only
"""The shell and one-shot client `bypass`."""
