# SPDX-License-Identifier: GPL-2.0-only
"""The terminal: shell, pager, prompts, banner, login."""
