# SPDX-License-Identifier: GPL-2.0-only
"""Reading a configuration and judging it: syntax, names, limits, what never matches."""
