# SPDX-License-Identifier: GPL-2.0-only
"""Reading and checking a configuration: syntax, names, limits, rules that never match."""
